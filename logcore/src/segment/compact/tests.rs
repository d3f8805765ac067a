//! Compaction against a plain evaluation: random records with keys and tombstones, in batches, frames and segments.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::error::Error;
use crate::frame::HEADER_BYTES;
use crate::frame::batch::{BatchBuilder, Compression, NewRecord, set_place};
use crate::segment::recovery::{Found, Verify, take_frame};
use crate::types::{RaftIndex, Term};

const NOW: TimestampMillis = TimestampMillis::new(1_700_000_000_000);
const GRACE: Duration = Duration::from_secs(60);
const AMPLE: usize = 1 << 16;

/// A record as it is read: offset, key, value, timestamp.
type Row = (u64, Option<Vec<u8>>, Option<Vec<u8>>, i64);

/// What a step of the log's life appends.
#[derive(Clone, Debug)]
enum Step {
    /// Key, value, age in seconds.
    Batch(Compression, Vec<(Option<u8>, Option<u16>, i64)>),
    Blank(u32),
    Flush,
}

/// Lays frames out as the owner does.
#[derive(Clone)]
struct Writer {
    next: Offset,
    index: RaftIndex,
    crc: u32,
}

impl Writer {
    fn new() -> Self {
        Self { next: Offset::ZERO, index: RaftIndex::NONE, crc: 0 }
    }

    fn frame(&mut self, kind: FrameKind, span: u32, max_timestamp: i64, body: Vec<u8>) -> Frame {
        if kind.is_entry() {
            self.index = self.index.next();
        }
        let header = FrameHeader {
            kind,
            frame_bytes: len_u32(frame_bytes(body.len())),
            base_offset: self.next,
            offset_span: span,
            body_crc: checksum(&body),
            term: Term::new(7),
            raft_index: if kind.is_entry() { self.index } else { RaftIndex::NONE },
            previous_crc: self.crc,
            body_bytes: len_u32(body.len()),
            max_timestamp: TimestampMillis::new(max_timestamp),
        };
        if kind.is_entry() {
            self.crc = header.encode().1;
        }
        self.next = header.end_offset();
        Frame { header, body: body.into() }
    }

    fn step(&mut self, step: &Step) -> Frame {
        match step {
            Step::Flush => self.frame(FrameKind::Flush, 0, 0, vec![9; 24]),
            Step::Blank(span) => self.frame(FrameKind::Blank, *span, 0, Vec::new()),
            Step::Batch(compression, records) => {
                let mut builder = BatchBuilder::new();
                for (key, value, age) in records {
                    let (key, value) = (key.map(|key| vec![key; 3]), value.map(|value| value.to_string().into_bytes()));
                    let timestamp = TimestampMillis::new(NOW.value() - age * 1_000);
                    builder.push(&NewRecord { key: key.as_deref(), value: value.as_deref(), headers: &[], timestamp });
                }
                let (mut batch, summary) = builder.finish_with_summary(*compression);
                set_place(&mut batch, self.next, Term::new(7));
                self.frame(FrameKind::Batch, summary.count, summary.max_timestamp.value(), batch)
            }
        }
    }
}

fn write(steps: &[Step]) -> Vec<Frame> {
    let mut writer = Writer::new();
    steps.iter().map(|step| writer.step(step)).collect()
}

fn encode(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, &frame.header, &frame.body);
    out
}

/// Frames out of a segment's bytes, checked as when they come from a disk.
fn decode(bytes: &[u8]) -> Vec<Frame> {
    let (mut rest, mut frames) = (Bytes::copy_from_slice(bytes), Vec::new());
    while !rest.is_empty() {
        let Found::Frame(frame, _) = take_frame(&rest, Verify::All) else {
            panic!("a whole frame at {}", bytes.len() - rest.len())
        };
        rest = rest.slice(frame.header.frame_bytes as usize..);
        frames.push(frame);
    }
    frames
}

fn rows(frames: &[Frame]) -> Vec<Row> {
    let mut rows = Vec::new();
    for frame in frames.iter().filter(|frame| frame.header.kind == FrameKind::Batch) {
        for record in Batch::open(&frame.body).unwrap().records() {
            let record = record.unwrap();
            let (key, value) = (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec));
            rows.push((record.offset.value(), key, value, record.timestamp.value()));
        }
    }
    rows
}

