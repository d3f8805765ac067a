//! The parser of query text: one character of lookahead, a function for each rule of the grammar in [`super`].

use std::ops::Bound;

use super::{CLAUSES_MAX, DEPTH_MAX, Leaf, Operator, Role, Tree};
use crate::error::Error;

/// The largest slop of a phrase.
const SLOP_MAX: u32 = 100;
/// The largest boost.
const BOOST_MAX: f32 = 1e6;

/// Parses query text.
///
/// # Errors
/// [`Error::QueryText`] with the column, counted in characters from 1.
pub fn parse(text: &str, default: Operator) -> Result<Tree, Error> {
    let mut parser = Parser { chars: text.chars().collect(), at: 0, depth: 0, leaves: 0, default };
    let tree = parser.list(None)?;
    match parser.peek() {
        None => Ok(tree),
        Some(found) => Err(parser.error(parser.at, format!("unexpected `{found}`"), "remove it, or write `\\` in front of it")),
    }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    depth: usize,
    leaves: usize,
    default: Operator,
}

/// A field in force: its name and column.
type InField = Option<(String, usize)>;

struct Item {
    joined_by_or: bool,
    sign: Option<Role>,
    tree: Tree,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn error(&self, at: usize, message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::QueryText { column: at + 1, message: message.into(), hint: hint.into() }
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Takes an upper-case word such as `AND`, when it stands alone.
    fn take_keyword(&mut self, word: &str) -> bool {
        let found = self.at_keyword(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn at_keyword(&self, word: &str) -> bool {
        let end = self.at + word.len();
        self.chars.get(self.at..end).is_some_and(|chars| chars.iter().copied().eq(word.chars()))
            && self.chars.get(end).is_none_or(|next| next.is_whitespace() || matches!(next, '(' | ')' | '"'))
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth == DEPTH_MAX {
            return Err(self.error(self.at, format!("nested deeper than {DEPTH_MAX} levels"), "use fewer parentheses"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn list(&mut self, field: InField) -> Result<Tree, Error> {
        let mut items: Vec<Item> = Vec::new();
        loop {
            self.skip_spaces();
            let start = self.at;
            let joined_by_or = self.take_keyword("OR");
            if joined_by_or {
                if items.is_empty() {
                    return Err(self.error(start, "`OR` has nothing on its left", "put a term on both sides, or quote \"OR\""));
                }
                self.skip_spaces();
            }
            if matches!(self.peek(), None | Some(')')) {
                if joined_by_or {
                    return Err(self.error(start, "`OR` has nothing on its right", "put a term on both sides, or quote \"OR\""));
                }
                break;
            }
            let sign = self.sign();
            let (sign, tree) = self.and(&field, sign)?;
            items.push(Item { joined_by_or, sign, tree });
        }
        Ok(combine(items, self.default))
    }

    /// A sign that stands directly before what it is for; elsewhere `-` and `+` are ordinary characters.
    fn sign(&mut self) -> Option<Role> {
        let role = match self.peek()? {
            '+' => Role::Must,
            '-' => Role::MustNot,
            _ => return None,
        };
        self.chars.get(self.at + 1).filter(|next| !next.is_whitespace() && **next != ')')?;
        self.at += 1;
        Some(role)
    }

    /// Operands of `AND`; the sign in front of a single operand is handed back for the list.
    fn and(&mut self, field: &InField, sign: Option<Role>) -> Result<(Option<Role>, Tree), Error> {
        let mut operands = vec![(sign, self.not(field)?)];
        loop {
            let before = self.at;
            self.skip_spaces();
            let start = self.at;
            if !self.take_keyword("AND") {
                self.at = before;
                break;
            }
            self.skip_spaces();
            if matches!(self.peek(), None | Some(')')) || self.at_keyword("OR") || self.at_keyword("AND") {
                return Err(self.error(start, "`AND` has nothing on its right", "put a term on both sides, or quote \"AND\""));
            }
            let sign = self.sign();
            operands.push((sign, self.not(field)?));
        }
        if operands.len() == 1 {
            return Ok(operands.remove(0));
        }
        let clauses = operands.into_iter().map(|(sign, tree)| match sign {
            Some(Role::MustNot) => (Role::MustNot, tree),
            _ => lift_not(tree, Role::Must),
        });
        Ok((None, Tree::Clauses(clauses.collect())))
    }

    fn not(&mut self, field: &InField) -> Result<Tree, Error> {
        let start = self.at;
        if !self.take_keyword("NOT") {
            if self.at_keyword("AND") || self.at_keyword("OR") {
                let word: String = self.chars[self.at..].iter().take_while(|c| c.is_alphabetic()).collect();
                let hint = format!("put a term on both sides, or quote \"{word}\"");
                return Err(self.error(self.at, format!("`{word}` has nothing on its left"), hint));
            }
            return self.boosted(field);
        }
        self.skip_spaces();
        if matches!(self.peek(), None | Some(')')) {
            return Err(self.error(start, "`NOT` has nothing on its right", "put a term behind it, or quote \"NOT\""));
        }
        self.deeper(|parser| parser.not(field)).map(negated)
    }

    fn boosted(&mut self, field: &InField) -> Result<Tree, Error> {
        let tree = self.primary(field)?;
        let start = self.at;
        if !self.take('^') {
            return Ok(tree);
        }
        let number = self.digits(true);
        match number.parse::<f32>() {
            Ok(boost) if boost > 0.0 && boost <= BOOST_MAX => Ok(Tree::Boost(Box::new(tree), boost)),
            _ => Err(self.error(start, "`^` needs a positive number behind it", "write a boost like `crash^2.5`")),
        }
    }

    fn primary(&mut self, field: &InField) -> Result<Tree, Error> {
        let start = self.at;
        if self.take('(') {
            return self.group(start, field.clone());
        }
        if let Some(name) = self.field_name()? {
            if field.is_some() {
                return Err(self.error(
                    start,
                    format!("`{name}:` inside the group of another field"),
                    "name one field per group",
                ));
            }
            let field = Some((name, start + 1));
            return if self.take('(') { self.group(self.at - 1, field) } else { self.leaf(field) };
        }
        self.leaf(field.clone())
    }

    fn group(&mut self, start: usize, field: InField) -> Result<Tree, Error> {
        self.skip_spaces();
        if self.peek() == Some(')') {
            return Err(self.error(start, "empty parentheses", "put a term between them, or quote them"));
        }
        let tree = self.deeper(|parser| parser.list(field))?;
        if !self.take(')') {
            return Err(self.error(start, "`(` is never closed", "add a `)`, or write `\\(`"));
        }
        Ok(tree)
    }

    /// Takes `name:` when a word is directly followed by a colon.
    fn field_name(&mut self) -> Result<Option<String>, Error> {
        let start = self.at;
        let name = self.word();
        if name.is_empty() || self.peek() != Some(':') {
            self.at = start;
            return Ok(None);
        }
        self.at += 1;
        if self.peek().is_none_or(|next| next.is_whitespace() || next == ')') {
            return Err(self.error(
                start,
                format!("`{name}:` has no value"),
                "put the value directly behind the colon, or write `\\:`",
            ));
        }
        Ok(Some(name))
    }

    fn leaf(&mut self, field: InField) -> Result<Tree, Error> {
        self.leaves += 1;
        if self.leaves > CLAUSES_MAX {
            return Err(self.error(self.at, format!("more than {CLAUSES_MAX} terms"), "search for fewer at a time"));
        }
        let start = self.at;
        let has_field = field.is_some();
        let leaf = match self.peek() {
            Some('"') => self.phrase()?,
            Some('[' | '{' | '<' | '>') if has_field => self.range()?,
            Some('*') => {
                self.at += 1;
                if self.ends_here() {
                    if !has_field {
                        return Ok(Tree::All);
                    }
                    Leaf::Exists
                } else {
                    return Err(self.error(
                        start,
                        "`*` may only end a word",
                        "write `crash*`, or `\\*` for the character itself",
                    ));
                }
            }
            _ => self.word_leaf()?,
        };
        Ok(Tree::Leaf { field, leaf })
    }

    fn word_leaf(&mut self) -> Result<Leaf, Error> {
        let start = self.at;
        let word = self.word();
        if word.is_empty() {
            let (message, hint) = match self.peek() {
                Some(found) => (format!("unexpected `{found}`"), "remove it, quote it, or write `\\` in front of it"),
                None => ("the query ends where a term should be".to_owned(), "complete it"),
            };
            return Err(self.error(start, message, hint));
        }
        if self.take('*') {
            if self.ends_here() {
                return Ok(Leaf::Prefix(word));
            }
            return Err(self.error(self.at - 1, "`*` may only end a word", "write `crash*`, or `\\*` for the character itself"));
        }
        let tilde = self.at;
        if self.take('~') {
            return match self.digits(false).as_str() {
                "" | "1" => Ok(Leaf::Fuzzy(word, 1)),
                "0" => Ok(Leaf::Fuzzy(word, 0)),
                "2" => Ok(Leaf::Fuzzy(word, 2)),
                other => Err(self.error(tilde, format!("`~{other}` allows too many edits"), "use ~0, ~1 or ~2")),
            };
        }
        Ok(Leaf::Word(word))
    }

    fn phrase(&mut self) -> Result<Leaf, Error> {
        let start = self.at;
        let text = self.quoted()?;
        let tilde = self.at;
        if !self.take('~') {
            return Ok(Leaf::Phrase(text, 0));
        }
        match self.digits(false).parse::<u32>() {
            Ok(slop) if slop <= SLOP_MAX => Ok(Leaf::Phrase(text, slop)),
            _ => {
                let hint = format!("write \"{}\"~2, with at most {SLOP_MAX}", if start + 2 < tilde { "a phrase" } else { "..." });
                Err(self.error(tilde, "`~` behind a phrase needs a number", hint))
            }
        }
    }

    fn quoted(&mut self) -> Result<String, Error> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        while let Some(char) = self.peek() {
            self.at += 1;
            match char {
                '"' => return Ok(text),
                '\\' => {
                    text.extend(self.peek());
                    self.at += 1;
                }
                char => text.push(char),
            }
        }
        Err(self.error(start, "the quote is never closed", "add a `\"`, or write `\\\"`"))
    }

    fn range(&mut self) -> Result<Leaf, Error> {
        let start = self.at;
        let open = self.chars[self.at];
        self.at += 1;
        if matches!(open, '<' | '>') {
            let inclusive = self.take('=');
            let value =
                self.bound(start)?.ok_or_else(|| self.error(start, format!("`{open}` needs a value"), "write `year:>=2020`"))?;
            let bound = if inclusive { Bound::Included(value) } else { Bound::Excluded(value) };
            return Ok(if open == '>' { Leaf::Range(bound, Bound::Unbounded) } else { Leaf::Range(Bound::Unbounded, bound) });
        }
        let lower = self.bound(start)?;
        self.skip_spaces();
        if !self.take_keyword("TO") {
            return Err(self.error(self.at, "a range needs `TO` between its bounds", "write `field:[a TO b]`"));
        }
        let upper = self.bound(start)?;
        self.skip_spaces();
        let close = self.peek();
        let closing = matches!(close, Some(']' | '}'));
        if !closing {
            return Err(self.error(self.at, "the range is never closed", "end it with `]` (inclusive) or `}` (exclusive)"));
        }
        self.at += 1;
        let side = |value: Option<String>, exclusive: bool| match value {
            None => Bound::Unbounded,
            Some(value) if exclusive => Bound::Excluded(value),
            Some(value) => Bound::Included(value),
        };
        Ok(match (side(lower, open == '{'), side(upper, close == Some('}'))) {
            (Bound::Unbounded, Bound::Unbounded) => Leaf::Exists,
            (lower, upper) => Leaf::Range(lower, upper),
        })
    }

    /// A bound of a range; `*` is none.
    fn bound(&mut self, start: usize) -> Result<Option<String>, Error> {
        self.skip_spaces();
        if self.peek() == Some('"') {
            return self.quoted().map(Some);
        }
        if self.take('*') {
            return Ok(None);
        }
        // Times have colons in them.
        let mut value = String::new();
        loop {
            value.push_str(&self.word());
            match self.peek() {
                Some(char @ (':' | '~' | '^')) => {
                    value.push(char);
                    self.at += 1;
                }
                _ => break,
            }
        }
        if value.is_empty() {
            return Err(self.error(start, "a bound of the range is missing", "write `field:[a TO b]`, with `*` for an open end"));
        }
        Ok(Some(value))
    }

    /// The characters of a word from here, escapes resolved; may be none.
    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(char) = self.peek() {
            match char {
                '\\' => match self.chars.get(self.at + 1) {
                    Some(escaped) => {
                        word.push(*escaped);
                        self.at += 2;
                        continue;
                    }
                    None => word.push('\\'),
                },
                '(' | ')' | '"' | '[' | ']' | '{' | '}' | ':' | '^' | '~' | '*' => break,
                char if char.is_whitespace() => break,
                char => word.push(char),
            }
            self.at += 1;
        }
        word
    }

    fn digits(&mut self, fraction: bool) -> String {
        let start = self.at;
        while self.peek().is_some_and(|char| char.is_ascii_digit() || (fraction && char == '.')) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    fn ends_here(&self) -> bool {
        self.peek().is_none_or(|char| char.is_whitespace() || matches!(char, ')' | '^'))
    }
}

/// Every document that `tree` does not match.
fn negated(tree: Tree) -> Tree {
    Tree::Clauses(vec![(Role::MustNot, tree)])
}

/// A pure negation among other clauses takes documents away from them instead of adding all others.
fn lift_not(tree: Tree, role: Role) -> (Role, Tree) {
    match tree {
        Tree::Clauses(mut clauses) if clauses.len() == 1 && clauses[0].0 == Role::MustNot => clauses.remove(0),
        tree => (role, tree),
    }
}

fn combine(mut items: Vec<Item>, default: Operator) -> Tree {
    if items.len() == 1 && items[0].sign != Some(Role::MustNot) {
        return items.remove(0).tree;
    }
    let beside_or: Vec<bool> =
        (0..items.len()).map(|i| items[i].joined_by_or || items.get(i + 1).is_some_and(|next| next.joined_by_or)).collect();
    let mut clauses = Vec::new();
    let mut alternatives = Vec::new();
    for (item, beside_or) in items.into_iter().zip(beside_or) {
        if !item.joined_by_or && !alternatives.is_empty() {
            clauses.push((Role::Must, Tree::Clauses(std::mem::take(&mut alternatives))));
        }
        match (item.sign, default) {
            (Some(role), _) => clauses.push((role, item.tree)),
            (None, Operator::Or) if beside_or => clauses.push((Role::Should, item.tree)),
            (None, Operator::Or) => clauses.push(lift_not(item.tree, Role::Should)),
            (None, Operator::And) if beside_or => alternatives.push((Role::Should, item.tree)),
            (None, Operator::And) => clauses.push(lift_not(item.tree, Role::Must)),
        }
    }
    if !alternatives.is_empty() {
        clauses.push((Role::Must, Tree::Clauses(alternatives)));
    }
    Tree::Clauses(clauses)
}
