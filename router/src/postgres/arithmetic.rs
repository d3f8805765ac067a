//! `+ - * / %` on numbers that fail where PostgreSQL's fail, and on dates and times as PostgreSQL's.
//!
//! [`super::operators`] puts these functions in the place of DataFusion's operators, which wrap around and divide by zero.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Scalar};
use datafusion::arrow::compute::kernels::numeric;
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Float32Type, Float64Type, Int32Type, IntervalMonthDayNanoType, TimeUnit,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use logcore::ErrorKind;

use crate::error::{Error, sqlstate};

/// The largest scale of a quotient of numerics, if its operands have no larger one.
const QUOTIENT_SCALE: i8 = 16;

/// A binary operator as a function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Arithmetic {
    op: Operator,
    signature: Signature,
}

/// The call that stands for `left op right`.
pub(super) fn call(left: Expr, op: Operator, right: Expr) -> Expr {
    let function = Arithmetic { op, signature: Signature::user_defined(Volatility::Immutable) };
    ScalarUDF::new_from_impl(function).call(vec![left, right])
}

/// Whether the function computes this.
pub(super) fn computes(left: &DataType, op: Operator, right: &DataType) -> bool {
    let number = |kind: &DataType| kind.is_numeric();
    let operator = matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo);
    let numbers = match (left, right) {
        (DataType::Null, other) | (other, DataType::Null) => number(other),
        (left, right) => number(left) && number(right),
    };
    operator && (numbers || moment(left, op, right).is_some())
}

/// The result of an operator on dates and times, where PostgreSQL's is not DataFusion's.
fn moment(left: &DataType, op: Operator, right: &DataType) -> Option<DataType> {
    let interval = DataType::Interval(datafusion::arrow::datatypes::IntervalUnit::MonthDayNano);
    match (left, op, right) {
        (DataType::Date32, Operator::Minus, DataType::Date32) => Some(DataType::Int32),
        (DataType::Date32, Operator::Plus | Operator::Minus, right) if right.is_integer() => Some(DataType::Date32),
        (left, Operator::Plus, DataType::Date32) if left.is_integer() => Some(DataType::Date32),
        (DataType::Timestamp(..), Operator::Minus, DataType::Timestamp(..)) => Some(interval),
        _ => None,
    }
}

fn out_of_range(kind: &DataType) -> DataFusionError {
    let name = match kind {
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint",
        DataType::Int32 | DataType::UInt16 => "integer",
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "bigint",
        DataType::Float32 | DataType::Float64 => "double precision",
        DataType::Date32 => "date",
        _ => "numeric",
    };
    let error = Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, ErrorKind::Invalid, format!("{name} out of range"));
    DataFusionError::External(Box::new(error.hint("cast an operand to a larger type, such as BIGINT or NUMERIC")))
}

fn division_by_zero() -> DataFusionError {
    let error = Error::new(sqlstate::DIVISION_BY_ZERO, ErrorKind::Invalid, "division by zero");
    DataFusionError::External(Box::new(error.hint("NULLIF(divisor, 0) gives NULL instead")))
}

/// Digits before and behind the point of a quotient.
fn quotient(left: &DataType, right: &DataType) -> Option<DataType> {
    match (left, right) {
        (DataType::Decimal128(_, left), DataType::Decimal128(_, right)) => {
            Some(DataType::Decimal128(38, QUOTIENT_SCALE.max(*left).max(*right)))
        }
        _ => None,
    }
}

impl Arithmetic {
    fn result(&self, left: &DataType, right: &DataType) -> Result<DataType> {
        if let Some(kind) = moment(left, self.op, right) {
            return Ok(kind);
        }
        if self.op == Operator::Divide
            && let Some(kind) = quotient(left, right)
        {
            return Ok(kind);
        }
        BinaryTypeCoercer::new(left, &self.op, right).get_result_type()
    }

