//! The disks that tests stand on, themselves tested: what the simulated one loses and fails, what the recording one makes of it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::{ID, append, open_sim, read_all, value};
use logcore::io::record::{Action, CrashStates, Operation, RecordDisk, crash_state};
use logcore::io::sim::SimDisk;
use logcore::io::{DiskFile, DiskIo, Durability, Fill, Write};
use logcore::{ErrorKind, Offset, Result};

const SECTOR: usize = 512;
const EIO: i32 = 5;

fn path() -> &'static Path {
    Path::new("/sim/a.seg")
}

fn filled(byte: u8, sectors: usize) -> Bytes {
    vec![byte; sectors * SECTOR].into()
}

/// The first byte of each sector.
fn sectors(disk: &dyn DiskIo) -> Vec<u8> {
    let file = disk.open(path()).unwrap();
    file.read(0, 1 << 20).unwrap().chunks(SECTOR).map(|sector| sector[0]).collect()
}

fn submit(
    disk: &dyn DiskIo,
    file: &Arc<dyn DiskFile>,
    at: usize,
    content: Bytes,
    done: impl FnOnce(Result<()>) + Send + 'static,
) {
    let write = Write { file: Arc::clone(file), at: at as u64, buffers: vec![content], durability: Durability::Data };
    disk.submit(write, Box::new(done));
}

#[test]
fn a_crash_keeps_what_is_durable_and_tears_the_rest() {
    let disk = SimDisk::new();
    let file = disk.create(path(), 8 * SECTOR as u64, Fill::Zeros).unwrap();
    file.write(0, &[filled(1, 4)], Durability::None).unwrap();
    file.write(4 * SECTOR as u64, &[filled(2, 1)], Durability::Data).unwrap();
    let states: BTreeSet<Vec<u8>> = (0..200).map(|seed| sectors(&disk.crash(seed))).collect();
    assert_eq!(states.len(), 16, "any subset of the four, and nothing else: {states:?}");
    assert!(states.iter().all(|state| state[4..] == [2, 0, 0, 0]), "durable itself, and nothing else because of it");
    file.sync().unwrap();
    assert!((0..50).all(|seed| sectors(&disk.crash(seed)) == [1, 1, 1, 1, 2, 0, 0, 0]));
    assert_eq!(sectors(&disk.crash(9).crash(10)), [1, 1, 1, 1, 2, 0, 0, 0]);
}

#[test]
fn what_a_failed_sync_lost_stays_lost() {
    let disk = SimDisk::new();
    let file = disk.create(path(), 2 * SECTOR as u64, Fill::Zeros).unwrap();
    file.write(0, &[filled(1, 1)], Durability::None).unwrap();
    disk.fail_next_sync();
    file.sync().unwrap_err();
    assert!(file.sync().unwrap_err().to_string().contains("given up since"), "this handle remembers");
    let fresh = disk.open(path()).unwrap();
    fresh.sync().expect("another handle does not know, as on Linux");
    assert_eq!(sectors(&disk), [1, 0], "and still it reads back");
    assert!((0..20).any(|seed| sectors(&disk.crash(seed)) == [0, 0]), "but it is not on the medium");
    fresh.write(0, &[filled(3, 1)], Durability::Data).unwrap();
    assert!((0..20).all(|seed| sectors(&disk.crash(seed)) == [3, 0]), "unless it is written again");
}

#[test]
fn held_writes_land_and_end_when_they_are_released_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::new();
        disk.set_writes_in_flight_max(4);
        assert_eq!(disk.writes_in_flight_max(), 4);
        let file = disk.create(path(), 4 * SECTOR as u64, Fill::Zeros).unwrap();
        disk.hold_completions(true);
        let order = Arc::new(Mutex::new(Vec::new()));
        for n in 0..4_u8 {
            let order = Arc::clone(&order);
            submit(&disk, &file, usize::from(n) * SECTOR, filled(n + 1, 1), move |result| {
                result.unwrap();
                order.lock().unwrap().push(n);
            });
        }
        assert_eq!((disk.held(), sectors(&disk)), (4, vec![0; 4]), "nothing has landed");
        assert!(disk.release_one(seed));
        assert_eq!(sectors(&disk).iter().filter(|byte| **byte > 0).count(), 1);
        let torn: BTreeSet<Vec<u8>> = (0..50).map(|seed| sectors(&disk.crash(seed))).collect();
        assert_eq!(torn.len(), 8, "the one that ended is there, of the three others any subset");
        assert_eq!((disk.release(seed), disk.held()), (3, 0));
        assert!(!disk.release_one(seed));
        assert_eq!(sectors(&disk), [1, 2, 3, 4]);
        disk.hold_completions(false);
        submit(&disk, &file, 0, filled(9, 1), |result| result.unwrap());
        assert_eq!(sectors(&disk)[0], 9, "done at once again");
        let order = std::mem::take(&mut *order.lock().unwrap());
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 4);
        orders.insert(order);
    }
    assert!(orders.len() > 10, "seeds choose the order: {orders:?}");
}

