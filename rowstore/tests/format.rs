//! The bytes of rows and keys, as releases wrote them. They were written down from `docs/format.md`, not by the encoder.
//!
//! A test here that fails means that data folders of an older release read differently: change the encoder, not the bytes. A new
//! layout gets a new version and bytes of its own beside these.
#![allow(clippy::unwrap_used, reason = "a test")]

use rowstore::key::encode_part;
use rowstore::value::{decode_row, encode_row};
use rowstore::{Column, ColumnType, Interval, TableSchema, Value};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Type, value, the row of a table with one such column (version 2), the key.
fn fixtures() -> Vec<(ColumnType, Value, &'static str, &'static str)> {
    vec![
        (ColumnType::Boolean, Value::Boolean(true), "02010101", "01"),
        (ColumnType::Boolean, Value::Boolean(false), "02010100", "00"),
        (ColumnType::SmallInt, Value::Int(-32_768), "020101ffff03", "7fffffffffff8000"),
        (ColumnType::Integer, Value::Int(2_147_483_647), "020101feffffff0f", "800000007fffffff"),
        (ColumnType::BigInt, Value::Int(i64::MIN), "020101ffffffffffffffffff01", "0000000000000000"),
        (ColumnType::BigInt, Value::Int(-1), "02010101", "7fffffffffffffff"),
        (ColumnType::Real, Value::Real(-1.5), "0201010000c0bf", "4007ffffffffffff"),
        (ColumnType::Double, Value::Double(0.1), "0201019a9999999999b93f", "bfb999999999999a"),
        (ColumnType::Double, Value::Double(-0.0), "0201010000000000000080", "8000000000000000"),
        (ColumnType::Double, Value::Double(f64::NAN), "020101000000000000f87f", "fff8000000000000"),
        (
            ColumnType::Numeric { precision: 18, scale: 2 },
            Value::Numeric(1_050),
            "020101b410",
            "8000000000000000000000000000041a",
        ),
        (
            ColumnType::Numeric { precision: 38, scale: 0 },
            Value::Numeric(-(10_i128.pow(38) - 1)),
            "020101fdffffffff8f918a93e8a3ecd096d4ccf6ac02",
            "34c4b357a5793b85f675ddc000000001",
        ),
        (ColumnType::Text, Value::Text("a\0ü".into()), "020101046100c3bc", "6100ffc3bc0001"),
        (ColumnType::Varchar { length: 5 }, Value::Text("héllo".into()), "0201010668c3a96c6c6f", "68c3a96c6c6f0001"),
        (ColumnType::Char { length: 4 }, Value::Text("ab".into()), "020101026162", "61620001"),
        (ColumnType::Json, Value::Text("{\"a\": 1}".into()), "020101087b2261223a20317d", "7b2261223a20317d0001"),
        (ColumnType::Bytea, Value::Bytes(vec![0, 1, 255]), "020101030001ff", "00ff01ff0001"),
        (ColumnType::Date, Value::Date(-719_162), "020101f3e457", "7ffffffffff506c6"),
        (ColumnType::Time, Value::Time(86_399_999_999), "020101feffbadd8305", "800000141dd75fff"),
        (ColumnType::Timestamp, Value::Timestamp(1_537_727_414_000_000), "02010180e6ae84c2a3bb05", "8005768e1045d980"),
        (ColumnType::TimestampTz, Value::Timestamp(-1), "02010101", "7fffffffffffffff"),
        (
            ColumnType::Interval,
            Value::Interval(Interval { months: 14, days: -3, micros: 4_000_005 }),
            "0201011c058aa4e803",
            "8000000000000000000020c49c106905",
        ),
        (
            ColumnType::Uuid,
            Value::Uuid(*b"\xa0\xee\xbc\x99\x9c\x0b\x4e\xf8\xbb\x6d\x6b\xb9\xbd\x38\x0a\x11"),
            "020101a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        ),
        (
            ColumnType::Array(Box::new(ColumnType::BigInt)),
            Value::Array(vec![Value::Int(1), Value::Null, Value::Int(-2)]),
            "0201010403050203",
            "01800000000000000102017ffffffffffffffe00",
        ),
        (ColumnType::Array(Box::new(ColumnType::Text)), Value::Array(vec![]), "0201010100", "00"),
        (
            ColumnType::Array(Box::new(ColumnType::Text)),
            Value::Array(vec![Value::Text("a".into()), Value::Text(String::new())]),
            "020101050203016100",
            "0161000101000100",
        ),
    ]
}

#[test]
fn every_type_is_written_as_it_always_was() {
    for (kind, value, row, key) in fixtures() {
        let schema = TableSchema::new(vec![Column::new("c", kind.clone())], vec![]);
        let mut encoded_key = Vec::new();
        encode_part(&mut encoded_key, &value);
        assert_eq!(hex(&encoded_key), key, "the key of {value:?} as {kind}");
        assert_eq!(hex(&encode_row(std::slice::from_ref(&value), &schema)), row, "the row of {value:?} as {kind}");
        let decoded = decode_row(&bytes(row), &schema).unwrap();
        assert_eq!(hex(&encode_row(&decoded, &schema)), row, "{kind}, read and written again");
        assert_eq!(format!("{:?}", decoded[0]), format!("{value:?}"), "{kind}");
    }
}

/// The catalog's words for types: data folders hold them.
#[test]
fn types_are_named_in_the_catalog_as_they_always_were() {
    for (kind, name) in [
        (ColumnType::Boolean, r#""boolean""#),
        (ColumnType::SmallInt, r#""small_int""#),
        (ColumnType::Integer, r#""integer""#),
        (ColumnType::BigInt, r#""big_int""#),
        (ColumnType::Real, r#""real""#),
        (ColumnType::Double, r#""double""#),
        (ColumnType::Numeric { precision: 18, scale: 2 }, r#"{"numeric":{"precision":18,"scale":2}}"#),
        (ColumnType::Text, r#""text""#),
        (ColumnType::Varchar { length: 5 }, r#"{"varchar":{"length":5}}"#),
        (ColumnType::Char { length: 5 }, r#"{"char":{"length":5}}"#),
        (ColumnType::Bytea, r#""bytea""#),
        (ColumnType::Date, r#""date""#),
        (ColumnType::Time, r#""time""#),
        (ColumnType::Timestamp, r#""timestamp""#),
        (ColumnType::TimestampTz, r#""timestamp_tz""#),
        (ColumnType::Interval, r#""interval""#),
        (ColumnType::Uuid, r#""uuid""#),
        (ColumnType::Json, r#""json""#),
        (ColumnType::Array(Box::new(ColumnType::BigInt)), r#"{"array":"big_int"}"#),
    ] {
        assert_eq!(serde_json::to_string(&kind).unwrap(), name);
        assert_eq!(serde_json::from_str::<ColumnType>(name).unwrap(), kind);
    }
}

const FIRST_SCHEMA: &str = r#"{"columns":[
    {"name":"id","kind":"big_int","not_null":false}, {"name":"note","kind":"json","not_null":false},
    {"name":"balance","kind":{"numeric":{"precision":18,"scale":2}},"not_null":false,"default":"0"},
    {"name":"owner","kind":"text","not_null":true}, {"name":"opened","kind":"date","not_null":false},
    {"name":"ratio","kind":"double","not_null":false}, {"name":"content","kind":"bytea","not_null":false}],"primary_key":[0]}"#;
const FIRST_ROW: &str = "017d0e1a04000000000000000000000000000003616e6e98b40200000000000004400200ff";
const SAME_ROW: &str = "02077d0eb41003616e6e98b40200000000000004400200ff";

#[test]
fn rows_of_version_1_are_read_also_after_their_table_changed() {
    let mut schema: TableSchema = serde_json::from_str(FIRST_SCHEMA).unwrap();
    let expected = [
        Value::Int(7),
        Value::Null,
        Value::Numeric(1_050),
        Value::Text("ann".into()),
        Value::Date(19_724),
        Value::Double(2.5),
        Value::Bytes(vec![0, 255]),
    ];
    assert_eq!(decode_row(&bytes(FIRST_ROW), &schema).unwrap(), expected);
    assert_eq!(decode_row(&bytes(SAME_ROW), &schema).unwrap(), expected);
    assert_eq!(hex(&encode_row(&expected, &schema)), SAME_ROW);
    schema.add_column(Column::new("since", ColumnType::Integer), &Value::Int(5)).unwrap();
    schema.drop_column(2);
    let [id, note, _, owner, opened, ratio, content] = expected;
    let changed = [id, note, owner, opened, ratio, content, Value::Int(5)];
    assert_eq!(decode_row(&bytes(FIRST_ROW), &schema).unwrap(), changed);
    assert_eq!(decode_row(&bytes(SAME_ROW), &schema).unwrap(), changed);
}
