//! Compaction: the last record of every key stays readable, over restarts, crashes, errors and damage, and beside readers.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, on a real folder")]

mod kit;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kit::{ID, Seen, append, batch, in_memory, open, options, read_all, read_from, records, segment_files, sent, until};
use logcore::io::DiskIo;
use logcore::io::sim::SimDisk;
use logcore::partition::{Health, PartitionOptions};
use logcore::{Compaction, ErrorKind, Hold, Holder, Log, LogOptions, Offset, Partition, TimestampMillis};
use proptest::prelude::*;

const GRACE_MS: i64 = 1_000;

fn compacted(partition: &mut PartitionOptions) {
    partition.segment_bytes = 64 << 10;
    partition.compaction = Some(Compaction { tombstone_grace: Duration::from_millis(1_000) });
}

fn keyed() -> LogOptions {
    options(compacted)
}

/// A log in which keys are written again and again, and what it must tell of them.
struct Model {
    disk: SimDisk,
    options: LogOptions,
    log: Option<Log>,
    partition: Option<Arc<Partition>>,
    /// The last record of each key.
    last: BTreeMap<String, Seen>,
    end: u64,
    now: i64,
}

impl Model {
    fn new(options: LogOptions) -> Self {
        let disk = SimDisk::new();
        let mut model = Self { disk, options, log: None, partition: None, last: BTreeMap::new(), end: 0, now: 0 };
        model.start();
        model
    }

    fn start(&mut self) {
        let log = open(&self.disk, &self.options);
        self.partition = Some(log.open_partition(ID).unwrap());
        self.log = Some(log);
    }

    fn partition(&self) -> &Arc<Partition> {
        self.partition.as_ref().unwrap()
    }

    fn crash(&mut self, seed: u64) {
        self.disk = self.disk.crash(seed);
        self.start();
    }

    fn restart(&mut self) {
        self.partition = None;
        self.log.take().unwrap().close().unwrap();
        self.start();
    }

    fn put(&mut self, key: u32, value: Option<&str>) {
        self.now += 1;
        let key = format!("key {key}");
        let appended = append(self.partition(), batch(&[(&key, value, self.now)])).unwrap();
        let offset = appended.base_offset.value();
        assert!(offset >= self.end);
        self.end = offset + 1;
        let value = value.map(|value| value.as_bytes().to_vec());
        self.last.insert(key.clone(), Seen { offset, key: key.into_bytes(), value, timestamp: self.now });
    }

    fn fill(&mut self, keys: u32, rounds: u32) {
        for round in 0..rounds {
            for key in 0..keys {
                self.put(key, Some(&format!("{round:0500}")));
            }
        }
    }

    fn compact(&self) -> bool {
        self.partition().compact(TimestampMillis::new(self.now)).unwrap()
    }

    /// What is read tells the last record of every key, in order; a deleted key may be gone as a whole.
    fn check(&self) -> Vec<Seen> {
        let partition = self.partition();
        assert_eq!((partition.health(), partition.committed().get().value()), (Health::Healthy, self.end));
        let all = read_all(partition);
        assert!(all.windows(2).all(|pair| pair[0].offset < pair[1].offset));
        let mut read = BTreeMap::new();
        for record in &all {
            read.insert(String::from_utf8(record.key.clone()).unwrap(), record.clone());
        }
        for (key, last) in &self.last {
            match read.get(key) {
                Some(found) => assert_eq!(found, last),
                None => assert!(last.value.is_none() && last.timestamp < self.now - GRACE_MS, "{key} is gone: {last:?}"),
            }
        }
        // Single reads and times agree with that.
        for record in all.iter().step_by(all.len() / 20 + 1) {
            assert_eq!(&read_from(partition, record.offset, 1).unwrap()[0], record);
            let first = all.iter().find(|other| other.timestamp >= record.timestamp).unwrap();
            assert_eq!(partition.offset_at(TimestampMillis::new(record.timestamp)).unwrap().value(), first.offset);
        }
        all
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u32, usize),
    Delete(u32),
    Wait(i64),
    Compact,
    Restart,
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..12_u32, 0..6_000_usize).prop_map(|(key, len)| Step::Put(key, len)),
        4 => (0..12_u32).prop_map(Step::Delete),
        1 => (0..2_000_i64).prop_map(Step::Wait),
        3 => Just(Step::Compact),
        1 => Just(Step::Restart),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The log against a map, with compactions, clean and unclean stops between the writes.
    #[test]
    fn the_last_record_of_every_key_stays(steps in prop::collection::vec(step(), 30..150)) {
        let mut model = Model::new(keyed());
        for step in steps {
            match step {
                Step::Put(key, len) => model.put(key, Some(&"v".repeat(len))),
                Step::Delete(key) => model.put(key, None),
                Step::Wait(millis) => model.now += millis,
                Step::Compact => {
                    model.compact();
                    model.check();
                }
                Step::Restart => model.restart(),
                Step::Crash(seed) => model.crash(seed),
            }
        }
        model.check();
        model.compact();
        model.crash(1);
        model.check();
    }
}

