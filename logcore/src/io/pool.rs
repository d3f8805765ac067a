//! The disk through dedicated threads, `pwritev` and `fdatasync`. Works everywhere, also where io_uring is forbidden.
//!
//! # Concurrency
//! A bounded queue feeds a few threads. [`DiskIo::submit`] blocks when it is full; owners keep one write in flight per
//! partition, so the queue is never the place where memory grows.
#![allow(clippy::disallowed_methods, reason = "a disk backend owns its files and threads")]

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};
use rustix::fs::FallocateFlags;

use super::{DiskFile, DiskIo, Done, Durability, Fill, Write};
use crate::error::{Error, Result};
use crate::sys::{fs, thread};

/// Buffers handed to one `pwritev`; the system's own limit is 1,024.
const VECTORS_MAX: usize = 256;

type Job = Box<dyn FnOnce() + Send>;

/// See the module docs.
pub struct PoolDisk {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl PoolDisk {
    /// Starts `threads` threads behind a queue of `queue` jobs.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(threads: usize, queue: usize) -> Result<Self> {
        let (jobs, work) = bounded::<Job>(queue.max(1));
        let mut started = Vec::new();
        for n in 0..threads.max(1) {
            let work = work.clone();
            let body = move || work.into_iter().for_each(|job| job());
            started.push(thread::spawn(&format!("disk-{n}"), body).map_err(Error::io("starting thread", "disk"))?);
        }
        Ok(Self { jobs: Some(jobs), threads: started })
    }

    fn queue(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("present until drop");
        assert!(jobs.send(job).is_ok(), "disk threads live as long as the pool");
    }
}

impl Drop for PoolDisk {
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

struct PoolFile {
    file: File,
    path: PathBuf,
}

impl DiskFile for PoolFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, at: u64, len: usize) -> Result<Bytes> {
        let mut buffer = vec![0; len];
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("reading", &self.path)(error)),
            }
        }
        buffer.truncate(filled);
        Ok(buffer.into())
    }

    fn write(&self, mut at: u64, buffers: &[Bytes], durability: Durability) -> Result<()> {
        let mut pending: Vec<&[u8]> = buffers.iter().map(|buffer| &buffer[..]).filter(|piece| !piece.is_empty()).collect();
        let mut first = 0;
        while first < pending.len() {
            let until = pending.len().min(first + VECTORS_MAX);
            let vectors: Vec<IoSlice<'_>> = pending[first..until].iter().map(|piece| IoSlice::new(piece)).collect();
            let mut written = match rustix::io::pwritev(&self.file, &vectors, at) {
                Ok(0) => return Err(Error::io("writing", &self.path)(std::io::ErrorKind::WriteZero.into())),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Error::io("writing", &self.path)(error.into())),
            };
            at += written as u64;
            while written > 0 {
                let step = written.min(pending[first].len());
                pending[first] = &pending[first][step..];
                written -= step;
                if pending[first].is_empty() {
                    first += 1;
                }
            }
        }
        match durability {
            Durability::None => Ok(()),
            Durability::Data => self.sync(),
        }
    }

    fn len_bytes(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(Error::io("reading the length of", &self.path))?.len())
    }

    fn zero_from(&self, at: u64) -> Result<()> {
        let len = self.len_bytes()?;
        self.file
            .set_len(at)
            .and_then(|()| self.file.set_len(len))
            .and_then(|()| self.file.sync_all())
            .map_err(Error::io("trimming", &self.path))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io("syncing", &self.path))
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

    fn create(&self, path: &Path, len_bytes: u64, _fill: Fill) -> Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(path)
            .map_err(Error::io("creating", path))?;
        let allocated = match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len_bytes) {
            // Not every file system can; the length alone still keeps commits free of size changes.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(len_bytes),
            other => other.map_err(Into::into),
        };
        if let Err(error) = allocated.and_then(|()| file.sync_all()) {
            let _ = std::fs::remove_file(path);
            return Err(Error::io("allocating", path)(error));
        }
        fs::sync_dir(path.parent().unwrap_or(Path::new(".")))?;
        Ok(Arc::new(PoolFile { file, path: path.to_owned() }))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(Error::io("opening", path))?;
        Ok(Arc::new(PoolFile { file, path: path.to_owned() }))
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
        self.queue(Box::new(move || done(write.file.write(write.at, &write.buffers, write.durability))));
    }

    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        self.queue(job);
    }
}