    fn compute(
        &self,
        left: &dyn datafusion::arrow::array::Datum,
        right: &dyn datafusion::arrow::array::Datum,
    ) -> Result<ArrayRef> {
        let kind = left.get().0.data_type().clone();
        let raw = match self.op {
            Operator::Plus => numeric::add(left, right),
            Operator::Minus => numeric::sub(left, right),
            Operator::Multiply => numeric::mul(left, right),
            Operator::Divide => numeric::div(left, right),
            Operator::Modulo => numeric::rem(left, right),
            other => return plan_err!("{other} is no arithmetic"),
        };
        let array = raw.map_err(|error| match error {
            ArrowError::DivideByZero => division_by_zero(),
            ArrowError::ArithmeticOverflow(_) => out_of_range(&kind),
            other => other.into(),
        })?;
        match kind {
            DataType::Float64 => check_floats::<Float64Type>(left, self.op, right, &array, f64::is_finite, |value| value == 0.0)?,
            DataType::Float32 => check_floats::<Float32Type>(left, self.op, right, &array, f32::is_finite, |value| value == 0.0)?,
            _ => {}
        }
        Ok(array)
    }
}

/// Division by zero, and infinity that comes from finite numbers.
fn check_floats<T: datafusion::arrow::datatypes::ArrowPrimitiveType>(
    left: &dyn datafusion::arrow::array::Datum,
    op: Operator,
    right: &dyn datafusion::arrow::array::Datum,
    result: &ArrayRef,
    finite: impl Fn(T::Native) -> bool,
    zero: impl Fn(T::Native) -> bool,
) -> Result<()> {
    let values = result.as_primitive::<T>();
    let divides = matches!(op, Operator::Divide | Operator::Modulo);
    let ((left, left_one), (right, right_one)) = (left.get(), right.get());
    let (left, right) = (left.as_primitive::<T>(), right.as_primitive::<T>());
    for row in 0..values.len() {
        if values.is_null(row) || finite(values.value(row)) {
            continue;
        }
        let (a, b) = (left.value(if left_one { 0 } else { row }), right.value(if right_one { 0 } else { row }));
        if divides && zero(b) {
            return Err(division_by_zero());
        }
        if finite(a) && finite(b) {
            return Err(out_of_range(&T::DATA_TYPE));
        }
    }
    Ok(())
}

fn strict(array: &ArrayRef, kind: &DataType) -> Result<ArrayRef> {
    if array.data_type() == kind {
        return Ok(Arc::clone(array));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, kind, &options).map_err(|_| out_of_range(kind))
}