/// What a view by key holds after all rows.
fn view(rows: &[Row]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut view = BTreeMap::new();
    for (_, key, value, _) in rows {
        match (key, value) {
            (Some(key), Some(value)) => drop(view.insert(key.clone(), value.clone())),
            (Some(key), None) => drop(view.remove(key)),
            (None, _) => {}
        }
    }
    view
}

fn cleaner(budget_bytes: usize, floor: Offset, observed: &[Frame]) -> Cleaner {
    let mut cleaner = Cleaner::new(budget_bytes, floor, NOW, GRACE);
    for frame in observed {
        if !cleaner.observe(frame).unwrap() {
            break;
        }
    }
    cleaner
}

fn clean(cleaner: &Cleaner, frames: &[Frame]) -> (Vec<Frame>, CleanStats) {
    let (mut out, mut stats) = (Vec::new(), CleanStats::default());
    frames.iter().for_each(|frame| stats += cleaner.clean(frame, &mut out).unwrap());
    assert_eq!(stats.bytes_after, out.len() as u64);
    (decode(&out), stats)
}

/// What should be left of `rows` below `covered`.
fn expected(rows: &[Row], covered: Offset) -> Vec<Row> {
    let covered = covered.value();
    let stays = |row: &&Row| {
        let (offset, key, value, timestamp) = row;
        let replaced = |later: &Row| later.0 > *offset && later.0 < covered && later.1 == *key;
        let expired = value.is_none() && NOW.value() - timestamp > 60_000;
        key.is_none() || *offset >= covered || !(expired || rows.iter().any(replaced))
    };
    rows.iter().filter(stays).cloned().collect()
}

fn same_bytes(left: &[Frame], right: &[Frame]) -> bool {
    left.iter().map(encode).eq(right.iter().map(encode))
}

/// Everything but body and chain of the entries stays where it was.
fn check_places(before: &[Frame], after: &[Frame]) {
    let entries: Vec<&Frame> = before.iter().filter(|frame| frame.header.kind.is_entry()).collect();
    assert_eq!(entries.len(), after.len());
    for (old, new) in entries.into_iter().zip(after) {
        let (old, new) = (&old.header, &new.header);
        assert_eq!((new.base_offset, new.offset_span, new.raft_index), (old.base_offset, old.offset_span, old.raft_index));
        assert_eq!((new.term, new.previous_crc, new.max_timestamp), (old.term, old.previous_crc, old.max_timestamp));
        assert!(new.kind == old.kind || (old.kind, new.kind) == (FrameKind::Batch, FrameKind::Blank));
        assert!(new.kind == FrameKind::Batch || new.frame_bytes as usize == HEADER_BYTES || new == old);
    }
    assert!(after.windows(2).all(|two| two[0].end_offset() == two[1].header.base_offset), "spans are dense");
}

