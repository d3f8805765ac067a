//! Keeps the trees of statements flat enough to be walked: `1 + 1 + ...` three thousand times over would overflow the stack of
//! whoever shows, copies or drops the tree, and end the process.
//!
//! The parser bounds what it nests itself ([`super::parse`]), but takes a chain of operators in a loop, and every operator puts
//! another level on top. So chains are counted before they are parsed. Those of AND and OR, which programs write long ones of, may
//! be longer, and become balanced trees.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Statement, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use logcore::ErrorKind;

use crate::error::{Error, Result, sqlstate};

/// Operators in one expression without parentheses, joins of one FROM, set operations of one query: each makes a level.
const CHAIN_MAX: usize = 200;
/// AND and OR in one condition.
const CONDITIONS_MAX: usize = 1_000;
/// Chains of AND and OR from this length on are balanced.
const BALANCED_FROM: usize = 8;

/// What was seen since a parenthesis was opened.
#[derive(Default)]
struct Level {
    /// Of the expression that is being read.
    operators: usize,
    /// Levels of what stands in parentheses in it: every operator around puts it deeper.
    inside: usize,
    conditions: usize,
    joins: usize,
    sets: usize,
    /// Levels of the expressions before.
    deepest: usize,
}

impl Level {
    /// Levels of the expression that is being read.
    fn depth(&self) -> usize {
        self.operators + self.inside
    }

    fn end_expression(&mut self) {
        self.deepest = self.deepest.max(self.depth());
        (self.operators, self.inside) = (0, 0);
    }

    fn end_condition(&mut self) {
        self.end_expression();
        self.conditions = 0;
    }

    /// Levels of all of it, the parentheses included.
    fn all(&self) -> usize {
        self.deepest.max(self.depth()) + self.joins + self.sets + 1
    }
}

/// Refuses a statement whose chains of operators are too long.
///
/// # Errors
/// `54001`, with the place.
pub(super) fn check_chains(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut levels = vec![Level::default()];
    for token in tokens {
        let Some(level) = levels.last_mut() else { return Ok(()) };
        let (count, max, what) = match &token.token {
            Token::LParen => {
                levels.push(Level::default());
                continue;
            }
            Token::RParen => {
                let all = level.all();
                if levels.len() > 1 {
                    levels.pop();
                }
                let Some(around) = levels.last_mut() else { return Ok(()) };
                around.inside = around.inside.max(all);
                (around.depth(), CHAIN_MAX, "operators")
            }
            Token::Comma => {
                level.end_condition();
                continue;
            }
            Token::Word(word) => match word.keyword {
                Keyword::AND | Keyword::OR => {
                    level.end_expression();
                    level.conditions += 1;
                    (level.conditions, CONDITIONS_MAX, "conditions")
                }
                Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT => {
                    level.end_condition();
                    level.sets += 1;
                    (level.sets, CHAIN_MAX, "set operations")
                }
                Keyword::JOIN => {
                    level.end_condition();
                    level.joins += 1;
                    (level.joins, CHAIN_MAX, "joins")
                }
                Keyword::SELECT | Keyword::FROM | Keyword::WHERE | Keyword::ON | Keyword::HAVING | Keyword::BY => {
                    level.end_condition();
                    continue;
                }
                Keyword::WHEN | Keyword::THEN | Keyword::ELSE => {
                    level.end_condition();
                    continue;
                }
                Keyword::IS | Keyword::NOTNULL | Keyword::LIKE | Keyword::ILIKE | Keyword::SIMILAR => {
                    level.operators += 1;
                    (level.depth(), CHAIN_MAX, "operators")
                }
                Keyword::IN | Keyword::BETWEEN | Keyword::COLLATE | Keyword::AT | Keyword::OPERATOR => {
                    level.operators += 1;
                    (level.depth(), CHAIN_MAX, "operators")
                }
                _ => continue,
            },
            Token::Whitespace(_) | Token::Number(..) | Token::Period | Token::RBracket | Token::Placeholder(_) | Token::EOF => {
                continue;
            }
            Token::SingleQuotedString(_) | Token::NationalStringLiteral(_) | Token::EscapedStringLiteral(_) => continue,
            Token::DollarQuotedString(_) | Token::HexStringLiteral(_) | Token::DoubleQuotedString(_) => continue,
            // Every other sign.
            _ => {
                level.operators += 1;
                (level.depth(), CHAIN_MAX, "operators")
            }
        };
        if count > max {
            let start = token.span.start;
            let message = format!(
                "more than {max} {what} follow each other or lie in each other at line {}, column {}",
                start.line, start.column
            );
            return Err(Error::new(sqlstate::STATEMENT_TOO_COMPLEX, ErrorKind::TooLarge, message)
                .hint("put parts into named subqueries (WITH), or values into an IN list"));
        }
    }
    Ok(())
}

