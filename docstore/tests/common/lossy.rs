//! A disk that remembers what was synced, shows what a crash at any moment may leave, and fails syncs on demand.
//!
//! It writes to the real folder, so that files can be mapped. What may be lost: the rest of a file behind its last sync, the
//! name of a file since the folder's last sync, and the removal of one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use docstore::directory::{Disk, DiskFile, RealDisk};
use logcore::sys::fs;

#[derive(Debug, Default)]
struct Books {
    /// Bytes synced of each file that was created.
    synced: BTreeMap<PathBuf, usize>,
    /// Created since the folder was synced.
    new_names: BTreeSet<PathBuf>,
    /// Removed since the folder was synced, with what they held.
    removed: BTreeMap<PathBuf, Vec<u8>>,
    steps: u64,
    crash: Option<(u64, u64, PathBuf)>,
    has_crashed: bool,
    fail_syncs: bool,
    failed_syncs: u64,
    writes_after_failure: u64,
}

/// See the file's docs.
#[derive(Clone, Debug, Default)]
pub struct Lossy {
    books: Arc<Mutex<Books>>,
}

/// A small generator of numbers.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

impl Lossy {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// After so many more steps of the disk, `image` gets what a crash there leaves of the folder.
    pub fn crash_in(&self, steps: u64, seed: u64, image: &Path) {
        let mut books = self.books();
        books.crash = Some((books.steps + steps, seed, image.to_owned()));
    }

    /// Whether the crash that was asked for has come.
    pub fn has_crashed(&self) -> bool {
        self.books().has_crashed
    }

    /// Crashes now, unless it has.
    pub fn crash_now(&self, dir: &Path, seed: u64, image: &Path) {
        let mut books = self.books();
        books.crash = None;
        if !std::mem::take(&mut books.has_crashed) {
            leave(&books, dir, seed, image);
        }
    }

    pub fn fail_syncs(&self) {
        self.books().fail_syncs = true;
    }

    /// Syncs that failed, and writes and syncs that came after.
    pub fn failures(&self) -> (u64, u64) {
        let books = self.books();
        (books.failed_syncs, books.writes_after_failure)
    }

    fn write_step(&self, dir: &Path) -> MutexGuard<'_, Books> {
        let mut books = self.step(dir);
        books.writes_after_failure += u64::from(books.failed_syncs > 0);
        books
    }

    fn step(&self, dir: &Path) -> MutexGuard<'_, Books> {
        let mut books = self.books();
        books.steps += 1;
        if books.crash.as_ref().is_some_and(|(at, ..)| *at <= books.steps) {
            let (_, seed, image) = books.crash.take().unwrap();
            leave(&books, dir, seed, &image);
            books.has_crashed = true;
        }
        books
    }

    fn sync_step(&self, dir: &Path) -> io::Result<MutexGuard<'_, Books>> {
        let mut books = self.write_step(dir);
        if books.fail_syncs {
            books.failed_syncs += 1;
            return Err(io::Error::other("the disk is broken"));
        }
        Ok(books)
    }
}

/// Writes what may be left of `dir` to `image`.
fn leave(books: &Books, dir: &Path, seed: u64, image: &Path) {
    let mut random = Random(seed);
    for name in fs::list(dir).unwrap() {
        let path = dir.join(&name);
        let Some(mut content) = fs::read(&path).unwrap() else { continue };
        if books.new_names.contains(&path) && random.below(2) == 0 {
            continue;
        }
        if let Some(synced) = books.synced.get(&path) {
            let unsynced = content.len() - synced;
            content.truncate(synced + usize::try_from(random.below(unsynced as u64 + 1)).unwrap());
        }
        fs::write_atomic(&image.join(name), &content).unwrap();
    }
    for (path, content) in &books.removed {
        if random.below(2) == 0 {
            fs::write_atomic(&image.join(path.file_name().unwrap()), content).unwrap();
        }
    }
}

impl Disk for Lossy {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut books = self.write_step(path.parent().unwrap());
        let file = RealDisk.create(path)?;
        books.synced.insert(path.to_owned(), 0);
        books.new_names.insert(path.to_owned());
        Ok(Box::new(LossyFile { disk: self.clone(), path: path.to_owned(), written: 0, file }))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut books = self.sync_step(dir)?;
        books.new_names.clear();
        books.removed.clear();
        Ok(())
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut books = self.sync_step(path.parent().unwrap())?;
        RealDisk.replace(path, content)?;
        books.new_names.clear();
        books.removed.clear();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut books = self.step(path.parent().unwrap());
        let content = fs::read(path).map_err(io::Error::other)?;
        RealDisk.remove(path)?;
        let synced = books.synced.remove(path);
        if !books.new_names.remove(path) {
            let mut content = content.unwrap_or_default();
            content.truncate(synced.unwrap_or(content.len()));
            books.removed.insert(path.to_owned(), content);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct LossyFile {
    disk: Lossy,
    path: PathBuf,
    written: usize,
    file: Box<dyn DiskFile>,
}

impl DiskFile for LossyFile {
    fn append(&mut self, content: &[u8]) -> io::Result<()> {
        let books = self.disk.write_step(self.path.parent().unwrap());
        drop(books);
        self.written += content.len();
        self.file.append(content)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut books = self.disk.sync_step(self.path.parent().unwrap())?;
        books.synced.insert(self.path.clone(), self.written);
        Ok(())
    }
}
