//! `CREATE SEQUENCE`, `DROP SEQUENCE`, and the options that identity columns share with them.

use datafusion::sql::sqlparser::ast::{Expr, Ident, SequenceOptions as SqlOption};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};
use rowstore::{ColumnType, schema::Identity};

use super::ddl::name_of;
use super::types::column_type;
use crate::error::{Error, Result};

/// What a sequence is asked to be; what is `None` has PostgreSQL's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequenceOptions {
    /// SMALLINT, INTEGER or BIGINT.
    pub kind: Option<ColumnType>,
    /// From one number to the next.
    pub increment: Option<i64>,
    /// The smallest number.
    pub min: Option<i64>,
    /// The largest number.
    pub max: Option<i64>,
    /// The first number.
    pub start: Option<i64>,
    /// Whether it begins again at its end.
    pub cycle: bool,
    /// `OWNED BY table.column`.
    pub owner: Option<(String, String)>,
}

/// `CREATE SEQUENCE [IF NOT EXISTS] name options`
#[derive(Clone, Debug)]
pub struct CreateSequence {
    /// Its name.
    pub name: String,
    /// Whether an existing one is fine.
    pub if_not_exists: bool,
    /// What it is to be.
    pub options: SequenceOptions,
}

/// The sequence of a column: of SERIAL, or of an identity column.
#[derive(Clone, Debug)]
pub struct ColumnSequence {
    /// The column's name.
    pub column: String,
    /// What it is to be.
    pub options: SequenceOptions,
    /// Whether it is an identity, and which.
    pub identity: Option<Identity>,
}

fn integer(parser: &mut Parser<'_>) -> Result<i64, ParserError> {
    let negative = parser.consume_token(&Token::Minus);
    if !negative {
        let _ = parser.consume_token(&Token::Plus);
    }
    let token = parser.next_token();
    let Token::Number(digits, _) = &token.token else { return parser.expected("a whole number", token) };
    let text = if negative { format!("-{digits}") } else { digits.clone() };
    text.parse().or_else(|_| parser.expected("a number that a BIGINT holds", token))
}

fn take_word(parser: &mut Parser<'_>, word: &str) -> bool {
    let next = &parser.peek_token_ref().token;
    let found = matches!(next, Token::Word(Word { value, quote_style: None, .. }) if value.eq_ignore_ascii_case(word));
    if found {
        parser.advance_token();
    }
    found
}

/// The name and options behind `CREATE SEQUENCE`.
///
/// # Errors
/// What is not one of them.
pub fn create(parser: &mut Parser<'_>) -> Result<CreateSequence> {
    let wrong = |error: ParserError| super::parse::syntax_error(&error);
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = name_of(&parser.parse_object_name(false).map_err(wrong)?);
    let mut options = SequenceOptions::default();
    while option(parser, &mut options)? {}
    Ok(CreateSequence { name, if_not_exists, options })
}

