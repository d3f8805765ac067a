//! Values of every type through rows, keys and Arrow, and rows through changes of their table's columns.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::cmp::Ordering;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use rowstore::key::{encode_key, encode_part};
use rowstore::value::{build_column, decode_row, encode_row};
use rowstore::{Column, ColumnType, Interval, TableSchema, Value};

fn scalars() -> Vec<ColumnType> {
    vec![
        ColumnType::Boolean,
        ColumnType::SmallInt,
        ColumnType::Integer,
        ColumnType::BigInt,
        ColumnType::Real,
        ColumnType::Double,
        ColumnType::Numeric { precision: 38, scale: 10 },
        ColumnType::Text,
        ColumnType::Varchar { length: 8 },
        ColumnType::Char { length: 8 },
        ColumnType::Bytea,
        ColumnType::Date,
        ColumnType::Time,
        ColumnType::Timestamp,
        ColumnType::TimestampTz,
        ColumnType::Interval,
        ColumnType::Uuid,
        ColumnType::Json,
    ]
}

fn any_kind() -> impl Strategy<Value = ColumnType> {
    let scalar = prop::sample::select(scalars());
    prop_oneof![scalar.clone(), scalar.prop_map(|kind| ColumnType::Array(Box::new(kind)))]
}

/// Small numbers often, so that values meet, extremes too.
fn integer(range: std::ops::RangeInclusive<i64>) -> impl Strategy<Value = i64> {
    let (low, high) = (*range.start(), *range.end());
    prop_oneof![low.max(-3)..=high.min(3), Just(low), Just(high), range]
}

fn any_value(kind: &ColumnType) -> BoxedStrategy<Value> {
    let limit = 10_i128.pow(38) - 1;
    match kind {
        ColumnType::Boolean => any::<bool>().prop_map(Value::Boolean).boxed(),
        ColumnType::SmallInt => integer(i16::MIN.into()..=i16::MAX.into()).prop_map(Value::Int).boxed(),
        ColumnType::Integer => integer(i32::MIN.into()..=i32::MAX.into()).prop_map(Value::Int).boxed(),
        ColumnType::BigInt => integer(i64::MIN..=i64::MAX).prop_map(Value::Int).boxed(),
        ColumnType::Real => any::<u32>().prop_map(|bits| Value::Real(f32::from_bits(bits))).boxed(),
        ColumnType::Double => any::<u64>().prop_map(|bits| Value::Double(f64::from_bits(bits))).boxed(),
        ColumnType::Numeric { .. } => {
            prop_oneof![-300..300_i128, Just(limit), Just(-limit), -limit..limit].prop_map(Value::Numeric).boxed()
        }
        ColumnType::Text | ColumnType::Json | ColumnType::Varchar { .. } | ColumnType::Char { .. } => {
            "[\0a\u{1}\u{ff}\u{10ffff}]{0,5}".prop_map(Value::Text).boxed()
        }
        ColumnType::Bytea => {
            prop::collection::vec(prop_oneof![Just(0), Just(1), Just(255), any::<u8>()], 0..5).prop_map(Value::Bytes).boxed()
        }
        ColumnType::Date => {
            integer(i32::MIN.into()..=i32::MAX.into()).prop_map(|days| Value::Date(i32::try_from(days).unwrap())).boxed()
        }
        ColumnType::Time => integer(0..=86_399_999_999).prop_map(Value::Time).boxed(),
        ColumnType::Timestamp | ColumnType::TimestampTz => integer(i64::MIN..=i64::MAX).prop_map(Value::Timestamp).boxed(),
        ColumnType::Interval => {
            let span = (
                integer(i32::MIN.into()..=i32::MAX.into()),
                -70..70_i32,
                integer(-9_000_000_000_000_000..=9_000_000_000_000_000),
            );
            span.prop_map(|(months, days, micros)| {
                Value::Interval(Interval { months: i32::try_from(months).unwrap(), days, micros })
            })
            .boxed()
        }
        ColumnType::Uuid => prop_oneof![any::<[u8; 16]>(), any::<u8>().prop_map(|byte| [byte; 16])].prop_map(Value::Uuid).boxed(),
        ColumnType::Array(element) => prop::collection::vec(maybe(element), 0..11).prop_map(Value::Array).boxed(),
    }
}

