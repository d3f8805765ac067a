//! Looking into files from outside: whole, damaged at every byte, cut off at every length, and not of ours at all.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, on real files")]

mod common;

use std::path::{Path, PathBuf};

use common::{ID, append, options, value};
use logcore::frame::FrameKind;
use logcore::segment::inspect::{Chain, Content, FrameSeen, IndexSeen, Step, Summary, inspect_index, inspect_segment};
use logcore::{Error, Log, LogOptions, Offset, RaftIndex};
use proptest::prelude::*;

/// A partition's folder with several segments, after a clean stop.
fn written(dir: &Path, batches: u64, bytes: usize) -> PathBuf {
    let mut options: LogOptions = options();
    options.partition.segment_bytes = 64 << 10;
    let log = Log::open(dir, options).unwrap();
    let partition = log.open_partition(ID).unwrap();
    for n in 0..batches {
        append(&partition, &[value(n, bytes), value(n + 1, 10)]).unwrap();
    }
    drop(partition);
    log.close().unwrap();
    dir.join("log/20/0")
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

fn walk(path: &Path) -> (Summary, Vec<FrameSeen>) {
    let mut frames = Vec::new();
    let summary = inspect_segment(path, |step| {
        if let Step::Frame(frame) = step {
            frames.push(frame.clone());
        }
        true
    });
    (summary.unwrap(), frames)
}

fn places(frames: &[FrameSeen]) -> Vec<u64> {
    frames.iter().map(|frame| frame.position).collect()
}

#[test]
fn a_whole_log_is_told_frame_by_frame() {
    let dir = tempfile::tempdir().unwrap();
    let folder = written(dir.path(), 60, 3_000);
    let segments = files(&folder, "seg");
    assert!(segments.len() > 2, "{segments:?}");
    let (mut next, mut records) = (Offset::ZERO, 0);
    for (at, path) in segments.iter().enumerate() {
        let (summary, frames) = walk(path);
        assert!(summary.is_whole(), "{:?}", summary.damage);
        assert_eq!(summary.named, Some(next));
        assert_eq!(summary.sealed, at + 1 < segments.len());
        let entries: Vec<&FrameSeen> = frames.iter().filter(|frame| frame.frame.header.kind.is_entry()).collect();
        assert_eq!(entries[0].chain, Chain::Unknown);
        assert!(entries[1..].iter().all(|frame| frame.chain == Chain::Linked));
        assert!(entries.iter().all(|frame| frame.content == Content::Batch { records: 2 }));
        let local = frames.iter().filter(|frame| !frame.frame.header.kind.is_entry());
        assert!(local.map(|frame| frame.chain).all(|chain| chain == Chain::Local));
        let mut position = 0;
        for frame in &frames {
            assert_eq!(frame.position, position, "no byte is left out");
            position += u64::from(frame.frame.header.frame_bytes);
        }
        assert_eq!((summary.used_bytes, summary.len_bytes), (position, std::fs::metadata(path).unwrap().len()));
        let offsets = summary.offsets.unwrap();
        assert_eq!(offsets.start, next);
        next = offsets.end;
        records += summary.records;
        let counted: u64 = summary.frames.iter().map(|(_, count)| count).sum();
        assert_eq!(counted, frames.len() as u64);
    }
    assert_eq!((next, records), (Offset::new(120), 120));
}

#[test]
fn a_changed_byte_costs_at_most_the_frame_it_lies_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = files(&written(dir.path(), 6, 200), "seg").remove(0);
    let (whole, frames) = walk(&path);
    assert!(whole.is_whole());
    let used = usize::try_from(whole.used_bytes).unwrap();
    let mut content = std::fs::read(&path).unwrap();
    content.truncate(used);
    let damaged = dir.path().join("00000000000000000000.seg");
    let mut found = 0;
    for at in (0..used).step_by(11) {
        let mut changed = content.clone();
        changed[at] ^= 0x41;
        std::fs::write(&damaged, &changed).unwrap();
        let (summary, left) = walk(&damaged);
        let byte = at as u64;
        let holds =
            |frame: &FrameSeen| (frame.position..frame.position + u64::from(frame.frame.header.frame_bytes)).contains(&byte);
        let others: Vec<u64> = frames.iter().filter(|frame| !holds(frame)).map(|frame| frame.position).collect();
        if summary.is_whole() {
            // Padding between a body and the next frame says nothing.
            assert_eq!(places(&left), places(&frames), "byte {at}");
            let hit = frames.iter().find(|frame| holds(frame)).unwrap();
            assert!(byte >= hit.position + 64 + hit.frame.body.len() as u64, "byte {at} is not padding");
            continue;
        }
        assert_eq!(places(&left), others, "byte {at}");
        assert_eq!(summary.damage.len(), 1, "byte {at}: {:?}", summary.damage);
        let damage = &summary.damage[0];
        let hit = frames.iter().find(|frame| holds(frame)).unwrap();
        assert_eq!(damage.position, hit.position, "byte {at}");
        let last = hit.position + u64::from(hit.frame.header.frame_bytes) == whole.used_bytes;
        // Behind the last frame there is none to go on at, unless the frame's own header leads on.
        assert!(damage.bytes == Some(u64::from(hit.frame.header.frame_bytes)) || (last && damage.bytes.is_none()), "byte {at}");
        let entry = hit.frame.header.kind.is_entry();
        // All entries but the last were called durable by the flush frame of a later write.
        assert!(!entry || hit.frame.header.raft_index > RaftIndex::new(5) || summary.was_promised(damage), "byte {at}");
        found += 1;
    }
    assert!(found > 200, "{found} changes were noticed");
}

