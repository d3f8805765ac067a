//! Records as JSON, in and out.
//!
//! A value may be any JSON and comes back byte for byte; what is not JSON travels as base64. [`super::streams`] reads requests with
//! [`RecordIn`]; it, [`super::tail`] and the command line see records as [`write()`] lays them out.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use router::{AppendRecord, StoredRecord};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::json;

/// A record of a request in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordIn<'a> {
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    key_base64: Option<Cow<'a, str>>,
    // Unlike an absent value, null is one: a tombstone.
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value_base64: Option<Cow<'a, str>>,
    #[serde(default)]
    headers: serde_json::Map<String, Value>,
    #[serde(default)]
    timestamp: Option<i64>,
    #[serde(default)]
    partition: Option<u32>,
    #[serde(default, deserialize_with = "present")]
    expect: Option<IgnoredAny>,
}

fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl RecordIn<'_> {
    /// The record to append; borrowed parts are cut out of `body`, which they lie in.
    ///
    /// # Errors
    /// What is wrong with it, or that it is over `bytes_max`.
    pub fn into_record(self, body: &Bytes, bytes_max: usize) -> Result<AppendRecord, ApiError> {
        if self.expect.is_some() {
            return Err(ApiError::unsupported("\"expect\" is not supported yet").hint("leave it out"));
        }
        let key = match (self.key, self.key_base64) {
            (Some(_), Some(_)) => return Err(ApiError::invalid("it has both \"key\" and \"key_base64\"")),
            (Some(raw), None) => {
                json::key_text(raw).map_err(|error| ApiError::invalid(format!("\"key\" {error}")))?.map(Bytes::from)
            }
            (None, Some(text)) => Some(from_base64("key_base64", &text)?),
            (None, None) => None,
        };
        let value = match (self.value, self.value_base64) {
            (Some(_), Some(_)) => return Err(ApiError::invalid("it has both \"value\" and \"value_base64\"")),
            (Some(raw), None) if raw.get() == "null" => None,
            (Some(raw), None) => {
                let bytes = raw.get().as_bytes();
                if json::deeper_than(bytes, json::DEPTH_MAX) {
                    return Err(ApiError::invalid(format!("\"value\" is nested more than {} deep", json::DEPTH_MAX)));
                }
                Some(body.slice_ref(bytes))
            }
            (None, Some(text)) => Some(from_base64("value_base64", &text)?),
            (None, None) => {
                return Err(
                    ApiError::invalid("\"value\" is missing").hint("null is a tombstone, \"value_base64\" takes any bytes")
                );
            }
        };
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            match value {
                Value::Array(values) => {
                    for value in values {
                        headers.push((name.clone(), header_in(name, value)?));
                    }
                }
                value => headers.push((name.clone(), header_in(name, value)?)),
            }
        }
        let record = AppendRecord { key, value, headers, timestamp: self.timestamp, partition: self.partition };
        check_size(&record, bytes_max)?;
        Ok(record)
    }
}

fn from_base64(member: &str, text: &str) -> Result<Bytes, ApiError> {
    BASE64.decode(text).map(Bytes::from).map_err(|error| ApiError::invalid(format!("\"{member}\" is not base64: {error}")))
}

fn header_in(name: &str, value: &Value) -> Result<Option<Bytes>, ApiError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(Bytes::from(text.clone()))),
        Value::Number(number) => Ok(Some(Bytes::from(number.to_string()))),
        Value::Bool(bool) => Ok(Some(Bytes::from(bool.to_string()))),
        Value::Object(object) => match (object.len(), object.get("base64")) {
            (1, Some(Value::String(text))) => from_base64("base64", text).map(Some),
            _ => Err(bad_header(name)),
        },
        Value::Array(_) => Err(bad_header(name)),
    }
}

fn bad_header(name: &str) -> ApiError {
    ApiError::invalid(format!("the header \"{name}\" is neither text nor null nor {{\"base64\":\"...\"}}"))
}

/// Refuses a record whose key, value and headers come to more than `bytes_max`.
///
/// # Errors
/// Too large.
pub fn check_size(record: &AppendRecord, bytes_max: usize) -> Result<(), ApiError> {
    let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + len(value)).sum();
    let bytes = len(&record.key) + len(&record.value) + headers;
    if bytes > bytes_max {
        let error = ApiError::too_large(format!("the record has {bytes} bytes, over the limit of {bytes_max} bytes"));
        return Err(error.hint("split it, or store a reference to what is large"));
    }
    Ok(())
}

/// What one record is laid out as.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// Named as a member if given.
    pub partition: Option<u32>,
    /// Line breaks between the tokens of a value become spaces, so that it stays a line.
    pub one_line: bool,
}

