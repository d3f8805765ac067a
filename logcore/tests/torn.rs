//! Damage byte by byte and bit by bit: what is torn is trimmed, what is damaged below the durable watermark is reported and the
//! rest served, and no damaged record ever is.
//!
//! What should happen is computed here from the bytes, by the rule in `docs/adr/0002`, without the code under test: the first frame
//! that is not whole decides, and whether a whole flush frame behind it calls more durable than what stands in front of it.
//!
//! By default a part of the cases is run, another one for each `HEADWATER_SEED`; `HEADWATER_TORTURE_STRIDE=1` runs all.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use common::dice::{Dice, from_env, seed};
use common::history::{Request, Sent};
use logcore::frame::{FrameHeader, FrameKind, HEADER_BYTES, checksum};
use logcore::io::sim::SimDisk;
use logcore::io::{DiskFile, DiskIo, Durability, Fill};
use logcore::partition::{Health, PartitionOptions};
use logcore::{Error, Log, LogOptions, Offset, Partition, PartitionRef, StreamId, Ticket};

const DIR: &str = "/sim";
const KIB: usize = 1 << 10;

fn options() -> LogOptions {
    LogOptions { reserve_bytes: 0, verify_bytes_per_second: 0, ..LogOptions::default() }
}

/// A frame as it was written.
#[derive(Clone, Debug)]
struct Whole {
    at: usize,
    header: FrameHeader,
    body: Bytes,
}

impl Whole {
    /// What its checksums cover: its padding is nobody's.
    fn covered(&self) -> std::ops::Range<usize> {
        self.at..self.at + HEADER_BYTES + self.body.len()
    }

    /// A flush frame's W.
    fn durable(&self) -> u64 {
        u64::from_le_bytes(self.body[..8].try_into().unwrap())
    }
}

/// The frames of a segment file up to the zeros.
fn frames_of(file: &[u8]) -> Vec<Whole> {
    let (mut at, mut frames) = (0, Vec::new());
    while let Ok((header, _)) = FrameHeader::decode(&file[at..]) {
        let body = Bytes::copy_from_slice(&file[at + HEADER_BYTES..][..header.body_bytes as usize]);
        assert_eq!(checksum(&body), header.body_crc);
        frames.push(Whole { at, header, body });
        at += header.frame_bytes as usize;
    }
    frames
}

/// The segment files of a partition, oldest first, none of which was closed.
fn written(segment_bytes: usize, content_bytes: usize, segments: usize) -> Vec<Vec<u8>> {
    let disk = SimDisk::new();
    let log = Log::open_on(Arc::new(disk.clone()), DIR.as_ref(), options(), None).unwrap();
    let id = PartitionRef::new(StreamId::new(20), 0);
    let kept = PartitionOptions { segment_bytes: segment_bytes as u64, ..PartitionOptions::default() };
    let partition = log.open_partition_with(id, kept).unwrap();
    let mut dice = Dice::new(7);
    loop {
        let files: Vec<Vec<u8>> = segment_paths(&disk).iter().map(|path| disk.read_small(path).unwrap().unwrap()).collect();
        if files.len() == segments && end_of(files.last().unwrap()) >= content_bytes {
            return files;
        }
        for ticket in (0..dice.between(1, 4)).map(|_| {
            let value = vec![u8::try_from(dice.below(256)).unwrap(); dice.between(10, 1_500)];
            let sent = Sent { key: b"key".to_vec(), value: Some(value) };
            partition.try_append(Request::new(vec![sent; dice.between(1, 3)]).proposal()).unwrap()
        }) {
            Ticket::wait(ticket).unwrap();
        }
    }
}

fn segment_paths(disk: &SimDisk) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect()
}

fn end_of(file: &[u8]) -> usize {
    frames_of(file).last().map_or(0, |last| last.at + last.header.frame_bytes as usize)
}

/// A log in which files are put in the place of partitions and opened, one after the other.
struct Bench {
    disk: SimDisk,
    log: Log,
    next: u32,
}

impl Bench {
    fn new() -> Self {
        let disk = SimDisk::new();
        let log = Log::open_on(Arc::new(disk.clone()), DIR.as_ref(), options(), None).unwrap();
        Self { disk, log, next: 16 }
    }

