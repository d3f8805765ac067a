//! Appends that expect a last offset of their keys: optimistic concurrency for event-sourced aggregates.
//!
//! Whoever read a key's records up to offset n and decided on the next one says `expect: n`. What the key's last offset is, the
//! stream's key view ([`crate::view::keys`]) tells at a snapshot S; that nobody wrote the key since S, the partition's owner makes
//! sure of when it admits the batch. If somebody did, the expectation is judged again at a newer S: only a last offset that really
//! differs is a conflict.
//!
//! # Invariants
//! - A batch with expectations enters the log only if, for each of them, no record of the key lies between the expected offset and
//!   the batch, in flight included.
//! - S is never below what was committed when the request came, and tracking ([`super::tracking`]) began before that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use logcore::frame::FrameKind;
use logcore::partition::Conditions;
use logcore::{Batch, ErrorKind, Offset, Partition};
use rowstore::RowTable;

use super::{AppendError, Prepared, blocking};
use crate::answer::{AppendAnswer, AppendRecord, AppendRequest, Expect};
use crate::catalog::StreamDef;
use crate::database::Database;
use crate::define::key_view;
use crate::error::{Error, Result, sqlstate};
use crate::key_hash::key_hash;
use crate::position::Cut;
use crate::provider::stream::text_of;
use crate::view::keys::{KEY_BYTES_MAX, last_offset};
use crate::view::running::{Store, View};

/// Times an expectation is judged again when the owner has seen its key written meanwhile.
const ATTEMPTS_MAX: usize = 32;
/// Of a key, so much is shown.
const KEY_CHARS_SHOWN: usize = 100;

/// What is expected of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expectation {
    key: Bytes,
    expect: Expect,
}

/// What a request expects, once for each key.
fn expectations(records: &[AppendRecord]) -> Result<Vec<Expectation>> {
    let mut first: HashMap<&[u8], (usize, Option<Expect>)> = HashMap::new();
    let mut expected = Vec::new();
    for (n, record) in records.iter().enumerate() {
        let Some(key) = &record.key else {
            if record.expect.is_some() {
                return Err(Error::invalid(format!("record {n}: \"expect\" speaks of the record's key, and it has none"))
                    .hint("add \"key\", or leave out \"expect\""));
            }
            continue;
        };
        match (first.entry(key), record.expect) {
            (Entry::Vacant(slot), expect) => {
                slot.insert((n, expect));
                let Some(expect) = expect else { continue };
                if key.len() > KEY_BYTES_MAX {
                    let message = format!("record {n}: nothing can be expected of a key of {} bytes", key.len());
                    return Err(Error::invalid(message).hint(format!("up to {KEY_BYTES_MAX} bytes it can")));
                }
                expected.push(Expectation { key: key.clone(), expect });
            }
            (Entry::Occupied(_), None) => {}
            (Entry::Occupied(slot), Some(expect)) => match slot.get() {
                (_, Some(same)) if *same == expect => {}
                (at, Some(_)) => {
                    let message = format!("records {at} and {n} have the same key and expect different offsets of it");
                    return Err(Error::invalid(message).hint("what is expected holds before the first record of the key"));
                }
                (at, None) => {
                    let message = format!("record {n} expects something of a key that record {at} writes before it");
                    return Err(Error::invalid(message).hint("put \"expect\" into the first record of the key"));
                }
            },
        }
    }
    Ok(expected)
}

impl Database {
    /// Appends records of one partition if all that they expect of their keys holds.
    pub(super) async fn append_expecting(&self, def: &StreamDef, request: &AppendRequest) -> Result<AppendAnswer, AppendError> {
        let expected = Arc::new(expectations(&request.records)?);
        if request.producer.is_some() {
            return Err(Error::invalid("\"producer\" and \"expect\" can't be in one request")
                .hint("an append that expects something is refused when it is sent again: it needs no producer")
                .into());
        }
        if !self.tracking().is_on(def.id) {
            // What is refused is refused before a key view is made for it.
            self.only_batch(def, request)?;
        }
        let view = key_view::of(self, def, request.deadline).await?;
        let mut known_to = Offset::ZERO;
        for _ in 0..ATTEMPTS_MAX {
            let Prepared { partition, log, proposal, .. } = self.only_batch(def, request)?;
            known_to = known_to.max(log.committed().get());
            let snapshot = self.judge(&view, &log, Arc::clone(&expected), known_to, request).await?;
            let reads = expected.iter().map(|expectation| key_hash(&expectation.key)).collect();
            let proposal = proposal.when(Conditions { snapshot, reads, writes: Vec::new() });
            let appended = match log.append(proposal, request.deadline).await {
                Ok(ticket) => ticket.committed().await,
                Err(error) => Err(error),
            };
            match appended {
                Ok(appended) => {
                    let mut position = Cut::new();
                    position.raise(&def.name, partition, appended.end_offset());
                    return Ok(AppendAnswer { position, ack: appended.ack, duplicate: false });
                }
                Err(logcore::Error::Conflict { last_writer, .. }) => known_to = last_writer.advance(1),
                Err(logcore::Error::SnapshotTooOld { window_start, .. }) => known_to = window_start,
                Err(error) => return Err(Error::from(error).into()),
            }
        }
        Err(Error::new(sqlstate::SERIALIZATION_FAILURE, ErrorKind::Conflict, "other appends of the same keys were faster")
            .hint("send the request again")
            .into())
    }

