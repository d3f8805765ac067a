//! Splits a text into statements and parses each.

use datafusion::sql::sqlparser::ast::Statement as Ast;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, Word};
use logcore::ErrorKind;

use super::ddl::{self, Ddl};
use super::depth;
use super::dialect::HeadwaterDialect;
use super::merge;
use super::sequences;
use crate::error::{Error, Result, sqlstate};

/// The functions that stand for `AS OF OFFSET n` and `AS OF POSITION '...'` in the tree.
pub(crate) const AS_OF_OFFSET: &str = "headwater_as_of_offset";
pub(crate) const AS_OF_POSITION: &str = "headwater_as_of_position";
/// Nesting of expressions and queries: what copies such a tree must fit the stack of a planning thread, in a debug build too.
const RECURSION_MAX: usize = 50;
/// Expressions that the parser may begin, for each token and beyond; it takes some back, about twice as many as there are.
const STEPS_PER_TOKEN: u64 = 8;
const STEPS_MIN: u64 = 10_000;

/// One statement.
#[derive(Clone, Debug)]
pub enum Statement {
    /// One of ours.
    Ddl(Box<Ddl>),
    /// PostgreSQL's.
    Sql(Box<Ast>),
}

/// Parses all statements of `sql`, at most `statements_max`.
///
/// # Errors
/// A syntax error with line and column; nothing of the text may then be carried out.
pub fn parse(sql: &str, statements_max: usize) -> Result<Vec<Statement>> {
    let tokens = Tokenizer::new(&HeadwaterDialect::default(), sql).tokenize_with_location().map_err(|error| {
        let Location { line, column } = error.location;
        Error::syntax(format!("syntax error at line {line}, column {column}: {}", error.message))
    })?;
    let mut statements = Vec::new();
    for part in tokens.split(|token| token.token == Token::SemiColon) {
        if part.iter().all(|token| matches!(token.token, Token::Whitespace(_) | Token::EOF)) {
            continue;
        }
        if statements.len() == statements_max {
            return Err(Error::invalid(format!("more than {statements_max} statements in one request")));
        }
        statements.push(parse_one(part.to_vec())?);
    }
    Ok(statements)
}

fn parse_one(tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    depth::check_chains(&tokens)?;
    let dialect = HeadwaterDialect::bounded(STEPS_MIN + STEPS_PER_TOKEN * tokens.len() as u64);
    parse_tokens(&dialect, tokens).map_err(|error| match dialect.is_exhausted() {
        true => {
            Error::new(sqlstate::STATEMENT_TOO_COMPLEX, ErrorKind::TooLarge, "the statement can't be read in reasonable time")
                .hint("there is a mistake inside many levels of parentheses: nest less")
        }
        false => error,
    })
}

fn parse_tokens(dialect: &HeadwaterDialect, tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    let end = tokens.last().map_or(Location { line: 1, column: 1 }, |token| token.span.end);
    let (tokens, overriding) = sequences::take_overriding(merge::plain(sequences::in_order(tokens)));
    let mut parser = Parser::new(dialect).with_recursion_limit(RECURSION_MAX).with_tokens_with_locations(mark_past_reads(tokens));
    let statement = match ddl::parse(&mut parser)? {
        Some(ddl) => Statement::Ddl(Box::new(ddl)),
        None => {
            let mut parsed = parser.parse_statement().map_err(|error| with_end(syntax_error(&error), end))?;
            if let (Some(which), Ast::Insert(insert)) = (overriding, &mut parsed) {
                insert.settings.get_or_insert_default().push(sequences::overriding_setting(which));
            }
            depth::balance(&mut parsed);
            Statement::Sql(Box::new(parsed))
        }
    };
    let next = parser.peek_token();
    if next.token != Token::EOF {
        let Location { line, column } = next.span.start;
        return Err(Error::syntax(format!("syntax error at line {line}, column {column}: unexpected \"{}\"", next.token)));
    }
    Ok(statement)
}

/// An error at the end of the text has no place of its own.
fn with_end(error: Error, end: Location) -> Error {
    match error.message().contains(" line ") {
        true => error,
        false => Error::syntax(format!("{} at line {}, column {}", error.message(), end.line, end.column)),
    }
}

