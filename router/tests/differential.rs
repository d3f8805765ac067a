//! Random statements over small tables with NULLs, negative numbers and odd texts: Headwater and PostgreSQL must give the same rows,
//! names and types, or errors of one class.
//!
//! The seeds are fixed, so that a run can be repeated; `HEADWATER_SEED=7` runs another one, `HEADWATER_STATEMENTS` more of them. A
//! statement that fails is made smaller, as long as it fails, before it is shown.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "a test")]

mod common;
mod postgres;

use std::fmt::Write as _;

use postgres::{Answer, Failure, Headwater, Postgres, Server};

/// Statements of one run.
const STATEMENTS: usize = 1_500;
/// Findings after which a run stops.
const FINDINGS_MAX: usize = 12;

const TABLES: [&str; 3] = [
    "CREATE TABLE numbers (id INTEGER PRIMARY KEY, a INTEGER, b BIGINT, s SMALLINT, f DOUBLE PRECISION, n NUMERIC(12,3))",
    "CREATE TABLE words (id INTEGER PRIMARY KEY, t TEXT, u TEXT, k INTEGER)",
    "CREATE TABLE moments (id INTEGER PRIMARY KEY, d DATE, ts TIMESTAMP, flag BOOLEAN, k INTEGER)",
];

const ROWS: [&str; 3] = [
    "INSERT INTO numbers (id, a, b, s, f, n) VALUES (1, 1, 10, 5, 1.5, 1.250), (2, -7, -3000000000, -2, -0.25, -99.999),
       (3, NULL, 0, NULL, 2.5, 0.000), (4, 2147483647, 9223372036854775807, 32767, 1000000, NULL), (5, 0, NULL, 0, NULL, 12345.678),
       (6, 1, 10, 7, 0.1, 1.250), (7, 42, -42, 100, -3.5, -0.500)",
    "INSERT INTO words (id, t, u, k) VALUES (1, 'apple', 'Apple', 1), (2, '', 'x', 2), (3, NULL, 'null', 1), (4, 'Zoë', 'zoe', NULL),
       (5, 'a_b%c', 'A-B', 42), (6, 'apple', NULL, -7), (7, '  pad ', 'pad', 0)",
    "INSERT INTO moments (id, d, ts, flag, k) VALUES (1, '2024-02-29', '2024-02-29 12:34:56', true, 1), (2, '1999-12-31', NULL, false, 2),
       (3, NULL, '1970-01-01 00:00:00', NULL, 1), (4, '2024-03-01', '2024-03-01 00:00:00.5', true, 42), (5, '1969-07-20', '1969-07-20 20:17:40', false, NULL)",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    Big,
    Numeric,
    Float,
    Text,
    Bool,
    Date,
    Timestamp,
}

use Kind::{Big, Bool, Date, Float, Int, Numeric, Text, Timestamp};

const KINDS: [Kind; 8] = [Int, Big, Numeric, Float, Text, Bool, Date, Timestamp];

/// A small generator of numbers: what it gives follows from the seed alone.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// An expression as a tree, so that it can be made smaller: the text between the parts, and the parts with their kinds.
#[derive(Clone)]
struct Tree {
    kind: Kind,
    texts: Vec<String>,
    parts: Vec<Tree>,
}

impl Tree {
    fn leaf(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, texts: vec![text.into()], parts: vec![] }
    }

    /// `pattern` with `@` in the places of the parts.
    fn of(kind: Kind, pattern: &str, parts: Vec<Self>) -> Self {
        let texts: Vec<String> = pattern.split('@').map(str::to_owned).collect();
        assert_eq!(texts.len(), parts.len() + 1, "{pattern}");
        Self { kind, texts, parts }
    }

    fn text(&self) -> String {
        let mut out = self.texts[0].clone();
        for (part, text) in self.parts.iter().zip(&self.texts[1..]) {
            out += &part.text();
            out += text;
        }
        out
    }

    /// Trees with one part less: a part in the place of the whole where it has its kind, or one part made smaller.
    fn smaller(&self) -> Vec<Self> {
        let mut all: Vec<Self> = self.parts.iter().filter(|part| part.kind == self.kind).cloned().collect();
        for (at, part) in self.parts.iter().enumerate() {
            for small in part.smaller() {
                let mut tree = self.clone();
                tree.parts[at] = small;
                all.push(tree);
            }
        }
        all
    }
}

