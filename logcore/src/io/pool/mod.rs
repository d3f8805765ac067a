//! The disk through dedicated threads and plain system calls. Works everywhere, also where io_uring is forbidden.
//!
//! [`mod@file`] says how bytes reach a file. The ring backends stand on this one: what they don't do themselves, it does.
//!
//! # Concurrency
//! Writes, background work ([`DiskIo::run`]: making the next segment, mostly) and reading ahead have threads and bounded queues
//! of their own, so that no commit waits behind a file that is filled with zeros, and no file behind a reader. [`DiskIo::submit`] blocks when its queue is full; owners
//! keep few writes in flight per partition, so the queue is never the place where memory grows.
#![allow(clippy::disallowed_methods, reason = "a disk backend owns its files and threads")]

pub(crate) mod file;
mod zeros;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use self::file::PoolFile;
use self::zeros::write_zeros;
use super::blocks::BLOCK_BYTES;
use super::buffers::ReadBuffers;
use super::{DiskFile, DiskIo, Done, Fill, Write};
use crate::error::{Error, Result};
use crate::sys::aligned::AlignedBuffer;
use crate::sys::{fs, limits, thread};

/// Direct writes to one file at once: from here on more don't make a disk faster, they only make each wait longer.
pub(crate) const WRITES_IN_FLIGHT_MAX: usize = 4;
/// Threads for work that nobody waits for yet. It mostly waits for the file system's journal, which serves many at once.
const BACKGROUND_THREADS: usize = 8;
/// Threads that read ahead: as many reads of one reader as a disk needs to be busy.
const READ_THREADS: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// A bounded queue with the threads that work it off. Ends, after what is queued, when dropped.
struct Workers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn start(name: &str, threads: usize, queue: usize) -> Result<Self> {
        let (jobs, work) = bounded::<Job>(queue.max(1));
        let mut workers = Self { jobs: Some(jobs), threads: Vec::new() };
        for n in 0..threads.max(1) {
            let work = work.clone();
            let body = move || work.into_iter().for_each(|job| job());
            workers.threads.push(thread::spawn(&format!("{name}-{n}"), body).map_err(Error::io("starting thread", name))?);
        }
        Ok(workers)
    }

    fn queue(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("present until drop");
        assert!(jobs.send(job).is_ok(), "disk threads live as long as the pool");
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // The last owner may be a job of this very pool; a thread can't wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// See the module docs.
pub struct PoolDisk {
    writers: Workers,
    background: Workers,
    readers: Workers,
    buffers: Arc<ReadBuffers>,
    /// Descriptors of files that were handed out.
    open_files: Arc<AtomicU64>,
    open_files_max: u64,
    /// How files are opened to go around the page cache, or why that is not possible.
    direct: std::result::Result<OFlags, String>,
}

impl PoolDisk {
    /// Starts `threads` threads for writes behind a queue of `queue` of them. Writes go around the page cache if that works in
    /// `folder`, which has to exist.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(folder: &Path, threads: usize, queue: usize) -> Result<Self> {
        Self::with(try_direct(folder).map(|()| OFlags::DIRECT), threads, queue)
    }

    /// As [`Self::start`], but everything goes through the page cache.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start_buffered(threads: usize, queue: usize) -> Result<Self> {
        Self::with(Err("it was not asked for".to_owned()), threads, queue)
    }

    /// As [`Self::start`], with direct descriptors on which every write is durable by itself, for who can't ask for that
    /// write by write.
    pub(crate) fn start_dsync(folder: &Path, threads: usize, queue: usize) -> Result<Self> {
        Self::with(try_direct(folder).map(|()| OFlags::DIRECT | OFlags::DSYNC), threads, queue)
    }

    fn with(direct: std::result::Result<OFlags, String>, threads: usize, queue: usize) -> Result<Self> {
        Ok(Self {
            writers: Workers::start("disk", threads, queue)?,
            background: Workers::start("disk-background", BACKGROUND_THREADS, queue)?,
            readers: Workers::start("disk-read", READ_THREADS, queue)?,
            buffers: Arc::default(),
            open_files: Arc::default(),
            open_files_max: limits::open_files_max() / 2,
            direct,
        })
    }

    /// Why writes don't go around the page cache, if they don't.
    #[must_use]
    pub fn buffered_because(&self) -> Option<&str> {
        self.direct.as_ref().err().map(String::as_str)
    }

    fn file(&self, file: File, path: &Path) -> Arc<PoolFile> {
        // A file on which it does not work is reached through the page cache, where the contract holds as well.
        let direct = self.direct.as_ref().ok().and_then(|flags| open_direct(path, *flags).ok());
        Arc::new(PoolFile::new(file, direct, path, &self.buffers, &self.open_files))
    }

    /// Makes the file's space and its content, durably; its folder entry is not yet.
    fn fill(&self, file: &File, path: &Path, len_bytes: u64, fill: Fill) -> std::io::Result<()> {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len_bytes) {
            // Not every file system can; the length alone still keeps commits free of size changes.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(len_bytes)?,
            reserved => reserved?,
        }
        if fill == Fill::Zeros {
            // One sync at the end is cheaper than one a piece.
            let direct = self.direct.as_ref().ok().and_then(|_| open_direct(path, OFlags::DIRECT).ok());
            write_zeros(file, direct.as_ref(), 0, len_bytes)?;
        }
        file.sync_all()
    }
}

