//! The disk as the log sees it: owned buffers in, an explicit durability per write, one completion per write.
//!
//! Called by [`crate::partition::owner`] (writes), [`crate::segment`] (creation, reads, trims) and nobody else. It knows nothing
//! of frames. Backends, among which [`probe`] chooses: [`pool`] (dedicated threads, everywhere), [`uring`] and [`tokio_uring`]
//! (Linux's io_uring, where it is allowed); for tests [`sim`] (a disk in memory that crashes and fails) and
//! [`record`] (keeps the list of what was asked of another, to put a power failure anywhere in it).
//!
//! # The contract every backend keeps (`disk_io_suite!` tests it)
//! - [`DiskIo::submit`] writes all buffers one after the other from `at`; a short write continues before any sync.
//! - `done` is called exactly once, also when the write fails, and never before the durability asked for is reached.
//! - Buffers live until `done`, even when the caller is gone.
//! - Up to [`DiskIo::writes_in_flight_max`] writes to one file may be under way at once, to places that don't overlap. They end in
//!   any order; each is durable by itself.
//! - [`DiskIo::create`] answers when the file has its whole length, reads as zeros, and it and its folder entry are durable. A
//!   power failure before that may leave nothing, or a shorter file of zeros.
//! - A failed write or sync is reported as failed and never retried here. After it, every later write and sync through the same
//!   handle fails without being tried, and so does what was under way meanwhile; reads go on.
//! - Dropping a disk waits for what is under way; its files can still be read and written by whoever holds them.

mod blocks;
mod buffers;
pub(crate) use buffers::USUAL_BYTES as READ_BUFFERS_BYTES;
pub mod direct;
mod first_error;
pub mod pool;
pub mod probe;
pub mod record;
pub mod sim;
pub mod suite;
pub mod tokio_uring;
pub mod uring;

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;

/// What must be true when a write is reported done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Handed to the system; lost with it.
    None,
    /// On the medium, with the metadata needed to read it back.
    Data,
}

/// How the space of a new file is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Written with zeros: dear to make, and small commits to it then carry no metadata.
    Zeros,
    /// Reserved only: cheap to make, and the better choice for large writes.
    Reserved,
}

/// One write: `buffers` one after the other, from byte `at` of `file`.
pub struct Write {
    /// Where to.
    pub file: Arc<dyn DiskFile>,
    /// The byte position of the first buffer.
    pub at: u64,
    /// What to write.
    pub buffers: Vec<Bytes>,
    /// What must be true before it is done.
    pub durability: Durability,
}

/// Told once how a write ended.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// A file that was opened or created through a [`DiskIo`].
pub trait DiskFile: Any + Send + Sync {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// Reads `len` bytes from `at`, fewer where the file ends. Large reads at whole blocks may go around the page cache.
    ///
    /// # Errors
    /// When the medium does not give the bytes back.
    fn read(&self, at: u64, len: usize) -> Result<Bytes>;

    /// Writes all buffers one after the other from `at`, then reaches `durability`. Blocks; [`DiskIo::submit`] doesn't.
    ///
    /// # Errors
    /// When a write or the sync failed: how much is on the medium is then unknown.
    fn write(&self, at: u64, buffers: &[Bytes], durability: Durability) -> Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// When the system does not say.
    fn len_bytes(&self) -> Result<u64>;

    /// Turns everything from byte `at` on into zeros, keeps the length, and makes that durable.
    ///
    /// # Errors
    /// When that can't be promised; the file must not be written again in this process.
    fn zero_from(&self, at: u64) -> Result<()>;

    /// Makes everything written before durable.
    ///
    /// # Errors
    /// When that can't be promised; never retried, since the system may have dropped the pages.
    fn sync(&self) -> Result<()>;
}

/// A disk.
pub trait DiskIo: Send + Sync {
    /// The backend's name, as in `--disk-io`.
    fn backend(&self) -> &'static str;

    /// Creates a folder with its parents, durably.
    ///
    /// # Errors
    /// When the system refuses.
    fn create_dir(&self, path: &Path) -> Result<()>;

    /// The names in a folder, sorted; none when there is no such folder.
    ///
    /// # Errors
    /// When it can't be listed.
    fn list(&self, path: &Path) -> Result<Vec<String>>;

    /// How many writes to one file may be under way at once, each durable by itself when it is done; at least 1. Where a sync
    /// covers the whole file it is 1, because an error of one write would be told to another.
    fn writes_in_flight_max(&self) -> usize {
        1
    }

    /// Creates a file of `len_bytes` that reads as zeros, durably with its folder entry. An existing one is replaced.
    ///
    /// # Errors
    /// `NoSpace` kinds surface as [`crate::Error::Io`]; nothing is left behind that would be taken for a segment.
    fn create(&self, path: &Path, len_bytes: u64, fill: Fill) -> Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// When it is not there or can't be opened.
    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>>;

    /// Renames a file within a folder, durably.
    ///
    /// # Errors
    /// When the system refuses.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file durably, if it is there.
    ///
    /// # Errors
    /// When it is there and stays.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Removes a folder with everything in it, durably.
    ///
    /// # Errors
    /// When a part of it stays.
    fn remove_dir(&self, path: &Path) -> Result<()>;

    /// Replaces a small file's content as one durable step.
    ///
    /// # Errors
    /// When that failed; the old content is then still there.
    fn write_atomic(&self, path: &Path, content: &[u8]) -> Result<()>;

    /// A small file's content, or `None` when there is no such file.
    ///
    /// # Errors
    /// When it exists and can't be read.
    fn read_small(&self, path: &Path) -> Result<Option<Vec<u8>>>;

    /// Bytes that may still be written under `path`.
    ///
    /// # Errors
    /// When the system does not say.
    fn free_bytes(&self, path: &Path) -> Result<u64>;

    /// Queues a write; `done` hears how it ended, on a thread of the backend.
    fn submit(&self, write: Write, done: Done);

    /// Whether so many files are open that those nobody uses at present should be closed.
    fn is_short_of_files(&self) -> bool {
        false
    }

    /// As [`Self::submit`], for a small write while the caller has nothing else to do: it may do the write itself, which spares
    /// two threads from waking each other, and `done` may hear before this returns.
    fn submit_alone(&self, write: Write, done: Done) {
        self.submit(write, done);
    }

    /// Runs `read`, whose result someone will want soon, on a thread of the backend that makes no segments.
    fn read_ahead(&self, read: Box<dyn FnOnce() + Send>) {
        self.run(read);
    }

    /// Runs `job` on a thread of the backend: work that may block on the disk and that nobody waits for yet.
    fn run(&self, job: Box<dyn FnOnce() + Send>);
}