    /// Opens a partition that has these files, named by their first frames' offsets.
    fn open(&mut self, files: &[(u64, &[u8])]) -> Arc<Partition> {
        self.next += 1;
        for (base, content) in files {
            let path = PathBuf::from(format!("{DIR}/log/{}/0/{base:020}.seg", self.next));
            let file = self.disk.create(&path, 0, Fill::Reserved).unwrap();
            file.write(0, &[Bytes::copy_from_slice(content)], Durability::Data).unwrap();
        }
        self.log.open_partition(PartitionRef::new(StreamId::new(self.next), 0)).unwrap()
    }

    fn close(&mut self) {
        self.log.remove_stream(StreamId::new(self.next)).unwrap();
    }

    fn file(&self, base: u64) -> Arc<dyn DiskFile> {
        self.disk.open(&PathBuf::from(format!("{DIR}/log/{}/0/{base:020}.seg", self.next))).unwrap()
    }
}

/// What a segment that was the newest one holds after damage.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    corrupt: bool,
    /// Where the log ends.
    end: u64,
    /// The entries that are served, by base offset.
    served: Vec<u64>,
}

/// The torn-or-corrupt rule, read off the undamaged frames and what of the file is still the same.
fn expected(frames: &[Whole], before: &[u8], after: &[u8]) -> Expected {
    let is_whole = |frame: &&Whole| before[frame.covered()] == after[frame.covered()];
    let bad = frames.iter().position(|frame| !is_whole(&frame)).unwrap_or(frames.len());
    let entries =
        |frames: &[Whole]| -> Vec<Whole> { frames.iter().filter(|frame| frame.header.kind.is_entry()).cloned().collect() };
    let in_front = entries(&frames[..bad]);
    let last = in_front.last().map_or(0, |last| last.header.raft_index.value());
    let behind = &frames[bad..];
    let promises = |frame: &Whole| frame.header.kind == FrameKind::Flush && is_whole(&frame) && frame.durable() > last;
    let corrupt = behind.iter().any(promises);
    let mut there = in_front;
    if corrupt {
        there.extend(entries(behind).into_iter().filter(|frame| is_whole(&frame)));
    }
    let end = there.last().map_or(0, |last| last.header.end_offset().value());
    Expected { corrupt, end, served: there.iter().map(|entry| entry.header.base_offset.value()).collect() }
}

/// Everything a partition serves, entry by entry; what it calls corrupt is left out. Panics when an entry is not the one written.
fn served(partition: &Partition, entries: &[Whole]) -> (Vec<u64>, usize) {
    let (mut next, mut out, mut errors) = (partition.log_start(), Vec::new(), 0);
    let end = partition.committed().get();
    while next < end {
        let at = entries.partition_point(|entry| entry.header.end_offset() <= next);
        match partition.read(next, 256 * KIB) {
            Ok(frames) if frames.is_empty() => return (out, errors),
            Ok(frames) => {
                for frame in frames {
                    let base = frame.header.base_offset;
                    let written =
                        entries.iter().find(|entry| entry.header.base_offset == base).expect("an entry that was written");
                    assert_eq!(frame.body, written.body, "the entry at offset {base}");
                    out.push(base.value());
                    next = frame.end_offset();
                }
            }
            Err(Error::Corrupt { .. }) => {
                errors += 1;
                next = entries[at].header.end_offset();
            }
            Err(error) => panic!("{error}"),
        }
    }
    (out, errors)
}

fn entries_of(frames: &[Whole]) -> Vec<Whole> {
    frames.iter().filter(|frame| frame.header.kind.is_entry()).cloned().collect()
}

/// How many cases are left out for one that is run, and which ones.
fn stride(default: u64) -> (usize, usize) {
    let stride = from_env("HEADWATER_TORTURE_STRIDE").unwrap_or(default).max(1);
    (usize::try_from(stride).unwrap(), usize::try_from(seed() % stride).unwrap())
}

