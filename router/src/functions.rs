//! The SQL functions that DataFusion does not have: `time_bucket`, `first`, `last`, those of [`series`], and `contains` for full-text search.
//!
//! Registered once, in [`crate::session`]. JSON operators come from `datafusion-functions-json`.

pub mod json_update;
pub mod series;

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, TimeUnit};
use datafusion::common::{DataFusionError, Result, plan_err};
use datafusion::execution::FunctionRegistry;
use datafusion::functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature, Volatility,
};

use crate::sql::cast::Cast;
use crate::sql::compare::ReadConstants;
use crate::sql::interval::Order;

/// The name under which a full-text condition reaches the document provider.
pub const CONTAINS: &str = "contains";

/// Adds the functions to a session.
///
/// # Errors
/// When a name is refused: a bug.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    datafusion_functions_json::register_all(registry)?;
    crate::postgres::functions::register(registry)?;
    crate::sequence::functions::register(registry)?;
    registry.register_expr_planner(Arc::new(ReadConstants))?;
    registry.register_udf(Arc::new(ScalarUDF::new_from_impl(Cast::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::new_from_impl(Order::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::new_from_impl(TimeBucket::new())))?;
    registry.register_udf(Arc::new(ScalarUDF::new_from_impl(Contains::new())))?;
    for function in json_update::all() {
        registry.register_udf(Arc::new(function))?;
    }
    registry.register_udaf(Arc::new(AggregateUDF::new_from_impl(AtEnd::new("first"))))?;
    registry.register_udaf(Arc::new(AggregateUDF::new_from_impl(AtEnd::new("last"))))?;
    registry.register_udf(Arc::new(series::buckets()))?;
    for function in series::all() {
        registry.register_udaf(Arc::new(function))?;
    }
    Ok(())
}

/// `time_bucket(width, ts)`: the start of the bucket that `ts` lies in. Weeks begin on Monday, months on the first.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TimeBucket {
    signature: Signature,
}

impl TimeBucket {
    fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// Monday, 3 January 2000: `date_bin` counts from 1970, a Thursday.
const ORIGIN: &str = "2000-01-03T00:00:00Z";

impl ScalarUDFImpl for TimeBucket {
    fn name(&self) -> &'static str {
        "time_bucket"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [_, time] = arguments else { return plan_err!("time_bucket takes a width and a time: time_bucket('1 hour', ts)") };
        let time = match time {
            DataType::Timestamp(..) => time.clone(),
            _ => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        };
        Ok(vec![DataType::Interval(IntervalUnit::MonthDayNano), time])
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[1].clone())
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let time = args.arg_fields[1].data_type().clone();
        let DataType::Timestamp(_, zone) = &time else { return plan_err!("time_bucket takes a timestamp") };
        // Whole months are counted from the first of a month, everything else from a Monday.
        let months = matches!(
            &args.args[0],
            ColumnarValue::Scalar(datafusion::common::ScalarValue::IntervalMonthDayNano(Some(width))) if width.months != 0
        );
        let origin = if months { "2000-01-01T00:00:00Z" } else { ORIGIN };
        let nanos = datafusion::arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(origin)?;
        let origin = datafusion::common::ScalarValue::TimestampNanosecond(Some(nanos), zone.clone());
        args.arg_fields.push(Arc::new(Field::new("origin", origin.data_type(), false)));
        args.args.push(ColumnarValue::Scalar(origin));
        datafusion::functions::datetime::date_bin().invoke_with_args(args)
    }
}

/// `contains(field, query)`: answered by the inverted index of a document table, and nowhere else.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Contains {
    signature: Signature,
}

impl Contains {
    fn new() -> Self {
        Self { signature: Signature::one_of(vec![TypeSignature::String(2)], Volatility::Stable) }
    }
}

impl ScalarUDFImpl for Contains {
    fn name(&self) -> &'static str {
        CONTAINS
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let error = crate::Error::unsupported("CONTAINS and MATCH are answered by the index of a document table").hint(
            "use them on a search field of a document table, joined to other conditions with AND; elsewhere use LIKE or strpos()",
        );
        Err(DataFusionError::External(Box::new(error)))
    }
}

/// `first(value, ts)` and `last(value, ts)`: the value at the smallest or largest time.
#[derive(Debug, PartialEq, Eq, Hash)]
struct AtEnd {
    name: &'static str,
    signature: Signature,
}

impl AtEnd {
    fn new(name: &'static str) -> Self {
        Self { name, signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for AtEnd {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn return_field(&self, fields: &[FieldRef]) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(self.name, fields[0].data_type().clone(), true).with_metadata(fields[0].metadata().clone())))
    }

    fn accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        plan_err!("{}(value, time) is planned as an ordered aggregate", self.name)
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        let first = self.name == "first";
        Some(Box::new(move |function, _| {
            let mut params = function.params;
            let Some(time) = params.args.pop() else { return plan_err!("first and last take a value and a time") };
            params.order_by = vec![time.sort(true, false)];
            let func = if first { first_value_udaf() } else { last_value_udaf() };
            Ok(Expr::AggregateFunction(AggregateFunction { func, params }))
        }))
    }
}
