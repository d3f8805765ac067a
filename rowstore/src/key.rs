//! Primary keys as bytes whose order is the order of the values.
//!
//! # Format
//! `docs/format.md`, "Key". Numbers are big-endian with the sign turned; text and bytes escape zero and end with `00 01`, so
//! that no key is a prefix of another and a prefix of columns is a prefix of bytes.

use crate::error::{Error, Result};
use crate::schema::TableSchema;
use crate::value::Value;

/// The longest key a tree takes.
pub const KEY_BYTES_MAX: usize = 16 << 10;

/// Encodes the primary key of a row whose `values` are in column order.
///
/// # Errors
/// [`Error::NullKey`], [`Error::KeyTooLarge`].
pub fn encode_key(values: &[Value], schema: &TableSchema) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(16);
    for at in &schema.primary_key {
        if values[*at] == Value::Null {
            return Err(Error::NullKey { column: schema.columns[*at].name.clone() });
        }
        encode_part(&mut out, &values[*at]);
    }
    if out.len() > KEY_BYTES_MAX {
        return Err(Error::KeyTooLarge { bytes: out.len(), max: KEY_BYTES_MAX });
    }
    Ok(out)
}

/// Appends one value of a key; NULL, which sorts first, is nothing.
pub fn encode_part(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => {}
        Value::Boolean(value) => out.push(u8::from(*value)),
        Value::Int(value) | Value::Time(value) | Value::Timestamp(value) => out.extend_from_slice(&turn(*value).to_be_bytes()),
        Value::Date(value) => out.extend_from_slice(&turn(i64::from(*value)).to_be_bytes()),
        Value::Real(value) => out.extend_from_slice(&order_float(f64::from(*value)).to_be_bytes()),
        Value::Double(value) => out.extend_from_slice(&order_float(*value).to_be_bytes()),
        Value::Numeric(value) => out.extend_from_slice(&turn_wide(*value).to_be_bytes()),
        Value::Interval(value) => out.extend_from_slice(&turn_wide(value.comparable()).to_be_bytes()),
        Value::Uuid(value) => out.extend_from_slice(value),
        Value::Text(value) => put_escaped(out, value.as_bytes()),
        Value::Bytes(value) => put_escaped(out, value),
        Value::Array(items) => {
            for item in items {
                out.push(if matches!(item, Value::Null) { NULL_ITEM } else { ITEM });
                encode_part(out, item);
            }
            out.push(END_OF_ITEMS);
        }
    }
}

/// Behind the last element of an array; an element is in front of it. So a shorter array comes before a longer one.
const END_OF_ITEMS: u8 = 0;
const ITEM: u8 = 1;
/// PostgreSQL sorts NULL behind every other element.
const NULL_ITEM: u8 = 2;

fn turn(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}

fn turn_wide(value: i128) -> u128 {
    value.cast_unsigned() ^ (1 << 127)
}

/// The bits of a float in an order that is the floats' own; both zeros are one, all NaN are one and the largest.
fn order_float(value: f64) -> u64 {
    let bits = if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() };
    if bits >> 63 == 1 { !bits } else { bits | (1 << 63) }
}

fn put_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 1]);
}

/// The text that is the whole of a key; `None` when it is something else.
#[must_use]
pub fn text_of_part(part: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.strip_suffix(&[0, 1])?.iter();
    while let Some(byte) = rest.next() {
        if *byte == 0 && rest.next() != Some(&0xff) {
            return None;
        }
        bytes.push(*byte);
    }
    String::from_utf8(bytes).ok()
}

/// The smallest key above every key that begins with `prefix`; `None` when there is none.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut out = prefix[..=last].to_vec();
    out[last] += 1;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(value: Value) -> Vec<u8> {
        let mut out = Vec::new();
        encode_part(&mut out, &value);
        out
    }

    proptest! {
        #[test]
        fn a_text_is_read_back(text in "[\0\u{1}a\u{ff}\u{10ffff}]{0,12}") {
            prop_assert_eq!(text_of_part(&key(Value::Text(text.clone()))), Some(text));
        }

        #[test]
        fn integers_keep_their_order(a: i64, b: i64) {
            prop_assert_eq!(key(Value::Int(a)).cmp(&key(Value::Int(b))), a.cmp(&b));
        }

        #[test]
        fn numerics_keep_their_order(a: i128, b: i128) {
            prop_assert_eq!(key(Value::Numeric(a)).cmp(&key(Value::Numeric(b))), a.cmp(&b));
        }

        #[test]
        fn floats_keep_their_order(a in any::<f64>(), b in any::<f64>()) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            prop_assert_eq!(Some(key(Value::Double(a)).cmp(&key(Value::Double(b)))), a.partial_cmp(&b));
        }

        #[test]
        fn texts_keep_their_order_also_before_another_column(a in "[\0a\u{ff}]{0,4}", b in "[\0a\u{ff}]{0,4}", x: i64, y: i64) {
            let pair = |text: &str, n| { let mut out = key(Value::Text(text.into())); encode_part(&mut out, &Value::Int(n)); out };
            prop_assert_eq!(pair(&a, x).cmp(&pair(&b, y)), (a.as_bytes(), x).cmp(&(b.as_bytes(), y)));
        }
    }

    #[test]
    fn the_key_after_a_prefix_is_above_all_with_it() {
        assert_eq!(after_prefix(&[1, 0xff]), Some(vec![2]));
        assert_eq!(after_prefix(&[0xff]), None);
    }
}