fn maybe(kind: &ColumnType) -> BoxedStrategy<Value> {
    prop_oneof![1 => Just(Value::Null), 5 => any_value(kind)].boxed()
}

/// Equal to the last bit, unlike floats compare.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Real(a), Value::Real(b)) => a.to_bits() == b.to_bits(),
        (Value::Double(a), Value::Double(b)) => a.to_bits() == b.to_bits(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b,
    }
}

/// PostgreSQL's order, as far as keys know it: NaN is the largest and equal to itself.
fn order(a: &Value, b: &Value) -> Ordering {
    let floats = |a: f64, b: f64| a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
    match (a, b) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Greater,
        (_, Value::Null) => Ordering::Less,
        (Value::Boolean(a), Value::Boolean(b)) => a.cmp(b),
        (Value::Int(a), Value::Int(b)) | (Value::Time(a), Value::Time(b)) | (Value::Timestamp(a), Value::Timestamp(b)) => {
            a.cmp(b)
        }
        (Value::Real(a), Value::Real(b)) => floats(f64::from(*a), f64::from(*b)),
        (Value::Double(a), Value::Double(b)) => floats(*a, *b),
        (Value::Numeric(a), Value::Numeric(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Date(a), Value::Date(b)) => a.cmp(b),
        (Value::Interval(a), Value::Interval(b)) => a.comparable().cmp(&b.comparable()),
        (Value::Uuid(a), Value::Uuid(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            a.iter().zip(b).map(|(a, b)| order(a, b)).find(|order| order.is_ne()).unwrap_or(a.len().cmp(&b.len()))
        }
        (a, b) => panic!("{a:?} and {b:?} are of one type"),
    }
}

fn key(values: &[&Value]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| encode_part(&mut out, value));
    out
}

fn any_row() -> impl Strategy<Value = (Vec<ColumnType>, Vec<Value>)> {
    prop::collection::vec(any_kind(), 1..20).prop_flat_map(|kinds| {
        let values: Vec<_> = kinds.iter().map(maybe).collect();
        (Just(kinds), values)
    })
}

fn schema_of(kinds: &[ColumnType]) -> TableSchema {
    let columns = kinds.iter().enumerate().map(|(n, kind)| Column::new(format!("c{n}"), kind.clone()));
    TableSchema::new(columns.collect(), vec![])
}

