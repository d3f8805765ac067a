//! Row tables against a `BTreeMap`, through flushes, compactions, reopening and replays.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use logcore::materialize::suite::{Opened, batches};
use logcore::materialize::{Materializer, Projection, Rejects, ViewError};
use logcore::{Batch, Offset, materializer_suite};
use proptest::prelude::*;
use rowstore::key::encode_key;
use rowstore::vacuum::Copying;
use rowstore::value::{decode_row, encode_row};
use rowstore::{Column, ColumnType, RowChange, RowMaterializer, RowOptions, RowTable, ScanRequest, TableSchema, Value};

fn schema() -> TableSchema {
    TableSchema::new(vec![Column::new("id", ColumnType::BigInt), Column::new("note", ColumnType::Text)], vec![0])
}

/// Key: the id as text. Value: the note, or nothing for a delete. A key that is no number is rejected.
struct Notes;

impl Projection<Vec<RowChange>> for Notes {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Vec<RowChange>, ViewError> {
        let mut changes = Vec::new();
        for record in batch.records() {
            let record = record?;
            if record.offset < from {
                continue;
            }
            let Ok(id) = std::str::from_utf8(record.key.unwrap()).unwrap().parse() else {
                rejects.push(record.offset, "no number");
                continue;
            };
            let note = record.value.map(|note| Value::Text(String::from_utf8(note.to_vec()).unwrap()));
            let values = [Value::Int(id), note.clone().unwrap_or(Value::Null)];
            let key = encode_key(&values, &schema())?;
            let value = note.map(|_| encode_row(&values, &schema()));
            changes.push(RowChange { offset: record.offset, key, value, truncates: false });
        }
        Ok(changes)
    }
}

fn open(dir: &Path) -> (RowTable, RowMaterializer) {
    RowTable::open(dir, Arc::new(schema()), Box::new(Notes), &RowOptions::new(1 << 20).unwrap()).unwrap()
}

fn rows_at(table: &RowTable, cut: u64, projection: Vec<usize>) -> Vec<(i64, Option<String>)> {
    let mut rows = Vec::new();
    let request = ScanRequest { projection, cut: Offset::new(cut), batch_rows: 7, ..ScanRequest::default() };
    table
        .scan(&request, &mut |batch| {
            let ids = batch.column(0).as_primitive::<Int64Type>();
            let notes = (batch.num_columns() > 1).then(|| batch.column(1).as_string::<i32>());
            rows.extend((0..batch.num_rows()).map(|row| (ids.value(row), notes.map(|notes| notes.value(row).to_owned()))));
            ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

fn sample() -> Vec<Batch> {
    let records: Vec<_> = (0..200_u64)
        .map(|n| {
            let key = if n % 17 == 0 { "none".to_owned() } else { (n * 7 % 40).to_string() };
            (Some(key), (n % 5 != 0).then(|| format!("note {n}")))
        })
        .collect();
    batches(&records, 9)
}

materializer_suite!(
    suite,
    |dir: &Path| {
        let (table, materializer) = open(dir);
        Opened {
            materializer: Box::new(materializer),
            content: Box::new(move || format!("{:?}", rows_at(&table, 10_000, vec![0, 1]))),
        }
    },
    sample()
);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every past state that is kept stays readable, whatever is flushed, compacted, replayed or vacuumed meanwhile.
    #[test]
    fn any_offset_shows_the_table_as_it_was(steps in prop::collection::vec((0_i64..30, any::<bool>(), 0_u8..12), 1..150)) {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = dir.path().join("0");
        let (mut table, mut materializer) = open(&folder);
        let mut model: BTreeMap<i64, String> = BTreeMap::new();
        let mut states = vec![model.clone()];
        let records: Vec<_> = steps.iter().enumerate()
            .map(|(n, (id, put, _))| (Some(id.to_string()), put.then(|| format!("{id} at {n}")))).collect();
        let log = batches(&records, 1);
        for (n, (id, put, action)) in steps.iter().enumerate() {
            if *put { model.insert(*id, format!("{id} at {n}")); } else { model.remove(id); }
            states.push(model.clone());
            materializer.apply(&log[n], &mut Rejects::default()).unwrap();
            if *action < 3 { materializer.checkpoint().unwrap(); }
            if *action == 0 {
                drop((table, materializer));
                (table, materializer) = open(&folder);
                let from = usize::try_from(materializer.next_offset().value()).unwrap();
                for batch in &log[from..=n] { materializer.apply(batch, &mut Rejects::default()).unwrap(); }
            }
            if *action == 11 {
                // A copy of the rows as they were a little while ago goes on in the place of the table.
                let mark = Offset::new((n as u64 + 1).saturating_sub(id.unsigned_abs())).max(table.kept_from()).max(Offset::new(1));
                folder = dir.path().join((n + 1).to_string());
                let options = RowOptions::new(1 << 20).unwrap();
                let mut copying = Copying::begin(&table, &[], mark, &folder, &options).unwrap();
                while copying.step(3).unwrap() {}
                let items = copying.finish().unwrap();
                drop((table, materializer));
                (table, materializer) = open(&folder);
                prop_assert_eq!((table.kept_from(), materializer.next_offset()), (mark, mark));
                let from = usize::try_from(mark.value()).unwrap();
                prop_assert_eq!((table.versions_kept().0, items), (items, states[from].len() as u64));
                for batch in &log[from..=n] { materializer.apply(batch, &mut Rejects::default()).unwrap(); }
            }
        }
        let kept = usize::try_from(table.kept_from().value()).unwrap();
        for (cut, state) in states.iter().enumerate().skip(kept) {
            let found = rows_at(&table, cut as u64, vec![0, 1]);
            let expected: Vec<_> = state.iter().map(|(id, note)| (*id, Some(note.clone()))).collect();
            prop_assert_eq!(found, expected, "at {}", cut);
        }
        for (id, note) in &model {
            let key = encode_key(&[Value::Int(*id), Value::Null], &schema()).unwrap();
            let row = table.get(&key, Offset::new(steps.len() as u64)).unwrap().unwrap();
            prop_assert_eq!(decode_row(&row, &schema()).unwrap(), vec![Value::Int(*id), Value::Text(note.clone())]);
        }
    }
}