#[test]
fn a_test_can_wait_for_writes_of_another_thread() {
    let disk = SimDisk::new();
    disk.hold_completions(true);
    let file = disk.create(path(), 4 * SECTOR as u64, Fill::Zeros).unwrap();
    let (tell, ended) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..3 {
                let tell = tell.clone();
                submit(&disk, &file, n * SECTOR, filled(1, 1), move |result| tell.send(result).unwrap());
            }
        });
        disk.wait_held(3);
    });
    assert_eq!(disk.release(1), 3);
    drop(tell);
    assert_eq!(ended.iter().map(Result::unwrap).count(), 3);
}

/// A little of everything.
fn script(disk: &SimDisk) -> Result<()> {
    let (folder, spare) = (Path::new("/sim"), Path::new("/sim/spare"));
    disk.create_dir(folder)?;
    drop(disk.create(spare, 4 * SECTOR as u64, Fill::Reserved)?);
    disk.rename(spare, path())?;
    let file = disk.open(path())?;
    file.write(0, &[filled(1, 2)], Durability::Data)?;
    file.write(0, &[filled(2, 2)], Durability::None)?;
    file.sync()?;
    file.zero_from(SECTOR as u64)?;
    file.read(0, 10)?;
    file.len_bytes()?;
    disk.write_atomic(&folder.join("identity"), b"me")?;
    disk.read_small(&folder.join("identity"))?;
    disk.list(folder)?;
    disk.free_bytes(folder)?;
    disk.remove(&folder.join("identity"))?;
    disk.remove_dir(folder)
}

#[test]
fn every_operation_can_be_made_to_fail_once() {
    let disk = SimDisk::new();
    script(&disk).unwrap();
    let operations = disk.operations();
    assert_eq!(operations, 16, "each is counted");
    for nth in 1..=operations {
        let disk = SimDisk::new();
        disk.fail_operation(nth, EIO);
        let error = script(&disk).unwrap_err();
        assert!(error.to_string().contains("os error 5"), "operation {nth}: {error}");
        assert_eq!(disk.operations(), nth, "it was that one");
        script(&disk).unwrap_or_else(|error| panic!("nothing fails after operation {nth}: {error}"));
    }
}

#[test]
fn a_failed_write_is_half_there_and_a_failed_change_of_names_is_not() {
    let disk = SimDisk::new();
    let file = disk.create(path(), 4 * SECTOR as u64, Fill::Zeros).unwrap();
    disk.fail_operation(disk.operations() + 1, EIO);
    file.write(0, &[filled(1, 4)], Durability::Data).unwrap_err();
    assert_eq!(sectors(&disk), [1, 1, 0, 0]);
    assert!(file.write(0, &[filled(2, 1)], Durability::Data).is_err(), "the handle was given up");
    disk.fail_operation(disk.operations() + 1, EIO);
    disk.rename(path(), Path::new("/sim/b.seg")).unwrap_err();
    assert_eq!(disk.paths(), [path()]);
}

#[test]
fn a_full_disk_takes_nothing_new_until_there_is_room() {
    let disk = SimDisk::new();
    let file = disk.create(path(), 4 * SECTOR as u64, Fill::Zeros).unwrap();
    disk.no_space_from(Some(disk.operations() + 2));
    disk.write_atomic(Path::new("/sim/identity"), b"old").unwrap();
    for refused in [
        disk.write_atomic(Path::new("/sim/identity"), b"new"),
        disk.create(Path::new("/sim/b.seg"), 1, Fill::Reserved).map(drop),
        disk.open(path()).unwrap().write(3 * SECTOR as u64, &[filled(1, 2)], Durability::Data),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::NoSpace);
    }
    assert_eq!(disk.read_small(Path::new("/sim/identity")).unwrap().unwrap(), b"old");
    file.write(0, &[filled(2, 2)], Durability::Data).expect("what is reserved can be written");
    disk.no_space_from(None);
    disk.write_atomic(Path::new("/sim/identity"), b"new").unwrap();
    assert_eq!(sectors(&disk), [2, 2, 0, 1], "and of the write that did not fit, what fitted is there");
}

