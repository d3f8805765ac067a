//! The disk contract, run by every backend.
#![allow(clippy::unwrap_used, reason = "a test")]

use logcore::disk_io_suite;
use logcore::io::pool::PoolDisk;
use logcore::io::sim::SimDisk;

disk_io_suite!(pool, (PoolDisk::start(2, 4).unwrap(), tempfile::tempdir().unwrap()));
disk_io_suite!(sim, (SimDisk::new(), std::path::Path::new("/sim")));