#[test]
fn what_was_replaced_goes_and_the_files_shrink() {
    let mut model = Model::new(keyed());
    model.fill(10, 40);
    let before = model.partition().status().bytes;
    assert!(model.compact());
    let left = model.check().len();
    assert!(left < 50, "{left} records of 400 are left");
    assert!(model.partition().status().bytes < before / 3);
    assert!(!model.compact(), "nothing is new");
    assert!(!model.disk.paths().iter().any(|path| path.to_string_lossy().contains("compacted")), "nothing is left beside");
}

#[test]
fn a_tombstone_goes_after_its_grace_time_and_not_before() {
    let mut model = Model::new(keyed());
    model.fill(4, 10);
    model.put(2, None);
    let tombstone = model.end - 1;
    model.fill(2, 20);
    assert!(model.compact());
    let left = model.check();
    assert!(left.iter().any(|record| record.offset == tombstone));
    assert!(left.iter().all(|record| record.key != b"key 2" || record.offset == tombstone), "its values are gone");
    model.now += 2 * GRACE_MS;
    model.fill(2, 40);
    assert!(model.compact());
    assert!(model.check().iter().all(|record| record.key != b"key 2"));
}

#[test]
fn a_stream_without_compaction_is_left_alone() {
    let mut model = Model::new(options(|partition| partition.segment_bytes = 64 << 10));
    model.fill(5, 40);
    assert!(!model.compact());
    assert_eq!(model.check().len(), 200);
}

#[test]
fn nothing_goes_that_a_view_has_not_applied() {
    struct View;
    impl Holder for View {
        fn needed_from(&self) -> Option<Offset> {
            Some(Offset::new(150))
        }
    }
    let mut model = Model::new(keyed());
    model.fill(5, 60);
    let view: Arc<dyn Holder> = Arc::new(View);
    model.partition().hold(Hold::View, Arc::downgrade(&view));
    assert!(model.compact());
    let left = model.check();
    assert!(left.iter().filter(|record| record.offset < 150).count() < 60);
    assert_eq!(left.iter().filter(|record| record.offset >= 150).count(), 150);
    let before = model.disk.operations();
    assert!(!model.compact(), "there is nothing more to do while the view stays where it is");
    assert_eq!(model.disk.operations(), before, "and nothing is read to find that out");
    drop(view);
    assert!(model.compact());
    assert!(model.check().len() < 40);
}

/// A reader that is in the middle of a segment when it is replaced goes on in the old file.
#[test]
fn a_reader_inside_a_segment_goes_on_while_it_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), keyed()).unwrap();
    let partition = log.open_partition(ID).unwrap();
    for n in 0..300_i64 {
        append(&partition, batch(&[(&format!("{}", n % 10), Some(&"v".repeat(500)), n)])).unwrap();
    }
    for from in [0, 3, 7, 20] {
        let mut reader = partition.reader(Offset::new(from));
        let first = reader.read(1).unwrap();
        partition.compact(TimestampMillis::new(0)).unwrap();
        append(&partition, batch(&[("new", Some("v"), 300)])).unwrap();
        let mut seen: Vec<Seen> =
            first.iter().filter(|frame| !frame.body.is_empty()).flat_map(|frame| records(&frame.body).unwrap()).collect();
        loop {
            let frames = reader.read(3_000).unwrap();
            let Some(last) = frames.last() else { break };
            let end = last.end_offset();
            for frame in frames.iter().filter(|frame| !frame.body.is_empty()) {
                seen.extend(records(&frame.body).unwrap());
            }
            assert!(end <= partition.committed().get());
        }
        assert!(seen.windows(2).all(|pair| pair[0].offset < pair[1].offset));
        assert_eq!(seen.last().unwrap().offset + 1, partition.committed().get().value());
        for key in 0..10 {
            let last = seen.iter().rev().find(|record| record.key == format!("{key}").as_bytes()).unwrap();
            assert_eq!(last.offset, 290 + key);
        }
    }
}