impl ScalarUDFImpl for Arithmetic {
    fn name(&self) -> &str {
        match self.op {
            Operator::Plus => "checked_add",
            Operator::Minus => "checked_subtract",
            Operator::Multiply => "checked_multiply",
            Operator::Divide => "checked_divide",
            _ => "checked_modulo",
        }
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(format!("{} {} {}", args[0], self.op, args[1]))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(format!("{} {} {}", args[0].schema_name(), self.op, args[1].schema_name()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [left, right] = types else { return plan_err!("{} takes two operands", self.op) };
        let micros = |kind: &DataType| match kind {
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            other => other.clone(),
        };
        if moment(left, self.op, right).is_some() {
            return Ok(match (left, right) {
                (DataType::Date32, DataType::Date32) => vec![DataType::Date32, DataType::Date32],
                (DataType::Date32, _) => vec![DataType::Date32, DataType::Int32],
                (_, DataType::Date32) => vec![DataType::Int32, DataType::Date32],
                (DataType::Timestamp(_, None), DataType::Timestamp(_, None)) => vec![micros(left), micros(right)],
                _ => {
                    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
                    vec![utc.clone(), utc]
                }
            });
        }
        let (left, right) = BinaryTypeCoercer::new(left, &self.op, right).get_input_types()?;
        Ok(vec![left, right])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.result(&types[0], &types[1])
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let scalars = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let [left, right] = &args.args[..] else { return plan_err!("{} takes two operands", self.op) };
        let kind = args.return_field.data_type();
        let (left_kind, right_kind) = (left.data_type(), right.data_type());
        if moment(&left_kind, self.op, &right_kind).is_some() {
            let arrays = ColumnarValue::values_to_arrays(&[left.clone(), right.clone()])?;
            let array = self.compute_moment(&arrays[0], &arrays[1])?;
            return finish(array, scalars);
        }
        let as_datum = |value: &ColumnarValue| -> Result<(ArrayRef, bool)> {
            let (array, one) = match value {
                ColumnarValue::Scalar(value) => (value.to_array()?, true),
                ColumnarValue::Array(array) => (Arc::clone(array), false),
            };
            // A quotient needs room for its digits.
            match (self.op, array.data_type()) {
                (Operator::Divide, DataType::Decimal128(_, scale)) => {
                    let wide = DataType::Decimal256(76, (*scale).max(QUOTIENT_SCALE));
                    Ok((strict(&array, &wide)?, one))
                }
                _ => Ok((array, one)),
            }
        };
        let ((left, left_one), (right, right_one)) = (as_datum(left)?, as_datum(right)?);
        let array = match (left_one && rows != 1, right_one && rows != 1) {
            (true, true) => self.compute(&left, &right)?,
            (true, false) => self.compute(&Scalar::new(left), &right)?,
            (false, true) => self.compute(&left, &Scalar::new(right))?,
            (false, false) => self.compute(&left, &right)?,
        };
        finish(strict(&array, kind)?, scalars)
    }
}

/// One value stays one value.
fn finish(array: ArrayRef, scalar: bool) -> Result<ColumnarValue> {
    Ok(match scalar {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?),
        false => ColumnarValue::Array(array),
    })
}

impl Arithmetic {
    fn compute_moment(&self, left: &ArrayRef, right: &ArrayRef) -> Result<ArrayRef> {
        use datafusion::arrow::datatypes::{IntervalMonthDayNano, TimestampMicrosecondType};
        let days = |array: &ArrayRef| array.as_primitive::<Date32Type>().clone();
        let whole = |array: &ArrayRef| array.as_primitive::<Int32Type>().clone();
        let wrong = || out_of_range(&DataType::Date32);
        let checked = |left: i32, right: i32| match self.op {
            Operator::Plus => left.checked_add(right),
            _ => left.checked_sub(right),
        };
        use datafusion::arrow::compute::{binary, try_binary};
        let overflow = |value: Option<i32>| value.ok_or_else(|| ArrowError::ArithmeticOverflow("date out of range".into()));
        Ok(match (left.data_type(), right.data_type()) {
            (DataType::Date32, DataType::Date32) => {
                let result = try_binary::<_, _, _, Int32Type>(&days(left), &days(right), |a, b| overflow(a.checked_sub(b)));
                Arc::new(result.map_err(|_| wrong())?)
            }
            (DataType::Date32, _) => {
                let result = try_binary::<_, _, _, Date32Type>(&days(left), &whole(right), |a, b| overflow(checked(a, b)));
                Arc::new(result.map_err(|_| wrong())?)
            }
            (_, DataType::Date32) => {
                let result = try_binary::<_, _, _, Date32Type>(&whole(left), &days(right), |a, b| overflow(checked(a, b)));
                Arc::new(result.map_err(|_| wrong())?)
            }
            _ => {
                const DAY_MICROS: i64 = 86_400_000_000;
                let (left, right) =
                    (left.as_primitive::<TimestampMicrosecondType>(), right.as_primitive::<TimestampMicrosecondType>());
                let between = |a: i64, b: i64| {
                    let micros = a.saturating_sub(b);
                    let days = i32::try_from(micros / DAY_MICROS).unwrap_or(i32::MAX);
                    IntervalMonthDayNano::new(0, days, (micros % DAY_MICROS) * 1_000)
                };
                Arc::new(binary::<_, _, _, IntervalMonthDayNanoType>(left, right, between)?)
            }
        })
    }
}