fn any_step() -> impl Strategy<Value = Step> {
    let key = prop::option::weighted(0.9, 0..8_u8);
    let value = prop::option::weighted(0.7, 0..1_000_u16);
    let record = (key, value, -10..200_i64);
    let compression = prop::sample::select(Compression::ALL.to_vec());
    prop_oneof![
        8 => (compression, prop::collection::vec(record, 1..7)).prop_map(|(compression, records)| Step::Batch(compression, records)),
        1 => (0..4_u32).prop_map(Step::Blank),
        1 => Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cleaned_prefix_reads_like_the_whole(
        steps in prop::collection::vec(any_step(), 1..30),
        prefix in any::<prop::sample::Index>(),
        floor in any::<prop::sample::Index>(),
        budget in prop_oneof![Just(AMPLE), 0..400_usize],
    ) {
        let frames = write(&steps);
        let before = rows(&frames);
        let end = frames.last().unwrap().end_offset();
        let floor = Offset::new(floor.index(crate::types::index(end.value()) + 1) as u64);
        let cleaner = cleaner(budget, floor, &frames);
        let covered = cleaner.covered_until();
        prop_assert!(covered <= floor);

        let (cleaned, left) = frames.split_at(prefix.index(frames.len() + 1));
        let (after, stats) = clean(&cleaner, cleaned);
        check_places(cleaned, &after);
        let now: Vec<Row> = rows(&after).into_iter().chain(rows(left)).collect();
        prop_assert_eq!(view(&now), view(&before), "every key has the value it had");
        let boundary = left.first().map_or(u64::MAX, |frame| frame.header.base_offset.value());
        let stays = expected(&before, covered);
        let wanted: Vec<Row> = before.iter().filter(|row| row.0 >= boundary || stays.contains(row)).cloned().collect();
        prop_assert_eq!(stats.superseded + stats.tombstones, (before.len() - wanted.len()) as u64);
        prop_assert_eq!(&now, &wanted);

        for (old, new) in cleaned.iter().filter(|frame| frame.header.kind.is_entry()).zip(&after) {
            if old.end_offset() > floor || rows(std::slice::from_ref(old)) == rows(std::slice::from_ref(new)) {
                prop_assert_eq!(encode(old), encode(new), "what does not change is copied byte for byte");
            }
        }
    }

    #[test]
    fn cleaning_twice_is_cleaning_once(steps in prop::collection::vec(any_step(), 1..30)) {
        let frames = write(&steps);
        let end = frames.last().unwrap().end_offset();
        let (once, _) = clean(&cleaner(AMPLE, end, &frames), &frames);
        let (twice, stats) = clean(&cleaner(AMPLE, end, &once), &once);
        prop_assert!(same_bytes(&once, &twice));
        prop_assert_eq!((stats.superseded, stats.tombstones, stats.bytes_after), (0, 0, stats.bytes_before));
    }

    #[test]
    fn a_pass_may_start_where_the_last_one_ended(
        steps in prop::collection::vec(any_step(), 2..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let frames = write(&steps);
        let end = frames.last().unwrap().end_offset();
        let (old, new) = frames.split_at(cut.index(frames.len()));
        let (mut log, _) = clean(&cleaner(AMPLE, end, old), old);
        let from = log.len();
        log.extend_from_slice(new);
        let (stepwise, _) = clean(&cleaner(AMPLE, end, &log[from..]), &log);
        let (whole, _) = clean(&cleaner(AMPLE, end, &log), &log);
        prop_assert!(same_bytes(&stepwise, &whole));
        prop_assert_eq!(rows(&whole), expected(&rows(&frames), end));
    }

    #[test]
    fn a_small_budget_gets_there_in_several_passes(steps in prop::collection::vec(any_step(), 1..30)) {
        let frames = write(&steps);
        let end = frames.last().unwrap().end_offset();
        let wanted = view(&rows(&frames));
        // Room for eight keys: as many as there are, so each pass gets over the end of the last one.
        let (mut log, mut covered) = (frames, Offset::ZERO);
        while covered < end {
            let cleaner = cleaner(SLOT_BYTES * 10, end, &log);
            prop_assert!(cleaner.covered_until() > covered);
            covered = cleaner.covered_until();
            log = clean(&cleaner, &log).0;
            prop_assert_eq!(&view(&rows(&log)), &wanted);
        }
    }

    #[test]
    fn the_map_is_a_map(puts in prop::collection::vec((any::<u8>(), 0..1_000_u64), 0..300), slots in 0..200_usize) {
        let (mut map, mut model) = (KeyMap::new(slots * SLOT_BYTES), HashMap::new());
        for (key, offset) in puts {
            let fits = model.contains_key(&key) || model.len() < slots / 5 * 4;
            prop_assert_eq!(map.put(&[key], Offset::new(offset)), fits);
            if fits {
                model.insert(key, Offset::new(offset));
            }
        }
        for key in 0..=255 {
            prop_assert_eq!(map.get(&[key]), model.get(&key).copied());
        }
    }
}

fn batch(records: &[(Option<u8>, Option<u16>, i64)]) -> Step {
    Step::Batch(Compression::None, records.to_vec())
}

#[test]
fn a_batch_without_records_left_becomes_a_blank_over_its_offsets() {
    let frames = write(&[batch(&[(Some(1), Some(1), 5), (Some(1), Some(2), 3)]), Step::Flush, batch(&[(Some(1), Some(3), 0)])]);
    let mut out = Vec::new();
    let stats = cleaner(AMPLE, Offset::new(3), &frames).clean(&frames[0], &mut out).unwrap();
    assert_eq!((stats.superseded, stats.tombstones, stats.bytes_after, out.len()), (2, 0, 64, 64));
    let blank = FrameHeader { kind: FrameKind::Blank, frame_bytes: 64, body_crc: 0, body_bytes: 0, ..frames[0].header };
    assert_eq!(decode(&out)[0].header, blank);
    assert_eq!((blank.offset_span, blank.raft_index, blank.max_timestamp.value()), (2, RaftIndex::new(1), NOW.value() - 3_000));
}

#[test]
fn a_tombstone_is_told_for_the_grace_time() {
    let frames = write(&[batch(&[(Some(1), Some(1), 90), (Some(1), None, 61), (Some(2), None, 60), (Some(3), Some(0), 900)])]);
    let kept = rows(&clean(&cleaner(AMPLE, Offset::new(4), &frames), &frames).0);
    assert_eq!(kept.iter().map(|row| row.0).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn extreme_times_are_only_times() {
    for (now, grace, gone) in [(i64::MIN, Duration::MAX, 0), (i64::MAX, Duration::ZERO, 1), (i64::MAX, Duration::MAX, 0)] {
        let frames = write(&[batch(&[(Some(1), None, 0)])]);
        let mut cleaner = Cleaner::new(AMPLE, Offset::new(1), TimestampMillis::new(now), grace);
        assert!(cleaner.observe(&frames[0]).unwrap());
        assert_eq!(cleaner.clean(&frames[0], &mut Vec::new()).unwrap().tombstones, gone, "{now} {grace:?}");
    }
}

#[test]
fn a_frame_that_reaches_over_the_floor_is_left_alone() {
    let frames = write(&[batch(&[(Some(1), Some(1), 0)]), batch(&[(Some(1), Some(2), 0), (Some(1), Some(3), 0)])]);
    let cleaner = cleaner(AMPLE, Offset::new(2), &frames);
    assert_eq!(cleaner.covered_until(), Offset::new(1));
    assert!(same_bytes(&clean(&cleaner, &frames).0, &frames));
}

#[test]
fn without_a_budget_nothing_goes() {
    let frames = write(&[batch(&[(None, Some(1), 0), (Some(1), Some(1), 0), (Some(1), None, 900)])]);
    let mut cleaner = Cleaner::new(0, Offset::new(3), NOW, GRACE);
    assert!(!cleaner.observe(&frames[0]).unwrap());
    assert_eq!(cleaner.covered_until(), Offset::new(1));
    assert!(same_bytes(&clean(&cleaner, &frames).0, &frames));
}

#[test]
fn an_unreadable_batch_ends_what_can_be_cleaned() {
    let mut frames = write(&[
        batch(&[(Some(1), Some(1), 0)]),
        batch(&[(Some(1), Some(2), 0)]),
        batch(&[(Some(2), Some(3), 0)]),
        batch(&[(Some(1), Some(4), 0)]),
    ]);
    let mut body = frames[2].body.to_vec();
    body[61] = 0xff;
    frames[2].body = body.into();
    let mut cleaner = Cleaner::new(AMPLE, Offset::new(4), NOW, GRACE);
    assert!(cleaner.observe(&frames[0]).unwrap() && cleaner.observe(&frames[1]).unwrap());
    assert!(matches!(cleaner.observe(&frames[2]), Err(Error::InvalidBatch { .. })));
    assert!(!cleaner.observe(&frames[3]).unwrap(), "it is over");
    assert_eq!(cleaner.covered_until(), Offset::new(2));
    let mut out = Vec::new();
    let gone: u64 = frames.iter().map(|frame| cleaner.clean(frame, &mut out).unwrap().superseded).sum();
    assert_eq!(gone, 1, "of the two that were read, the first");
}
