//! Aggregates over values in time: `delta`, `increase` and `rate` of `(value, ts)`, and `histogram(value, min, max, buckets)`; the buckets
//! of `time_bucket_gapfill`.
//!
//! Registered by [`super::register`]. A counter that falls was reset: what it shows then counts from 0, as in Prometheus. Nothing is
//! extrapolated to the edges of a bucket: a rate is the increase over the time between the first and the last point.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, ListArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type, IntervalUnit, TimeUnit};
use datafusion::common::cast::as_list_array;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::functions_nested::range::gen_series_udf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::physical_expr::expressions::Literal;

/// Buckets of a histogram.
const BUCKETS_MAX: i64 = 10_000;

/// All of them.
pub fn all() -> Vec<AggregateUDF> {
    let change = |name, kind| {
        AggregateUDF::new_from_impl(Change { name, kind, signature: Signature::user_defined(Volatility::Immutable) })
    };
    let histogram = Histogram { signature: Signature::user_defined(Volatility::Immutable) };
    vec![
        change("delta", Kind::Delta),
        change("increase", Kind::Increase),
        change("rate", Kind::Rate),
        AggregateUDF::new_from_impl(histogram),
    ]
}

/// Buckets of the range of one `time_bucket_gapfill`.
const GAPFILL_BUCKETS_MAX: i128 = 1_000_000;

/// What gaps are filled with.
pub fn buckets() -> ScalarUDF {
    ScalarUDF::new_from_impl(Buckets { signature: Signature::user_defined(Volatility::Immutable) })
}

/// `gapfill_buckets(width, start, stop)`: the moments from `start` to `stop`, inclusive, a width apart; what `time_bucket_gapfill` is
/// planned with ([`crate::sql::gapfill`]).
#[derive(Debug, PartialEq, Eq, Hash)]
struct Buckets {
    signature: Signature,
}

impl ScalarUDFImpl for Buckets {
    fn name(&self) -> &'static str {
        "gapfill_buckets"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [_, _, _] => Ok(vec![DataType::Interval(IntervalUnit::MonthDayNano), micros(), micros()]),
            _ => plan_err!("gapfill_buckets takes a width and two times"),
        }
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(micros(), true))))
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [
            ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(width)),
            ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(start, _)),
            ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(stop, _)),
        ] = &args.args[..]
        else {
            return exec_err!("the width and the range of time_bucket_gapfill are constants");
        };
        let (Some(width), Some(start), Some(stop)) = (width, start, stop) else {
            return exec_err!("the width and the range of time_bucket_gapfill must not be NULL");
        };
        // No month is shorter.
        let days = i128::from(width.months) * 28 + i128::from(width.days);
        let micros_wide = days * 86_400_000_000 + i128::from(width.nanoseconds / 1_000);
        let range = i128::from(*stop) - i128::from(*start);
        if micros_wide <= 0 || range / micros_wide > GAPFILL_BUCKETS_MAX {
            let count = if micros_wide <= 0 { "no width".to_owned() } else { format!("{} buckets", range / micros_wide) };
            return exec_err!(
                "time_bucket_gapfill would fill {count}, the limit is {GAPFILL_BUCKETS_MAX}: use a wider bucket or a shorter range"
            );
        }
        args.args.rotate_left(1);
        args.arg_fields.rotate_left(1);
        // It counts in nanoseconds, whatever it is given.
        let wanted = std::mem::replace(&mut args.return_field, Arc::new(Field::new("buckets", nanos(), true)));
        gen_series_udf().invoke_with_args(args)?.cast_to(wanted.data_type(), None)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// The last value less the first.
    Delta,
    /// How much a counter counted.
    Increase,
    /// The same, a second.
    Rate,
}

/// `delta(value, ts)`, `increase(value, ts)`, `rate(value, ts)`: NULL for fewer than two points.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Change {
    name: &'static str,
    kind: Kind,
    signature: Signature,
}

fn nanos() -> DataType {
    let moment = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    DataType::List(Arc::new(Field::new_list_field(moment, true)))
}

fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

impl AggregateUDFImpl for Change {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name;
        match arguments {
            [value, time]
                if (value.is_numeric() || value.is_null()) && (matches!(time, DataType::Timestamp(..)) || time.is_null()) =>
            {
                Ok(vec![DataType::Float64, micros()])
            }
            _ => plan_err!("{name} takes a number and a time: {name}(value, ts)"),
        }
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Points { kind: self.kind, times: Vec::new(), values: Vec::new() }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let list = |name: &str, kind| {
            Arc::new(Field::new_list(format!("{}_{name}", args.name), Field::new_list_field(kind, true), true))
        };
        Ok(vec![list("times", DataType::Int64), list("values", DataType::Float64)])
    }
}

/// The points of a group, in any order.
#[derive(Debug)]
struct Points {
    kind: Kind,
    times: Vec<i64>,
    values: Vec<f64>,
}

