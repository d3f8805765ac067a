//! Path updates of JSON documents: `json_set`, `json_remove`, `json_merge`, `json_append`, `json_inc`.
//!
//! They compute a new document from an old one, so `UPDATE d SET doc = json_inc(doc, '$.n', 1)` is read, computed and written on the
//! condition that nobody wrote the row meanwhile, like any UPDATE. Registered by [`super::register`]; [`merge`] is
//! called by `PATCH /v1/documents` too.
//!
//! # Paths
//! `$.member`, `$."any member"`, `$[0]`, one after the other; `$` alone is the document. Numbers count array elements from 0.
//!
//! # Not done
//! The members of an object come out in alphabetical order, also those that were not touched.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringArray};
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Int64Type, UInt64Type};
use datafusion::common::{DataFusionError, Result as PlanResult, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use logcore::ErrorKind;
use rowstore::schema::KIND_METADATA;
use serde_json::{Map, Number, Value};

use crate::error::{Error, Result, sqlstate};
use crate::render;

/// Steps of a path.
const STEPS_MAX: usize = 64;

/// What is done to a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Update {
    Set,
    Remove,
    Merge,
    Append,
    Increment,
}

impl Update {
    const ALL: [Self; 5] = [Self::Set, Self::Remove, Self::Merge, Self::Append, Self::Increment];

    fn name(self) -> &'static str {
        match self {
            Self::Set => "json_set",
            Self::Remove => "json_remove",
            Self::Merge => "json_merge",
            Self::Append => "json_append",
            Self::Increment => "json_inc",
        }
    }

    fn form(self) -> &'static str {
        match self {
            Self::Set => "json_set(doc, '$.path', value, ...)",
            Self::Remove => "json_remove(doc, '$.path', ...)",
            Self::Merge => "json_merge(doc, patch)",
            Self::Append => "json_append(doc, '$.path', value)",
            Self::Increment => "json_inc(doc, '$.path', number)",
        }
    }

    fn takes(self, arguments: usize) -> bool {
        match self {
            Self::Set => arguments >= 3 && arguments % 2 == 1,
            Self::Remove => arguments >= 2,
            Self::Merge => arguments == 2,
            Self::Append | Self::Increment => arguments == 3,
        }
    }
}

/// The functions.
pub fn all() -> impl Iterator<Item = ScalarUDF> {
    let function =
        |update| ScalarUDF::new_from_impl(JsonUpdate { update, signature: Signature::variadic_any(Volatility::Immutable) });
    Update::ALL.into_iter().map(function)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonUpdate {
    update: Update,
    signature: Signature,
}

impl ScalarUDFImpl for JsonUpdate {
    fn name(&self) -> &'static str {
        self.update.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> PlanResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> PlanResult<FieldRef> {
        if !self.update.takes(args.arg_fields.len()) {
            let message = format!("{} is written {}", self.name(), self.update.form());
            let error = Error::new(sqlstate::UNDEFINED_FUNCTION, ErrorKind::Invalid, message);
            return Err(DataFusionError::External(Box::new(error)));
        }
        let metadata = [(KIND_METADATA.to_owned(), "json".to_owned())].into();
        Ok(Arc::new(Field::new(self.name(), DataType::Utf8, true).with_metadata(metadata)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let scalars = args.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if scalars { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|argument| argument.to_array(rows)).collect::<PlanResult<Vec<ArrayRef>>>()?;
        let columns: Vec<Column<'_>> =
            arrays.iter().zip(&args.arg_fields).map(|(array, field)| Column { array, field }).collect();
        let mut out = Vec::with_capacity(rows);
        for row in 0..rows {
            let text = self.update_row(&columns, row).map_err(|error| DataFusionError::External(Box::new(error)))?;
            out.push(text);
        }
        let array = StringArray::from(out);
        match scalars {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)),
            false => Ok(ColumnarValue::Array(Arc::new(array))),
        }
    }
}

/// An argument's values.
struct Column<'a> {
    array: &'a ArrayRef,
    field: &'a Field,
}

