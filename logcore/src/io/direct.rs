//! A disk whose writes of whole blocks are done by an engine of its own, and everything else by the pool.
//!
//! [`super::uring`] and [`super::tokio_uring`] are such engines; they have one thread each, and this is what they share.
//!
//! # Concurrency
//! An engine takes writes over a bounded queue. When that is full the pool does the write, which blocks the caller as long as
//! the pool has no room either: whoever submits, even an engine's own thread, is never stuck behind itself.

use std::any::Any;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::blocks::Progress;
use super::pool::PoolDisk;
use super::pool::file::PoolFile;
use super::{DiskFile, DiskIo, Done, Durability, Fill, Write};
use crate::error::{Error, Result};

/// Does writes of whole blocks. Dropping it waits for those under way.
pub(crate) trait Engine: Send + Sync {
    /// As in `--disk-io`.
    fn name(&self) -> &'static str;

    /// Takes a write, or gives it back when there is no room for it now.
    fn offer(&self, write: DirectWrite) -> Result<(), Box<DirectWrite>>;
}

/// A write around the page cache that is not over yet. Dropped before it is, by a thread that ends unexpectedly, it is reported
/// as failed: whoever waits for it must hear.
pub(crate) struct DirectWrite {
    /// What is left of it.
    pub progress: Progress,
    /// Where it goes.
    pub descriptor: Arc<File>,
    write: Write,
    /// Present until it is told.
    done: Option<Done>,
}

impl Drop for DirectWrite {
    fn drop(&mut self) {
        if self.done.is_some() {
            self.tell(Err(std::io::Error::other("the thread that was to write it ended")));
        }
    }
}

impl DirectWrite {
    /// Whether it has to be on the medium when it is done.
    pub fn durable(&self) -> bool {
        self.write.durability == Durability::Data
    }

    fn file(&self) -> &PoolFile {
        pool_file(&self.write.file).expect("it was made from a file of the pool")
    }

    fn tell(&mut self, result: std::io::Result<()>) {
        let concluded = self.file().conclude("writing", result);
        (self.done.take().expect("told once"))(concluded);
    }

    /// Gives it back unless its file was given up; then it is reported as failed.
    pub fn unless_given_up(mut self) -> Option<Self> {
        if self.file().check("writing").is_err() {
            // The first error is kept, so this tells the refusal.
            self.tell(Ok(()));
            return None;
        }
        Some(self)
    }

    /// Takes note of an attempt: the write is reported if it is over, otherwise it comes back to go on.
    pub fn attempted(mut self, result: std::io::Result<usize>) -> Option<Self> {
        match result {
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => return Some(self),
            Err(error) => self.tell(Err(error)),
            Ok(written) => match self.progress.advance_blocks(written) {
                Ok(()) if !self.progress.is_done() => return Some(self),
                advanced => self.tell(advanced),
            },
        }
        None
    }

    /// Reports that it failed.
    pub fn fail(mut self, error: std::io::Error) {
        self.tell(Err(error));
    }

    /// Does all of it here and now, the way the pool does.
    pub fn do_plainly(mut self) {
        let result = self.write.file.write(self.write.at, &self.write.buffers, self.write.durability);
        (self.done.take().expect("told once"))(result);
    }

    /// The write as it was submitted.
    fn into_parts(mut self) -> (Write, Done) {
        let done = self.done.take().expect("told once");
        let file = Arc::clone(&self.write.file);
        let buffers = std::mem::take(&mut self.write.buffers);
        (Write { file, at: self.write.at, buffers, durability: self.write.durability }, done)
    }
}

fn pool_file(file: &Arc<dyn DiskFile>) -> Option<&PoolFile> {
    let file: &dyn Any = file.as_ref();
    file.downcast_ref()
}

/// See the module docs.
pub struct DirectDisk {
    /// Dropped first: what it has under way ends before the pool does.
    engine: Box<dyn Engine>,
    pool: PoolDisk,
}

impl DirectDisk {
    pub(crate) fn new(engine: Box<dyn Engine>, pool: PoolDisk) -> Self {
        Self { engine, pool }
    }
}

/// Says why `backend` can't be used.
pub(crate) fn refuse(backend: &'static str, folder: &Path, reason: impl Into<String>) -> Error {
    Error::NoDiskBackend { backend, folder: folder.to_owned(), reason: reason.into() }
}

impl DiskIo for DirectDisk {
    fn backend(&self) -> &'static str {
        self.engine.name()
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.pool.create_dir(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        self.pool.list(path)
    }

