//! The row codec and any bytes at all: an error or values, nothing else, and no more memory than the bytes are worth. What was
//! encoded comes back; keys and index entries sort as their values do.
//!
//! A case follows from its number alone. `HEADWATER_SEED` says which comes first, `HEADWATER_TORTURE_ROWS` how many are run of each
//! kind (default 20,000). The properties themselves are those of `codec.rs`; here the input is damaged on purpose, and there is more
//! of it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use arrow::array::Array;
use logcore::materialize::{Projection, Rejects, ViewError};
use logcore::{Batch, Offset};
use rowstore::index::encode_indexed;
use rowstore::key::{after_prefix, encode_part};
use rowstore::value::{build_column, decode_row, encode_row};
use rowstore::{Column, ColumnType, Interval, Overlay, RowChange, RowOptions, RowTable, ScanRequest, TableSchema, Value};

/// Cases of each kind in one run.
const CASES: u64 = 20_000;
/// Bytes of memory per encoded byte: eight NULL elements of an array are one bit each, and a list doubles as it grows.
const MEMORY_PER_BYTE: usize = 8 * 2 * size_of::<Value>();

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from((self.next() >> 16) % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    /// Bytes that mean something often: small counts, and those that go on in a varint.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len)
            .map(|_| match self.below(6) {
                0 => 0,
                1 => 0xff,
                2 => 0x80,
                3 => u8::try_from(self.below(16)).unwrap(),
                _ => self.byte(),
            })
            .collect()
    }

    fn integer(&mut self, low: i64, high: i64) -> i64 {
        match self.below(5) {
            0 => low,
            1 => high,
            2 | 3 => (i64::try_from(self.below(9)).unwrap() - 4).clamp(low, high),
            _ => self.next().cast_signed().clamp(low, high),
        }
    }
}

/// Runs `case` for each seed; a panic says which one it was.
fn each(case: impl Fn(&mut Random)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("HEADWATER_SEED").unwrap_or(1);
    let cases = number("HEADWATER_TORTURE_ROWS").unwrap_or(CASES);
    for seed in first..first + cases {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| case(&mut random))) {
            eprintln!("the seed is {seed}: run it alone with HEADWATER_SEED={seed} HEADWATER_TORTURE_ROWS=1");
            resume_unwind(panic);
        }
    }
}

fn any_kind(random: &mut Random) -> ColumnType {
    let scalar = match random.below(18) {
        0 => ColumnType::Boolean,
        1 => ColumnType::SmallInt,
        2 => ColumnType::Integer,
        3 => ColumnType::BigInt,
        4 => ColumnType::Real,
        5 => ColumnType::Double,
        6 => ColumnType::Numeric { precision: 38, scale: 10 },
        7 => ColumnType::Text,
        8 => ColumnType::Varchar { length: 8 },
        9 => ColumnType::Char { length: 8 },
        10 => ColumnType::Bytea,
        11 => ColumnType::Date,
        12 => ColumnType::Time,
        13 => ColumnType::Timestamp,
        14 => ColumnType::TimestampTz,
        15 => ColumnType::Interval,
        16 => ColumnType::Uuid,
        _ => ColumnType::Json,
    };
    if random.chance(4) { ColumnType::Array(Box::new(scalar)) } else { scalar }
}

