//! Tests of the query text parser: precedence, escapes, errors with their columns.

use proptest::prelude::*;

use super::*;
use crate::error::Error;

/// The tree in a short notation: `+` must, `-` must not, nothing should.
fn show(tree: &Tree) -> String {
    match tree {
        Tree::All => "*".to_owned(),
        Tree::Boost(tree, boost) => format!("{}^{boost}", show(tree)),
        Tree::Clauses(clauses) => {
            let sign = |role: &Role| match role {
                Role::Must => "+",
                Role::Should => "",
                Role::MustNot => "-",
            };
            let parts: Vec<String> = clauses.iter().map(|(role, tree)| format!("{}{}", sign(role), show(tree))).collect();
            format!("({})", parts.join(" "))
        }
        Tree::Leaf { field, leaf } => {
            let field = field.as_ref().map(|(name, _)| format!("{name}:")).unwrap_or_default();
            let leaf = match leaf {
                Leaf::Word(word) => word.clone(),
                Leaf::Phrase(text, 0) => format!("\"{text}\""),
                Leaf::Phrase(text, slop) => format!("\"{text}\"~{slop}"),
                Leaf::Prefix(word) => format!("{word}*"),
                Leaf::Fuzzy(word, distance) => format!("{word}~{distance}"),
                Leaf::Range(lower, upper) => format!("{lower:?}..{upper:?}"),
                Leaf::Exists => "exists".to_owned(),
            };
            format!("{field}{leaf}")
        }
    }
}

fn or(text: &str) -> String {
    show(&parse(text, Operator::Or).expect(text))
}

fn and(text: &str) -> String {
    show(&parse(text, Operator::And).expect(text))
}

