//! The disk contract, run by every backend.
#![allow(clippy::unwrap_used, reason = "a test")]

use logcore::disk_io_suite;
use logcore::io::pool::PoolDisk;
use logcore::io::sim::SimDisk;

fn pool() -> (PoolDisk, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (PoolDisk::start(folder.path(), 4, 4).unwrap(), folder)
}

disk_io_suite!(pool, pool());
disk_io_suite!(buffered, (PoolDisk::start_buffered(2, 4).unwrap(), tempfile::tempdir().unwrap()));
disk_io_suite!(sim, (SimDisk::new(), std::path::Path::new("/sim")));
