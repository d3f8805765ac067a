//! PostgreSQL's dialect, with `FROM t FOR SYSTEM_TIME AS OF ...` on top, and an end to the parser's patience.
//!
//! The parser reads what follows some words in one way and, if that fails, in another. Where such words are nested, a mistake inside
//! is found twice as often with every level: sixty levels of `NOT (` would keep it busy for years. So the steps are counted.

use std::any::TypeId;
use std::cell::Cell;

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

/// See the module docs. It answers as PostgreSQL's wherever the parser asks for a dialect by type.
#[derive(Debug, Default)]
pub struct HeadwaterDialect {
    /// Expressions that may still be begun; none: any number.
    steps_left: Option<Cell<u64>>,
}

impl HeadwaterDialect {
    /// For texts that come from outside: the parser may begin this many expressions, those that it takes back included.
    #[must_use]
    pub fn bounded(steps_max: u64) -> Self {
        Self { steps_left: Some(Cell::new(steps_max)) }
    }

    /// Whether the parser came to that end.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.steps_left.as_ref().is_some_and(|left| left.get() == 0)
    }

    fn step(&self) -> Result<(), ParserError> {
        let Some(left) = &self.steps_left else { return Ok(()) };
        left.set(left.get().saturating_sub(1));
        // The only error that the parser does not take for a reason to try something else.
        if left.get() == 0 { Err(ParserError::RecursionLimitExceeded) } else { Ok(()) }
    }
}

const POSTGRES: PostgreSqlDialect = PostgreSqlDialect {};

// Without `supports_named_fn_args_with_expr_name`: with it every argument of a function is read twice, and so is all that is nested
// in it, twice as often with every level. It is for `json_object('a' VALUE 1)`, which is not here.
macro_rules! as_postgres {
    ($($name:ident)*) => { $(fn $name(&self) -> bool { POSTGRES.$name() })* };
}

impl Dialect for HeadwaterDialect {
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        POSTGRES.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        POSTGRES.is_identifier_part(ch)
    }

    fn is_custom_operator_part(&self, ch: char) -> bool {
        POSTGRES.is_custom_operator_part(ch)
    }

    fn is_reserved_for_identifier(&self, keyword: Keyword) -> bool {
        POSTGRES.is_reserved_for_identifier(keyword)
    }

    fn parse_prefix(&self, _parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
        self.step().err().map(Err)
    }

    fn get_next_precedence(&self, parser: &Parser<'_>) -> Option<Result<u8, ParserError>> {
        POSTGRES.get_next_precedence(parser)
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        POSTGRES.prec_value(precedence)
    }

    as_postgres! {
        supports_unicode_string_literal supports_filter_during_aggregation supports_group_by_expr allow_extract_custom
        allow_extract_single_quotes supports_create_index_with_clause supports_explain_with_utility_options supports_listen_notify
        supports_factorial_operator supports_bitwise_shift_operators supports_comment_on supports_load_extension
        supports_named_fn_args_with_colon_operator supports_empty_projections
        supports_nested_comments supports_string_escape_constant supports_numeric_literal_underscores
        supports_array_typedef_with_brackets supports_geometric_types supports_set_names supports_alter_column_type_using
        supports_notnull_operator supports_interval_options supports_insert_table_alias supports_create_table_like_parenthesized
        supports_select_wildcard_with_alias supports_comma_separated_trim supports_xml_expressions supports_comment_optimizer_hint
    }
}
