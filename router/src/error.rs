//! Errors as a user of the database meets them: an SQLSTATE code, a kind, a message that names the thing and the place, and a
//! hint that says what to do.
//!
//! Everything below (`logcore`, the stores, DataFusion) is turned into this at the facade; the server maps [`Error::kind`] to
//! protocols in one table.

use std::fmt;

use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use logcore::ErrorKind;

use crate::postgres::codes::code_of;

/// The result of every operation of the facade.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// See the module docs.
#[derive(Debug, Clone)]
pub struct Error {
    code: &'static str,
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
}

/// SQLSTATE codes that are used here, with PostgreSQL's names.
pub mod sqlstate {
    #![allow(missing_docs, reason = "the names are PostgreSQL's")]
    pub const NO_DATA: &str = "02000";
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub const INVALID_TEXT_REPRESENTATION: &str = "22P02";
    pub const STRING_DATA_RIGHT_TRUNCATION: &str = "22001";
    pub const INVALID_DATETIME_FORMAT: &str = "22007";
    pub const DATETIME_FIELD_OVERFLOW: &str = "22008";
    pub const NUMERIC_VALUE_OUT_OF_RANGE: &str = "22003";
    pub const DIVISION_BY_ZERO: &str = "22012";
    pub const INVALID_PARAMETER_VALUE: &str = "22023";
    pub const DATA_EXCEPTION: &str = "22000";
    pub const BAD_COPY_FILE_FORMAT: &str = "22P04";
    pub const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    pub const UNDEFINED_FILE: &str = "58P01";
    pub const SEQUENCE_GENERATOR_LIMIT_EXCEEDED: &str = "2200H";
    pub const GENERATED_ALWAYS: &str = "428C9";
    pub const NOT_NULL_VIOLATION: &str = "23502";
    pub const FOREIGN_KEY_VIOLATION: &str = "23503";
    pub const UNIQUE_VIOLATION: &str = "23505";
    pub const CHECK_VIOLATION: &str = "23514";
    pub const CARDINALITY_VIOLATION: &str = "21000";
    pub const ACTIVE_SQL_TRANSACTION: &str = "25001";
    pub const NO_ACTIVE_SQL_TRANSACTION: &str = "25P01";
    pub const SNAPSHOT_TOO_OLD: &str = "72000";
    pub const IN_FAILED_SQL_TRANSACTION: &str = "25P02";
    pub const INVALID_SAVEPOINT: &str = "3B001";
    pub const INVALID_COLUMN_REFERENCE: &str = "42P10";
    pub const DUPLICATE_OBJECT: &str = "42710";
    pub const UNDEFINED_OBJECT: &str = "42704";
    pub const INVALID_FOREIGN_KEY: &str = "42830";
    pub const INVALID_CURSOR_NAME: &str = "34000";
    pub const INVALID_SQL_STATEMENT_NAME: &str = "26000";
    pub const DUPLICATE_PREPARED_STATEMENT: &str = "42P05";
    pub const SERIALIZATION_FAILURE: &str = "40001";
    pub const SYNTAX_ERROR: &str = "42601";
    pub const DUPLICATE_COLUMN: &str = "42701";
    pub const UNDEFINED_COLUMN: &str = "42703";
    pub const UNDEFINED_FUNCTION: &str = "42883";
    pub const UNDEFINED_TABLE: &str = "42P01";
    pub const INVALID_OBJECT_DEFINITION: &str = "42P17";
    pub const SUBSTRING_ERROR: &str = "22011";
    pub const INVALID_REGULAR_EXPRESSION: &str = "2201B";
    pub const INVALID_ARGUMENT_FOR_LOGARITHM: &str = "2201E";
    pub const INVALID_ARGUMENT_FOR_POWER: &str = "2201F";
    pub const INVALID_LIMIT: &str = "2201W";
    pub const INVALID_OFFSET: &str = "2201X";
    pub const AMBIGUOUS_COLUMN: &str = "42702";
    pub const DUPLICATE_ALIAS: &str = "42712";
    pub const GROUPING_ERROR: &str = "42803";
    pub const INVALID_TABLE_DEFINITION: &str = "42P16";
    pub const DUPLICATE_TABLE: &str = "42P07";
    pub const DEPENDENT_OBJECTS: &str = "2BP01";
    pub const WRONG_OBJECT_TYPE: &str = "42809";
    pub const DATATYPE_MISMATCH: &str = "42804";
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
    pub const OBJECT_IN_USE: &str = "55006";
    pub const STATEMENT_TOO_COMPLEX: &str = "54001";
    pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
    pub const OUT_OF_MEMORY: &str = "53200";
    pub const DISK_FULL: &str = "53100";
    pub const CONFIGURATION_LIMIT: &str = "53400";
    pub const QUERY_CANCELED: &str = "57014";
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    pub const IO_ERROR: &str = "58030";
    pub const DATA_CORRUPTED: &str = "XX001";
    pub const INTERNAL_ERROR: &str = "XX000";
}

impl Error {
    /// An error with all its facts; prefer the named constructors.
    pub fn new(code: &'static str, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { code, kind, message: message.into(), hint: None }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(sqlstate::INVALID_PARAMETER_VALUE, ErrorKind::Invalid, message)
    }

