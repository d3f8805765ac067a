//! A disk that counts what is read from each file, and how many files are open, and that can hold back the work which the log
//! gives it to do beside.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use logcore::Result;
use logcore::io::sim::SimDisk;
use logcore::io::{DiskFile, DiskIo, Done, Durability, Fill, Write};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Counts {
    /// Jobs that wait, if they are held back.
    jobs: Mutex<Option<Vec<Job>>>,
    read: Mutex<HashMap<PathBuf, u64>>,
    open: AtomicUsize,
}

/// See the module docs. Clones share disk and counts.
#[derive(Clone)]
pub struct Watched {
    pub disk: SimDisk,
    counts: Arc<Counts>,
}

impl Watched {
    pub fn new(disk: SimDisk) -> Self {
        Self { disk, counts: Arc::default() }
    }

    /// Bytes read from a file so far.
    pub fn bytes_read(&self, path: &Path) -> u64 {
        self.counts.read.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    /// Handles that somebody holds.
    pub fn open_files(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// Lets work wait from now on.
    pub fn hold_jobs(&self) {
        self.counts.jobs.lock().unwrap().get_or_insert_default();
    }

    /// Pieces of work that wait.
    pub fn held_jobs(&self) -> usize {
        self.counts.jobs.lock().unwrap().as_ref().map_or(0, Vec::len)
    }

    /// Does the piece of work that came last, if one waits.
    pub fn do_job(&self) {
        let job = self.counts.jobs.lock().unwrap().as_mut().and_then(Vec::pop);
        if let Some(job) = job {
            job();
        }
    }

    fn watch(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        self.counts.open.fetch_add(1, Ordering::SeqCst);
        Arc::new(WatchedFile { file, counts: Arc::clone(&self.counts) })
    }
}

struct WatchedFile {
    file: Arc<dyn DiskFile>,
    counts: Arc<Counts>,
}

impl Drop for WatchedFile {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl DiskFile for WatchedFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read(&self, at: u64, len: usize) -> Result<Bytes> {
        let read = self.file.read(at, len)?;
        *self.counts.read.lock().unwrap().entry(self.path().to_owned()).or_default() += read.len() as u64;
        Ok(read)
    }

    fn write(&self, at: u64, buffers: &[Bytes], durability: Durability) -> Result<()> {
        self.file.write(at, buffers, durability)
    }

    fn len_bytes(&self) -> Result<u64> {
        self.file.len_bytes()
    }

    fn zero_from(&self, at: u64) -> Result<()> {
        self.file.zero_from(at)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}

impl DiskIo for Watched {
    fn backend(&self) -> &'static str {
        "watched"
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.disk.create_dir(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        self.disk.list(path)
    }

    fn writes_in_flight_max(&self) -> usize {
        self.disk.writes_in_flight_max()
    }

    fn create(&self, path: &Path, len_bytes: u64, fill: Fill) -> Result<Arc<dyn DiskFile>> {
        Ok(self.watch(self.disk.create(path, len_bytes, fill)?))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        Ok(self.watch(self.disk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.disk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.disk.remove_dir(path)
    }

    fn write_atomic(&self, path: &Path, content: &[u8]) -> Result<()> {
        self.disk.write_atomic(path, content)
    }

    fn read_small(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.disk.read_small(path)
    }

    fn free_bytes(&self, path: &Path) -> Result<u64> {
        self.disk.free_bytes(path)
    }

    fn submit(&self, write: Write, done: Done) {
        self.disk.submit(write, done);
    }

    fn run(&self, job: Job) {
        if let Some(held) = self.counts.jobs.lock().unwrap().as_mut() {
            return held.push(job);
        }
        self.disk.run(job);
    }
}
