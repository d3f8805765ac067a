//! The tests every [`Materializer`] runs: `materializer_suite!(name, opener, batches)`.
//!
//! They check what a view owes the log: applied twice is applied once, a crash at any point loses and doubles nothing, and a
//! rebuild equals what grew step by step.

use std::path::Path;

use bytes::Bytes;

use super::{Materializer, Rejects};
use crate::frame::batch::{Batch, BatchBuilder, Compression, NewRecord, Record, Rewritten, rewrite, set_place};
use crate::types::{Offset, Term, TimestampMillis};

/// A view opened for the suite: the writing side, and a way to see its whole visible content as text.
pub struct Opened {
    /// The writing side.
    pub materializer: Box<dyn Materializer>,
    /// Everything a reader sees, in a stable order.
    pub content: Box<dyn Fn() -> String>,
}

/// Opens a view in a folder.
pub type Opener<'a> = &'a dyn Fn(&Path) -> Opened;

/// Lays out records `(key, value)` as batches of the given sizes, one after the other from offset 0; timestamps count up.
#[must_use]
pub fn batches(records: &[(Option<String>, Option<String>)], records_per_batch: usize) -> Vec<Batch> {
    let mut offset = Offset::ZERO;
    let mut out = Vec::new();
    for part in records.chunks(records_per_batch.max(1)) {
        let mut builder = BatchBuilder::new();
        for (n, (key, value)) in part.iter().enumerate() {
            let at = i64::try_from(offset.value()).unwrap_or(0) + i64::try_from(n).unwrap_or(0);
            builder.push(&NewRecord {
                key: key.as_deref().map(str::as_bytes),
                value: value.as_deref().map(str::as_bytes),
                headers: &[],
                timestamp: TimestampMillis::new(at),
            });
        }
        let mut raw = builder.finish(Compression::None);
        set_place(&mut raw, offset, Term::new(1));
        offset = offset.advance(part.len() as u64);
        out.push(Batch::open(&Bytes::from(raw)).expect("just built"));
    }
    out
}

fn feed(opened: &mut Opened, batches: &[Batch]) {
    let mut rejects = Rejects::default();
    for batch in batches {
        let end = batch.end_offset();
        if end > opened.materializer.next_offset() {
            opened.materializer.apply(batch, &mut rejects).expect("no local fault");
            assert_eq!(opened.materializer.next_offset(), end, "a batch is applied as a whole");
        }
    }
    opened.materializer.make_visible().expect("no local fault");
    assert_eq!(opened.materializer.visible(), opened.materializer.next_offset());
}

fn built_at_once(open: Opener<'_>, batches: &[Batch]) -> String {
    let dir = tempdir("rebuild");
    let mut opened = open(&dir.0);
    feed(&mut opened, batches);
    (opened.content)()
}

/// Opening again after a checkpoint shows the same, and nothing is applied twice when the log is replayed from its start.
///
/// # Panics
/// When the view breaks its promise; so do all functions of this module.
pub fn a_replay_changes_nothing(open: Opener<'_>, batches: &[Batch]) {
    let dir = tempdir("replay");
    let mut opened = open(&dir.0);
    feed(&mut opened, batches);
    let before = (opened.content)();
    let end = opened.materializer.checkpoint().expect("no local fault");
    assert_eq!(end, opened.materializer.next_offset(), "a checkpoint covers everything applied");
    drop(opened);
    let mut opened = open(&dir.0);
    assert_eq!(opened.materializer.next_offset(), end, "the checkpoint is found again");
    assert_eq!((opened.content)(), before);
    feed(&mut opened, batches);
    assert_eq!((opened.content)(), before);
    assert_eq!(before, built_at_once(open, batches));
}