/// Writes a record as one JSON object.
pub fn write(out: &mut Vec<u8>, record: &StoredRecord, layout: Layout) {
    out.push(b'{');
    if let Some(partition) = layout.partition {
        out.extend_from_slice(format!("\"partition\":{partition},").as_bytes());
    }
    out.extend_from_slice(format!("\"offset\":{},\"timestamp\":{},", record.offset, record.timestamp).as_bytes());
    match &record.key {
        None => out.extend_from_slice(b"\"key\":null"),
        Some(key) => match std::str::from_utf8(key) {
            Ok(text) => member(out, "key", text),
            Err(_) => member(out, "key_base64", &BASE64.encode(key)),
        },
    }
    out.push(b',');
    match &record.value {
        None => out.extend_from_slice(b"\"value\":null"),
        Some(value) if comes_back(value) => {
            out.extend_from_slice(b"\"value\":");
            let start = out.len();
            out.extend_from_slice(value);
            if layout.one_line {
                // Inside JSON strings line breaks are always escaped: these stand between tokens.
                out[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
            }
        }
        Some(value) => member(out, "value_base64", &BASE64.encode(value)),
    }
    out.extend_from_slice(b",\"headers\":");
    push_json(out, &Value::Object(headers_out(&record.headers)));
    out.push(b'}');
}

/// Whether a value written as JSON is read back as the same bytes: JSON, but not the null of a tombstone, and without white space
/// around it, which nobody keeps.
fn comes_back(value: &[u8]) -> bool {
    value != b"null" && value.trim_ascii().len() == value.len() && json::check(value).is_ok()
}

fn headers_out(headers: &[(String, Option<Bytes>)]) -> serde_json::Map<String, Value> {
    let mut object = serde_json::Map::new();
    for (name, value) in headers {
        let value = match value {
            None => Value::Null,
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Value::from(text),
                Err(_) => serde_json::json!({ "base64": BASE64.encode(bytes) }),
            },
        };
        match object.get_mut(name) {
            None => {
                object.insert(name.clone(), value);
            }
            // A name that occurs more than once has all its values.
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    object
}

fn member(out: &mut Vec<u8>, name: &str, text: &str) {
    out.extend_from_slice(format!("\"{name}\":").as_bytes());
    push_json(out, text);
}

/// Appends `value` as JSON.
pub fn push_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("writing texts, numbers and JSON values into memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AppendRecord, String> {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let record: RecordIn<'_> = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        record.into_record(&body, 100).map_err(|error| error.to_json())
    }

    #[test]
    fn values_stay_the_bytes_they_were() {
        let record =
            read(r#"{"key":7,"value": { "b" : 1.10, "a":"é\u00e9" } ,"headers":{"h":"1","n":null,"l":["x",{"base64":"/w=="}]}}"#);
        let record = record.unwrap();
        assert_eq!((record.key.unwrap(), record.value.unwrap()), ("7".into(), r#"{ "b" : 1.10, "a":"é\u00e9" }"#.into()));
        let ff = Bytes::from_static(b"\xff");
        let headers = [("h", Some("1".into())), ("l", Some("x".into())), ("l", Some(ff)), ("n", None)];
        assert_eq!(record.headers, headers.map(|(name, value): (&str, Option<Bytes>)| (name.to_owned(), value)));
    }

    #[test]
    fn null_is_a_tombstone_and_nothing_is_an_error() {
        assert_eq!(read(r#"{"key":"k","value":null}"#).unwrap().value, None);
        for (bad, says) in [
            (r#"{"key":"k"}"#, "is missing"),
            (r#"{"value":1,"valu":2}"#, "unknown field `valu`"),
            (r#"{"value":1,"value_base64":""}"#, "both"),
            (r#"{"value_base64":"%"}"#, "not base64"),
            (r#"{"value":1,"key":[]}"#, "neither a string nor a number"),
            (r#"{"value":1,"expect":null}"#, "0A000"),
            (r#"{"value":1,"headers":{"a":[[]]}}"#, "header"),
            (&format!(r#"{{"value":"{}"}}"#, "x".repeat(100)), "over the limit of 100 bytes"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_is_not_json_goes_out_as_base64_and_lines_stay_lines() {
        let record = |value: &'static [u8], key: &'static [u8]| StoredRecord {
            offset: 3,
            timestamp: 5,
            key: Some(Bytes::from_static(key)),
            value: Some(Bytes::from_static(value)),
            headers: vec![("a".into(), None), ("a".into(), Some("1".into()))],
        };
        let show = |record: &StoredRecord, layout| {
            let mut out = Vec::new();
            write(&mut out, record, layout);
            String::from_utf8(out).unwrap()
        };
        let line = Layout { partition: Some(1), one_line: true };
        assert_eq!(
            show(&record(b"{\n}", b"k\""), line),
            r#"{"partition":1,"offset":3,"timestamp":5,"key":"k\"","value":{ },"headers":{"a":[null,"1"]}}"#
        );
        let text = show(&record(b"not json", b"\xff"), Layout::default());
        assert!(text.contains(r#""key_base64":"/w==","value_base64":"bm90IGpzb24=""#), "{text}");
        for unlike in [b"null".as_slice(), b" 1", b"1\n", b""] {
            let text = show(&record(unlike, b"k"), Layout::default());
            let back = read(&text.replace(r#""offset":3,"#, "")).unwrap();
            assert_eq!(back.value.as_deref(), Some(unlike), "{text}");
        }
    }
}