/// The promise that a new file's folder entry is durable is needed: without it the log loses what it acknowledged.
#[test]
fn a_disk_that_forgets_folder_entries_is_noticed() {
    for forget in [false, true] {
        let disk = Arc::new(SimDisk::new());
        let log = open_sim(&disk).unwrap();
        disk.forget_folder_syncs(forget);
        append(&log.open_partition(ID).unwrap(), &[value(1, 100)]).unwrap();
        let disk = Arc::new(disk.crash(3));
        let log = open_sim(&disk).unwrap();
        let found = read_all(&log.open_partition(ID).unwrap(), Offset::ZERO).unwrap();
        assert_eq!(found.len(), usize::from(!forget));
    }
    let disk = SimDisk::new();
    disk.write_atomic(path(), b"old").unwrap();
    disk.forget_folder_syncs(true);
    disk.write_atomic(path(), b"new").unwrap();
    disk.rename(path(), Path::new("/sim/b")).unwrap();
    disk.create(Path::new("/sim/c"), 5, Fill::Zeros).unwrap();
    let crashed = disk.crash(1);
    assert_eq!((crashed.paths(), crashed.read_small(path()).unwrap().unwrap()), (vec![path().to_owned()], b"old".to_vec()));
}

fn recorded() -> (SimDisk, RecordDisk) {
    let sim = SimDisk::new();
    (sim.clone(), RecordDisk::new(Arc::new(sim)))
}

/// All states that seeds make of the first `upto` operations.
fn states(disk: &RecordDisk, upto: usize) -> BTreeSet<Vec<u8>> {
    (0..300).map(|seed| sectors(&crash_state(&disk.operations(), upto, seed))).collect()
}

#[test]
fn what_was_recorded_as_durable_is_in_every_state_and_the_rest_in_any_part() {
    let (_, disk) = recorded();
    let file = disk.create(path(), 6 * SECTOR as u64, Fill::Zeros).unwrap();
    file.write(0, &[filled(1, 2)], Durability::None).unwrap();
    file.write(2 * SECTOR as u64, &[filled(2, 2)], Durability::Data).unwrap();
    file.sync().unwrap();
    file.zero_from(3 * SECTOR as u64).unwrap();
    let all = disk.operations();
    assert_eq!(all.len(), 10, "each started and ended: {all:?}");
    assert!(matches!(&all[4], Operation::Started { action: Action::Write { durability: Durability::Data, .. }, .. }));
    assert_eq!(states(&disk, 2), BTreeSet::from([vec![0; 6]]));
    assert_eq!(states(&disk, 3).len(), 4, "under way");
    assert_eq!(states(&disk, 4).len(), 4, "ended, without durability");
    assert_eq!(states(&disk, 5).len(), 16, "and another under way");
    let ended = states(&disk, 6);
    assert!(ended.len() == 4 && ended.iter().all(|state| state[2..] == [2, 2, 0, 0]), "{ended:?}");
    assert_eq!(states(&disk, 7), ended, "a sync under way changes nothing");
    assert_eq!(states(&disk, 8), BTreeSet::from([vec![1, 1, 2, 2, 0, 0]]));
    assert_eq!(states(&disk, 9).len(), 2, "a zeroing under way");
    assert_eq!(states(&disk, 10), BTreeSet::from([vec![1, 1, 2, 0, 0, 0]]));
    let mut seen = 0;
    for state in CrashStates::new(&all, 5) {
        let again = crash_state(&all, state.upto, state.seed);
        assert_eq!(state.disk.paths(), again.paths());
        assert!(state.disk.paths().is_empty() || sectors(&state.disk) == sectors(&again), "{} {}", state.upto, state.seed);
        seen += 1;
    }
    assert_eq!(seen, 5 * 7 + 4, "five before each operation and after the last, one where nothing is left to chance");
}

#[test]
fn a_sync_covers_what_ended_before_it_began_and_nothing_else() {
    let (sim, disk) = recorded();
    let file = disk.create(path(), 2 * SECTOR as u64, Fill::Zeros).unwrap();
    sim.hold_completions(true);
    submit(&disk, &file, 0, filled(1, 1), |result| result.unwrap());
    file.sync().unwrap();
    assert_eq!(states(&disk, disk.operations().len()).len(), 2, "the write is still under way");
    assert_eq!(sim.release(1), 1);
    assert_eq!(states(&disk, disk.operations().len()), BTreeSet::from([vec![1, 0]]));
    sim.hold_completions(false);
    sim.fail_write_after(0);
    submit(&disk, &file, SECTOR, filled(2, 1), |result| result.unwrap_err().to_string().clear());
    disk.open(path()).unwrap().sync().unwrap();
    assert_eq!(states(&disk, disk.operations().len()).len(), 2, "of a failed write nothing is known, also after a sync");
}