/// Opens a damaged newest segment and compares it with the rule.
fn check_newest(bench: &mut Bench, frames: &[Whole], before: &[u8], after: &[u8], what: &dyn Fn() -> String) -> Expected {
    let expected = expected(frames, before, after);
    let partition = bench.open(&[(0, after)]);
    let corrupt = match partition.health() {
        Health::Healthy => false,
        Health::Corrupt(_) => true,
        other @ Health::Poisoned(_) => panic!("{}: {other:?}", what()),
    };
    assert_eq!((corrupt, partition.committed().get().value()), (expected.corrupt, expected.end), "{}", what());
    let (found, errors) = served(&partition, &entries_of(frames));
    if corrupt {
        // What lies behind a damaged header is only found from the next place that the index knows.
        assert!(found.iter().all(|base| expected.served.contains(base)), "{}", what());
        assert!(errors > 0 || found == expected.served, "{}", what());
        let hit = frames.iter().position(|frame| before[frame.covered()] != after[frame.covered()]).unwrap();
        let in_front = entries_of(&frames[..hit]).len();
        assert_eq!(found[..in_front], expected.served[..in_front], "{}", what());
    } else {
        assert_eq!((found, errors), (expected.served.clone(), 0), "{}", what());
    }
    drop(partition);
    bench.close();
    expected
}

/// The last 64 KiB of a segment, cut at each byte: what stands behind is zeros, or anything, to the file's end or for a sector.
#[test]
fn a_tail_torn_at_any_byte_is_trimmed_there_and_a_hole_is_not() {
    let file = written(128 * KIB, 72 * KIB, 1).remove(0);
    let (frames, end) = (frames_of(&file), end_of(&file));
    let mut garbage = Dice::new(3);
    let garbage: Vec<u8> = (0..file.len()).map(|_| u8::try_from(garbage.below(256)).unwrap()).collect();
    let mut bench = Bench::new();
    let (stride, first) = stride(16);
    let (mut torn, mut holes, mut corrupt) = (0, 0, 0);
    for at in (end - 64 * KIB..end).skip(first).step_by(stride) {
        let mut zeros = file.clone();
        zeros[at..].fill(0);
        let mut anything = file.clone();
        anything[at..].copy_from_slice(&garbage[at..]);
        for after in [zeros, anything] {
            let found = check_newest(&mut bench, &frames, &file, &after, &|| format!("torn at byte {at} of {end}"));
            assert!(!found.corrupt, "nothing is left behind a torn tail that could promise more");
            torn += 1;
        }
        let mut hole = file.clone();
        let until = (at / 512 + 1) * 512;
        hole[at..until].copy_from_slice(&garbage[at..until]);
        corrupt += usize::from(check_newest(&mut bench, &frames, &file, &hole, &|| format!("a hole at {at}..{until}")).corrupt);
        holes += 1;
    }
    assert!(corrupt > 0 && corrupt < holes, "some holes are below the durable watermark, some in the last write or in padding");
    eprintln!(
        "{torn} torn tails trimmed; of {holes} holes {corrupt} below the durable watermark were reported, the others trimmed"
    );
}

/// A flipped bit, anywhere in the file, is met by the next start.
#[test]
fn a_flipped_bit_of_the_newest_segment_is_found_by_the_next_start() {
    let file = written(64 * KIB, 40 * KIB, 1).remove(0);
    assert_eq!(file.len(), 64 * KIB);
    let frames = frames_of(&file);
    let mut bench = Bench::new();
    let (stride, first) = stride(101);
    let (mut flips, mut detected, mut corrupt) = (0, 0, 0);
    let whole = expected(&frames, &file, &file);
    for bit in (0..file.len() * 8).skip(first).step_by(stride) {
        let mut after = file.clone();
        after[bit / 8] ^= 1 << (bit % 8);
        let found = check_newest(&mut bench, &frames, &file, &after, &|| format!("bit {bit}"));
        let is_covered = frames.iter().any(|frame| frame.covered().contains(&(bit / 8)));
        flips += 1;
        corrupt += usize::from(found.corrupt);
        detected += usize::from(found.corrupt || is_covered);
        assert!(is_covered || found == whole, "bit {bit} is in nobody's bytes and changed what is served");
    }
    eprintln!(
        "{flips} flips in the newest segment: {corrupt} reported, {} trimmed, {} in padding and free space",
        detected - corrupt,
        flips - detected
    );
}

