//! Functions whose result may be far larger than what they are given, with an end: `repeat('x', 1000000000)` is refused.
//!
//! DataFusion computes a batch of results at once, and those of constants while it plans, where neither the deadline nor the memory
//! of statements is looked at. So the size is judged before. PostgreSQL refuses what is above 1 GB, with the same code.
//!
//! Registered in [`super::functions`], in the place of the functions they judge.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature};
use logcore::ErrorKind;

use crate::error::{Error, sqlstate};

/// Bytes that one function may make for one batch of rows.
const RESULT_BYTES_MAX: u64 = 64 << 20;

/// How the size of a result follows from the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Size {
    /// The first, this many times.
    Times,
    /// This many characters, whatever the first is.
    Length,
    /// From the first to the second, by the third.
    Steps,
    /// An array of as many elements as the argument here says.
    Count { at: usize },
}

const FUNCTIONS: [(&str, Size); 7] = [
    ("repeat", Size::Times),
    ("lpad", Size::Length),
    ("rpad", Size::Length),
    ("array_repeat", Size::Count { at: 1 }),
    ("array_resize", Size::Count { at: 1 }),
    ("generate_series", Size::Steps),
    ("range", Size::Steps),
];

/// Puts an end to the functions that have none.
///
/// # Errors
/// When a name is refused: a bug.
pub(crate) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for (name, size) in FUNCTIONS {
        if let Ok(inner) = registry.udf(name) {
            registry.register_udf(Arc::new(ScalarUDF::new_from_impl(Bounded { inner, size })))?;
        }
    }
    Ok(())
}

/// A function that is asked only for what is small enough.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    size: Size,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let bytes = self.size.bytes(&args)?;
        if bytes > RESULT_BYTES_MAX {
            let message = format!("the result of {} would be {bytes} bytes, more than {RESULT_BYTES_MAX}", self.name());
            let error = Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, ErrorKind::TooLarge, message);
            return Err(DataFusionError::External(Box::new(error.hint("ask for less, or for fewer rows at a time"))));
        }
        self.inner.invoke_with_args(args)
    }
}

impl Size {
    /// Bytes of the results of a batch, about.
    fn bytes(self, args: &ScalarFunctionArgs) -> Result<u64> {
        // Constants are computed once, and then copied or not.
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let numbers = |at: usize| -> Result<Option<ArrayRef>> {
            let Some(arg) = args.args.get(at) else { return Ok(None) };
            let array = arg.to_array(rows)?;
            // Series of times are not counted in numbers.
            if !array.data_type().is_integer() {
                return Ok(None);
            }
            Ok(Some(cast(&array, &DataType::Int64)?))
        };
        let at = |array: &Option<ArrayRef>, row: usize, otherwise: i64| {
            array.as_ref().map_or(otherwise, |array| match array.is_null(row) {
                true => 0,
                false => array.as_primitive::<Int64Type>().value(row),
            })
        };
        let positive = |number: i64| u64::try_from(number).unwrap_or_default();
        let total = |of: &dyn Fn(usize) -> u64| (0..rows).map(of).fold(0_u64, u64::saturating_add);
        Ok(match self {
            Self::Times => {
                let (text, count) = (args.args[0].to_array(rows)?, numbers(1)?);
                let lengths = datafusion::arrow::compute::kernels::length::length(&text)?;
                let lengths = cast(&lengths, &DataType::Int64)?;
                let lengths = Some(lengths);
                total(&|row| positive(at(&lengths, row, 1)).saturating_mul(positive(at(&count, row, 0))))
            }
            Self::Length => {
                let count = numbers(1)?;
                total(&|row| positive(at(&count, row, 0)))
            }
            Self::Count { at: argument } => {
                let count = numbers(argument)?;
                total(&|row| positive(at(&count, row, 0)).saturating_mul(8))
            }
            Self::Steps => {
                let (from, until, step) = (numbers(0)?, numbers(1)?, numbers(2)?);
                total(&|row| {
                    // With one argument it ends there, and begins at zero.
                    let (from, until) = match &until {
                        Some(_) => (at(&from, row, 0), at(&until, row, 0)),
                        None => (0, at(&from, row, 0)),
                    };
                    from.abs_diff(until).checked_div(at(&step, row, 1).unsigned_abs()).unwrap_or_default().saturating_mul(8)
                })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use datafusion::common::ScalarValue;
    use datafusion::common::config::ConfigOptions;

    fn bytes(size: Size, values: Vec<ScalarValue>) -> u64 {
        let args = values.into_iter().map(ColumnarValue::Scalar).collect();
        let field = Arc::new(datafusion::arrow::datatypes::Field::new("x", DataType::Utf8, true));
        let config_options = Arc::new(ConfigOptions::default());
        size.bytes(&ScalarFunctionArgs { args, arg_fields: vec![], number_rows: 1, return_field: field, config_options }).unwrap()
    }

    #[test]
    fn sizes_follow_from_the_arguments() {
        let (text, number) = (|text: &str| ScalarValue::Utf8(Some(text.into())), |number| ScalarValue::Int64(Some(number)));
        assert_eq!(bytes(Size::Times, vec![text("abc"), number(i64::MAX)]), u64::MAX);
        assert_eq!(bytes(Size::Times, vec![text("abc"), number(-1)]), 0);
        assert_eq!(bytes(Size::Times, vec![text("abc"), ScalarValue::Int64(None)]), 0);
        assert_eq!(bytes(Size::Length, vec![text(""), number(100)]), 100);
        assert_eq!(bytes(Size::Count { at: 1 }, vec![text("a"), number(10)]), 80);
        assert_eq!(bytes(Size::Steps, vec![number(1), number(11), number(-2)]), 40);
        assert_eq!(bytes(Size::Steps, vec![number(5)]), 40);
        assert_eq!(bytes(Size::Steps, vec![number(i64::MIN), number(i64::MAX)]), u64::MAX);
        assert_eq!(bytes(Size::Steps, vec![number(1), number(2), number(0)]), 0);
    }
}