    fn writes_in_flight_max(&self) -> usize {
        self.pool.writes_in_flight_max()
    }

    fn create(&self, path: &Path, len_bytes: u64, fill: Fill) -> Result<Arc<dyn DiskFile>> {
        self.pool.create(path, len_bytes, fill)
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        self.pool.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.pool.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.pool.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.pool.remove_dir(path)
    }

    fn write_atomic(&self, path: &Path, content: &[u8]) -> Result<()> {
        self.pool.write_atomic(path, content)
    }

    fn read_small(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.pool.read_small(path)
    }

    fn free_bytes(&self, path: &Path) -> Result<u64> {
        self.pool.free_bytes(path)
    }

    fn submit(&self, write: Write, done: Done) {
        let direct = pool_file(&write.file).and_then(|file| file.direct_for(write.at, &write.buffers)).map(Arc::clone);
        let Some(descriptor) = direct else { return self.pool.submit(write, done) };
        let progress = Progress::new(write.at, &write.buffers);
        if let Err(back) = self.engine.offer(DirectWrite { progress, descriptor, write, done: Some(done) }) {
            let (write, done) = back.into_parts();
            self.pool.submit(write, done);
        }
    }

    fn is_short_of_files(&self) -> bool {
        self.pool.is_short_of_files()
    }

    fn submit_alone(&self, write: Write, done: Done) {
        self.pool.submit_alone(write, done);
    }

    fn read_ahead(&self, read: Box<dyn FnOnce() + Send>) {
        self.pool.read_ahead(read);
    }

    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        self.pool.run(job);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::io::suite;

    /// An engine whose system takes at most a block and a half at once, is interrupted now and then, and loses some writes.
    #[derive(Default)]
    struct Stutter {
        attempts: AtomicUsize,
        lose: bool,
        refuse: bool,
        lost: Mutex<Vec<DirectWrite>>,
    }

    impl Engine for Stutter {
        fn name(&self) -> &'static str {
            "stutter"
        }

        fn offer(&self, write: DirectWrite) -> Result<(), Box<DirectWrite>> {
            if self.refuse {
                return Err(Box::new(write));
            }
            if self.lose {
                self.lost.lock().unwrap().push(write);
                return Ok(());
            }
            let mut left = write.unless_given_up();
            while let Some(write) = left {
                let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
                let piece = write.progress.pieces()[0].clone();
                let result = match attempt % 5 {
                    0 => Err(ErrorKind::Interrupted.into()),
                    1 => Err(ErrorKind::WouldBlock.into()),
                    // Through the descriptor's blocks, as O_DIRECT asks; the rest of the attempt is made up.
                    _ => write
                        .descriptor
                        .write_at(&piece[..4_096], write.progress.at())
                        .map(|written| if piece.len() > 4_096 { written + 2_048 } else { written }),
                };
                left = write.attempted(result);
            }
            Ok(())
        }
    }

    fn disk(engine: Stutter) -> (Box<dyn DiskIo>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let pool = PoolDisk::start(folder.path(), 2, 4).unwrap();
        (Box::new(DirectDisk::new(Box::new(engine), pool)), folder)
    }

    #[test]
    fn a_write_goes_on_until_all_of_it_is_there() {
        let (disk, folder) = disk(Stutter::default());
        suite::writes_in_flight_all_land(disk, folder.path());
    }

    #[test]
    fn the_pool_does_what_the_engine_has_no_room_for() {
        let (disk, folder) = disk(Stutter { refuse: true, ..Stutter::default() });
        suite::writes_in_flight_all_land(disk, folder.path());
    }

    #[test]
    fn a_write_that_an_engine_loses_is_reported_as_failed() {
        let (disk, folder) = disk(Stutter { lose: true, ..Stutter::default() });
        let file = disk.create(&folder.path().join("a"), 4_096, Fill::Zeros).unwrap();
        let buffers = vec![bytes::Bytes::from_owner(crate::sys::aligned::AlignedBuffer::new(4_096))];
        let (tell, ended) = std::sync::mpsc::channel();
        let write = Write { file: Arc::clone(&file), at: 0, buffers, durability: Durability::Data };
        disk.submit(write, Box::new(move |result| tell.send(result).unwrap()));
        if disk.writes_in_flight_max() > 1 {
            drop(disk);
            assert!(ended.recv().unwrap().unwrap_err().to_string().contains("the thread that was to write it ended"));
            assert!(file.sync().is_err(), "and the file is given up");
        } else {
            ended.recv().unwrap().expect("through the page cache it is the pool's");
        }
    }
}
