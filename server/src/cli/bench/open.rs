//! The log of a run: its folder, its options, its partitions.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use logcore::ram::arena::CHUNK_BYTES;
use logcore::{Log, LogOptions, Partition, PartitionOptions, PartitionRef, Retention, StreamId};

use super::args::{LogArgs, Plan};
use crate::cli::demo::TemporaryFolder;

/// Where a run writes.
pub struct Folder {
    path: PathBuf,
    /// Removed when the run ends.
    _temporary: Option<TemporaryFolder>,
}

impl Folder {
    /// The folder asked for, or a temporary one. It must be empty.
    pub fn of(args: &LogArgs) -> Result<Self> {
        let Some(path) = &args.data else {
            let temporary = TemporaryFolder::create("headwater-bench")?;
            return Ok(Self { path: temporary.path().to_owned(), _temporary: Some(temporary) });
        };
        let first = match std::fs::read_dir(path) {
            Ok(mut entries) => entries.next(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
        };
        if first.is_some() {
            bail!("{} is not empty; name an empty folder, the bench must not write into data that someone needs", path.display());
        }
        Ok(Self { path: path.clone(), _temporary: None })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens the log of a run.
pub fn open_log(folder: &Folder, args: &LogArgs, plan: &Plan) -> Result<Log> {
    let mut options = LogOptions::default();
    if let Some(memory) = args.memory {
        options.memory_bytes_max = memory.0;
    }
    options.disk = plan.disk_io;
    Ok(Log::open(folder.path(), options)?)
}

/// Opens the partitions of a run, creating those that are not there.
pub fn open_partitions(log: &Log, args: &LogArgs, plan: &Plan) -> Result<Vec<Arc<Partition>>> {
    let mut options = PartitionOptions { ack: plan.ack, ..PartitionOptions::default() };
    if let Some(segment_bytes) = args.segment_bytes {
        options.segment_bytes = segment_bytes.0;
    }
    options.retention = Retention { bytes: args.retention_bytes.map(|size| size.0), ..Retention::default() };
    if args.readers > 0 {
        // Readers lag as far as they were told to.
        options.view_hold_bytes_max = u64::MAX;
    }
    if args.read {
        // As much in RAM as may be, so that reading from it is not reading from the processor's cache.
        let share = log.memory_bytes().1 / u64::from(args.partitions) * 3 / 4;
        options.tail_chunks_max = usize::try_from(share).unwrap_or(usize::MAX) / CHUNK_BYTES;
    }
    (0..args.partitions)
        .map(|number| {
            let id = PartitionRef::new(StreamId::FIRST_USER, number);
            log.open_partition_with(id, options.clone()).with_context(|| format!("opening {id}"))
        })
        .collect()
}