    /// The statement does not parse; the message carries line and column.
    pub fn syntax(message: impl Into<String>) -> Self {
        Self::new(sqlstate::SYNTAX_ERROR, ErrorKind::Invalid, message)
    }

    /// Something that PostgreSQL or the design has and this version has not.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(sqlstate::FEATURE_NOT_SUPPORTED, ErrorKind::Invalid, message)
    }

    /// There is no such table, stream or view; `known` are the names there are.
    pub fn unknown<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let error = Self::new(sqlstate::UNDEFINED_TABLE, ErrorKind::NotFound, format!("{what} \"{name}\" does not exist"));
        match nearest(name, known) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error,
        }
    }

    /// A bug or a broken environment.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(sqlstate::INTERNAL_ERROR, ErrorKind::Internal, message)
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With names in the place of the numbers by which the log knows streams.
    #[must_use]
    pub(crate) fn with_names(self, name: impl Fn(u32) -> Option<String>) -> Self {
        Self { message: name_partitions(&self.message, name), ..self }
    }

    /// The SQLSTATE.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What is wrong, where.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whether the state a change was computed from is out of date: compute it again.
    #[must_use]
    pub fn is_conflict_to_retry(&self) -> bool {
        self.code == sqlstate::SERIALIZATION_FAILURE
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Writes `commits/0` where the log, which knows no names, wrote `stream 17 partition 0`. A stream without a name stays a number.
pub(crate) fn name_partitions(text: &str, name: impl Fn(u32) -> Option<String>) -> String {
    let number = |text: &str| text.split(|ch: char| !ch.is_ascii_digit()).next().unwrap_or_default().to_owned();
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("stream ") {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        let stream = number(&found["stream ".len()..]);
        let behind = &found["stream ".len() + stream.len()..];
        let partition = behind.strip_prefix(" partition ").map(number).filter(|partition| !partition.is_empty());
        match (partition, stream.parse().ok().and_then(&name)) {
            (Some(partition), Some(name)) => {
                out.push_str(&format!("{name}/{partition}"));
                rest = &behind[" partition ".len() + partition.len()..];
            }
            _ => {
                out.push_str("stream ");
                rest = &found["stream ".len()..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The known name that `name` is most likely meant to be.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let scored = known.into_iter().map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known));
    scored.filter(|(distance, known)| *distance <= (known.chars().count() / 3).max(1)).min().map(|(_, known)| known)
}

impl From<logcore::Error> for Error {
    fn from(error: logcore::Error) -> Self {
        let kind = error.kind();
        let code = match kind {
            ErrorKind::Invalid => sqlstate::INVALID_PARAMETER_VALUE,
            ErrorKind::NotFound => sqlstate::UNDEFINED_TABLE,
            ErrorKind::Conflict => sqlstate::SERIALIZATION_FAILURE,
            ErrorKind::TooLarge => sqlstate::PROGRAM_LIMIT_EXCEEDED,
            ErrorKind::Throttled => sqlstate::CONFIGURATION_LIMIT,
            ErrorKind::NoSpace => sqlstate::DISK_FULL,
            ErrorKind::Corrupt => sqlstate::DATA_CORRUPTED,
            ErrorKind::Unavailable if matches!(error, logcore::Error::Timeout { .. }) => sqlstate::QUERY_CANCELED,
            ErrorKind::Unavailable => sqlstate::CANNOT_CONNECT_NOW,
            ErrorKind::Internal => sqlstate::INTERNAL_ERROR,
        };
        Self::new(code, kind, error.to_string())
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        let error = Self::translated(error);
        // Other kinds of errors than those of planning have known words too.
        let vague = [sqlstate::INTERNAL_ERROR, sqlstate::DATA_EXCEPTION, sqlstate::FEATURE_NOT_SUPPORTED];
        match code_of(&error.message) {
            Some(code) if vague.contains(&error.code) || error.code == sqlstate::INVALID_TEXT_REPRESENTATION => {
                Self { code, kind: ErrorKind::Invalid, ..error }
            }
            _ => error,
        }
    }
}

impl Error {
    fn translated(error: DataFusionError) -> Self {
        let place = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| span.start);
        let at = place.map(|start| format!(" at line {}, column {}", start.line, start.column)).unwrap_or_default();
        match error.find_root() {
            DataFusionError::External(inner) => match inner.downcast_ref::<Self>() {
                Some(own) => own.clone(),
                None => Self::internal(inner.to_string()),
            },
            DataFusionError::SchemaError(inner, _) => from_schema_error(inner, &at),
            DataFusionError::SQL(parser, _) => Self::syntax(parser.to_string()),
            DataFusionError::ResourcesExhausted(message) => Self::new(
                sqlstate::OUT_OF_MEMORY,
                ErrorKind::TooLarge,
                format!("the statement needs more memory than it may use: {message}"),
            )
            .hint("narrow it with WHERE or LIMIT, or raise sql.memory_bytes_max"),
            DataFusionError::NotImplemented(message) => Self::unsupported(message.clone()),
            DataFusionError::ArrowError(arrow, _) if matches!(**arrow, ArrowError::DivideByZero) => {
                Self::new(sqlstate::DIVISION_BY_ZERO, ErrorKind::Invalid, "division by zero")
            }
            DataFusionError::ArrowError(arrow, _) => {
                Self::new(sqlstate::INVALID_TEXT_REPRESENTATION, ErrorKind::Invalid, arrow.to_string())
            }
            DataFusionError::Execution(message) => Self::new(sqlstate::DATA_EXCEPTION, ErrorKind::Invalid, message.clone()),
            DataFusionError::Plan(message) => {
                let code = if let Some(code) = code_of(message) {
                    code
                } else if message.starts_with("table '") {
                    sqlstate::UNDEFINED_TABLE
                } else {
                    sqlstate::DATATYPE_MISMATCH
                };
                let (message, hint) =
                    message.split_once("\nDid you mean ").map_or((message.as_str(), None), |(m, h)| (m, Some(h)));
                let error = Self::new(code, ErrorKind::Invalid, format!("{message}{at}"));
                match hint {
                    Some(hint) => error.hint(format!("did you mean {}?", hint.trim_end_matches('?').replace('\'', "\""))),
                    None => error,
                }
            }
            other => Self::internal(other.strip_backtrace()),
        }
    }
}

fn from_schema_error(error: &SchemaError, at: &str) -> Error {
    let undefined = |message| Error::new(sqlstate::UNDEFINED_COLUMN, ErrorKind::Invalid, message);
    match error {
        SchemaError::FieldNotFound { field, valid_fields }
            if field.relation.as_ref().is_some_and(|table| {
                !valid_fields.iter().any(|valid| valid.relation.as_ref().is_some_and(|other| other.table() == table.table()))
            }) =>
        {
            let table = field.relation.as_ref().map(|table| table.table().to_owned()).unwrap_or_default();
            let error =
                Error::unknown("table", &table, valid_fields.iter().filter_map(|valid| Some(valid.relation.as_ref()?.table())));
            Error { message: format!("{} in FROM{at}", error.message), ..error }
        }
        SchemaError::FieldNotFound { field, valid_fields } => {
            let error = undefined(format!("column \"{}\" does not exist{at}", field.name));
            match nearest(&field.name, valid_fields.iter().map(|field| field.name.as_str())) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => {
                    let mut names: Vec<&str> = valid_fields.iter().map(|field| field.name.as_str()).collect();
                    names.truncate(20);
                    error.hint(format!("the columns are {}", names.join(", ")))
                }
            }
        }
        SchemaError::AmbiguousReference { field } => {
            let message = format!("column \"{}\" is in more than one table{at}", field.name);
            Error::new(sqlstate::AMBIGUOUS_COLUMN, ErrorKind::Invalid, message).hint("put the table's name before it")
        }
        SchemaError::DuplicateQualifiedField { qualifier, .. } => {
            let message = format!("table name \"{}\" is specified more than once{at}", qualifier.table());
            Error::new(sqlstate::DUPLICATE_ALIAS, ErrorKind::Invalid, message).hint("give one of them another name with AS")
        }
        other => undefined(format!("{other}{at}")),
    }
}

macro_rules! from_store {
    ($store:ident) => {
        impl From<$store::Error> for Error {
            fn from(error: $store::Error) -> Self {
                // What the router computed inside a store comes back as it was.
                if let Some(own) = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Self>()) {
                    return own.clone();
                }
                let kind = error.kind();
                let code = match kind {
                    ErrorKind::Invalid | ErrorKind::NotFound => sqlstate::INVALID_PARAMETER_VALUE,
                    ErrorKind::Conflict => sqlstate::SERIALIZATION_FAILURE,
                    ErrorKind::TooLarge => sqlstate::PROGRAM_LIMIT_EXCEEDED,
                    ErrorKind::Throttled => sqlstate::CONFIGURATION_LIMIT,
                    ErrorKind::NoSpace => sqlstate::DISK_FULL,
                    ErrorKind::Corrupt => sqlstate::DATA_CORRUPTED,
                    ErrorKind::Unavailable => sqlstate::IO_ERROR,
                    ErrorKind::Internal => sqlstate::INTERNAL_ERROR,
                };
                Self::new(code, kind, error.to_string())
            }
        }
    };
}

from_store!(rowstore);
from_store!(docstore);
from_store!(tsstore);

#[cfg(test)]
mod tests {
    use super::name_partitions;

    #[test]
    fn numbers_of_streams_become_names() {
        let name = |id: u32| (id == 17).then(|| "a.b".to_owned());
        for (text, named) in [
            ("offset 3 of stream 17 partition 2 is outside 4..9", "offset 3 of a.b/2 is outside 4..9"),
            ("stream 17 partition 0", "a.b/0"),
            ("stream 17 partition 0, stream 18 partition 1", "a.b/0, stream 18 partition 1"),
            ("stream \"x\" has no stream 17 partitions, stream ", "stream \"x\" has no stream 17 partitions, stream "),
            ("", ""),
        ] {
            assert_eq!(name_partitions(text, name), named);
        }
    }
}