impl Column<'_> {
    /// A value as it is put into a document: JSON as it is, a number as a number however large, anything else as answers show it.
    fn value(&self, row: usize) -> Result<Value> {
        if self.array.is_null(row) {
            return Ok(Value::Null);
        }
        match self.array.data_type() {
            DataType::Int64 => Ok(self.array.as_primitive::<Int64Type>().value(row).into()),
            DataType::UInt64 => Ok(self.array.as_primitive::<UInt64Type>().value(row).into()),
            DataType::Decimal128(..) => {
                let text = self.array.as_primitive::<Decimal128Type>().value_as_string(row);
                text.parse().map(Value::Number).map_err(|_| Error::internal(format!("{text} is a number")))
            }
            _ => Ok(render::json_value(self.field, self.array.as_ref(), row)),
        }
    }

    /// The same, where a text is JSON.
    fn document(&self, row: usize) -> Result<Value> {
        match self.value(row)? {
            Value::String(text) if !render::is_json(self.field) => parse(&text),
            other => Ok(other),
        }
    }

    fn path(&self, row: usize, function: &str) -> Result<Vec<Step>> {
        match self.value(row)? {
            Value::String(text) => parse_path(&text),
            _ => Err(Error::invalid(format!("{function}: a path is text, such as '$.a.b'"))),
        }
    }
}

impl JsonUpdate {
    fn update_row(&self, columns: &[Column<'_>], row: usize) -> Result<Option<String>> {
        let [doc, arguments @ ..] = columns else { return Ok(None) };
        if doc.array.is_null(row) {
            return Ok(None);
        }
        let mut document = doc.document(row)?;
        let path = |column: &Column<'_>| column.path(row, self.name());
        match self.update {
            Update::Set => {
                for pair in arguments.chunks(2) {
                    set(&mut document, &path(&pair[0])?, pair[1].value(row)?)?;
                }
            }
            Update::Remove => {
                for argument in arguments {
                    remove(&mut document, &path(argument)?)?;
                }
            }
            Update::Merge => merge(&mut document, arguments[0].document(row)?),
            Update::Append => append(&mut document, &path(&arguments[0])?, arguments[1].value(row)?)?,
            Update::Increment => increment(&mut document, &path(&arguments[0])?, &arguments[1].value(row)?)?,
        }
        Ok(Some(document.to_string()))
    }
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| {
        Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, ErrorKind::Invalid, format!("it is not JSON: {error}"))
    })
}

/// A step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Member(String),
    Element(usize),
}

fn parse_path(text: &str) -> Result<Vec<Step>> {
    let wrong = |at: usize| {
        Error::invalid(format!("the path '{text}' is wrong at character {}", text[..at].chars().count() + 1))
            .hint("write $.member, $.\"any member\" and $[0], one after the other")
    };
    let mut rest = text.strip_prefix('$').ok_or_else(|| wrong(0))?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let at = text.len() - rest.len();
        if steps.len() == STEPS_MAX {
            return Err(Error::invalid(format!("the path '{text}' has more than {STEPS_MAX} steps")));
        }
        if let Some(index) = rest.strip_prefix('[') {
            let (digits, after) = index.split_once(']').ok_or_else(|| wrong(at))?;
            steps.push(Step::Element(digits.trim().parse().map_err(|_| wrong(at + 1))?));
            rest = after;
            continue;
        }
        let member = rest.strip_prefix('.').ok_or_else(|| wrong(at))?;
        if let Some(quoted) = member.strip_prefix('"') {
            let (name, after) = quoted.split_once('"').ok_or_else(|| wrong(at + 1))?;
            steps.push(Step::Member(name.to_owned()));
            rest = after;
        } else {
            let end = member.find(['.', '[']).unwrap_or(member.len());
            if end == 0 {
                return Err(wrong(at + 1));
            }
            steps.push(Step::Member(member[..end].to_owned()));
            rest = &member[end..];
        }
    }
    Ok(steps)
}

