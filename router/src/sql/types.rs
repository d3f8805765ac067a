//! PostgreSQL's type names, to the types of columns and of casts.

use datafusion::arrow::datatypes::FieldRef;
use datafusion::common::datatype::DataTypeExt;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, CharacterLength, DataType, ExactNumberInfo, TimezoneInfo};
use rowstore::ColumnType;

use crate::error::{Error, Result};

/// The type of a column.
///
/// # Errors
/// When this version has no such column type.
pub fn column_type(sql: &DataType) -> Result<ColumnType> {
    Ok(match sql {
        DataType::Boolean | DataType::Bool => ColumnType::Boolean,
        DataType::SmallInt(_) | DataType::Int2(_) => ColumnType::SmallInt,
        DataType::Int(_) | DataType::Integer(_) | DataType::Int4(_) => ColumnType::Integer,
        DataType::BigInt(_) | DataType::Int8(_) => ColumnType::BigInt,
        DataType::Real | DataType::Float4 => ColumnType::Real,
        DataType::Float8 | DataType::DoublePrecision | DataType::Double(_) | DataType::Float(_) => ColumnType::Double,
        DataType::Numeric(info) | DataType::Decimal(info) | DataType::Dec(info) => numeric(info)?,
        DataType::Text | DataType::Varchar(None) | DataType::CharacterVarying(None) | DataType::CharVarying(None) => {
            ColumnType::Text
        }
        DataType::Varchar(Some(length)) | DataType::CharacterVarying(Some(length)) | DataType::CharVarying(Some(length)) => {
            ColumnType::Varchar { length: characters(length)? }
        }
        DataType::Char(length) | DataType::Character(length) => {
            ColumnType::Char { length: length.as_ref().map_or(Ok(1), characters)? }
        }
        DataType::Bytea => ColumnType::Bytea,
        DataType::Date => ColumnType::Date,
        DataType::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => ColumnType::TimestampTz,
        DataType::Timestamp(..) => ColumnType::Timestamp,
        DataType::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => ColumnType::Time,
        DataType::Interval { .. } => ColumnType::Interval,
        DataType::Uuid => ColumnType::Uuid,
        DataType::JSON | DataType::JSONB => ColumnType::Json,
        DataType::Array(ArrayElemTypeDef::SquareBracket(element, _) | ArrayElemTypeDef::AngleBracket(element)) => {
            match column_type(element)? {
                ColumnType::Array(_) => {
                    return Err(Error::unsupported("arrays of more than one dimension are not supported yet"));
                }
                element => ColumnType::Array(Box::new(element)),
            }
        }
        other => {
            return Err(Error::unsupported(format!("columns of type {other} are not supported yet")).hint(
                "use BOOLEAN, SMALLINT, INTEGER, BIGINT, REAL, DOUBLE PRECISION, NUMERIC(p,s), TEXT, VARCHAR(n), CHAR(n), BYTEA, \
                 DATE, TIME, TIMESTAMP, TIMESTAMPTZ, INTERVAL, UUID, JSON, or an array of one of them, such as TEXT[]",
            ));
        }
    })
}

/// PostgreSQL's bound of n in VARCHAR(n).
const CHARACTERS_MAX: u64 = 10_485_760;

fn characters(length: &CharacterLength) -> Result<u32> {
    let bad =
        || Error::invalid(format!("a length of {length} is out of range")).hint(format!("1 to {CHARACTERS_MAX} characters"));
    match length {
        CharacterLength::IntegerLength { length, .. } if (1..=CHARACTERS_MAX).contains(length) => {
            u32::try_from(*length).map_err(|_| bad())
        }
        _ => Err(bad()),
    }
}

/// What NUMERIC without precision is: as many digits as fit into 128 bits, ten of them behind the point.
const WIDEST: (u64, i64) = (38, 10);

fn numeric(info: &ExactNumberInfo) -> Result<ColumnType> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => WIDEST,
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    let bad =
        || Error::invalid(format!("NUMERIC({precision},{scale}) is out of range")).hint("1 to 38 digits, scale 0 to precision");
    let (precision, scale) = (u8::try_from(precision).map_err(|_| bad())?, i8::try_from(scale).map_err(|_| bad())?);
    if !(1..=38).contains(&precision) || scale < 0 || scale.cast_unsigned() > precision {
        return Err(bad());
    }
    Ok(ColumnType::Numeric { precision, scale })
}

/// Gives casts the types of columns where DataFusion has none or another one for PostgreSQL's name.
#[derive(Debug)]
pub struct PostgresTypes;

impl TypePlanner for PostgresTypes {
    fn plan_type_field(&self, sql: &DataType) -> datafusion::common::Result<Option<FieldRef>> {
        Ok(match sql {
            DataType::Int(_) | DataType::Integer(_) | DataType::BigInt(_) | DataType::SmallInt(_) => None,
            DataType::JSON | DataType::JSONB => {
                let field = ColumnType::Json.arrow().into_nullable_field();
                let json = [(rowstore::schema::KIND_METADATA.to_owned(), "json".to_owned())];
                Some(std::sync::Arc::new(field.with_metadata(json.into())))
            }
            other => column_type(other).ok().map(|kind| kind.arrow().into_nullable_field_ref()),
        })
    }
}