fn failure(text: &str) -> (usize, String) {
    match parse(text, Operator::Or) {
        Err(Error::QueryText { column, message, hint }) => {
            assert!(!hint.is_empty());
            (column, message)
        }
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn and_binds_tighter_than_or() {
    assert_eq!(or("a OR b AND c"), "(a (+b +c))");
    assert_eq!(or("a AND b OR c"), "((+a +b) c)");
    assert_eq!(or("(a OR b) AND c"), "(+(a b) +c)");
    assert_eq!(or("a b AND c d"), "(a (+b +c) d)");
    assert_eq!(and("a b OR c d"), "(+a +(b c) +d)");
    assert_eq!(and("a b"), "(+a +b)");
    assert_eq!(or("a b"), "(a b)");
}

#[test]
fn signs_and_not_take_documents_away_from_their_list() {
    assert_eq!(or("a +b -c"), "(a +b -c)");
    assert_eq!(or("a NOT b"), "(a -b)");
    assert_eq!(or("a OR NOT b"), "(a (-b))");
    assert_eq!(or("crash -test OR bug"), "(crash -test bug)");
    assert_eq!(or("a AND NOT b"), "(+a -b)");
    assert_eq!(or("-a AND b"), "(-a +b)");
    assert_eq!(or("a AND -b"), "(+a -b)");
    assert_eq!(and("a -b"), "(+a -b)");
    assert_eq!((or("-a"), or("NOT a"), or("NOT NOT a"), or("+a")), ("(-a)".into(), "(-a)".into(), "(-(-a))".into(), "a".into()));
    assert_eq!(or("a - b +"), "(a - b +)");
    assert_eq!(or("well-known c++"), "(well-known c++)");
}

#[test]
fn leaves_of_every_kind() {
    assert_eq!(or("\"torn write\" OR crash~1"), "(\"torn write\" crash~1)");
    assert_eq!(or("\"torn write\"~2^3 crash~ crash~0 crash~2"), "(\"torn write\"~2^3 crash~1 crash~0 crash~2)");
    assert_eq!(or("pre* title:pre* don't *"), "(pre* title:pre* don't *)");
    assert_eq!(or("author.name:bob"), "author.name:bob");
    assert_eq!(or("t:\"x y\" t:(a OR b -c)^2"), "(t:\"x y\" (t:a t:b -t:c)^2)");
    assert_eq!(or("f:* f:[* TO *]"), "(f:exists f:exists)");
    assert_eq!(or("f:[a TO b} f:{a TO *]"), "(f:Included(\"a\")..Excluded(\"b\") f:Excluded(\"a\")..Unbounded)");
    assert_eq!(or("f:[2024-01-01T00:00:00Z TO \"x y\"]"), "f:Included(\"2024-01-01T00:00:00Z\")..Included(\"x y\")");
    assert_eq!(or("f:>=5 f:<-2.5"), "(f:Included(\"5\")..Unbounded f:Unbounded..Excluded(\"-2.5\"))");
    assert_eq!(or(""), "()");
    assert_eq!(or("and or not AND_ ORacle"), "(and or not AND_ ORacle)");
}

#[test]
fn a_backslash_takes_the_next_character_as_it_is() {
    assert_eq!(or(r"a\:b \(c\) \*"), "(a:b (c) *)");
    assert_eq!(or(r#""say \"x\"" a\ b"#), "(\"say \"x\"\" a b)");
    assert_eq!(or(r"\-a \AND b\"), "(-a AND b\\)");
    assert!(matches!(parse(r"\*", Operator::Or), Ok(Tree::Leaf { leaf: Leaf::Word(word), .. }) if word == "*"));
}

#[test]
fn errors_name_the_column_and_what_to_do() {
    assert_eq!(failure("a AND"), (3, "`AND` has nothing on its right".into()));
    assert_eq!(failure("OR a"), (1, "`OR` has nothing on its left".into()));
    assert_eq!(failure("AND a"), (1, "`AND` has nothing on its left".into()));
    assert_eq!(failure("a OR OR b"), (6, "`OR` has nothing on its left".into()));
    assert_eq!(failure("ä OR"), (3, "`OR` has nothing on its right".into()));
    assert_eq!(failure("x NOT"), (3, "`NOT` has nothing on its right".into()));
    assert_eq!(failure("ab (c"), (4, "`(` is never closed".into()));
    assert_eq!(failure("ab c)"), (5, "unexpected `)`".into()));
    assert_eq!(failure("()"), (1, "empty parentheses".into()));
    assert_eq!(failure("x \"abc"), (3, "the quote is never closed".into()));
    assert_eq!(failure("te*st"), (3, "`*` may only end a word".into()));
    assert_eq!(failure("a~3"), (2, "`~3` allows too many edits".into()));
    assert_eq!(failure("\"a b\"~"), (6, "`~` behind a phrase needs a number".into()));
    assert_eq!(failure("a^0"), (2, "`^` needs a positive number behind it".into()));
    assert_eq!(failure("f: x"), (1, "`f:` has no value".into()));
    assert_eq!(failure("f:[a b]"), (6, "a range needs `TO` between its bounds".into()));
    assert_eq!(failure("f:[a TO b"), (10, "the range is never closed".into()));
    assert_eq!(failure("a[0]"), (2, "unexpected `[`".into()));
    assert_eq!(failure("a:(b:c)"), (4, "`b:` inside the group of another field".into()));
}

#[test]
fn nesting_and_size_are_bounded() {
    let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&nested(DEPTH_MAX), Operator::Or).is_ok());
    assert_eq!(failure(&nested(DEPTH_MAX + 1)).1, "nested deeper than 64 levels");
    assert_eq!(failure(&"NOT ".repeat(100_000).replacen("NOT ", "NOT a NOT ", 1)).1, "nested deeper than 64 levels");
    assert!(parse(&"a ".repeat(CLAUSES_MAX), Operator::Or).is_ok());
    assert_eq!(failure(&"a ".repeat(CLAUSES_MAX + 1)).1, "more than 1024 terms");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in r#"([a-c]|AND|OR|NOT|TO|[ "()\[\]{}:~^*+\\<>=0-9ä-])*"#) {
        for operator in [Operator::Or, Operator::And] {
            if let Err(error) = parse(&text, operator) {
                let Error::QueryText { column, .. } = error else { panic!("{error}") };
                prop_assert!(column >= 1 && column <= text.chars().count() + 1, "{column}");
            }
        }
    }
}