/// Turns long chains of AND and OR into balanced trees of the same order.
pub(super) fn balance(statement: &mut Statement) {
    let _ = VisitMut::visit(statement, &mut Balance);
}

struct Balance;

impl VisitorMut for Balance {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } = &*expr else {
            return ControlFlow::Continue(());
        };
        let (op, mut length, mut left) = (op.clone(), 1, &*expr);
        while let Expr::BinaryOp { left: below, op: same, .. } = left
            && *same == op
        {
            (length, left) = (length + 1, below);
        }
        if length < BALANCED_FROM {
            return ControlFlow::Continue(());
        }
        let nothing = || Expr::value(datafusion::sql::sqlparser::ast::Value::Null);
        let (mut parts, mut rest) = (Vec::with_capacity(length), std::mem::replace(expr, nothing()));
        while parts.len() + 1 < length
            && let Expr::BinaryOp { left, right, .. } = rest
        {
            parts.push(*right);
            rest = *left;
        }
        parts.push(rest);
        parts.reverse();
        // Neighbours become pairs, until there is one.
        while parts.len() > 1 {
            let mut pairs = Vec::with_capacity(parts.len().div_ceil(2));
            let mut rest = parts.into_iter();
            while let Some(left) = rest.next() {
                pairs.push(match rest.next() {
                    Some(right) => Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) },
                    None => left,
                });
            }
            parts = pairs;
        }
        if let Some(balanced) = parts.pop() {
            *expr = balanced;
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::super::parse::{Statement as Parsed, parse};

    fn code(sql: &str) -> Option<&'static str> {
        parse(sql, 1).err().map(|error| error.code())
    }

    #[test]
    fn chains_have_an_end() {
        for link in [" + 1", " || 'a'", "::int", " IS NULL", "[1]", " -> 'a'", " = ANY (ARRAY[1])"] {
            assert_eq!(code(&format!("SELECT 1{}", link.repeat(150))).filter(|code| *code == "54001"), None, "{link}");
            for times in [300, 100_000] {
                assert_eq!(code(&format!("SELECT 1{}", link.repeat(times))), Some("54001"), "{times} times {link}");
            }
        }
        for (head, link) in [("SELECT 1", " UNION ALL SELECT 1"), ("SELECT 1 FROM t", " CROSS JOIN t"), ("SELECT true", " OR a")]
        {
            assert_eq!(code(&format!("{head}{}", link.repeat(150))), None, "{link}");
            assert_eq!(code(&format!("{head}{}", link.repeat(50_000))), Some("54001"), "{link}");
        }
        // Nor may a chain in parentheses stand in another one.
        let nested = format!("SELECT 1{} + (SELECT 1{}){}", " + 1".repeat(90), " + 1".repeat(90), " + 1".repeat(90));
        assert_eq!(code(&nested), Some("54001"));
        // What is separated is no chain.
        assert_eq!(code(&format!("SELECT 1{}", ", 1 + 1".repeat(5_000))), None);
        assert_eq!(code(&format!("SELECT 1 IN (1{})", ", -1".repeat(50_000))), None);
    }

    #[test]
    fn long_conditions_are_balanced_in_their_order() {
        let names: Vec<String> = (0..501).map(|n| format!("c{n}")).collect();
        let Parsed::Sql(statement) = parse(&format!("SELECT {}", names.join(" AND ")), 1).unwrap().pop().unwrap() else {
            panic!()
        };
        let text = statement.to_string();
        assert_eq!(text, format!("SELECT {}", names.join(" AND ")), "balancing shows in the tree alone");
        let depth = format!("{statement:?}").matches("left: BinaryOp").count();
        assert!(depth < 501, "{depth}");
    }
}