/// A SELECT: its items, its condition, and the text around them.
#[derive(Clone)]
struct Statement {
    items: Vec<Tree>,
    condition: Option<Tree>,
    from: String,
    tail: String,
    head: &'static str,
}

impl Statement {
    fn text(&self) -> String {
        let items: Vec<String> = self.items.iter().map(Tree::text).collect();
        let condition = self.condition.as_ref().map_or(String::new(), |tree| format!(" WHERE {}", tree.text()));
        format!("SELECT {}{} FROM {}{condition}{}", self.head, items.join(", "), self.from, self.tail)
    }

    fn smaller(&self) -> Vec<Self> {
        let mut all = Vec::new();
        if self.condition.is_some() {
            all.push(Self { condition: None, ..self.clone() });
        }
        if self.items.len() > 1 && self.tail.is_empty() {
            for at in 0..self.items.len() {
                let mut items = self.items.clone();
                items.remove(at);
                all.push(Self { items, ..self.clone() });
            }
        }
        for (at, item) in self.items.iter().enumerate() {
            for small in item.smaller() {
                let mut items = self.items.clone();
                items[at] = small;
                all.push(Self { items, ..self.clone() });
            }
        }
        for small in self.condition.iter().flat_map(Tree::smaller) {
            all.push(Self { condition: Some(small), ..self.clone() });
        }
        all
    }
}

struct Generator {
    random: Random,
    /// The tables in FROM, by their aliases.
    scope: Vec<(&'static str, &'static str)>,
}

impl Generator {
    fn column(&mut self, kind: Kind) -> Option<Tree> {
        let (table, alias) = self.scope[self.random.below(self.scope.len())];
        let names: &[&str] = match (table, kind) {
            ("numbers", Int) => &["id", "a"],
            ("numbers", Big) => &["b"],
            ("numbers", Numeric) => &["n"],
            ("numbers", Float) => &["f"],
            ("words", Int) => &["id", "k"],
            ("words", Text) => &["t", "u"],
            ("moments", Int) => &["id", "k"],
            ("moments", Bool) => &["flag"],
            ("moments", Date) => &["d"],
            ("moments", Timestamp) => &["ts"],
            _ => return None,
        };
        Some(Tree::leaf(kind, format!("{alias}.{}", self.random.pick(names))))
    }

    fn literal(&mut self, kind: Kind) -> Tree {
        let text = match kind {
            Int => self.random.pick(&["0", "1", "2", "(-1)", "7", "100", "(-42)", "32768"]),
            Big => self.random.pick(&["3000000000", "(-3000000000)", "5::bigint", "0::bigint"]),
            Numeric => self.random.pick(&["0.5", "1.25", "(-2.5)", "100.001", "0.0"]),
            Float => self.random.pick(&["1.5::float8", "0::float8", "(-0.25)::float8", "1e3::float8"]),
            Text => self.random.pick(&["'a'", "''", "'apple'", "'Zoë'", "'%a_'", "' b '"]),
            Bool => self.random.pick(&["true", "false", "NULL::boolean"]),
            Date => self.random.pick(&["DATE '2024-02-29'", "DATE '1999-12-31'", "'2000-01-01'::date"]),
            Timestamp => self.random.pick(&["TIMESTAMP '2024-02-29 12:00:00'", "'1969-12-31 23:59:59'::timestamp"]),
        };
        Tree::leaf(kind, text)
    }

    fn leaf(&mut self, kind: Kind) -> Tree {
        match self.random.chance(3) {
            true => self.literal(kind),
            false => self.column(kind).unwrap_or_else(|| self.literal(kind)),
        }
    }

    fn any(&mut self, depth: usize) -> Tree {
        let kind = KINDS[self.random.below(KINDS.len())];
        self.tree(kind, depth)
    }

