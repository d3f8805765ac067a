//! The torn-or-corrupt rule: power failures at every moment, damage below and above what was promised.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;

use common::{ID, append, open_sim, read_all, submit, value};
use logcore::io::sim::SimDisk;
use logcore::partition::Health;
use logcore::{Error, Offset};

/// Acknowledged records survive any crash; what was not acknowledged is there whole or not at all, in order.
#[test]
fn a_crash_at_any_write_keeps_every_acknowledged_record() {
    for seed in 0..150_u64 {
        let disk = Arc::new(SimDisk::new());
        let mut acknowledged = 0;
        // Let the disk die in the middle of a write, at a different one each time; the process goes with it.
        disk.fail_write_after(seed % 37);
        if let Ok(log) = open_sim(&disk) {
            let partition = log.open_partition(ID).unwrap();
            for n in 0..120 {
                let tickets: Vec<_> = (0..3).map(|k| submit(&partition, &[value(n * 3 + k, 700), value(0, 10)], 0)).collect();
                let results: Vec<_> = tickets.into_iter().map(logcore::Ticket::wait).collect();
                acknowledged += results.iter().filter(|result| result.is_ok()).count() as u64 * 2;
                if results.iter().any(Result::is_err) {
                    break;
                }
            }
        }
        let disk = Arc::new(disk.crash(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let log = open_sim(&disk).unwrap();
        let partition = log.open_partition(ID).unwrap();
        assert_eq!(partition.health(), Health::Healthy, "seed {seed}: torn is not corrupt");
        let all = read_all(&partition, Offset::ZERO).unwrap();
        assert!(all.len() as u64 >= acknowledged, "seed {seed}: {acknowledged} acknowledged, {} found", all.len());
        assert_eq!(all.len() % 2, 0, "seed {seed}: a batch is there whole or not at all");
        for (n, (offset, found)) in all.iter().enumerate() {
            assert_eq!(*offset, n as u64);
            let expected = if n % 2 == 0 { value(n as u64 / 2, 700) } else { value(0, 10) };
            assert_eq!(*found, expected, "seed {seed} offset {n}");
        }
        // And it goes on, also over another crash.
        let next = append(&partition, &[b"after".to_vec()]).unwrap().base_offset.value();
        assert_eq!(next, all.len() as u64, "seed {seed}");
        drop((partition, log));
        let disk = Arc::new(disk.crash(seed));
        let log = open_sim(&disk).unwrap();
        assert_eq!(read_all(&log.open_partition(ID).unwrap(), Offset::ZERO).unwrap().len() as u64, next + 1, "seed {seed}");
    }
}

fn with_records(count: u64) -> Arc<SimDisk> {
    let disk = Arc::new(SimDisk::new());
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    for n in 0..count {
        append(&partition, &[value(n, 500)]).unwrap();
    }
    disk
}

fn newest_segment(disk: &SimDisk) -> std::path::PathBuf {
    let segments = disk.paths().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.max().unwrap()
}

#[test]
fn damage_below_what_was_promised_is_corruption_and_the_rest_is_served() {
    let disk = with_records(10);
    // The fourth write begins at the fourth block; its body lies behind the header.
    disk.flip_bit(&newest_segment(&disk), 3 * 4096 + 100);
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    assert!(matches!(partition.health(), Health::Corrupt(_)));
    assert!(matches!(append(&partition, &[b"x".to_vec()]), Err(Error::Damaged { .. })), "no writes on damaged ground");
    assert_eq!(partition.committed().get().value(), 10, "nothing was trimmed");
    let before = partition.read(Offset::ZERO, 100).unwrap();
    assert_eq!(before[0].header.base_offset.value(), 0);
    let error = partition.read(Offset::new(3), 100).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { offset, position: 12_288, .. } if offset.value() == 3), "{error}");
    assert_eq!(read_all(&partition, Offset::new(4)).unwrap().len(), 6, "what lies behind the hole is served");
}

#[test]
fn damage_in_the_last_write_is_a_torn_write() {
    let disk = with_records(10);
    disk.flip_bit(&newest_segment(&disk), 9 * 4096 + 100);
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    assert_eq!(partition.health(), Health::Healthy);
    assert_eq!(append(&partition, &[b"again".to_vec()]).unwrap().base_offset.value(), 9);
    assert_eq!(read_all(&partition, Offset::ZERO).unwrap()[9].1, b"again");
}

#[test]
fn damage_in_a_sealed_segment_is_found_when_it_is_read() {
    let disk = with_records(100);
    let first = disk.paths().into_iter().find(|path| path.ends_with("00000000000000000000.seg")).unwrap();
    assert_ne!(first, newest_segment(&disk));
    disk.flip_bit(&first, 5 * 4096 + 200);
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    assert_eq!(partition.health(), Health::Healthy);
    assert!(matches!(partition.read(Offset::new(5), 10), Err(Error::Corrupt { .. })));
    assert_eq!(read_all(&partition, Offset::new(6)).unwrap().len(), 94);
}

#[test]
fn index_files_are_no_evidence() {
    let disk = with_records(200);
    for path in disk.paths() {
        if path.extension().is_some_and(|extension| extension == "idx") {
            disk.flip_bit(&path, 20);
        }
    }
    let log = open_sim(&disk).unwrap();
    assert_eq!(read_all(&log.open_partition(ID).unwrap(), Offset::ZERO).unwrap().len(), 200);
}

#[test]
fn a_record_that_holds_the_image_of_a_segment_is_only_a_record() {
    use logcore::io::DiskIo;
    let donor = with_records(12);
    let image = donor.open(&newest_segment(&donor)).unwrap().read(0, 12 * 4096).unwrap();
    let disk = Arc::new(SimDisk::new());
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    append(&partition, &[b"first".to_vec()]).unwrap();
    disk.fail_write_after(0);
    assert!(append(&partition, &[image.to_vec()]).is_err());
    drop((partition, log));
    let disk = Arc::new(disk.crash(5));
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    assert_eq!(partition.health(), Health::Healthy, "flush frames inside a torn record promise nothing");
    assert_eq!(read_all(&partition, Offset::ZERO).unwrap().len(), 1);
}

/// The index file that a clean stop left for the active segment must not speak for it once it has grown.
#[test]
fn an_index_file_from_before_the_segment_grew_is_not_believed() {
    use logcore::io::DiskIo;
    let disk = Arc::new(SimDisk::new());
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    let mut count = 0;
    while count < 5 {
        append(&partition, &[value(count, 5_000)]).unwrap();
        count += 1;
    }
    drop(partition);
    log.close().unwrap();
    let index = newest_segment(&disk).with_extension("idx");
    let stale = disk.read_small(&index).unwrap().expect("a clean stop writes it");
    drop(log);
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    assert_eq!(read_all(&partition, Offset::ZERO).unwrap().len() as u64, count);
    while newest_segment(&disk).with_extension("idx") == index {
        append(&partition, &[value(count, 5_000)]).unwrap();
        count += 1;
    }
    drop((partition, log));
    disk.write_atomic(&index, &stale).unwrap();
    // Without its trailer the sealed segment is read as a whole, whatever the index file says.
    let sealed = index.with_extension("seg");
    let last = disk.open(&sealed).unwrap().len_bytes().unwrap() - 4096;
    disk.flip_bit(&sealed, last);
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    assert_eq!(read_all(&partition, Offset::ZERO).unwrap().len() as u64, count);
    assert_eq!(append(&partition, &[b"next".to_vec()]).unwrap().base_offset.value(), count);
}