/// What stands in the way of a path.
fn in_the_way(step: &Step, found: &Value) -> Error {
    let (wanted, what) = match step {
        Step::Member(name) => ("an object", format!("member \"{name}\"")),
        Step::Element(at) => ("an array", format!("element {at}")),
    };
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    Error::new(
        sqlstate::DATATYPE_MISMATCH,
        ErrorKind::Invalid,
        format!("the path leads to {what} of {found}, which is not {wanted}"),
    )
}

/// The place a path leads to; members that are missing on the way are made, and an element right behind the last one.
fn place<'v>(document: &'v mut Value, path: &[Step]) -> Result<&'v mut Value> {
    let mut at = document;
    for step in path {
        if let (Step::Member(_), Value::Null) = (step, &*at) {
            *at = Value::Object(Map::new());
        }
        at = match (step, at) {
            (Step::Member(name), Value::Object(members)) => members.entry(name.clone()).or_insert(Value::Null),
            (Step::Element(n), Value::Array(items)) => {
                if *n > items.len() {
                    return Err(Error::invalid(format!("the path leads to element {n} of an array of {}", items.len())));
                }
                if *n == items.len() {
                    items.push(Value::Null);
                }
                &mut items[*n]
            }
            (step, found) => return Err(in_the_way(step, found)),
        };
    }
    Ok(at)
}

fn set(document: &mut Value, path: &[Step], value: Value) -> Result<()> {
    *place(document, path)? = value;
    Ok(())
}

/// Takes out what a path leads to; where it leads nowhere nothing happens.
fn remove(document: &mut Value, path: &[Step]) -> Result<()> {
    let Some((last, way)) = path.split_last() else {
        return Err(Error::invalid("the path '$' is the whole document").hint("DELETE the row"));
    };
    let mut at = document;
    for step in way {
        let next = match (step, at) {
            (Step::Member(name), Value::Object(members)) => members.get_mut(name),
            (Step::Element(n), Value::Array(items)) => items.get_mut(*n),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => return Ok(()),
        }
    }
    match (last, at) {
        (Step::Member(name), Value::Object(members)) => drop(members.remove(name)),
        (Step::Element(n), Value::Array(items)) if *n < items.len() => drop(items.remove(*n)),
        _ => {}
    }
    Ok(())
}

/// A JSON Merge Patch (RFC 7396).
pub fn merge(document: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *document = patch;
        return;
    };
    if !document.is_object() {
        *document = Value::Object(Map::new());
    }
    let Value::Object(members) = document else { return };
    for (name, value) in patch {
        match value {
            Value::Null => drop(members.remove(&name)),
            value => merge(members.entry(name).or_insert(Value::Null), value),
        }
    }
}

fn append(document: &mut Value, path: &[Step], value: Value) -> Result<()> {
    match place(document, path)? {
        Value::Array(items) => items.push(value),
        nothing @ Value::Null => *nothing = Value::Array(vec![value]),
        found => return Err(in_the_way(&Step::Element(0), found)),
    }
    Ok(())
}