    #[allow(clippy::too_many_lines, reason = "a grammar is read as a whole")]
    fn tree(&mut self, kind: Kind, depth: usize) -> Tree {
        if depth == 0 || self.random.chance(5) {
            return self.leaf(kind);
        }
        if self.random.chance(7) {
            let (condition, yes, no) = (self.tree(Bool, depth - 1), self.tree(kind, depth - 1), self.tree(kind, depth - 1));
            return match self.random.below(3) {
                0 => Tree::of(kind, "CASE WHEN @ THEN @ ELSE @ END", vec![condition, yes, no]),
                1 => Tree::of(kind, "CASE WHEN @ THEN @ END", vec![condition, yes]),
                _ => Tree::of(kind, "coalesce(@, @)", vec![yes, no]),
            };
        }
        let below = depth - 1;
        match kind {
            Int => {
                let pattern = self.random.pick(&[
                    "(@ % 1000 + @ % 1000)",
                    "(@ % 1000 - @ % 1000)",
                    "(@ % 100 * (@ % 100))",
                    "(@ / nullif(@, 0))",
                    "(@ % nullif(@, 0))",
                ]);
                let pattern = match self.random.below(4) {
                    0 => {
                        let text = self.tree(Text, below);
                        let pattern = self.random.pick(&["length(@)", "octet_length(@)", "strpos(@, 'a')", "ascii(@)"]);
                        return Tree::of(Int, pattern, vec![text]);
                    }
                    1 => {
                        let (one, two) = (self.tree(Date, below), self.tree(Date, below));
                        return Tree::of(Int, "(@ - @)", vec![one, two]);
                    }
                    _ => pattern,
                };
                let (one, two) = (self.tree(Int, below), self.tree(Int, below));
                // The smallest number divided by -1 is out of range on one side only when a condition hides it.
                Tree::of(Int, pattern, vec![one, two])
            }
            Big => {
                let (one, two) = (self.tree(Big, below), self.tree(Int, below));
                let pattern = self.random.pick(&[
                    "(@ % 1000000 + @)",
                    "(@ / nullif(@, 0) % 1000)",
                    "(@ % 1000 * (@ % 1000))",
                    "greatest(@, @::bigint)",
                    "nullif(@, @)",
                ]);
                Tree::of(Big, pattern, vec![one, two])
            }
            Numeric => match self.random.below(3) {
                0 => {
                    let part = self.tree(Numeric, below);
                    let pattern = self.random.pick(&["round(@, 1)", "abs(@)", "floor(@)", "ceil(@)", "trunc(@)", "(-@)"]);
                    Tree::of(Numeric, pattern, vec![part])
                }
                _ => {
                    let (one, two) = (self.leaf(Numeric), self.leaf(Numeric));
                    let pattern = self.random.pick(&[
                        "(@ + @)",
                        "(@ - @)",
                        "(@ * @)",
                        "round(@ / nullif(@, 0), 3)",
                        "greatest(@, @)",
                        "least(@, @)",
                    ]);
                    Tree::of(Numeric, pattern, vec![one, two])
                }
            },
            Float => match self.random.below(3) {
                0 => {
                    let part = self.tree(Float, below);
                    let pattern = self.random.pick(&[
                        "abs(@)",
                        "(floor(@) + 0)",
                        "(ceil(@) + 0)",
                        "(0 - @)",
                        "sqrt(abs(@))",
                        "(trunc(@) + 0)",
                        "(round(@) + 0)",
                    ]);
                    Tree::of(Float, pattern, vec![part])
                }
                _ => {
                    let (one, two) = (self.tree(Float, below), self.tree(Float, below));
                    let pattern = self.random.pick(&["(@ + @)", "(@ - @)", "(@ * @ + 0)", "(@ / nullif(@, 0) + 0)"]);
                    Tree::of(Float, pattern, vec![one, two])
                }
            },
            Text => match self.random.below(4) {
                0 => {
                    let (one, two) = (self.tree(Text, below), self.tree(Text, below));
                    let pattern = self.random.pick(&[
                        "(@ || @)",
                        "concat(@, @)",
                        "replace(@, 'a', @)",
                        "concat_ws('-', @, @)",
                        "nullif(@, @)",
                    ]);
                    Tree::of(Text, pattern, vec![one, two])
                }
                1 => {
                    let kind = [Int, Big, Bool, Date, Float][self.random.below(5)];
                    let part = self.leaf(kind);
                    Tree::of(Text, "(@)::text", vec![part])
                }
                _ => {
                    let part = self.tree(Text, below);
                    let pattern = self.random.pick(&[
                        "upper(@)",
                        "lower(@)",
                        "trim(@)",
                        "ltrim(@)",
                        "reverse(@)",
                        "substr(@, 2, 2)",
                        "left(@, 2)",
                        "right(@, -1)",
                        "lpad(@, 6, '*')",
                        "rpad(@, 4)",
                        "initcap(@)",
                        "repeat(@, 2)",
                        "split_part(@, 'p', 1)",
                        "translate(@, 'ap', 'x')",
                        "substring(@ FROM 2)",
                        "regexp_replace(@, '[aeiou]', '#', 'g')",
                    ]);
                    Tree::of(Text, pattern, vec![part])
                }
            },
            Bool => match self.random.below(8) {
                0 | 1 => {
                    let (one, two) = (self.tree(Bool, below), self.tree(Bool, below));
                    let pattern = self.random.pick(&["(@ AND @)", "(@ OR @)", "(@ = @)", "(@ IS DISTINCT FROM @)"]);
                    Tree::of(Bool, pattern, vec![one, two])
                }
                2 => {
                    let part = self.tree(Bool, below);
                    let pattern = self.random.pick(&["(NOT @)", "(@ IS TRUE)", "(@ IS NOT FALSE)", "(@ IS UNKNOWN)"]);
                    Tree::of(Bool, pattern, vec![part])
                }
                3 => {
                    let part = self.any(below);
                    let pattern = self.random.pick(&["(@ IS NULL)", "(@ IS NOT NULL)"]);
                    Tree::of(Bool, pattern, vec![part])
                }
                4 => {
                    let text = self.tree(Text, below);
                    let pattern = self.random.pick(&[
                        "(@ LIKE 'a%')",
                        "(@ NOT LIKE '%\\_%')",
                        "(@ ILIKE '%A%')",
                        "(@ ~ '^[a-z]+$')",
                        "(@ ~* 'P+')",
                        "(@ !~ 'z')",
                    ]);
                    Tree::of(Bool, pattern, vec![text])
                }
                5 => {
                    let kind = [Int, Text, Numeric, Date][self.random.below(4)];
                    let (one, two, three) = (self.tree(kind, below), self.leaf(kind), self.leaf(kind));
                    let pattern = self.random.pick(&[
                        "(@ IN (@, @))",
                        "(@ NOT IN (@, @, NULL))",
                        "(@ BETWEEN @ AND @)",
                        "(@ NOT BETWEEN @ AND @)",
                    ]);
                    Tree::of(Bool, pattern, vec![one, two, three])
                }
                _ => {
                    let kind = KINDS[self.random.below(KINDS.len())];
                    let (one, two) = (self.tree(kind, below), self.tree(kind, below));
                    let pattern = self.random.pick(&[
                        "(@ = @)",
                        "(@ <> @)",
                        "(@ < @)",
                        "(@ <= @)",
                        "(@ > @)",
                        "(@ >= @)",
                        "(@ IS NOT DISTINCT FROM @)",
                    ]);
                    Tree::of(Bool, pattern, vec![one, two])
                }
            },
            Date => {
                let (date, days) = (self.tree(Date, below), self.leaf(Int));
                let pattern = self.random.pick(&["(@ + @ % 1000)", "(@ - @ % 1000)"]);
                Tree::of(Date, pattern, vec![date, days])
            }
            Timestamp => {
                let part = self.tree(Timestamp, below);
                let pattern = self.random.pick(&[
                    "(@ + INTERVAL '1 day')",
                    "(@ - INTERVAL '90 minutes')",
                    "date_trunc('month', @)",
                    "date_trunc('hour', @)",
                    "(@ + INTERVAL '1 month')",
                ]);
                Tree::of(Timestamp, pattern, vec![part])
            }
        }
    }

