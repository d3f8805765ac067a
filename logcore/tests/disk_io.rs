//! The disk contract, run by every backend.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use logcore::disk_io_suite;
use logcore::io::pool::PoolDisk;
use logcore::io::record::RecordDisk;
use logcore::io::sim::SimDisk;

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