fn increment(document: &mut Value, path: &[Step], by: &Value) -> Result<()> {
    let number = |value: &Value| match value {
        Value::Null => Ok(Number::from(0)),
        Value::Number(number) => Ok(number.clone()),
        Value::String(text) => text
            .parse::<Number>()
            .map_err(|_| Error::new(sqlstate::DATATYPE_MISMATCH, ErrorKind::Invalid, format!("'{text}' is not a number"))),
        _ => Err(Error::new(sqlstate::DATATYPE_MISMATCH, ErrorKind::Invalid, "json_inc adds a number to a number")),
    };
    let at = place(document, path)?;
    let (now, by) = (number(at)?, number(by)?);
    let out_of_range =
        || Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, ErrorKind::Invalid, format!("{now} plus {by} is out of range"));
    let sum = match (now.as_i64(), by.as_i64()) {
        (Some(now), Some(by)) => Number::from(now.checked_add(by).ok_or_else(out_of_range)?),
        _ => {
            let sum = now.as_f64().zip(by.as_f64()).map(|(now, by)| now + by);
            sum.and_then(Number::from_f64).ok_or_else(out_of_range)?
        }
    };
    *at = Value::Number(sum);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn steps(path: &str) -> Vec<Step> {
        parse_path(path).unwrap()
    }

    #[test]
    fn paths_are_read_and_what_is_wrong_is_pointed_at() {
        let member = |name: &str| Step::Member(name.into());
        assert_eq!(steps("$"), []);
        assert_eq!(
            steps("$.a.b[0][12].\"c d.[\""),
            [member("a"), member("b"), Step::Element(0), Step::Element(12), member("c d.[")]
        );
        for (path, at) in
            [("a", 1), ("$a", 2), ("$.", 3), ("$.a..b", 5), ("$[x]", 3), ("$[-1]", 3), ("$[1", 2), ("$.\"a", 3), ("$.ä..", 5)]
        {
            let error = parse_path(path).unwrap_err();
            assert!(error.message().ends_with(&format!("at character {at}")), "{path}: {error}");
        }
        assert!(parse_path(&format!("${}", ".a".repeat(65))).is_err());
    }

    #[test]
    fn updates_do_what_they_say() {
        let original = json!({"a": {"b": 1}, "l": [1, 2], "s": "x", "n": null});
        let updated = |update: &dyn Fn(&mut Value) -> Result<()>| {
            let mut document = original.clone();
            update(&mut document).map(|()| document)
        };
        let with = |path: &str, value: Value| updated(&|document| set(document, &steps(path), value.clone()));
        assert_eq!(with("$.a.b", json!(2)).unwrap()["a"], json!({"b": 2}));
        assert_eq!(with("$.a.c.d", json!([1])).unwrap()["a"], json!({"b": 1, "c": {"d": [1]}}));
        assert_eq!(with("$.l[2]", json!(3)).unwrap()["l"], json!([1, 2, 3]));
        assert_eq!(with("$.n.deep", json!(true)).unwrap()["n"], json!({"deep": true}));
        assert_eq!(with("$", json!(5)).unwrap(), json!(5));
        assert!(with("$.l[4]", json!(3)).unwrap_err().message().contains("element 4 of an array of 2"));
        assert!(with("$.s.x", json!(3)).unwrap_err().message().contains("member \"x\" of a string"));
        assert!(with("$.a[0]", json!(3)).unwrap_err().message().contains("element 0 of an object"));
        let without = |path: &str| updated(&|document| remove(document, &steps(path)));
        assert_eq!(without("$.a.b").unwrap()["a"], json!({}));
        assert_eq!(without("$.l[0]").unwrap()["l"], json!([2]));
        assert_eq!(without("$.x.y[3]").unwrap(), original);
        assert!(without("$").is_err());
        let more = |path: &str| updated(&|document| append(document, &steps(path), json!("z")));
        assert_eq!(more("$.l").unwrap()["l"], json!([1, 2, "z"]));
        assert_eq!(more("$.new").unwrap()["new"], json!(["z"]));
        assert!(more("$.s").is_err());
        let plus = |path: &str, by: Value| updated(&|document| increment(document, &steps(path), &by));
        assert_eq!(plus("$.a.b", json!(41)).unwrap()["a"]["b"], json!(42));
        assert_eq!(plus("$.a.c", json!(0.5)).unwrap()["a"]["c"], json!(0.5));
        assert_eq!(plus("$.a.b", json!(i64::MAX)).unwrap_err().code(), "22003");
        assert_eq!(plus("$.s", json!(1)).unwrap_err().code(), "42804");
        let mut merged = original.clone();
        merge(&mut merged, json!({"a": {"b": null, "c": 1}, "l": 5, "s": {"x": null}}));
        assert_eq!(merged, json!({"a": {"c": 1}, "l": 5, "s": {}, "n": null}));
    }
}