#[test]
fn folder_entries_under_way_have_happened_or_not() {
    let (_, disk) = recorded();
    let names = |upto: usize| -> BTreeSet<Vec<(String, usize)>> {
        let state = |seed| {
            let sim = crash_state(&disk.operations(), upto, seed);
            let len = |path: &Path| sim.read_small(path).unwrap().unwrap().len();
            sim.paths().iter().map(|path| (path.display().to_string(), len(path))).collect()
        };
        (0..200).map(state).collect()
    };
    let list = |entries: &[(&str, usize)]| entries.iter().map(|(name, len)| ((*name).to_owned(), *len)).collect::<Vec<_>>();
    let folder = Path::new("/s");
    drop(disk.create(&folder.join("a"), 1_000, Fill::Reserved).unwrap());
    let creating = names(1);
    assert!(creating.contains(&list(&[])) && creating.contains(&list(&[("/s/a", 1_000)])));
    assert!(creating.len() > 10, "a file that is being created may be shorter");
    assert_eq!(names(2), BTreeSet::from([list(&[("/s/a", 1_000)])]));
    disk.rename(&folder.join("a"), &folder.join("b")).unwrap();
    assert_eq!(names(3), BTreeSet::from([list(&[("/s/a", 1_000)]), list(&[("/s/b", 1_000)])]));
    assert_eq!(names(4), BTreeSet::from([list(&[("/s/b", 1_000)])]));
    disk.write_atomic(&folder.join("b"), b"me").unwrap();
    assert_eq!(names(5), BTreeSet::from([list(&[("/s/b", 1_000)]), list(&[("/s/b", 2)])]));
    disk.write_atomic(&folder.join("c"), b"you").unwrap();
    disk.remove_dir(folder).unwrap();
    assert_eq!(names(9).len(), 4, "any file may be gone");
    assert_eq!(names(10), BTreeSet::from([list(&[])]));
    disk.mark(7);
    let marked = CrashStates::new(&disk.operations(), 1).last().unwrap();
    assert_eq!((marked.upto, marked.marked), (11, Some(7)));
}

#[test]
fn a_recording_goes_on_from_what_is_there() {
    let sim = SimDisk::new();
    sim.create(path(), 2 * SECTOR as u64, Fill::Zeros).unwrap().write(0, &[filled(1, 1)], Durability::Data).unwrap();
    sim.write_atomic(Path::new("/sim/below/identity"), b"me").unwrap();
    let disk = RecordDisk::over(Arc::new(sim), Path::new("/sim")).unwrap();
    disk.open(path()).unwrap().write(SECTOR as u64, &[filled(2, 1)], Durability::Data).unwrap();
    let state = crash_state(&disk.operations(), disk.operations().len(), 0);
    assert_eq!(sectors(&state), [1, 2]);
    assert_eq!(state.read_small(Path::new("/sim/below/identity")).unwrap().unwrap(), b"me");
}

/// The log, with the power failing at every place of a run that rotates segments, and again while it recovers.
#[test]
fn acknowledged_records_survive_a_power_failure_at_every_operation() {
    let (_, record) = recorded();
    let disk = Arc::new(record);
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    for n in 0..24 {
        append(&partition, &[value(n, 9_000)]).unwrap();
        disk.mark(n + 1);
    }
    drop((partition, log));
    let operations = disk.operations();
    let mut recovered = 0;
    for state in CrashStates::new(&operations, 3) {
        let acknowledged = state.marked.unwrap_or(0);
        let check = |sim: SimDisk, again: &str| {
            let log = open_sim(&Arc::new(sim)).unwrap_or_else(|error| panic!("{again} {} {}: {error}", state.upto, state.seed));
            let all = read_all(&log.open_partition(ID).unwrap(), Offset::ZERO).unwrap();
            assert!(all.len() as u64 >= acknowledged, "{again} {} {}: {} of {acknowledged}", state.upto, state.seed, all.len());
            assert!(all.iter().zip(0..).all(|((offset, found), n)| (*offset, found) == (n, &value(n, 9_000))));
        };
        if state.upto % 16 == 0 && state.seed == 2 {
            let recovery = Arc::new(RecordDisk::over(Arc::new(state.disk.clone()), Path::new("/sim")).unwrap());
            drop(open_sim(&recovery).and_then(|log| log.open_partition(ID)).unwrap());
            for second in CrashStates::new(&recovery.operations(), 2) {
                // What recovery found was there before it began.
                if second.upto >= 2 * state.disk.paths().len() {
                    check(second.disk, "recovering");
                }
            }
        }
        check(state.disk, "once");
        recovered += 1;
    }
    assert!(recovered > 150, "{recovered} states");
}
