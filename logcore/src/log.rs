//! The data folder: identity, lock, the partitions in it and the threads that own them.
//!
//! Opened once by the `Database` facade; partitions are then created, opened and removed by number. Names live in the catalog.
//!
//! # Format
//! `docs/format.md`, "Data folder".

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::unbounded;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};
use crate::io::probe::{self, Backend};
use crate::io::{DiskIo, READ_BUFFERS_BYTES};
use crate::keeper::{Keeper, Kept};
use crate::partition::open::Opening;
use crate::partition::owner::{self, Owner};
use crate::partition::{CleanState, Closing, Compaction, Mailbox, PERMIT_BYTES, Partition, PartitionOptions};
use crate::ram::arena::Arena;
use crate::segment::recent::Recent;
use crate::sys::fs::FolderLock;
use crate::sys::{fs, thread};
use crate::types::{PartitionRef, StreamId};

/// The version of everything in a data folder.
pub const FORMAT_VERSION: u32 = 1;
/// Partitions one log takes.
const PARTITIONS_MAX: usize = 16_384;

/// The database's own streams are small and there in every folder.
const INTERNAL_SEGMENT_BYTES: u64 = 16 << 20;

/// How the log of a data folder is run.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The budget of the RAM tier.
    pub memory_bytes_max: u64,
    /// Batches that may wait for each owner thread, in bytes.
    pub queue_bytes_max: usize,
    /// Threads that own partitions.
    pub owners: usize,
    /// How the disk is reached.
    pub disk: Backend,
    /// Threads that write and sync.
    pub disk_threads: usize,
    /// How often retention, compaction and verification look for something to do. A ring that grew does not wait for it.
    pub keeper_interval: Duration,
    /// Read from sealed segments to find damage before a reader does; 0 for not at all.
    pub verify_bytes_per_second: u64,
    /// Free disk space below which no new segment is begun.
    pub reserve_bytes: u64,
    /// How partitions are kept.
    pub partition: PartitionOptions,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            memory_bytes_max: 256 << 20,
            queue_bytes_max: 64 << 20,
            owners: 1,
            disk: Backend::Auto,
            disk_threads: 4,
            keeper_interval: Duration::from_secs(1),
            verify_bytes_per_second: 8 << 20,
            reserve_bytes: 256 << 20,
            partition: PartitionOptions::default(),
        }
    }
}

/// Who a data folder belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// [`FORMAT_VERSION`] of the program that made it.
    pub format: u32,
    /// The cluster, in hexadecimal.
    pub cluster: String,
    /// The node within it.
    pub node: u64,
}

#[derive(Serialize, Deserialize)]
struct CleanStop {
    checksum: u32,
    partitions: Vec<CleanState>,
}

/// See the module docs.
pub struct Log {
    dir: PathBuf,
    io: Arc<dyn DiskIo>,
    disk_detail: String,
    arena: Arc<Arena>,
    recent: Arc<Recent>,
    options: LogOptions,
    identity: Identity,
    owners: Vec<Mailbox>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    partitions: RwLock<HashMap<PartitionRef, Arc<Partition>>>,
    clean: Mutex<HashMap<PartitionRef, CleanState>>,
    next_slot: AtomicU64,
    keeper: Keeper,
    kept: Arc<Kept>,
    _lock: Option<FolderLock>,
}

impl Log {
    /// Opens or creates the data folder `dir`.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::NoIdentity`], [`Error::UnknownFormat`], [`Error::NoDiskBackend`], disk errors.
    pub fn open(dir: &Path, options: LogOptions) -> Result<Self> {
        fs::create_dir(dir)?;
        let lock = FolderLock::take(dir)?;
        let chosen = probe::start(options.disk, dir, options.disk_threads)?;
        let mut log = Self::open_on(chosen.io, dir, options, Some(lock))?;
        log.disk_detail = chosen.detail;
        Ok(log)
    }