/// Dropped without a checkpoint after each batch, the view catches up to the same content.
#[allow(clippy::missing_panics_doc, reason = "see above")]
pub fn a_crash_at_any_step_loses_and_doubles_nothing(open: Opener<'_>, batches: &[Batch]) {
    let expected = built_at_once(open, batches);
    let dir = tempdir("crash");
    for step in 1..=batches.len() {
        let mut opened = open(&dir.0);
        feed(&mut opened, &batches[..step]);
        if step % 3 == 0 {
            opened.materializer.checkpoint().expect("no local fault");
        }
    }
    let mut opened = open(&dir.0);
    feed(&mut opened, batches);
    assert_eq!((opened.content)(), expected);
}

/// A gap of offsets without records is part of what a checkpoint remembers.
#[allow(clippy::missing_panics_doc, reason = "see above")]
pub fn a_gap_is_remembered(open: Opener<'_>, batches: &[Batch]) {
    let dir = tempdir("gap");
    let mut opened = open(&dir.0);
    feed(&mut opened, batches);
    let next = opened.materializer.next_offset().advance(1_000);
    opened.materializer.skip_to(next).expect("no local fault");
    opened.materializer.checkpoint().expect("no local fault");
    let before = (opened.content)();
    drop(opened);
    let opened = open(&dir.0);
    assert_eq!(opened.materializer.next_offset(), next);
    assert_eq!((opened.content)(), before);
}

/// Batches that compaction took records out of still count with all their offsets, also for a view that stands inside of one.
#[allow(clippy::missing_panics_doc, reason = "see above")]
pub fn what_compaction_left_is_applied_to_its_end(open: Opener<'_>, batches: &[Batch]) {
    let batches: Vec<Batch> = batches.iter().map(thinned).collect();
    assert!(batches.iter().any(|batch| u64::from(batch.count()) < batch.base_offset().records_until(batch.end_offset())));
    a_replay_changes_nothing(open, &batches);
    a_crash_at_any_step_loses_and_doubles_nothing(open, &batches);
    let dir = tempdir("inside");
    let (first, rest) = batches.split_first().expect("the suite is given batches");
    let mut opened = open(&dir.0);
    let inside = first.base_offset().records_until(first.end_offset()) - 1;
    opened.materializer.skip_to(first.base_offset().advance(inside)).expect("no local fault");
    feed(&mut opened, std::slice::from_ref(first));
    feed(&mut opened, rest);
}

/// The batch without every third record; the last record left stays.
fn thinned(batch: &Batch) -> Batch {
    let mut builder = BatchBuilder::new();
    for record in batch.records() {
        let record = record.expect("the suite's batches are well-formed");
        builder.push(&NewRecord { key: record.key, value: record.value, headers: &[], timestamp: record.timestamp });
    }
    let mut raw = builder.finish(Compression::None);
    set_place(&mut raw, batch.base_offset(), Term::new(1));
    let raw = Bytes::from(raw);
    let mut at = 0;
    let keep = |_: &Record<'_>| {
        at += 1;
        at % 3 != 0
    };
    match rewrite(&raw, keep).expect("it was just built") {
        Rewritten::Batch(raw) => Batch::open(&raw.into()).expect("it was just written"),
        _ => batch.clone(),
    }
}

struct TempDir(std::path::PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = crate::sys::fs::remove_dir(&self.0);
    }
}

fn tempdir(name: &str) -> TempDir {
    let unique = crate::sys::fs::random_id().expect("the system has randomness");
    let path = std::env::temp_dir().join(format!("headwater-suite-{name}-{unique}"));
    crate::sys::fs::create_dir(&path).expect("a temporary folder can be made");
    TempDir(path)
}

/// Runs the whole suite: `materializer_suite!(name, |dir| Opened { .. }, batches)`.
#[macro_export]
macro_rules! materializer_suite {
    ($name:ident, $open:expr, $batches:expr) => {
        mod $name {
            use super::*;

            macro_rules! case {
                ($case:ident) => {
                    #[test]
                    fn $case() {
                        $crate::materialize::suite::$case(&$open, &$batches);
                    }
                };
            }

            case!(a_replay_changes_nothing);
            case!(a_crash_at_any_step_loses_and_doubles_nothing);
            case!(a_gap_is_remembered);
            case!(what_compaction_left_is_applied_to_its_end);
        }
    };
}