/// One option, in any order.
fn option(parser: &mut Parser<'_>, options: &mut SequenceOptions) -> Result<bool> {
    let wrong = |error: ParserError| super::parse::syntax_error(&error);
    if take_word(parser, "as") {
        options.kind = Some(kind(column_type(&parser.parse_data_type().map_err(wrong)?)?)?);
    } else if take_word(parser, "increment") {
        let _ = take_word(parser, "by");
        options.increment = Some(integer(parser).map_err(wrong)?);
    } else if take_word(parser, "minvalue") {
        options.min = Some(integer(parser).map_err(wrong)?);
    } else if take_word(parser, "maxvalue") {
        options.max = Some(integer(parser).map_err(wrong)?);
    } else if take_word(parser, "start") {
        let _ = take_word(parser, "with");
        options.start = Some(integer(parser).map_err(wrong)?);
    } else if take_word(parser, "cache") {
        if integer(parser).map_err(wrong)? < 1 {
            return Err(Error::invalid("CACHE must be greater than zero"));
        }
    } else if take_word(parser, "cycle") {
        options.cycle = true;
    } else if take_word(parser, "no") {
        let known = ["minvalue", "maxvalue", "cycle"].iter().any(|word| take_word(parser, word));
        if !known {
            return Err(wrong(ParserError::ParserError("NO is followed by MINVALUE, MAXVALUE or CYCLE".into())));
        }
    } else if take_word(parser, "owned") {
        if !take_word(parser, "by") {
            return Err(Error::syntax("OWNED is followed by BY"));
        }
        let name = parser.parse_object_name(false).map_err(wrong)?;
        options.owner = match name_of(&name).rsplit_once('.') {
            Some((table, column)) => Some((table.to_owned(), column.to_owned())),
            None if name_of(&name) == "none" => None,
            None => return Err(Error::syntax("OWNED BY names a column: OWNED BY table.column, or NONE")),
        };
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn kind(kind: ColumnType) -> Result<ColumnType> {
    match kind {
        ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt => Ok(kind),
        other => Err(Error::invalid(format!("a sequence of type {other} can't be")).hint("use SMALLINT, INTEGER or BIGINT")),
    }
}

/// The options of `GENERATED ... AS IDENTITY (...)`.
///
/// # Errors
/// Numbers that are none.
pub fn of_identity(parsed: &[SqlOption]) -> Result<SequenceOptions> {
    let number = |expr: &Expr| {
        let text = expr.to_string();
        text.parse::<i64>().map_err(|_| Error::syntax(format!("{text} is not a whole number")))
    };
    let mut options = SequenceOptions::default();
    for option in parsed {
        match option {
            SqlOption::IncrementBy(by, _) => options.increment = Some(number(by)?),
            SqlOption::MinValue(min) => options.min = min.as_ref().map(number).transpose()?,
            SqlOption::MaxValue(max) => options.max = max.as_ref().map(number).transpose()?,
            SqlOption::StartWith(start, _) => options.start = Some(number(start)?),
            SqlOption::Cache(_) => {}
            // The parser notes NO CYCLE as `true`.
            SqlOption::Cycle(none) => options.cycle = !none,
        }
    }
    Ok(options)
}

/// The type of a column that SERIAL and its like stand for.
#[must_use]
pub fn serial(name: &str) -> Option<ColumnType> {
    match name {
        "smallserial" | "serial2" => Some(ColumnType::SmallInt),
        "serial" | "serial4" => Some(ColumnType::Integer),
        "bigserial" | "serial8" => Some(ColumnType::BigInt),
        _ => None,
    }
}

/// The text of `nextval('name')`.
#[must_use]
pub fn nextval(sequence: &str) -> String {
    let plain = sequence.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.');
    let name = if plain { sequence.to_owned() } else { format!("\"{}\"", sequence.replace('"', "\"\"")) };
    format!("nextval('{}')", name.replace('\'', "''"))
}

/// The word that begins an option of a sequence, by its place in the only order that the parser of identity columns knows.
fn place(token: &Token) -> Option<usize> {
    let Token::Word(Word { value, quote_style: None, .. }) = token else { return None };
    let words = ["increment", "minvalue", "maxvalue", "start", "cache", "cycle"];
    words.iter().position(|word| value.eq_ignore_ascii_case(word))
}

/// Puts the options of `IDENTITY (...)` into the order that the parser knows: PostgreSQL takes any.
#[must_use]
pub fn in_order(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let word = |token: &Token, text: &str| matches!(token, Token::Word(word) if word.value.eq_ignore_ascii_case(text));
    let blank = |token: &Token| matches!(token, Token::Whitespace(_));
    if !tokens.iter().any(|token| word(&token.token, "identity")) {
        return tokens;
    }
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let opens = token.token == Token::LParen
            && out.iter().rev().find(|before| !blank(&before.token)).is_some_and(|before| word(&before.token, "identity"));
        out.push(token);
        if !opens {
            continue;
        }
        let mut groups: Vec<(usize, Vec<TokenWithSpan>)> = Vec::new();
        let mut negated = None;
        while tokens.peek().is_some_and(|token| !matches!(token.token, Token::RParen | Token::EOF)) {
            let Some(token) = tokens.next() else { break };
            match place(&token.token) {
                Some(place) => groups.push((place, negated.take().into_iter().chain([token]).collect())),
                None if word(&token.token, "no") => negated = Some(token),
                None => match groups.last_mut() {
                    Some((_, group)) => group.push(token),
                    None => out.push(token),
                },
            }
        }
        groups.sort_by_key(|(place, _)| *place);
        out.extend(groups.into_iter().flat_map(|(_, group)| group));
        out.extend(negated);
    }
    out
}

/// What `OVERRIDING ... VALUE` says of the identity columns of an INSERT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overriding {
    /// The values given count, also for GENERATED ALWAYS.
    System,
    /// The values given don't count.
    User,
}

/// Takes `OVERRIDING { SYSTEM | USER } VALUE`, which the parser doesn't know, out of an INSERT.
#[must_use]
pub fn take_overriding(tokens: Vec<TokenWithSpan>) -> (Vec<TokenWithSpan>, Option<Overriding>) {
    let word = |at: &usize, text: &str| matches!(&tokens[*at].token, Token::Word(Word { value, quote_style: None, .. }) if value.eq_ignore_ascii_case(text));
    let full: Vec<usize> = (0..tokens.len()).filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_))).collect();
    if !full.first().is_some_and(|first| word(first, "insert") || word(first, "with")) {
        return (tokens, None);
    }
    let found = full.windows(3).find_map(|three| {
        let which = match (word(&three[1], "system"), word(&three[1], "user")) {
            (true, _) => Overriding::System,
            (_, true) => Overriding::User,
            _ => return None,
        };
        (word(&three[0], "overriding") && word(&three[2], "value")).then(|| (three[0], three[2], which))
    });
    let Some((from, until, which)) = found else { return (tokens, None) };
    let kept = tokens.into_iter().enumerate().filter(|(at, _)| !(from..=until).contains(at)).map(|(_, token)| token);
    (kept.collect(), Some(which))
}

/// Where an INSERT carries [`Overriding`]: a setting, which PostgreSQL's INSERT never has.
const OVERRIDING: &str = "headwater_overriding";

/// Notes it in the tree.
#[must_use]
pub fn overriding_setting(which: Overriding) -> datafusion::sql::sqlparser::ast::Setting {
    let value = Expr::Identifier(Ident::new(if which == Overriding::System { "system" } else { "user" }));
    datafusion::sql::sqlparser::ast::Setting { key: Ident::new(OVERRIDING), value }
}

/// What an INSERT says.
#[must_use]
pub fn overriding_of(insert: &datafusion::sql::sqlparser::ast::Insert) -> Option<Overriding> {
    let setting = insert.settings.iter().flatten().find(|setting| setting.key.value == OVERRIDING)?;
    Some(if setting.value.to_string() == "system" { Overriding::System } else { Overriding::User })
}
