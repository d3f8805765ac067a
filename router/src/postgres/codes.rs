//! PostgreSQL's SQLSTATE for what DataFusion says in words alone.
//!
//! Called by [`crate::error`]. The words are DataFusion's of the pinned version; `tests/slt/errors.slt` notices when they change.

use crate::error::sqlstate;

/// Words of a message, all of which must occur, and what they mean.
const MEANINGS: [(&[&str], &str); 46] = [
    (&["must appear in the GROUP BY clause"], sqlstate::GROUPING_ERROR),
    (&["Aggregate functions are not allowed"], sqlstate::GROUPING_ERROR),
    (&["Aggregate function calls cannot be nested"], sqlstate::GROUPING_ERROR),
    (&["SELECT DISTINCT"], sqlstate::INVALID_COLUMN_REFERENCE),
    (&["Order by column out of bounds"], sqlstate::INVALID_COLUMN_REFERENCE),
    (&["Order by index starts"], sqlstate::INVALID_COLUMN_REFERENCE),
    (&["Cannot find column with position"], sqlstate::INVALID_COLUMN_REFERENCE),
    (&["columns but only", "column alias"], sqlstate::INVALID_COLUMN_REFERENCE),
    (&["WITH query name"], sqlstate::DUPLICATE_ALIAS),
    (&["Too many columns! The subquery"], sqlstate::SYNTAX_ERROR),
    (&["different number of columns"], sqlstate::SYNTAX_ERROR),
    (&["Inconsistent data length"], sqlstate::SYNTAX_ERROR),
    (&["LIMIT must be"], sqlstate::INVALID_LIMIT),
    (&["OFFSET must be"], sqlstate::INVALID_OFFSET),
    (&["Expected LIMIT to be"], sqlstate::INVALID_TEXT_REPRESENTATION),
    (&["Expected OFFSET to be"], sqlstate::INVALID_TEXT_REPRESENTATION),
    (&["Invalid qualifier"], sqlstate::UNDEFINED_TABLE),
    (&["Unsupported SQL type"], sqlstate::UNDEFINED_OBJECT),
    (&["Scalar subquery returned more than one row"], sqlstate::CARDINALITY_VIOLATION),
    (&["cannot take square root"], sqlstate::INVALID_ARGUMENT_FOR_POWER),
    (&["negative count not allowed"], sqlstate::SUBSTRING_ERROR),
    (&["negative substring length"], sqlstate::SUBSTRING_ERROR),
    (&["field position must not be zero"], sqlstate::INVALID_PARAMETER_VALUE),
    (&["Date part"], sqlstate::INVALID_PARAMETER_VALUE),
    (&["granularity"], sqlstate::INVALID_PARAMETER_VALUE),
    (&["Unable to parse date"], sqlstate::DATETIME_FIELD_OVERFLOW),
    (&["invalid Unicode scalar value"], sqlstate::INVALID_PARAMETER_VALUE),
    (&["regex parse error"], sqlstate::INVALID_REGULAR_EXPRESSION),
    (&["Regular expression did not compile"], sqlstate::INVALID_REGULAR_EXPRESSION),
    (&["Invalid input syntax for type interval"], sqlstate::INVALID_DATETIME_FORMAT),
    (&["coalesce must have at least one argument"], sqlstate::SYNTAX_ERROR),
    (&["Cannot coerce arithmetic expression"], sqlstate::UNDEFINED_FUNCTION),
    (&["Cannot infer common argument type"], sqlstate::UNDEFINED_FUNCTION),
    (&["Cannot infer common string type"], sqlstate::UNDEFINED_FUNCTION),
    (&["There isn't a common type to coerce"], sqlstate::UNDEFINED_FUNCTION),
    (&["Cannot get result type for temporal operation"], sqlstate::UNDEFINED_FUNCTION),
    (&["Unary operator '-'"], sqlstate::UNDEFINED_FUNCTION),
    (&["Unary operator '+'"], sqlstate::UNDEFINED_FUNCTION),
    (&["failed to match any signature"], sqlstate::UNDEFINED_FUNCTION),
    (&["No function matches"], sqlstate::UNDEFINED_FUNCTION),
    (&["Failed to coerce arguments"], sqlstate::UNDEFINED_FUNCTION),
    (&["does not support zero arguments"], sqlstate::UNDEFINED_FUNCTION),
    (&["Function '", "expects"], sqlstate::UNDEFINED_FUNCTION),
    (&["Function '", "requires"], sqlstate::UNDEFINED_FUNCTION),
    (&["Invalid function"], sqlstate::UNDEFINED_FUNCTION),
    (&["Cannot automatically convert"], sqlstate::DATATYPE_MISMATCH),
];

/// The code for a message, if it is a known one.
#[must_use]
pub(crate) fn code_of(message: &str) -> Option<&'static str> {
    MEANINGS.iter().find(|(words, _)| words.iter().all(|word| message.contains(word))).map(|(_, code)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_words_have_codes() {
        assert_eq!(code_of("column \"a\" must appear in the GROUP BY clause or"), Some(sqlstate::GROUPING_ERROR));
        assert_eq!(code_of("Function 'lower' expects 1 arguments but received 2"), Some(sqlstate::UNDEFINED_FUNCTION));
        assert_eq!(code_of("something else"), None);
    }
}