#[test]
fn a_file_that_was_cut_off_gives_what_lies_in_front() {
    let dir = tempfile::tempdir().unwrap();
    let path = files(&written(dir.path(), 4, 300), "seg").remove(0);
    let (whole, frames) = walk(&path);
    let content = std::fs::read(&path).unwrap();
    let cut = dir.path().join("cut.seg");
    for len in (0..usize::try_from(whole.used_bytes).unwrap() + 100).step_by(7) {
        std::fs::write(&cut, &content[..len]).unwrap();
        let (summary, left) = walk(&cut);
        let ends = |frame: &&FrameSeen| frame.position + u64::from(frame.frame.header.frame_bytes) <= len as u64;
        let expected: Vec<u64> = frames.iter().filter(ends).map(|frame| frame.position).collect();
        assert_eq!(places(&left), expected, "cut at {len}");
        assert_eq!((summary.named, summary.len_bytes), (None, len as u64));
        let rest = &content[usize::try_from(summary.used_bytes).unwrap()..len];
        assert_eq!(summary.is_whole(), rest.iter().all(|byte| *byte == 0), "cut at {len}: {:?}", summary.damage);
    }
}

#[test]
fn a_lost_or_foreign_entry_breaks_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let path = files(&written(dir.path(), 8, 3_900), "seg").remove(0);
    let (_, frames) = walk(&path);
    let content = std::fs::read(&path).unwrap();
    let batches: Vec<&FrameSeen> = frames.iter().filter(|frame| frame.frame.header.kind == FrameKind::Batch).collect();
    let bytes = |frame: &FrameSeen| {
        let at = usize::try_from(frame.position).unwrap();
        at..at + usize::try_from(frame.frame.header.frame_bytes).unwrap()
    };
    // The fourth batch in the place of the third, which is as long; a whole frame, and not the one that was due.
    let mut swapped = content.clone();
    swapped.copy_within(bytes(batches[3]), bytes(batches[2]).start);
    let damaged = dir.path().join("swapped.seg");
    std::fs::write(&damaged, swapped).unwrap();
    let (summary, left) = walk(&damaged);
    assert_eq!(left.len(), frames.len());
    let broken: Vec<u64> = left.iter().filter(|frame| frame.chain == Chain::Broken).map(|frame| frame.position).collect();
    assert_eq!(broken, [batches[2].position, batches[3].position]);
    assert_eq!(summary.damage.iter().map(|damage| damage.position).collect::<Vec<_>>(), broken);
    assert_eq!(summary.damage[0].reason, "the frame does not follow the one before it");

    // Zeros in the place of the third: the walk finds the next whole frame, whose predecessor is unknown.
    let mut zeroed = content;
    zeroed[bytes(batches[2])].fill(0);
    std::fs::write(&damaged, zeroed).unwrap();
    let (summary, left) = walk(&damaged);
    assert_eq!(left.len(), frames.len() - 1);
    assert_eq!(summary.damage.len(), 1);
    let damage = &summary.damage[0];
    assert_eq!((damage.position, damage.reason), (batches[2].position, "zeros stand where a frame was"));
    assert_eq!((damage.offset, damage.after), (Offset::new(4), RaftIndex::new(2)));
    assert!(summary.was_promised(damage));
    assert_eq!(left.iter().find(|frame| frame.position == batches[3].position).unwrap().chain, Chain::Unknown);
}