/// Puts sqlparser's words into ours: the place first, then what was expected and found.
pub(crate) fn syntax_error(error: &ParserError) -> Error {
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message.as_str(),
        ParserError::RecursionLimitExceeded => {
            let message = format!("the statement nests deeper than {RECURSION_MAX}");
            return Error::new(sqlstate::STATEMENT_TOO_COMPLEX, ErrorKind::TooLarge, message).hint("nest less");
        }
    };
    let Some((what, place)) = message.rsplit_once(" at Line: ") else {
        return Error::syntax(format!("syntax error: {message}"));
    };
    let (line, column) = place.split_once(", Column: ").unwrap_or((place, "1"));
    Error::syntax(format!("syntax error at line {line}, column {column}: {what}"))
}

/// Turns `AS OF OFFSET n` and `AS OF POSITION 'p'` into calls, which sqlparser takes for expressions.
fn mark_past_reads(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let word =
        |token: &TokenWithSpan, text: &str| matches!(&token.token, Token::Word(word) if word.value.eq_ignore_ascii_case(text));
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let function = if word(&token, "offset") {
            AS_OF_OFFSET
        } else if word(&token, "position") {
            AS_OF_POSITION
        } else {
            out.push(token);
            continue;
        };
        let mut before = out.iter().rev().filter(|token| !matches!(token.token, Token::Whitespace(_)));
        let marked = ["of", "as", "system_time", "for"].iter().all(|text| before.next().is_some_and(|token| word(token, text)));
        if !marked {
            out.push(token);
            continue;
        }
        let at = |token, span: Span| TokenWithSpan { token, span };
        let name =
            Word { value: function.into(), quote_style: None, keyword: datafusion::sql::sqlparser::keywords::Keyword::NoKeyword };
        out.push(at(Token::Word(name), token.span));
        out.push(at(Token::LParen, token.span));
        while tokens.peek().is_some_and(|token| matches!(token.token, Token::Whitespace(_))) {
            tokens.next();
        }
        out.extend(tokens.next());
        out.push(at(Token::RParen, token.span));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_where() {
        for (sql, place) in [
            ("SELECT 1;\n SELECT 1 +* 2", "line 2, column "),
            ("SELECT 'abc", "line 1, column 8"),
            ("SELECT (1", "line 1, column "),
            ("CREATE STREAM a WITH (partitions 2)", "line 1, column 34"),
            ("CREATE TABLE t (id BIGINT) FROM STRAEM x", "line 1, column 33"),
            ("REBUILD commit_docs", "line 1, column 9"),
            ("DROP STREAM a b", "line 1, column 15"),
        ] {
            let error = parse(sql, 10).unwrap_err();
            assert!(error.message().contains(place), "{sql}: {error}");
            assert_eq!(error.code(), crate::error::sqlstate::SYNTAX_ERROR);
        }
    }

    #[test]
    fn a_mistake_in_deep_nesting_is_found_soon() {
        for depth in [5, 50, 90, 100_000] {
            for open in ["NOT (", "(", "coalesce(", "interval (", "array[", "(SELECT ", "case when "] {
                let sql = format!("SELECT x {} ) FROM", open.repeat(depth));
                let code = parse(&sql, 1).unwrap_err().code();
                assert!(
                    [sqlstate::SYNTAX_ERROR, sqlstate::STATEMENT_TOO_COMPLEX].contains(&code),
                    "{depth} times {open}: {code}"
                );
            }
        }
        for open in ["(", "coalesce(", "NOT (", "least(1, "] {
            parse(&format!("SELECT {}1{}", open.repeat(20), ")".repeat(20)), 1).unwrap();
        }
    }

    #[test]
    fn our_statements_are_ours_and_the_rest_is_postgresql() {
        let sql = "CREATE TABLE d USING document WITH (key = 'commit', search = 'subject, body') FROM STREAM commits; SELECT 1;;";
        let statements = parse(sql, 10).unwrap();
        let Statement::Ddl(first) = &statements[0] else { panic!("{statements:?}") };
        assert!(matches!(&**first, Ddl::CreateTable(table) if table.stream.as_deref() == Some("commits")));
        assert!(matches!(statements[1], Statement::Sql(_)));
        assert_eq!(statements.len(), 2);
        parse("SELECT * FROM t FOR SYSTEM_TIME AS OF OFFSET 12 AS x LIMIT 1 OFFSET 2", 1).unwrap();
        parse("SELECT * FROM t FOR SYSTEM_TIME AS OF POSITION 'commits/0@1'", 1).unwrap();
        parse("SELECT * FROM t FOR SYSTEM_TIME AS OF TIMESTAMP '2024-01-01'", 1).unwrap();
    }
}
