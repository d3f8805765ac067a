//! What the log knows of producers outlives the segments that held their batches: a batch sent again is not stored twice.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::history::{Request, Sent};
use common::{ID, append, options, value};
use logcore::io::DiskIo;
use logcore::io::record::{CrashStates, RecordDisk};
use logcore::io::sim::SimDisk;
use logcore::partition::PartitionOptions;
use logcore::{Appended, Log, LogOptions, Partition, ProducerSequence, Retention, Ticket};

fn small() -> PartitionOptions {
    PartitionOptions { segment_bytes: 48 << 10, tail_chunks_max: 0, ..PartitionOptions::default() }
}

fn open(disk: Arc<dyn DiskIo>, partition: PartitionOptions) -> (Log, Arc<Partition>) {
    let quick = LogOptions { keeper_interval: Duration::from_millis(1), ..options() };
    let log = Log::open_on(disk, "/sim".as_ref(), quick, None).unwrap();
    let partition = log.open_partition_with(ID, partition).unwrap();
    (log, partition)
}

fn send(partition: &Partition) -> Appended {
    let mut request = Request::new(vec![Sent { key: b"key".to_vec(), value: None }]);
    request.producer = Some(ProducerSequence { id: 3, epoch: 0, sequence: 0 });
    partition.try_append(request.proposal()).and_then(Ticket::wait).unwrap()
}

#[test]
fn when_retention_has_dropped_them() {
    for clean in [false, true] {
        let disk = SimDisk::new();
        let kept = PartitionOptions { retention: Retention { records: Some(1), ..Retention::default() }, ..small() };
        let (log, partition) = open(Arc::new(disk.clone()), kept.clone());
        assert!(!send(&partition).duplicate);
        for n in 1..40 {
            append(&partition, &[value(n, 3_000)]).unwrap();
        }
        while partition.status().segments > 1 {
            std::thread::yield_now();
        }
        assert!(send(&partition).duplicate);
        drop(partition);
        if clean {
            log.close().unwrap();
        }
        drop(log);
        for seed in 0..5 {
            let (_log, partition) = open(Arc::new(disk.crash(seed)), kept.clone());
            assert!(partition.log_start().value() > 1);
            let again = send(&partition);
            assert!(again.duplicate && again.base_offset.value() == 0, "clean: {clean}: {again:?}");
        }
    }
}

/// A crash that loses the seal of a segment, with the next one's file made, leaves nobody who knows: the segment goes on instead.
#[test]
fn when_a_rotation_was_cut_off() {
    let disk = RecordDisk::new(Arc::new(SimDisk::new()));
    let (_log, partition) = open(Arc::new(disk.clone()), small());
    assert!(!send(&partition).duplicate);
    disk.mark(1);
    for n in 1..60 {
        append(&partition, &[value(n, 3_000)]).unwrap();
    }
    assert!(partition.status().segments > 3);
    let mut states = 0;
    for state in CrashStates::new(&disk.operations(), 3).filter(|state| state.marked.is_some()) {
        let (_log, partition) = open(Arc::new(state.disk), small());
        let again = send(&partition);
        assert!(again.duplicate && again.base_offset.value() == 0, "after {} operations: {again:?}", state.upto);
        states += 1;
    }
    assert!(states > 100, "{states} states");
}
