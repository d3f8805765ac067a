//! `nextval`, `currval`, `lastval`, `setval`, and `gen_random_uuid`.
//!
//! # Concurrency
//! A function is synchronous and a block of numbers is reserved by a write: it is waited for, at a place of the runtime that may
//! block, once for many numbers.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::sql::sqlparser::parser::Parser;
use logcore::ErrorKind;
use rowstore::ColumnType;
use rowstore::schema::KIND_METADATA;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::scope::Scope;
use crate::catalog::SequenceDef;
use crate::database::Database;
use crate::error::{Error, sqlstate};
use crate::sql::ddl::name_of;
use crate::sql::dialect::HeadwaterDialect;

/// Adds the functions to a session.
///
/// # Errors
/// When a name is refused: a bug.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    let text = || TypeSignature::Exact(vec![DataType::Utf8]);
    let with = |more: &[DataType]| TypeSignature::Exact([&[DataType::Utf8], more].concat());
    for (kind, name, signature) in
        [(Kind::Next, "nextval", text()), (Kind::Current, "currval", text()), (Kind::Last, "lastval", TypeSignature::Nullary)]
    {
        let signature = Signature::new(signature, Volatility::Volatile);
        registry.register_udf(Arc::new(ScalarUDF::new_from_impl(SequenceFunction { kind, name, signature })))?;
    }
    let both = vec![with(&[DataType::Int64]), with(&[DataType::Int64, DataType::Boolean])];
    let signature = Signature::one_of(both, Volatility::Volatile);
    registry.register_udf(Arc::new(ScalarUDF::new_from_impl(SequenceFunction { kind: Kind::Set, name: "setval", signature })))?;
    let signature = Signature::new(TypeSignature::Nullary, Volatility::Volatile);
    registry.register_udf(Arc::new(ScalarUDF::new_from_impl(RandomUuid { signature })))?;
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Next,
    Current,
    Last,
    Set,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SequenceFunction {
    kind: Kind,
    name: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for SequenceFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(scope) = args.config_options.extensions.get::<Scope>() else {
            let message = format!("{}() can't be called here", self.name);
            let error = Error::unsupported(message).hint("call it in a statement, or in a DEFAULT");
            return Err(DataFusionError::External(Box::new(error)));
        };
        let rows = args.number_rows;
        let arrays = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<ArrayRef>>>()?;
        // Of one name in all rows, as it nearly always is, all numbers are taken at once.
        let one_name = args.args.first().is_some_and(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let answers = match (self.kind, one_name) {
            (Kind::Next, true) => next_of(scope, &arrays[0], rows),
            _ => (0..rows).map(|row| self.one(scope, &arrays, row)).collect(),
        };
        let answers: Int64Array = answers.map_err(|error: Error| DataFusionError::External(Box::new(error)))?;
        Ok(ColumnarValue::Array(Arc::new(answers)))
    }
}

impl SequenceFunction {
    fn one(&self, scope: &Scope, arrays: &[ArrayRef], row: usize) -> Result<Option<i64>, Error> {
        if arrays.iter().any(|array| array.is_null(row)) {
            return Ok(None);
        }
        if self.kind == Kind::Last {
            let undefined = || {
                let message = "lastval is not yet defined in this session";
                Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, ErrorKind::Invalid, message)
                    .hint("call nextval() in the same session first")
            };
            let (sequence, number) = scope.numbers.last().ok_or_else(undefined)?;
            let there = scope.database.catalog().sequence_by_id(sequence).is_some();
            return if there { Ok(Some(number)) } else { Err(undefined()) };
        }
        let def = find(&scope.database, arrays[0].as_string::<i32>().value(row))?;
        match self.kind {
            Kind::Current => scope.numbers.current(def.id).map(Some).ok_or_else(|| {
                let message = format!("currval of sequence \"{}\" is not yet defined in this session", def.name);
                Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, ErrorKind::Invalid, message)
                    .hint("call nextval() in the same session first")
            }),
            Kind::Set => {
                let number = arrays[1].as_primitive::<Int64Type>().value(row);
                let called = arrays.get(2).is_none_or(|called| called.as_boolean().value(row));
                set(scope, &def, number, called).map(Some)
            }
            _ => {
                let number = numbers(&scope.database, &def, 1)?.pop();
                number.iter().for_each(|number| scope.numbers.note(def.id, *number, true));
                Ok(number)
            }
        }
    }
}

fn next_of(scope: &Scope, names: &ArrayRef, rows: usize) -> Result<Int64Array, Error> {
    if rows == 0 || names.is_null(0) {
        return Ok(Int64Array::new_null(rows));
    }
    let def = find(&scope.database, names.as_string::<i32>().value(0))?;
    let numbers = numbers(&scope.database, &def, rows as u64)?;
    numbers.last().iter().for_each(|last| scope.numbers.note(def.id, **last, true));
    Ok(numbers.into())
}

fn set(scope: &Scope, def: &SequenceDef, number: i64, called: bool) -> Result<i64, Error> {
    if !(def.min..=def.max).contains(&number) {
        let message = format!("setval: value {number} is out of bounds for sequence \"{}\" ({}..{})", def.name, def.min, def.max);
        return Err(Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, ErrorKind::Invalid, message));
    }
    let next = if called { def.after(number) } else { Some(number) };
    let (database, def) = (scope.database.clone(), def.clone());
    let id = def.id;
    wait(&database.clone(), async move { super::set(&database, &def, next).await })?;
    if called {
        scope.numbers.note(id, number, false);
    }
    Ok(number)
}

/// The sequence of a name as it is written in SQL.
pub(crate) fn find(database: &Database, name: &str) -> Result<Arc<SequenceDef>, Error> {
    let parsed =
        Parser::new(&HeadwaterDialect::default()).try_with_sql(name).and_then(|mut parser| parser.parse_object_name(false));
    let name = parsed.map(|parsed| name_of(&parsed)).map_err(|_| Error::invalid(format!("\"{name}\" is not a name")))?;
    database.catalog().sequence(&name).cloned()
}

fn numbers(database: &Database, def: &Arc<SequenceDef>, wanted: u64) -> Result<Vec<i64>, Error> {
    if let Some(numbers) = super::next_reserved(database, def, wanted) {
        return Ok(numbers);
    }
    let (own, def) = (database.clone(), Arc::clone(def));
    wait(database, async move { super::next(&own, &def, wanted).await })
}

/// Waits for `work` from a synchronous function, wherever that runs.
fn wait<T: Send + 'static>(
    database: &Database,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(|| handle.block_on(work))
        }
        Err(_) => database.runtime().block_on(work),
        // A runtime of one thread must not wait for itself.
        Ok(_) => {
            let runtime = database.runtime().clone();
            let waiting = std::thread::spawn(move || runtime.block_on(work)).join();
            waiting.unwrap_or_else(|_| Err(Error::internal("the thread that waited for a sequence failed")))
        }
    }
}

/// `gen_random_uuid()`: version 4, as DataFusion makes it, with the type that a UUID has here.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RandomUuid {
    signature: Signature,
}

impl ScalarUDFImpl for RandomUuid {
    fn name(&self) -> &'static str {
        "gen_random_uuid"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(ColumnType::Uuid.arrow())
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let kind = [(KIND_METADATA.to_owned(), ColumnType::Uuid.to_string())];
        Ok(Arc::new(Field::new(self.name(), ColumnType::Uuid.arrow(), false).with_metadata(kind.into())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        datafusion::functions::string::uuid().invoke_with_args(args)
    }
}