fn any_value(random: &mut Random, kind: &ColumnType) -> Value {
    match kind {
        ColumnType::Boolean => Value::Boolean(random.chance(2)),
        ColumnType::SmallInt => Value::Int(random.integer(i16::MIN.into(), i16::MAX.into())),
        ColumnType::Integer => Value::Int(random.integer(i32::MIN.into(), i32::MAX.into())),
        ColumnType::BigInt => Value::Int(random.integer(i64::MIN, i64::MAX)),
        ColumnType::Real => {
            let special = [0.0, -0.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, 1.5, -1.5];
            let bits = u32::try_from(random.next() >> 32).unwrap();
            Value::Real(if random.chance(2) { special[random.below(special.len())] } else { f32::from_bits(bits) })
        }
        ColumnType::Double => {
            let special =
                [0.0, -0.0, f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, 5e-324, 1.5, -1.5];
            Value::Double(if random.chance(2) { special[random.below(special.len())] } else { f64::from_bits(random.next()) })
        }
        ColumnType::Numeric { .. } => {
            let limit = 10_i128.pow(38) - 1;
            let wide = i128::from(random.next().cast_signed()) << random.below(60);
            Value::Numeric([limit, -limit, 0, 1, -1, i128::from(random.integer(-300, 300)), wide][random.below(7)])
        }
        ColumnType::Text | ColumnType::Json | ColumnType::Varchar { .. } | ColumnType::Char { .. } => {
            let signs = ["\0", "a", "\u{1}", "\u{ff}", "\u{10ffff}", "b", "\0\u{1}"];
            Value::Text((0..random.below(6)).map(|_| signs[random.below(signs.len())]).collect())
        }
        ColumnType::Bytea => {
            let len = random.below(6);
            Value::Bytes(random.bytes(len))
        }
        ColumnType::Date => Value::Date(i32::try_from(random.integer(i32::MIN.into(), i32::MAX.into())).unwrap()),
        ColumnType::Time => Value::Time(random.integer(0, 86_399_999_999)),
        ColumnType::Timestamp | ColumnType::TimestampTz => Value::Timestamp(random.integer(i64::MIN, i64::MAX)),
        ColumnType::Interval => Value::Interval(Interval {
            months: i32::try_from(random.integer(-100, 100)).unwrap(),
            days: i32::try_from(random.integer(-3_000, 3_000)).unwrap(),
            micros: random.integer(-9_000_000_000_000_000, 9_000_000_000_000_000),
        }),
        ColumnType::Uuid => {
            let bytes = random.bytes(16);
            Value::Uuid(bytes.try_into().unwrap())
        }
        ColumnType::Array(element) => Value::Array((0..random.below(12)).map(|_| maybe(random, element)).collect()),
    }
}

fn maybe(random: &mut Random, kind: &ColumnType) -> Value {
    if random.chance(6) { Value::Null } else { any_value(random, kind) }
}

/// A schema with a past: columns that were added with a value for old rows, and some that are gone.
fn any_schema(random: &mut Random) -> TableSchema {
    let columns = (0..1 + random.below(9)).map(|n| Column::new(format!("c{n}"), any_kind(random)));
    let mut schema = TableSchema::new(columns.collect(), vec![]);
    for n in 0..random.below(4) {
        let kind = any_kind(random);
        let missing = maybe(random, &kind);
        schema.add_column(Column::new(format!("later{n}"), kind), &missing).unwrap();
        if schema.columns.len() > 1 && random.chance(2) {
            schema.drop_column(random.below(schema.columns.len()));
        }
    }
    schema
}

fn any_row(random: &mut Random, schema: &TableSchema) -> Vec<Value> {
    schema.columns.iter().map(|column| maybe(random, &column.kind)).collect()
}

/// Bytes that are a row in part: any bytes at all, or a row that was changed, cut, grown, or is another schema's.
fn any_bytes(random: &mut Random, schema: &TableSchema) -> Vec<u8> {
    let mut bytes = match random.below(8) {
        0 => {
            let len = random.below(64);
            random.bytes(len)
        }
        1 => {
            let other = any_schema(random);
            encode_row(&any_row(random, &other), &other)
        }
        _ => encode_row(&any_row(random, schema), schema),
    };
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            _ if bytes.is_empty() => bytes.push(2),
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 0x7f, 0x80, 0xff][random.below(4)],
            2 => bytes.truncate(at),
            3 => {
                let len = random.below(12);
                let more = random.bytes(len);
                bytes.splice(at..at, more);
            }
            4 => drop(bytes.remove(at)),
            // A length of almost anything.
            _ => drop(bytes.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01])),
        }
    }
    bytes
}

fn memory(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Text(text) => text.capacity(),
            Value::Bytes(bytes) => bytes.capacity(),
            Value::Array(items) => {
                let own: usize = items.iter().map(|item| memory(item) - size_of::<Value>()).sum();
                items.capacity() * size_of::<Value>() + own
            }
            _ => 0,
        }
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