    /// As [`Self::open`], on a disk of the caller's and without a lock: for simulations.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(io: Arc<dyn DiskIo>, dir: &Path, options: LogOptions, lock: Option<FolderLock>) -> Result<Self> {
        let identity = load_identity(io.as_ref(), dir)?;
        let clean = take_clean_stop(io.as_ref(), dir)?;
        // What is read into counts as well; of a small budget it would be too large a part.
        let for_reads = Some(READ_BUFFERS_BYTES).filter(|bytes| bytes * 8 <= options.memory_bytes_max).unwrap_or(0);
        let arena = Arc::new(Arena::new(options.memory_bytes_max - for_reads));
        let (mut owners, mut threads) = (Vec::new(), Vec::new());
        for n in 0..options.owners.max(1) {
            let permits = (options.queue_bytes_max / PERMIT_BYTES).max(owner::BATCH_BYTES_MAX / PERMIT_BYTES + 1);
            // Bounded without a number here, which would be paid for in memory ahead: a message needs a permit, or is one of the
            // few of its partition's life; a completion belongs to one of the few things a partition has under way.
            let (queue, messages) = unbounded();
            let (tell, finished) = unbounded();
            let owner = Owner::new(Arc::clone(&arena), tell);
            let body = move || owner.run(&messages, &finished);
            threads.push(thread::spawn(&format!("owner-{n}"), body).map_err(Error::io("starting thread", "owner"))?);
            owners.push(Mailbox { queue, permits: Arc::new(Semaphore::new(permits)) });
        }
        let kept = Arc::<Kept>::default();
        let keeper = Keeper::start(&kept, options.keeper_interval, options.verify_bytes_per_second)?;
        Ok(Self {
            dir: dir.to_owned(),
            disk_detail: format!("{}: given by the program", io.backend()),
            io,
            arena,
            recent: Arc::default(),
            options,
            identity,
            owners,
            threads: Mutex::new(threads),
            partitions: RwLock::default(),
            clean: Mutex::new(clean.into_iter().map(|state| (state.partition, state)).collect()),
            next_slot: AtomicU64::new(0),
            keeper,
            kept,
            _lock: lock,
        })
    }

    /// The data folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Who the folder belongs to.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The disk's backend.
    #[must_use]
    pub fn disk_backend(&self) -> &'static str {
        self.io.backend()
    }

    /// Why that one, and how it reaches the disk, in a sentence.
    #[must_use]
    pub fn disk_detail(&self) -> &str {
        &self.disk_detail
    }

    /// Bytes of the RAM tier in use, and its budget.
    #[must_use]
    pub fn memory_bytes(&self) -> (u64, u64) {
        (self.arena.used_bytes(), self.arena.budget_bytes())
    }

    /// Opens a partition, creating it if it is not there; gives the same handle when it is open already.
    ///
    /// # Errors
    /// Disk errors, [`Error::Throttled`] beyond the number of partitions one log takes.
    pub fn open_partition(&self, id: PartitionRef) -> Result<Arc<Partition>> {
        let mut options = self.options.partition.clone();
        if id.stream < StreamId::FIRST_USER {
            options.segment_bytes = options.segment_bytes.min(INTERNAL_SEGMENT_BYTES);
        }
        if id.stream == StreamId::CURSORS {
            // Only where a cursor stands now is ever asked for.
            options.compaction = Some(Compaction::default());
        }
        self.open_partition_with(id, options)
    }

    /// As [`Self::open_partition`], with options of its own.
    ///
    /// # Errors
    /// As [`Self::open_partition`].
    pub fn open_partition_with(&self, id: PartitionRef, options: PartitionOptions) -> Result<Arc<Partition>> {
        let mut partitions = self.partitions.write().expect("no code panics inside");
        if let Some(open) = partitions.get(&id) {
            return Ok(Arc::clone(open));
        }
        if partitions.len() >= PARTITIONS_MAX {
            return Err(Error::Throttled { partition: id, waited_ms: 0 });
        }
        let slot = self.next_slot.fetch_add(1, Ordering::Relaxed);
        let owner = usize::try_from(slot % self.owners.len() as u64).expect("below the number of owners");
        let opening = Opening {
            id,
            dir: &self.partition_dir(id),
            io: Arc::clone(&self.io),
            arena: Arc::clone(&self.arena),
            recent: Arc::clone(&self.recent),
            bell: self.keeper.bell(),
            options,
            reserve_bytes: self.options.reserve_bytes,
            clean: self.clean.lock().expect("no code panics inside").remove(&id),
            mailbox: self.owners[owner].clone(),
            slot,
        };
        let partition = Arc::new(opening.open()?);
        self.kept.lock().expect("no code panics inside").insert(id, partition.shared());
        partitions.insert(id, Arc::clone(&partition));
        Ok(partition)
    }

    fn stream_dir(&self, stream: StreamId) -> PathBuf {
        self.dir.join("log").join(stream.to_string())
    }

    fn partition_dir(&self, id: PartitionRef) -> PathBuf {
        self.stream_dir(id.stream).join(id.partition.to_string())
    }

    /// An open partition.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`].
    pub fn partition(&self, id: PartitionRef) -> Result<Arc<Partition>> {
        let partitions = self.partitions.read().expect("no code panics inside");
        partitions.get(&id).cloned().ok_or(Error::UnknownPartition { partition: id })
    }

    /// Closes the partitions of a stream and removes its files.
    ///
    /// # Errors
    /// Disk errors; calling again continues.
    pub fn remove_stream(&self, stream: StreamId) -> Result<()> {
        let gone: Vec<Arc<Partition>> = {
            let mut partitions = self.partitions.write().expect("no code panics inside");
            partitions.extract_if(|id, _| id.stream == stream).map(|(_, partition)| partition).collect()
        };
        self.kept.lock().expect("no code panics inside").retain(|id, _| id.stream != stream);
        // First all are told, then each is waited for.
        let closing: Vec<_> = gone.iter().map(|partition| partition.close()).collect();
        for closing in closing {
            let _ = closing.wait();
        }
        self.io.remove_dir(&self.stream_dir(stream))
    }

    /// Writes out everything that is queued and records a clean stop. No appends may follow.
    ///
    /// # Errors
    /// When the record of the clean stop can't be written; the next start then scans.
    pub fn close(&self) -> Result<()> {
        self.keeper.stop();
        let open: Vec<Arc<Partition>> =
            self.partitions.write().expect("no code panics inside").drain().map(|(_, partition)| partition).collect();
        // First all are told, then each is waited for.
        let closing: Vec<_> = open.iter().map(|partition| partition.close()).collect();
        let partitions: Vec<CleanState> = closing.into_iter().filter_map(Closing::wait).collect();
        let json = |error: serde_json::Error| Error::io("encoding", self.dir.join("clean"))(error.into());
        let checksum = crate::frame::checksum(&serde_json::to_vec(&partitions).map_err(json)?);
        let content = serde_json::to_vec(&CleanStop { checksum, partitions }).map_err(json)?;
        self.io.write_atomic(&self.dir.join("clean"), &content)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.keeper.stop();
        self.partitions.write().expect("no code panics inside").clear();
        self.owners.clear();
        // An owner ends when the last handle on one of its partitions is dropped, which may be after this.
        self.threads.lock().expect("no code panics inside").clear();
    }
}

