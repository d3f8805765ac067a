//! The disk contract, run by every backend.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;

use logcore::io::pool::PoolDisk;
use logcore::io::record::RecordDisk;
use logcore::io::sim::SimDisk;
use logcore::{Log, LogOptions, Offset, disk_io_suite};

fn pool() -> (PoolDisk, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (PoolDisk::start(folder.path(), 4, 4).unwrap(), folder)
}

fn sim_with_short_writes() -> SimDisk {
    let disk = SimDisk::new();
    disk.set_writes_in_flight_max(4);
    disk.short_writes(Some(7));
    disk
}

disk_io_suite!(pool, pool());
disk_io_suite!(buffered, (PoolDisk::start_buffered(2, 4).unwrap(), tempfile::tempdir().unwrap()));
disk_io_suite!(sim, (SimDisk::new(), std::path::Path::new("/sim")));
disk_io_suite!(sim_with_short_writes, (sim_with_short_writes(), std::path::Path::new("/sim")));
disk_io_suite!(record_over_sim, (RecordDisk::new(Arc::new(SimDisk::new())), std::path::Path::new("/sim")));
disk_io_suite!(record_over_pool, {
    let (disk, folder) = pool();
    (RecordDisk::new(Arc::new(disk)), folder)
});

disk_io_suite!(uring, if_possible: {
    let folder = tempfile::tempdir().unwrap();
    logcore::io::uring::start(folder.path(), 2, 4).map(|disk| (disk, folder))
});
disk_io_suite!(tokio_uring, if_possible: {
    let folder = tempfile::tempdir().unwrap();
    logcore::io::tokio_uring::start(folder.path(), 2, 4).map(|disk| (disk, folder))
});

/// What one backend wrote the others read: they differ in nothing that is on the disk.
#[test]
#[allow(clippy::print_stdout, reason = "a test that could not run must not pass in silence")]
fn the_log_runs_on_every_backend() {
    let folder = tempfile::tempdir().unwrap();
    let mut appended = 0;
    for backend in ["uring", "pool", "tokio-uring", "auto"] {
        let options = LogOptions { disk: backend.parse().unwrap(), ..common::options() };
        let log = match Log::open(folder.path(), options) {
            Ok(log) => log,
            Err(error) => {
                assert!(backend.contains("uring"), "{error}");
                logcore::io::suite::refused(backend, &error);
                continue;
            }
        };
        assert!(backend == "auto" || log.disk_backend() == backend);
        assert!(log.disk_detail().starts_with(log.disk_backend()), "{}", log.disk_detail());
        println!("{backend}: {}", log.disk_detail());
        let partition = log.open_partition(common::ID).unwrap();
        for _ in 0..10 {
            common::append(&partition, &[common::value(appended, 40_000)]).unwrap();
            appended += 1;
        }
        let found = common::read_all(&partition, Offset::ZERO).unwrap();
        assert!(found.iter().map(|(_, value)| value.clone()).eq((0..appended).map(|n| common::value(n, 40_000))));
        drop(partition);
        log.close().unwrap();
    }
    assert!(appended >= 20, "the pool runs everywhere");
}