    /// The one batch of a request that goes to one partition.
    fn only_batch(&self, def: &StreamDef, request: &AppendRequest) -> Result<Prepared> {
        let mut prepared = self.prepare(def, request, true)?;
        prepared.pop().ok_or_else(|| Error::internal("a request that expects something has records"))
    }

    /// Compares what is expected with the key view at or above `known_to`; gives the snapshot that was compared with.
    async fn judge(
        &self,
        view: &View,
        log: &Arc<Partition>,
        expected: Arc<Vec<Expectation>>,
        known_to: Offset,
        request: &AppendRequest,
    ) -> Result<Offset> {
        let number = log.id().partition.value() as usize;
        view.visible_to(number, known_to, request.deadline).await.map_err(|error| match error {
            logcore::Error::ViewStopped { reason } => key_view::stopped(&view.name(), &reason),
            other => other.into(),
        })?;
        // The generation is held while it is read: a rebuild must not take its files away.
        let generation = view.serving();
        let snapshot = generation.parts[number].task.visible();
        let (log, stream) = (Arc::clone(log), view.stream.name.clone());
        blocking(move || {
            let Store::Row(rows) = &generation.parts[number].store else {
                return Err(Error::internal("a key view has rows"));
            };
            for expectation in expected.iter() {
                compare(rows, &log, &stream, expectation, snapshot)?;
            }
            Ok(snapshot)
        })
        .await
    }
}

fn compare(rows: &RowTable, log: &Partition, stream: &str, expectation: &Expectation, snapshot: Offset) -> Result<()> {
    let last = last_offset(rows, &expectation.key, snapshot)?;
    let holds = match (expectation.expect, last) {
        (Expect::NoRecord, None) => true,
        // What the view remembers may be gone from the log: whoever reads the log finds no record of the key.
        (Expect::NoRecord, Some(last)) => is_gone(log, last)?,
        (Expect::Last(expected), Some(last)) => last.value() == expected,
        (Expect::Last(_), None) => false,
    };
    if holds {
        return Ok(());
    }
    let shown: String = text_of(&expectation.key).chars().take(KEY_CHARS_SHOWN).collect();
    let place = format!("key \"{shown}\" of {stream}/{}", log.id().partition);
    let found = last.map_or("it has no record".to_owned(), |last| format!("its last record is at offset {last}"));
    let message = match expectation.expect {
        Expect::NoRecord => format!("{place} was expected to have no record, {found}"),
        Expect::Last(expected) => format!("{place} was expected to have its last record at offset {expected}, {found}"),
    };
    Err(Error::new(sqlstate::SERIALIZATION_FAILURE, ErrorKind::Conflict, message)
        .hint("read the records of the key again and decide anew"))
}

/// Whether retention or compaction took the record at `offset`.
fn is_gone(log: &Partition, offset: Offset) -> Result<bool> {
    if offset < log.log_start() {
        return Ok(true);
    }
    let frames = match log.read(offset, 1) {
        Err(logcore::Error::OffsetOutOfRange { .. }) => return Ok(true),
        other => other?,
    };
    let Some(frame) = frames.first() else { return Ok(false) };
    if frame.header.kind != FrameKind::Batch {
        return Ok(true);
    }
    for record in Batch::open(&frame.body)?.records() {
        if record?.offset == offset {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Option<&'static str>, expect: Option<Expect>) -> AppendRecord {
        AppendRecord { key: key.map(Bytes::from), expect, ..AppendRecord::default() }
    }

    #[test]
    fn each_key_is_expected_once_before_its_first_record() {
        let (none, five) = (Some(Expect::NoRecord), Some(Expect::Last(5)));
        let fine = [
            record(Some("a"), five),
            record(Some("b"), None),
            record(Some("a"), None),
            record(Some("c"), none),
            record(Some("a"), five),
            record(None, None),
        ];
        let found = expectations(&fine).unwrap();
        let expected = |key: &'static str, expect| Expectation { key: key.into(), expect };
        assert_eq!(found, [expected("a", Expect::Last(5)), expected("c", Expect::NoRecord)]);
        let long = AppendRecord { key: Some(vec![b'k'; KEY_BYTES_MAX + 1].into()), expect: five, ..AppendRecord::default() };
        for (records, says) in [
            (vec![record(Some("a"), None), record(None, none)], "record 1: \"expect\" speaks of the record's key"),
            (vec![record(Some("a"), None), record(Some("a"), five)], "record 1 expects something of a key that record 0 writes"),
            (vec![record(Some("a"), none), record(Some("a"), five)], "records 0 and 1 have the same key"),
            (vec![long], "a key of 4097 bytes"),
        ] {
            assert!(expectations(&records).unwrap_err().message().contains(says), "{says}");
        }
    }
}