impl Accumulator for Points {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let times = cast(&values[1], &DataType::Int64)?;
        let (values, times) = (values[0].as_primitive::<Float64Type>(), times.as_primitive::<Int64Type>());
        for (value, time) in values.iter().zip(times.iter()) {
            if let (Some(value), Some(time)) = (value, time) {
                self.values.push(value);
                self.times.push(time);
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (times, values) = (as_list_array(&states[0])?, as_list_array(&states[1])?);
        for (times, values) in times.iter().zip(values.iter()) {
            let (Some(times), Some(values)) = (times, values) else { continue };
            self.times.extend_from_slice(times.as_primitive::<Int64Type>().values());
            self.values.extend_from_slice(values.as_primitive::<Float64Type>().values());
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let list = |array: ArrayRef| SingleRowListArrayBuilder::new(array).build_list_scalar();
        Ok(vec![
            list(Arc::new(Int64Array::from(std::mem::take(&mut self.times)))),
            list(Arc::new(Float64Array::from(std::mem::take(&mut self.values)))),
        ])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut points: Vec<(i64, f64)> = self.times.iter().copied().zip(self.values.iter().copied()).collect();
        // Of equal times the one that came last stays last.
        points.sort_by_key(|(time, _)| *time);
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return Ok(ScalarValue::Float64(None)) };
        if points.len() < 2 {
            return Ok(ScalarValue::Float64(None));
        }
        let increase = || -> f64 {
            points.windows(2).map(|pair| if pair[1].1 < pair[0].1 { pair[1].1 } else { pair[1].1 - pair[0].1 }).sum()
        };
        #[allow(clippy::cast_precision_loss, reason = "a duration in microseconds")]
        let seconds = (last.0 - first.0) as f64 / 1e6;
        Ok(ScalarValue::Float64(match self.kind {
            Kind::Delta => Some(last.1 - first.1),
            Kind::Increase => Some(increase()),
            Kind::Rate => (seconds > 0.0).then(|| increase() / seconds),
        }))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.times.capacity() * size_of::<i64>() + self.values.capacity() * size_of::<f64>()
    }
}

/// `histogram(value, min, max, buckets)`: how many values lie below `min`, in each of so many buckets of equal width, and at or above `max`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Histogram {
    signature: Signature,
}

impl AggregateUDFImpl for Histogram {
    fn name(&self) -> &'static str {
        "histogram"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [value, min, max, buckets] if [value, min, max, buckets].iter().all(|kind| kind.is_numeric() || kind.is_null()) => {
                Ok(vec![DataType::Float64, DataType::Float64, DataType::Float64, DataType::Int64])
            }
            _ => plan_err!("histogram takes four numbers: histogram(value, min, max, buckets)"),
        }
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true))))
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let constant = |at: usize| args.exprs[at].downcast_ref::<Literal>().map(Literal::value);
        let (
            Some(ScalarValue::Float64(Some(min))),
            Some(ScalarValue::Float64(Some(max))),
            Some(ScalarValue::Int64(Some(buckets))),
        ) = (constant(1), constant(2), constant(3))
        else {
            return plan_err!("min, max and buckets of histogram are constants");
        };
        let between = usize::try_from(*buckets).ok().filter(|_| (1..=BUCKETS_MAX).contains(buckets));
        let Some(between) = between.filter(|_| min < max && min.is_finite() && max.is_finite()) else {
            return plan_err!("histogram needs min < max, and 1 to {BUCKETS_MAX} buckets");
        };
        Ok(Box::new(Counts { min: *min, max: *max, counts: vec![0; between + 2] }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new_list(args.name, Field::new_list_field(DataType::Int64, true), true))])
    }
}

#[derive(Debug)]
struct Counts {
    min: f64,
    max: f64,
    counts: Vec<i64>,
}

impl Counts {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a bucket between 0 and their number"
    )]
    fn place(&self, value: f64) -> usize {
        let between = self.counts.len() - 2;
        if value < self.min {
            return 0;
        }
        if value >= self.max || value.is_nan() {
            return between + 1;
        }
        let place = (value - self.min) / (self.max - self.min) * between as f64;
        1 + (place as usize).min(between - 1)
    }
}

impl Accumulator for Counts {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<Float64Type>().iter().flatten() {
            let place = self.place(value);
            self.counts[place] += 1;
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists: &ListArray = as_list_array(&states[0])?;
        for counts in lists.iter().flatten() {
            let counts = counts.as_primitive::<Int64Type>();
            if counts.len() != self.counts.len() {
                return exec_err!("histograms of {} and {} buckets were united", counts.len(), self.counts.len());
            }
            self.counts.iter_mut().zip(counts.values()).for_each(|(own, more)| *own += more);
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let counts: ArrayRef = Arc::new(Int64Array::from(self.counts.clone()));
        Ok(SingleRowListArrayBuilder::new(counts).build_list_scalar())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.counts.capacity() * size_of::<i64>()
    }
}
