//! Functions that PostgreSQL has and DataFusion has not, or computes otherwise: the one value of a subquery, rounding of doubles,
//! and functions whose result must be a number.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use logcore::ErrorKind;

use super::operators::UntypedLiterals;
use crate::error::{Error, sqlstate};
use crate::sql::forms::SINGLE_VALUE;

/// Adds the functions that statements call by name.
///
/// # Errors
/// When a name is refused: a bug.
pub(crate) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    super::bounds::register(registry)?;
    registry.register_expr_planner(Arc::new(UntypedLiterals))?;
    registry.register_udaf(Arc::new(AggregateUDF::new_from_impl(SingleValue {
        signature: Signature::any(1, Volatility::Immutable),
    })))?;
    Ok(())
}

/// See [`SINGLE_VALUE`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct SingleValue {
    signature: Signature,
}

impl AggregateUDFImpl for SingleValue {
    fn name(&self) -> &'static str {
        SINGLE_VALUE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn return_field(&self, fields: &[FieldRef]) -> Result<FieldRef> {
        Ok(Arc::new(fields[0].as_ref().clone().with_name(SINGLE_VALUE).with_nullable(true)))
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Only { rows: 0, value: ScalarValue::try_from(args.return_field.data_type())? }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let value = Field::new("single_value[value]", args.return_field.data_type().clone(), true);
        Ok(vec![Arc::new(value), Arc::new(Field::new("single_value[rows]", DataType::UInt64, false))])
    }
}

#[derive(Debug)]
struct Only {
    rows: u64,
    value: ScalarValue,
}

impl Only {
    fn take(&mut self, value: ScalarValue, rows: u64) -> Result<()> {
        self.rows += rows;
        if self.rows > 1 {
            let message = "a subquery that stands for one value gives more than one row";
            let error = Error::new(sqlstate::CARDINALITY_VIOLATION, ErrorKind::Invalid, message);
            return Err(DataFusionError::External(Box::new(error.hint("narrow it, or add LIMIT 1"))));
        }
        self.value = value;
        Ok(())
    }
}

impl Accumulator for Only {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let column = &values[0];
        match column.len() {
            0 => Ok(()),
            rows => self.take(ScalarValue::try_from_array(column, 0)?, rows as u64),
        }
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let rows = states[1].as_primitive::<datafusion::arrow::datatypes::UInt64Type>();
        for row in 0..rows.len() {
            if rows.value(row) > 0 {
                self.take(ScalarValue::try_from_array(&states[0], row)?, rows.value(row))?;
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.value.clone(), ScalarValue::UInt64(Some(self.rows))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.value.size()
    }
}

/// The name in plans of the function that refuses infinity.
pub(super) const FINITE: &str = "finite";

/// Whether a function of doubles must give a number where it is given one.
pub(super) fn must_be_finite(name: &str) -> bool {
    matches!(name, "ln" | "log" | "log2" | "log10" | "sqrt" | "power" | "exp")
}

/// `function(args)` that fails instead of giving infinity or no number.
pub(super) fn finite(result: Expr, name: &str, args: &[Expr]) -> Expr {
    let function = Finite { of: name.to_owned(), signature: Signature::variadic_any(Volatility::Immutable) };
    let mut all = vec![result];
    all.extend(args.iter().cloned());
    ScalarUDF::new_from_impl(function).call(all)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Finite {
    of: String,
    signature: Signature,
}

impl ScalarUDFImpl for Finite {
    fn name(&self) -> &'static str {
        FINITE
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args[0].to_string())
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args[0].schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let doubles = arrays.iter().map(|array| Ok(cast(array, &DataType::Float64)?)).collect::<Result<Vec<ArrayRef>>>()?;
        let columns: Vec<&Float64Array> = doubles.iter().map(|array| array.as_primitive::<Float64Type>()).collect();
        for row in 0..columns[0].len() {
            let odd = columns[0].is_valid(row) && !columns[0].value(row).is_finite();
            if odd && columns[1..].iter().all(|column| column.is_valid(row) && column.value(row).is_finite()) {
                return Err(self.error(columns.last().map_or(0.0, |column| column.value(row))));
            }
        }
        Ok(args.args[0].clone())
    }
}

impl Finite {
    fn error(&self, argument: f64) -> DataFusionError {
        let (code, message) = match self.of.as_str() {
            "ln" | "log" | "log2" | "log10" if argument == 0.0 => {
                (sqlstate::INVALID_ARGUMENT_FOR_LOGARITHM, "cannot take logarithm of zero".to_owned())
            }
            "ln" | "log" | "log2" | "log10" => {
                (sqlstate::INVALID_ARGUMENT_FOR_LOGARITHM, "cannot take logarithm of a negative number".to_owned())
            }
            "sqrt" => (sqlstate::INVALID_ARGUMENT_FOR_POWER, "cannot take square root of a negative number".to_owned()),
            name => (sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, format!("the result of {name} is out of range")),
        };
        DataFusionError::External(Box::new(Error::new(code, ErrorKind::Invalid, message)))
    }
}

/// `round(double)`: halves to the even number, as PostgreSQL rounds doubles.
pub(super) fn round_even(arg: Expr) -> Expr {
    ScalarUDF::new_from_impl(RoundEven { signature: Signature::any(1, Volatility::Immutable) }).call(vec![arg])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RoundEven {
    signature: Signature,
}

impl ScalarUDFImpl for RoundEven {
    fn name(&self) -> &'static str {
        "round"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let doubles = args.args[0].cast_to(&DataType::Float64, None)?;
        Ok(match doubles {
            ColumnarValue::Scalar(ScalarValue::Float64(value)) => {
                ColumnarValue::Scalar(ScalarValue::Float64(value.map(f64::round_ties_even)))
            }
            ColumnarValue::Scalar(other) => ColumnarValue::Scalar(other),
            ColumnarValue::Array(array) => {
                let rounded: Float64Array = array.as_primitive::<Float64Type>().unary(f64::round_ties_even);
                ColumnarValue::Array(Arc::new(rounded))
            }
        })
    }
}