/// The same for a sealed segment, whose footer and trailer may be hit: they are derived, and read no more than believed.
#[test]
fn a_flipped_bit_of_a_sealed_segment_is_found_by_who_reads_it() {
    let files = written(64 * KIB, 4 * KIB, 2);
    let (sealed, newest) = (&files[0], &files[1]);
    let (frames, behind) = (frames_of(sealed), frames_of(newest));
    let base = behind[0].header.base_offset.value();
    let all = [entries_of(&frames), entries_of(&behind)].concat();
    let mut bench = Bench::new();
    let (stride, first) = stride(101);
    let (mut flips, mut detected) = (0, 0);
    for bit in (0..sealed.len() * 8).skip(first).step_by(stride) {
        let mut after = sealed.clone();
        after[bit / 8] ^= 1 << (bit % 8);
        let partition = bench.open(&[(0, &after), (base, newest)]);
        assert_eq!(partition.health(), Health::Healthy, "bit {bit}: a sealed segment is not looked into at a start");
        let (found, errors) = served(&partition, &all);
        let hit = frames.iter().find(|frame| frame.header.kind != FrameKind::Seal && frame.covered().contains(&(bit / 8)));
        let in_entry = hit.is_some_and(|hit| hit.header.kind.is_entry());
        assert!(errors > 0 || !in_entry, "bit {bit} is in an entry and nobody noticed");
        assert_eq!(errors == 0, found.len() == all.len(), "bit {bit}: what is not served is reported, the rest is served");
        let in_front = all.iter().take_while(|entry| hit.is_none_or(|hit| entry.at < hit.at)).count();
        assert!(found.len() >= in_front, "bit {bit}: {in_front} entries in front of it are intact, {found:?} are served");
        flips += 1;
        detected += usize::from(errors > 0);
        drop(partition);
        bench.close();
    }
    eprintln!(
        "{flips} flips in a sealed segment: {detected} reported to who reads there, {} in seal, padding, flush frames and free space",
        flips - detected
    );
}

/// Every single bit, under an open partition: who reads the entry around it, and the next, is told or gets what was written.
#[test]
fn every_flipped_bit_is_noticed_by_a_reader_of_an_open_segment() {
    let files = written(64 * KIB, 40 * KIB, 2);
    let base = frames_of(&files[1])[0].header.base_offset.value();
    let mut bench = Bench::new();
    let partition = bench.open(&[(0, &files[0]), (base, &files[1])]);
    let (stride, first) = stride(1);
    for (number, (base, content)) in [(0, &files[0]), (base, &files[1])].into_iter().enumerate() {
        let frames = frames_of(content);
        let entries = entries_of(&frames);
        // Once, so that index and file are at hand.
        partition.read(Offset::new(base), 1).unwrap();
        let file = bench.file(base);
        let (mut flips, mut detected) = (0, 0);
        for bit in (0..content.len() * 8).skip(first).step_by(stride) {
            let at = bit / 8;
            let flipped = content[at] ^ 1 << (bit % 8);
            file.write(at as u64, &[Bytes::copy_from_slice(&[flipped])], Durability::None).unwrap();
            let around = entries.iter().rposition(|entry| entry.at <= at).unwrap();
            let mut errors = 0;
            for entry in &entries[around..(around + 2).min(entries.len())] {
                match partition.read(entry.header.base_offset, 1) {
                    Ok(read) => assert!(read[0].body == entry.body && read[0].header == entry.header, "bit {bit} is served"),
                    Err(Error::Corrupt { .. }) => errors += 1,
                    Err(error) => panic!("bit {bit}: {error}"),
                }
            }
            let in_body = entries.iter().any(|entry| entry.covered().contains(&at));
            assert!(errors > 0 || !in_body, "bit {bit} is in an entry and nobody noticed");
            flips += 1;
            detected += usize::from(errors > 0);
            file.write(at as u64, &[Bytes::copy_from_slice(&[content[at]])], Durability::None).unwrap();
        }
        let name = ["a sealed", "the newest"][number];
        eprintln!("{flips} flips in {name} segment under its readers: {detected} noticed, none served");
    }
}