fn load_identity(io: &dyn DiskIo, dir: &Path) -> Result<Identity> {
    let path = dir.join("identity");
    let no_identity = |detail: String| Error::NoIdentity { path: dir.to_owned(), detail };
    if let Some(content) = io.read_small(&path)? {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let format: Format = serde_json::from_slice(&content).map_err(|error| no_identity(error.to_string()))?;
        if format.format != FORMAT_VERSION {
            return Err(Error::UnknownFormat { path: dir.to_owned(), found: format.format, supported: FORMAT_VERSION });
        }
        return serde_json::from_slice(&content).map_err(|error| no_identity(error.to_string()));
    }
    if !io.list(&dir.join("log"))?.is_empty() || !io.list(&dir.join("views"))?.is_empty() {
        return Err(no_identity("the file is missing".into()));
    }
    let identity = Identity { format: FORMAT_VERSION, cluster: fs::random_id()?, node: 1 };
    let content = serde_json::to_vec_pretty(&identity).map_err(|error| no_identity(error.to_string()))?;
    io.write_atomic(&path, &content)?;
    Ok(identity)
}

/// Reads and removes the record of a clean stop: it is true only until the first write after it.
fn take_clean_stop(io: &dyn DiskIo, dir: &Path) -> Result<Vec<CleanState>> {
    let path = dir.join("clean");
    let Some(content) = io.read_small(&path)? else { return Ok(Vec::new()) };
    io.remove(&path)?;
    let stop = serde_json::from_slice::<CleanStop>(&content).ok();
    let whole =
        stop.filter(|stop| serde_json::to_vec(&stop.partitions).is_ok_and(|raw| crate::frame::checksum(&raw) == stop.checksum));
    Ok(whole.map(|stop| stop.partitions).unwrap_or_default())
}