proptest! {
    #[test]
    fn rows_come_back_bit_equal((kinds, row) in any_row()) {
        let schema = schema_of(&kinds);
        let bytes = encode_row(&row, &schema);
        let found = decode_row(&bytes, &schema).unwrap();
        prop_assert!(found.iter().zip(&row).all(|(a, b)| same(a, b)), "{:?} came back as {:?}", row, found);
        prop_assert_eq!(encode_row(&found, &schema), bytes);
    }

    #[test]
    fn arrow_gives_back_what_it_got((kind, values) in any_kind().prop_flat_map(|kind| {
        let values = prop::collection::vec(maybe(&kind), 0..12);
        (Just(kind), values)
    })) {
        let array = build_column(&kind, values.iter()).unwrap();
        prop_assert_eq!(array.data_type(), &kind.arrow());
        for (at, value) in values.iter().enumerate() {
            let found = Value::from_array(&array, at, &kind);
            prop_assert!(same(&found, value), "{:?} came back as {:?}", value, found);
        }
    }

    #[test]
    fn keys_are_in_the_order_of_their_values((a, b, x, y) in any_kind().prop_flat_map(|kind| {
        (any_value(&kind), any_value(&kind), any::<i64>(), any::<i64>())
    })) {
        prop_assert_eq!(key(&[&a]).cmp(&key(&[&b])), order(&a, &b), "{:?} and {:?}", a, b);
        let (x, y) = (Value::Int(x), Value::Int(y));
        prop_assert_eq!(key(&[&a, &x]).cmp(&key(&[&b, &y])), order(&a, &b).then(order(&x, &y)), "before another column");
    }

    #[test]
    fn damaged_rows_are_errors_and_nothing_else((kinds, row) in any_row(), cut in any::<prop::sample::Index>(), flip in any::<(prop::sample::Index, u8)>()) {
        let schema = schema_of(&kinds);
        let mut bytes = encode_row(&row, &schema);
        let _ = decode_row(&bytes[..cut.index(bytes.len())], &schema);
        let at = flip.0.index(bytes.len());
        bytes[at] ^= flip.1;
        let _ = decode_row(&bytes, &schema);
    }

    /// Rows written under any version of a schema, read under any other: what was not there yet is the column's value for that,
    /// what is no longer there is not seen.
    #[test]
    fn any_version_of_a_schema_reads_any_row(
        kinds in prop::collection::vec(any_kind(), 1..6),
        steps in prop::collection::vec((any_kind().prop_flat_map(|kind| {
            let value = maybe(&kind);
            (Just(kind), value)
        }), prop::option::of(any::<prop::sample::Index>())), 0..10),
        runner in any::<u64>(),
    ) {
        let mut versions = vec![schema_of(&kinds)];
        for ((kind, missing), drop) in steps {
            let mut schema = versions.last().unwrap().clone();
            match drop {
                Some(at) if !schema.columns.is_empty() => schema.drop_column(at.index(schema.columns.len())),
                _ => schema.add_column(Column::new(format!("c{}", versions.len()), kind), &missing).unwrap(),
            }
            versions.push(serde_json::from_str(&serde_json::to_string(&schema).unwrap()).unwrap());
        }
        let mut generator = proptest::test_runner::TestRunner::new_with_rng(
            ProptestConfig::default(),
            proptest::test_runner::TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &runner.to_le_bytes().repeat(4)),
        );
        for written in &versions {
            let row: Vec<Value> = written.columns.iter()
                .map(|column| maybe(&column.kind).new_tree(&mut generator).unwrap().current()).collect();
            let bytes = encode_row(&row, written);
            for read in &versions {
                let found = decode_row(&bytes, read).unwrap();
                prop_assert_eq!(found.len(), read.columns.len());
                for (column, found) in read.columns.iter().zip(&found) {
                    let held = written.columns.iter().position(|held| held.id == column.id);
                    let dropped_before = (column.id as usize) < written.physical_columns();
                    match held {
                        Some(at) => prop_assert!(same(found, &row[at])),
                        None if dropped_before => prop_assert_eq!(found, &Value::Null),
                        None => {
                            let schema = TableSchema::new(vec![column.clone()], vec![]);
                            let missing = decode_row(&[2, 0], &schema).unwrap();
                            prop_assert!(same(found, &missing[0]));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn extremes_come_back() {
    let kinds = [
        (ColumnType::Boolean, vec![Value::Boolean(true), Value::Boolean(false)]),
        (ColumnType::SmallInt, vec![Value::Int(-32_768), Value::Int(32_767)]),
        (ColumnType::Real, vec![Value::Real(f32::MIN_POSITIVE), Value::Real(f32::INFINITY)]),
        (ColumnType::Double, vec![Value::Double(-0.0), Value::Double(f64::MAX)]),
        (ColumnType::Numeric { precision: 38, scale: 2 }, vec![Value::Numeric(i128::MIN), Value::Numeric(i128::MAX)]),
        (ColumnType::Interval, vec![Value::Interval(Interval { months: i32::MIN, days: i32::MIN, micros: i64::MIN })]),
        (ColumnType::Array(Box::new(ColumnType::Text)), vec![Value::Array(vec![]), Value::Array(vec![Value::Null; 9])]),
    ];
    let schema = schema_of(&kinds.iter().map(|(kind, _)| kind.clone()).collect::<Vec<_>>());
    for pick in 0..3 {
        let row: Vec<Value> = kinds.iter().map(|(_, values)| values.get(pick).cloned().unwrap_or(Value::Null)).collect();
        assert_eq!(decode_row(&encode_row(&row, &schema), &schema).unwrap(), row);
    }
}

#[test]
fn a_key_column_behind_a_dropped_one_stays_the_key() {
    let mut schema = schema_of(&[ColumnType::Text, ColumnType::BigInt]);
    schema.primary_key = vec![1];
    let before = encode_key(&[Value::Text("x".into()), Value::Int(7)], &schema).unwrap();
    schema.drop_column(0);
    assert_eq!(schema.primary_key, [0]);
    assert_eq!(encode_key(&[Value::Int(7)], &schema).unwrap(), before);
}