    /// Arithmetic that may fail, alone in its statement: what fails first is then no question.
    fn risky(&mut self) -> Tree {
        let (kind, column) = [(Int, "a"), (Big, "b"), (Float, "f"), (Numeric, "n")][self.random.below(4)];
        let (left, right) = (Tree::leaf(kind, format!("t0.{column}")), self.literal(kind));
        let operator = match kind {
            Float => self.random.pick(&["(@ + @)", "(@ - @)", "(@ * @)", "(@ / @)"]),
            _ => self.random.pick(&["(@ + @)", "(@ - @)", "(@ * @)", "(@ / @)", "(@ % @)"]),
        };
        let tree = match self.random.chance(2) {
            true => Tree::of(kind, operator, vec![left, right]),
            false => Tree::of(kind, operator, vec![right, left]),
        };
        match self.random.below(4) {
            0 => Tree::of(Int, "(@)::integer", vec![tree]),
            1 => Tree::of(Int, "(@)::smallint", vec![tree]),
            2 if kind != Numeric => Tree::of(Text, "(@)::text", vec![tree]),
            _ => tree,
        }
    }

    fn statement(&mut self) -> Statement {
        let tables = ["numbers", "words", "moments"];
        let table = tables[self.random.below(3)];
        self.scope = vec![(table, "t0")];
        let mut from = format!("{table} t0");
        match self.random.below(6) {
            0 => {
                self.scope = vec![("numbers", "t0")];
                let id = 1 + self.random.below(7);
                let item = self.risky();
                return Statement {
                    items: vec![item],
                    condition: Some(Tree::leaf(Bool, format!("t0.id = {id}"))),
                    from: "numbers t0".into(),
                    tail: String::new(),
                    head: "",
                };
            }
            1 => {
                let other = tables[self.random.below(3)];
                let join = self.random.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
                let key = |table: &str| if table == "numbers" { "a" } else { "k" };
                let on = match self.random.below(3) {
                    0 => format!("t0.{} = t1.id", key(table)),
                    1 => "t0.id = t1.id".to_owned(),
                    _ => format!("t0.{} = t1.{}", key(table), key(other)),
                };
                from = format!("{table} t0 {join} {other} t1 ON {on}");
                self.scope.push((other, "t1"));
            }
            2 => return self.grouped(from),
            3 => {
                let other = tables[self.random.below(3)];
                let item = self.any(2);
                let kind = if self.random.chance(2) { "EXISTS" } else { "NOT EXISTS" };
                let form = self.random.below(3);
                if form == 2 {
                    self.scope.clear();
                }
                self.scope.push((other, "t1"));
                let inner = self.tree(Bool, 1);
                let pattern = match form {
                    0 => format!("{kind} (SELECT 1 FROM {other} t1 WHERE t1.id = t0.id AND @)"),
                    1 => format!("t0.id IN (SELECT t1.id FROM {other} t1 WHERE @)"),
                    _ => format!("t0.id > (SELECT count(*) FROM {other} t1 WHERE t1.id = t0.id AND @)"),
                };
                let condition = Some(Tree::of(Bool, &pattern, vec![inner]));
                return Statement { items: vec![item], condition, from, tail: String::new(), head: "" };
            }
            _ => {}
        }
        let count = 1 + self.random.below(3);
        let items = (0..count).map(|_| self.any(3)).collect::<Vec<_>>();
        let condition = (!self.random.chance(3)).then(|| self.tree(Bool, 2));
        let tail = match self.random.chance(3) {
            true => format!(
                " ORDER BY {} LIMIT 3",
                (1..=count)
                    .map(|n| format!("{n}{}", self.random.pick(&["", " DESC", " NULLS FIRST"])))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            false => String::new(),
        };
        let head = if self.random.chance(6) { "DISTINCT " } else { "" };
        Statement { items, condition, from, tail, head }
    }

    fn grouped(&mut self, from: String) -> Statement {
        let kind = [Int, Text, Bool][self.random.below(3)];
        let key = self.tree(kind, 1);
        let mut items = vec![key];
        for _ in 0..2 {
            let kind = [Int, Big, Numeric, Float, Text, Date, Bool][self.random.below(7)];
            let part = self.leaf(kind);
            let patterns: &[&str] = match kind {
                Int => &["count(@)", "sum(@ % 1000)", "avg(@)", "min(@)", "max(@)", "count(DISTINCT @)"],
                Big => &["sum(@ / 1000)", "max(@)", "avg(@ / 1000)"],
                Numeric => &["sum(@)", "avg(@)", "min(@)"],
                Float => &["min(@)", "max(@)", "sum(@)"],
                Text => &["min(@)", "max(@)", "count(@)", "string_agg(@, ',' ORDER BY @)"],
                Bool => &["bool_and(@)", "bool_or(@)", "count(*) FILTER (WHERE @)"],
                _ => &["min(@)", "max(@)"],
            };
            let pattern = self.random.pick(patterns);
            let count = pattern.matches('@').count();
            items.push(Tree::of(kind, pattern, vec![part; count]));
        }
        let tail = format!(" GROUP BY 1{}", self.random.pick(&["", " HAVING count(*) > 1"]));
        Statement { items, condition: None, from, tail, head: "" }
    }
}

/// Why two answers do not agree.
fn difference(wanted: &Result<Answer, Failure>, given: &Result<Answer, Failure>, ordered: bool) -> Option<String> {
    match (wanted, given) {
        (Ok(wanted), Ok(given)) => {
            if wanted.names != given.names {
                return Some(format!("names {:?}, in PostgreSQL {:?}", given.names, wanted.names));
            }
            if wanted.types != given.types {
                return Some(format!("types {:?}, in PostgreSQL {:?}", given.types, wanted.types));
            }
            let (mut wanted, mut given) = (wanted.rows.clone(), given.rows.clone());
            if !ordered {
                wanted.sort();
                given.sort();
            }
            (wanted != given).then(|| format!("rows {given:?}\n   in PostgreSQL {wanted:?}"))
        }
        (Err(wanted), Err(given)) if wanted.code[..2] == given.code[..2] => None,
        (Ok(_), Err(given)) => Some(format!("fails with {given}; PostgreSQL answers")),
        (Err(wanted), Ok(_)) => Some(format!("answers; PostgreSQL fails with {wanted}")),
        (Err(wanted), Err(given)) => Some(format!("fails with {given}; PostgreSQL with {wanted}")),
    }
}

fn compare(there: &mut Postgres, here: &mut Headwater, statement: &Statement) -> Option<String> {
    let sql = statement.text();
    difference(&there.run(&sql), &here.run(&sql), statement.tail.contains("ORDER BY"))
}

/// The smallest statement that can be reached which still fails, and how.
fn shrink(there: &mut Postgres, here: &mut Headwater, mut statement: Statement, mut how: String) -> (String, String) {
    'smaller: loop {
        for small in statement.smaller() {
            if let Some(so) = compare(there, here, &small) {
                (statement, how) = (small, so);
                continue 'smaller;
            }
        }
        return (statement.text(), how);
    }
}

