//! Casts to types that Arrow's cast does not know as PostgreSQL does: `VARCHAR(n)` and `CHAR(n)` cut off, `UUID` is read in any of
//! its forms and shown in one, `BYTEA` is hexadecimal, an `INTERVAL` may hold a time of day, an array may be written `'{1,2}'`.
//!
//! [`super::rewrite`] turns such casts into calls of a function, registered by [`crate::functions`].

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue, internal_err};
use datafusion::logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use datafusion::sql::sqlparser::ast::{
    CastKind, DataType as SqlType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    Interval, ObjectName, Value,
};
use datafusion::sql::sqlparser::parser::Parser;
use rowstore::ColumnType;
use rowstore::schema::KIND_METADATA;

use super::assign::convert;
use super::ddl::name_of;
use super::dialect::HeadwaterDialect;
use super::input::Conversion;
use super::types::column_type;

/// The function that stands for such a cast: the value, the type as text.
const CAST: &str = "headwater_cast";

const INTERVAL: SqlType = SqlType::Interval { fields: None, precision: None };

/// Value and type of a cast that is ours.
fn ours(expr: &Expr) -> Option<(Expr, &SqlType)> {
    let (value, kind) = match expr {
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, array: false, format: None } => {
            ((**expr).clone(), data_type)
        }
        Expr::TypedString(typed) => (Expr::Value(typed.value.clone()), &typed.data_type),
        // DataFusion reads the other intervals itself.
        Expr::Interval(Interval { value, leading_field: None, last_field: None, .. }) => match &**value {
            Expr::Value(text) if text.value.to_string().contains(':') => ((**value).clone(), &INTERVAL),
            _ => return None,
        },
        _ => return None,
    };
    let is_ours = matches!(
        column_type(kind).ok()?,
        ColumnType::Varchar { .. }
            | ColumnType::Char { .. }
            | ColumnType::Uuid
            | ColumnType::Bytea
            | ColumnType::Interval
            | ColumnType::Array(_)
    );
    is_ours.then_some((value, kind))
}

/// What a column of the select list is called that is such a cast: as what it casts, or as the type.
#[must_use]
pub fn name(expr: &Expr) -> Option<String> {
    let (value, kind) = ours(expr)?;
    Some(match value {
        Expr::Identifier(ident) => name_of(&ObjectName::from(ident)),
        Expr::CompoundIdentifier(mut path) => name_of(&ObjectName::from(path.pop()?)),
        _ => column_type(kind).ok()?.to_string(),
    })
}

/// Turns `expr` into a call if it is a cast that is ours.
pub fn rewrite(expr: &mut Expr) {
    let Some((value, kind)) = ours(expr) else { return };
    let kind = Expr::value(Value::SingleQuotedString(kind.to_string()));
    let args = [value, kind].map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).into();
    *expr = Expr::Function(Function {
        name: ObjectName::from(Ident::new(CAST)),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: vec![] }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    });
}

/// The function of [`rewrite`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Cast {
    signature: Signature,
}

impl Default for Cast {
    fn default() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

fn external(error: crate::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn kind_of(text: Option<&ScalarValue>) -> Result<ColumnType> {
    let Some(Some(Some(text))) = text.map(ScalarValue::try_as_str) else { return internal_err!("{CAST} takes a type's name") };
    let dialect = HeadwaterDialect::default();
    let kind = Parser::new(&dialect).try_with_sql(text).and_then(|mut parser| parser.parse_data_type());
    let kind = kind.map_err(|error| external(super::parse::syntax_error(&error)))?;
    column_type(&kind).map_err(external)
}

impl ScalarUDFImpl for Cast {
    fn name(&self) -> &'static str {
        CAST
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        internal_err!("the type that {CAST} gives is its second argument")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let kind = kind_of(args.scalar_arguments.get(1).copied().flatten())?;
        let field = Field::new(CAST, kind.arrow(), true);
        Ok(Arc::new(match kind.metadata() {
            Some(metadata) => field.with_metadata([(KIND_METADATA.to_owned(), metadata)].into()),
            None => field,
        }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value, ColumnarValue::Scalar(kind)] = &args.args[..] else { return internal_err!("{CAST} takes two arguments") };
        let kind = kind_of(Some(kind))?;
        let cast = convert(&value.to_array(args.number_rows)?, &kind, Conversion::Explicit).map_err(external)?;
        match value {
            ColumnarValue::Scalar(_) if !cast.is_empty() => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&cast, 0)?)),
            _ => Ok(ColumnarValue::Array(cast)),
        }
    }
}