/// Opens a file to go around the page cache.
fn open_direct(path: &Path, flags: OFlags) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Writes a block around the page cache, durably, and reads it back; says what did not work.
fn try_direct(folder: &Path) -> std::result::Result<(), String> {
    let path = folder.join("probe.tmp");
    let mut block = AlignedBuffer::new(BLOCK_BYTES);
    block.as_mut_slice().fill(0x5a);
    let mut back = AlignedBuffer::new(BLOCK_BYTES);
    let mut attempt = || -> std::io::Result<()> {
        File::create(&path)?;
        let file = open_direct(&path, OFlags::DIRECT)?;
        let written = rustix::io::pwritev2(&file, &[IoSlice::new(block.as_slice())], 0, ReadWriteFlags::DSYNC)?;
        let read = file.read_at(back.as_mut_slice(), 0)?;
        if (written, read) != (BLOCK_BYTES, BLOCK_BYTES) || back.as_slice() != block.as_slice() {
            return Err(std::io::Error::other(format!("{written} bytes were written and {read} read back, not the same")));
        }
        Ok(())
    };
    let tried = attempt();
    let _ = std::fs::remove_file(&path);
    match tried {
        // A full disk says nothing about it; a file that can't be opened that way still goes through the page cache.
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Ok(()),
        tried => tried.map_err(|error| format!("O_DIRECT with RWF_DSYNC does not work in {}: {error}", folder.display())),
    }
}

impl DiskIo for PoolDisk {
    fn backend(&self) -> &'static str {
        "pool"
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        fs::create_dir(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        fs::list(path)
    }

    fn writes_in_flight_max(&self) -> usize {
        if self.direct.is_ok() { WRITES_IN_FLIGHT_MAX } else { 1 }
    }

    fn create(&self, path: &Path, len_bytes: u64, fill: Fill) -> Result<Arc<dyn DiskFile>> {
        let new = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path);
        let file = new.map_err(Error::io("creating", path))?;
        let made = self.fill(&file, path, len_bytes, fill).map_err(Error::io("allocating", path));
        match made.and_then(|()| fs::sync_dir(path.parent().unwrap_or(Path::new(".")))) {
            Ok(()) => Ok(self.file(file, path)),
            Err(error) => {
                // Half a file must not be taken for a segment. Why it could not be made is what the caller has to hear.
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(Error::io("opening", path))?;
        Ok(self.file(file, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        std::fs::rename(from, to).map_err(Error::io("renaming", from))?;
        fs::sync_dir(to.parent().unwrap_or(Path::new(".")))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        fs::remove_dir(path)
    }

    fn write_atomic(&self, path: &Path, content: &[u8]) -> Result<()> {
        fs::write_atomic(path, content)
    }

    fn read_small(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        fs::read(path)
    }

    fn free_bytes(&self, path: &Path) -> Result<u64> {
        fs::free_bytes(path)
    }

    fn submit(&self, write: Write, done: Done) {
        self.writers.queue(Box::new(move || done(write.file.write(write.at, &write.buffers, write.durability))));
    }

    fn is_short_of_files(&self) -> bool {
        self.open_files.load(Ordering::Relaxed) > self.open_files_max
    }

    fn submit_alone(&self, write: Write, done: Done) {
        done(write.file.write(write.at, &write.buffers, write.durability));
    }

    fn read_ahead(&self, read: Box<dyn FnOnce() + Send>) {
        self.readers.queue(read);
    }

    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        self.background.queue(job);
    }
}