#[test]
fn random_statements_answer_as_in_postgresql() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("HEADWATER_SEED").unwrap_or(1);
    let count = number("HEADWATER_STATEMENTS").map_or(STATEMENTS, |count| usize::try_from(count).unwrap());
    let server = Server::start();
    let (mut there, mut here) = (server.database("random"), Headwater::new());
    for sql in TABLES.iter().chain(&ROWS) {
        there.run(sql).unwrap();
        here.run(sql).unwrap();
    }
    let mut generator = Generator { random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1), scope: vec![] };
    let (mut found, mut findings, mut errors) = (String::new(), 0, 0);
    for n in 0..count {
        let statement = generator.statement();
        let sql = statement.text();
        let wanted = there.run(&sql);
        errors += usize::from(wanted.is_err());
        if let Some(how) = difference(&wanted, &here.run(&sql), statement.tail.contains("ORDER BY")) {
            let (small, how) = shrink(&mut there, &mut here, statement, how);
            let _ = writeln!(found, "-- seed {seed}, statement {n}: {how}\n   {small};");
            findings += 1;
            if findings == FINDINGS_MAX {
                break;
            }
        }
    }
    println!("{count} random statements on both systems, of which {errors} are errors in PostgreSQL");
    assert!(found.is_empty(), "{found}");
}
