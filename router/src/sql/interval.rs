//! The order of intervals: PostgreSQL takes a month for 30 days and a day for 24 hours, Arrow compares part by part.
//!
//! Comparisons and ORDER BY of intervals compare what this function makes of them; see [`super::compare`].
//!
//! # Not done
//! IN, `min`, `max`, DISTINCT, GROUP BY, windows and joins by hash take two intervals for one only if all their parts are equal.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, Decimal128Array};
use datafusion::arrow::datatypes::{DataType, IntervalUnit};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use rowstore::{ColumnType, Value};

const NAME: &str = "headwater_interval_order";
const DIGITS: DataType = DataType::Decimal128(38, 0);

/// What is compared instead of an interval.
#[must_use]
pub fn ordered(interval: Expr) -> Expr {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(Order::default())));
    FUNCTION.call(vec![interval])
}

/// Whether a type is that of our intervals.
#[must_use]
pub fn is_interval(kind: &DataType) -> bool {
    *kind == DataType::Interval(IntervalUnit::MonthDayNano)
}

/// The function of [`ordered`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Order {
    signature: Signature,
}

impl Default for Order {
    fn default() -> Self {
        Self { signature: Signature::exact(vec![DataType::Interval(IntervalUnit::MonthDayNano)], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Order {
    fn name(&self) -> &'static str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DIGITS)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let spans = args.args[0].to_array(args.number_rows)?;
        let order = |row| match Value::from_array(&spans, row, &ColumnType::Interval) {
            Value::Interval(span) => Some(span.comparable()),
            _ => None,
        };
        let orders: Decimal128Array = (0..spans.len()).map(order).collect();
        let orders: ArrayRef = Arc::new(orders.with_precision_and_scale(38, 0)?);
        match &args.args[0] {
            ColumnarValue::Scalar(_) if !orders.is_empty() => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&orders, 0)?)),
            _ => Ok(ColumnarValue::Array(orders)),
        }
    }
}