#[test]
fn readers_race_with_compaction_and_see_every_key() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), keyed()).unwrap();
    let partition = log.open_partition(ID).unwrap();
    let put = |key: u32, n: i64| append(&partition, batch(&[(&format!("{key}"), Some(&"v".repeat(700)), n)])).unwrap();
    for key in 0..20 {
        put(key, 0);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let mut keys: Vec<Vec<u8>> = read_all(&partition).into_iter().map(|record| record.key).collect();
                        keys.sort();
                        keys.dedup();
                        assert_eq!(keys.len(), 20);
                        partition.offset_at(TimestampMillis::new(100)).unwrap();
                    }
                })
            })
            .collect();
        let writer = scope.spawn(|| {
            for n in 0..600 {
                put(u32::try_from(n % 20).unwrap(), n);
                if n % 50 == 49 {
                    partition.compact(TimestampMillis::new(n)).unwrap();
                }
            }
        });
        let written = writer.join();
        done.store(true, Ordering::Relaxed);
        written.unwrap();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    let reads = partition.status();
    assert!(reads.ram_misses > 0, "files were read");
}

/// Chunks of a compacted segment that are still in RAM hold the old file's bytes, at the old file's places.
#[test]
fn a_compacted_segment_is_read_right_while_its_old_bytes_are_in_ram() {
    let mut model = Model::new(options(|partition| {
        compacted(partition);
        partition.tail_chunks_max = 100;
    }));
    model.fill(20, 25);
    assert_eq!(model.partition().status().ram_misses, 0);
    assert!(model.compact());
    let left = model.check();
    assert!(left.len() < 100);
    // A record that is gone leads to the next one that is there.
    for offset in 0..model.end {
        let next = left.iter().find(|record| record.offset >= offset).unwrap();
        assert_eq!(read_from(model.partition(), offset, 1).unwrap()[0], *next);
    }
}

#[test]
fn producers_are_known_after_their_batches_were_compacted_away() {
    for clean in [true, false] {
        let disk = SimDisk::new();
        let log = open(&disk, &keyed());
        let partition = log.open_partition(ID).unwrap();
        for sequence in 0..100 {
            append(&partition, sent(7, 0, sequence, 1)).unwrap();
        }
        for n in 0..200 {
            append(&partition, batch(&[("k", Some(&"v".repeat(600)), n)])).unwrap();
        }
        assert!(partition.compact(TimestampMillis::new(0)).unwrap());
        assert!(read_all(&partition).len() < 40);
        drop(partition);
        if clean {
            log.close().unwrap();
        }
        let disk = disk.crash(4);
        let log = open(&disk, &keyed());
        let partition = log.open_partition(ID).unwrap();
        let again = append(&partition, sent(7, 0, 97, 1)).unwrap();
        assert_eq!((again.duplicate, again.base_offset.value()), (true, 97));
        assert!(!append(&partition, sent(7, 0, 100, 1)).unwrap().duplicate);
        assert_eq!(append(&partition, sent(7, 0, 105, 1)).unwrap_err().kind(), ErrorKind::Conflict);
    }
}

#[test]
fn the_ceiling_of_a_memory_stream_survives_compaction() {
    for seed in 0..10 {
        let mut model = Model::new(options(|partition| {
            compacted(partition);
            in_memory(partition);
        }));
        model.fill(5, 40);
        model.partition().flush().unwrap();
        assert!(model.compact());
        model.fill(5, 1);
        let seen_until = model.end;
        model.crash(seed);
        let again = append(model.partition(), batch(&[("key 0", Some("v"), 0)])).unwrap();
        assert!(again.base_offset.value() >= seen_until);
    }
}

fn flip_in(disk: &SimDisk, file: &Path, at: impl Fn(u64, u64) -> u64) {
    let open = disk.open(file).unwrap();
    let trailer_at = open.len_bytes().unwrap() - 4096;
    let trailer = open.read(trailer_at, 36).unwrap();
    let seal_at = u64::from_le_bytes(trailer[24..32].try_into().unwrap());
    disk.flip_bit(file, at(seal_at, trailer_at));
}