#[test]
fn what_holds_no_frames_is_told_as_that() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("00000000000000000042.seg");
    for len in [0, 1, 63, 64, 1 << 20] {
        std::fs::write(&path, vec![0; len]).unwrap();
        let (summary, frames) = walk(&path);
        assert!(summary.is_whole() && frames.is_empty() && summary.used_bytes == 0, "{len} zeros");
        assert_eq!((summary.named, summary.offsets), (Some(Offset::new(42)), None));
    }
    for path in [dir.path(), &dir.path().join("absent.seg")] {
        assert!(matches!(inspect_segment(path, |_| true), Err(Error::Io { operation: "opening", .. })), "{}", path.display());
        assert!(matches!(inspect_index(path), Err(Error::Io { operation: "opening", .. })), "{}", path.display());
    }
}

#[test]
fn a_walk_ends_when_the_visitor_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = files(&written(dir.path(), 5, 100), "seg").remove(0);
    let mut left = 2;
    let summary = inspect_segment(&path, |_| {
        left -= 1;
        left > 0
    });
    assert_eq!(summary.unwrap().frames.iter().map(|(_, count)| count).sum::<u64>(), 2);
}

fn faults(seen: &IndexSeen) -> String {
    seen.faults.join("; ")
}

#[test]
fn an_index_is_compared_with_its_segment() {
    let dir = tempfile::tempdir().unwrap();
    let folder = written(dir.path(), 60, 3_000);
    // Sealed segments have a footer instead; a clean stop leaves the index of the newest.
    let (index, segments) = (files(&folder, "idx").remove(0), files(&folder, "seg"));
    let newest = index.with_extension("seg");
    let seen = inspect_index(&index).unwrap();
    assert!(seen.faults.is_empty() && seen.compared, "{}", faults(&seen));
    assert!(!seen.entries.is_empty());
    let (base_offset, _) = seen.header.unwrap();
    let whole = std::fs::read(&index).unwrap();
    for (at, part) in [(0, "does not begin as an index"), (5, "checksum"), (8, "version"), (16, "its name says")] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&index, changed).unwrap();
        let seen = inspect_index(&index).unwrap();
        assert!(faults(&seen).contains(part), "byte {at}: {}", faults(&seen));
    }
    for len in 0..whole.len() {
        std::fs::write(&index, &whole[..len]).unwrap();
        assert!(!inspect_index(&index).unwrap().faults.is_empty(), "cut at {len}");
    }
    std::fs::write(&index, &whole).unwrap();
    std::fs::copy(&segments[0], &newest).unwrap();
    let seen = inspect_index(&index).unwrap();
    assert!(faults(&seen).contains(&format!("no frame with offset {base_offset} begins at byte 0")), "{}", faults(&seen));
    std::fs::remove_file(&newest).unwrap();
    let seen = inspect_index(&index).unwrap();
    assert!(seen.faults.is_empty() && !seen.compared, "{}", faults(&seen));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_walked_to_an_end(noise in proptest::collection::vec(any::<u8>(), 0..4_000), magic in 0..400_usize) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("noise");
        let mut content = noise;
        // Now and then something that begins as a frame does.
        if let Some(place) = content.get_mut(magic * 8..magic * 8 + 4) {
            place.copy_from_slice(b"HwF1");
        }
        std::fs::write(&path, &content).unwrap();
        let (summary, frames) = walk(&path);
        prop_assert!(frames.is_empty());
        prop_assert_eq!(summary.is_whole(), content.iter().all(|byte| *byte == 0));
        prop_assert!(!inspect_index(&path).unwrap().faults.is_empty());
    }
}