fn all_same(a: &[Value], b: &[Value]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

#[test]
fn any_bytes_are_a_row_or_an_error() {
    each(|random| {
        let schema = any_schema(random);
        let bytes = any_bytes(random, &schema);
        let Ok(values) = decode_row(&bytes, &schema) else { return };
        let missing: usize = schema.columns.iter().flat_map(|column| &column.missing).map(Vec::len).sum();
        let bound = (bytes.len() + missing) * MEMORY_PER_BYTE + (values.len() + 4) * 4 * size_of::<Value>();
        let used: usize = values.iter().map(memory).sum();
        assert!(used <= bound, "{} bytes take {used} bytes of memory, more than {bound}", bytes.len());
        let again = decode_row(&encode_row(&values, &schema), &schema).unwrap();
        assert!(all_same(&again, &values), "{values:?} came back as {again:?}");
    });
}

#[test]
fn rows_come_back() {
    each(|random| {
        let schema = any_schema(random);
        let row = any_row(random, &schema);
        let bytes = encode_row(&row, &schema);
        let found = decode_row(&bytes, &schema).unwrap();
        assert!(all_same(&found, &row), "{row:?} came back as {found:?}");
        assert_eq!(encode_row(&found, &schema), bytes);
        for (value, column) in row.iter().zip(&schema.columns) {
            let array = build_column(&column.kind, [value].into_iter()).unwrap();
            assert!(same(&Value::from_array(&array, 0, &column.kind), value), "{value:?} in Arrow");
        }
    });
}

/// Nothing: the rows of this test's tables are laid over them.
struct Nothing;

impl Projection<Vec<RowChange>> for Nothing {
    fn project(&mut self, _: &Batch, _: Offset, _: &mut Rejects) -> Result<Vec<RowChange>, ViewError> {
        Ok(Vec::new())
    }
}

#[test]
fn a_scan_over_any_bytes_is_batches_or_an_error() {
    let (dir, options) = (tempfile::tempdir().unwrap(), RowOptions::new(1 << 20).unwrap());
    let (table, _) = RowTable::open(dir.path(), Arc::default(), Box::new(Nothing), &options).unwrap();
    each(|random| {
        let schema = Arc::new(any_schema(random));
        let rows: Overlay =
            (0..1 + random.below(3)).map(|n| (vec![u8::try_from(n).unwrap()], Some(any_bytes(random, &schema)))).collect();
        let projection = (0..random.below(5)).map(|_| random.below(schema.columns.len())).collect();
        let expected = rows.len();
        let request =
            ScanRequest { projection, overlay: Some(Arc::new(rows)), batch_rows: 1 + random.below(3), ..ScanRequest::default() };
        let mut count = 0;
        let scanned = table.with_schema(Arc::clone(&schema)).scan(&request, &mut |batch| {
            batch.columns().iter().for_each(|column| column.to_data().validate_full().unwrap());
            count += batch.num_rows();
            ControlFlow::Continue(())
        });
        if scanned.is_ok() {
            assert_eq!(count, expected);
        }
    });
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

#[test]
fn keys_and_entries_sort_as_their_values() {
    each(|random| {
        let kinds: Vec<ColumnType> = (0..1 + random.below(4)).map(|_| any_kind(random)).collect();
        let descending: Vec<bool> = kinds.iter().map(|_| random.chance(2)).collect();
        let a: Vec<Value> = kinds.iter().map(|kind| any_value(random, kind)).collect();
        // Often the same in front, so that what is behind decides.
        let b: Vec<Value> =
            kinds.iter().zip(&a).map(|(kind, a)| if random.chance(2) { a.clone() } else { any_value(random, kind) }).collect();
        let key = |values: &[Value]| {
            values.iter().fold(Vec::new(), |mut out, value| {
                encode_part(&mut out, value);
                out
            })
        };
        let by_value = |a: &[Value], b: &[Value], descending: &[bool]| {
            let orders = a.iter().zip(b).zip(descending).map(|((a, b), turned)| if *turned { order(b, a) } else { order(a, b) });
            orders.fold(Ordering::Equal, Ordering::then)
        };
        assert_eq!(key(&a).cmp(&key(&b)), by_value(&a, &b, &vec![false; kinds.len()]), "keys of {a:?} and {b:?}");
        // What a prefix of the columns gives is a prefix of the bytes, and the range of it ends behind the key.
        let prefix = key(&a[..random.below(a.len() + 1)]);
        assert!(key(&a).starts_with(&prefix));
        assert!(after_prefix(&prefix).is_none_or(|end| key(&a) < end), "the end of a prefix of {a:?}");
        // Entries of an index have NULLs too.
        let nulls = |random: &mut Random, values: &[Value]| -> Vec<Value> {
            values.iter().map(|value| if random.chance(5) { Value::Null } else { value.clone() }).collect()
        };
        let (a, b) = (nulls(random, &a), nulls(random, &b));
        let entry = |values: &[Value]| {
            values.iter().zip(&descending).fold(Vec::new(), |mut out, (value, descending)| {
                encode_indexed(&mut out, value, *descending);
                out
            })
        };
        assert_eq!(entry(&a).cmp(&entry(&b)), by_value(&a, &b, &descending), "entries of {a:?} and {b:?}, {descending:?}");
    });
}