/// What leads to a compacted segment's footer is damaged, or the footer itself: it is read as a whole, and what follows it is
/// still known to follow.
#[test]
fn a_compacted_segment_opens_without_its_trailer_and_without_its_footer() {
    let damages: [fn(u64, u64) -> u64; 2] = [|_, trailer_at| trailer_at + 9, |seal_at, _| seal_at + 100];
    for (n, damage) in damages.into_iter().enumerate() {
        for stop_at in [1, 5, 60] {
            let mut model = Model::new(keyed());
            model.fill(5, 40);
            for sequence in 0..5 {
                append(model.partition(), sent(9, 0, sequence, 1)).unwrap();
            }
            model.end += 5;
            // Their key is not one of the model's.
            while segment_files(&model.disk).last() == segment_files(&model.disk).get(1)
                || model.partition().status().segments < 6
            {
                model.put(1, Some("v"));
            }
            let files = segment_files(&model.disk).len();
            while segment_files(&model.disk).len() == files {
                model.put(1, Some("w"));
            }
            (1..stop_at).for_each(|n| model.put(2, Some(&format!("{n}"))));
            assert!(model.compact());
            model.check();
            model.disk = model.disk.crash(stop_at);
            let sealed = segment_files(&model.disk);
            for file in &sealed[..sealed.len() - 1] {
                flip_in(&model.disk, file, damage);
            }
            model.start();
            model.check();
            let again = append(model.partition(), sent(9, 0, 4, 1)).unwrap();
            // The footer of the segment in front told of the producer; without one it may be forgotten.
            assert!(again.duplicate || n == 1);
            model.end = model.partition().committed().get().value();
            model.put(3, Some("x"));
            model.crash(7);
            model.check();
        }
    }
}

fn stored(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let content = |path: &PathBuf| disk.read_small(path).unwrap().unwrap();
    segment_files(disk).into_iter().map(|path| (path.clone(), content(&path))).collect()
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let mut model = Model::new(keyed());
    model.fill(10, 30);
    let before = stored(&model.disk);
    model.disk.set_free_bytes(Some(10_000));
    let error = model.partition().compact(TimestampMillis::new(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    model.disk.set_free_bytes(None);
    // It said there was room, and there is none.
    model.disk.no_space_from(Some(model.disk.operations()));
    let error = model.partition().compact(TimestampMillis::new(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(stored(&model.disk), before);
    assert!(model.disk.paths().iter().all(|path| !path.to_string_lossy().contains("compacted")));
    model.check();
    model.disk.no_space_from(None);
    assert!(model.compact());
    assert!(model.check().len() < 60);
}

/// Any one operation of a compaction fails: nothing is lost, neither for the process that goes on nor for one that starts then.
#[test]
fn an_error_or_a_crash_at_any_step_loses_nothing() {
    let filled = || {
        let mut model = Model::new(keyed());
        model.fill(6, 18);
        model
    };
    let mut model = filled();
    let before = model.disk.operations();
    assert!(model.compact());
    let steps = model.disk.operations() - before;
    assert!(steps > 20);
    for nth in (1..=steps).chain([steps]) {
        model = filled();
        model.disk.fail_operation(model.disk.operations() + nth, 5);
        let _ = model.partition().compact(TimestampMillis::new(model.now));
        let (disk, crashed) = (model.disk.clone(), model.disk.crash(nth));
        model.check();
        model.compact();
        assert!(model.check().len() < 40, "operation {nth}: the next attempt does it");
        model.put(0, Some("later"));
        model.disk = crashed;
        let last = model.last.clone();
        model.last = filled().last;
        model.end -= 1;
        model.start();
        model.check();
        (model.disk, model.last) = (disk, last);
    }
}

/// A damaged segment is not compacted, those in front of it are, and it stays as readable as it was.
#[test]
fn damage_stops_compaction_in_front_of_it() {
    let mut model = Model::new(keyed());
    model.fill(6, 30);
    let files = segment_files(&model.disk);
    let damaged = files[files.len() / 2].clone();
    model.disk = model.disk.crash(0);
    model.disk.flip_bit(&damaged, 4_096 + 300);
    model.start();
    let before = model.disk.read_small(&damaged).unwrap();
    let first = model.disk.read_small(&files[0]).unwrap();
    let error = model.partition().compact(TimestampMillis::new(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(model.disk.read_small(&damaged).unwrap(), before);
    assert_ne!(model.disk.read_small(&files[0]).unwrap(), first, "what is in front was compacted");
}

/// The keeper compacts by itself.
#[test]
fn the_keeper_compacts_without_being_asked() {
    let kept = LogOptions { keeper_interval: Duration::from_millis(1), ..keyed() };
    let mut model = Model::new(kept);
    model.fill(10, 40);
    until("compaction", || read_all(model.partition()).len() < 60);
    model.options = keyed();
    model.restart();
    model.check();
}
