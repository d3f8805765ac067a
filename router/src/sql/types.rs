//! PostgreSQL's type names, to the types of columns and of casts.

use datafusion::arrow::datatypes::FieldRef;
use datafusion::common::datatype::DataTypeExt;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::{DataType, ExactNumberInfo, TimezoneInfo};
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
        DataType::Text | DataType::Varchar(None) | DataType::CharacterVarying(None) => ColumnType::Text,
        DataType::Bytea => ColumnType::Bytea,
        DataType::Date => ColumnType::Date,
        DataType::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => ColumnType::TimestampTz,
        DataType::Timestamp(..) => ColumnType::Timestamp,
        DataType::JSON | DataType::JSONB => ColumnType::Json,
        other => {
            return Err(Error::unsupported(format!("columns of type {other} are not supported yet")).hint(
                "use BOOLEAN, SMALLINT, INTEGER, BIGINT, REAL, DOUBLE PRECISION, NUMERIC(p,s), TEXT, BYTEA, DATE, TIMESTAMP, \
                 TIMESTAMPTZ or JSON",
            ));
        }
    })
}

fn numeric(info: &ExactNumberInfo) -> Result<ColumnType> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => (38, 10),
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
            DataType::Varchar(_) | DataType::CharacterVarying(_) | DataType::Uuid => {
                Some(ColumnType::Text.arrow().into_nullable_field_ref())
            }
            // DataFusion would take the letters of '\\x00ff' for the bytes.
            DataType::Bytea => return datafusion::common::not_impl_err!("casts to BYTEA are not supported yet"),
            other => column_type(other).ok().map(|kind| kind.arrow().into_nullable_field_ref()),
        })
    }
}
