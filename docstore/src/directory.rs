//! Where tantivy's files are: the newest in memory or written but not synced, the saved ones durable on the disk.
//!
//! tantivy makes every commit durable, which costs a sync for each of some sixteen files. The log has the documents durable
//! already, so a commit through [`FreshDirectory`] only has to be readable: it syncs nothing, and small files don't reach the
//! disk at all. The materializer makes the newest commit durable at checkpoints, with [`FreshDirectory::begin_save`].
//!
//! # Invariants
//! - There are two states: the newest `meta.json`, in memory, which tantivy writes and reads; and the durable one, on the disk,
//!   which only a finished [`Save`] replaces, after every file that it names is durable.
//! - A file that the durable `meta.json` names, or the one being saved, is not removed from the disk, whatever tantivy asks for.
//!   It goes once a later save has finished.
//! - After a failed write or sync of a save nothing is written any more: the kernel may have dropped the pages, and a second sync
//!   that succeeds would promise what is lost.
//! - Files in memory, also those being written, hold no more than the table's options allow; each a sixteenth of that. Searchers
//!   keep those that they opened until the next ones take their places.
//! - `.managed.json`, tantivy's list of the files it may remove, is made from the durable `meta.json` and never written.
//!
//! # Concurrency
//! tantivy's threads write, merge and remove while searches open files and a save writes beside them. One lock holds the books; no
//! file of the disk is written or synced under it.
//!
//! # Crash safety
//! What is left after a crash is the durable `meta.json` with its files, perhaps beside files of later commits. Whoever opens the
//! folder, under tantivy's writer lock, removes these.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use tantivy::Directory;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    AntiCallToken, DirectoryLock, FileHandle, INDEX_WRITER_LOCK, Lock, MmapDirectory, OwnedBytes, TerminatingWrite,
    WatchCallback, WatchHandle, WritePtr,
};
use tantivy::index::SegmentId;

mod disk;

pub use disk::{Disk, DiskFile, RealDisk};

/// The share of all memory that one file may take: a longer one is written to the disk from its first byte on.
const FILES_IN_MEMORY_MIN: usize = 16;

const META: &str = "meta.json";
const MANAGED: &str = ".managed.json";

/// The files that a `meta.json` names.
#[derive(Debug, Default, Deserialize)]
struct Named {
    segments: Vec<NamedSegment>,
}

#[derive(Debug, Deserialize)]
struct NamedSegment {
    segment_id: SegmentId,
    deletes: Option<NamedDeletes>,
}

#[derive(Debug, Deserialize)]
struct NamedDeletes {
    opstamp: u64,
}

impl Named {
    fn read(meta: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(meta)
    }

    /// Whether `name` is a file of one of its segments: any of the segment's own, and of its lists of deleted documents the newest.
    fn has(&self, name: &str) -> bool {
        let Some((segment, kind)) = name.split_once('.') else { return false };
        let Some(found) = self.segments.iter().find(|named| named.segment_id.uuid_string() == segment) else { return false };
        match kind.strip_suffix(".del") {
            Some(opstamp) => found.deletes.as_ref().is_some_and(|deletes| deletes.opstamp.to_string() == opstamp),
            None => kind != "store.temp",
        }
    }
}

/// Whether only a crash, or an earlier version of this crate, can have left a file of this name that `meta.json` does not name.
fn is_leftover(name: &str) -> bool {
    let of_segment = |(id, _): (&str, &str)| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    name == MANAGED || name == "meta.tmp" || name.starts_with(".tmp") || name.split_once('.').is_some_and(of_segment)
}

fn name_of(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// See the module docs.
#[derive(Clone, Debug)]
pub struct FreshDirectory {
    inner: Arc<Inner>,
}

/// The right to write to a folder, until the last clone is dropped.
#[derive(Clone)]
pub struct WriteRight {
    _lock: Arc<DirectoryLock>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// What all files in memory may hold together.
    memory_bytes_max: usize,
    /// Reads what is on the disk.
    mapped: MmapDirectory,
    disk: Arc<dyn Disk>,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// The newest `meta.json`.
    meta: Option<Vec<u8>>,
    managed: Option<Vec<u8>>,
    /// Files that are only in memory.
    memory: HashMap<PathBuf, OwnedBytes>,
    /// Bytes in memory, those of files being written included.
    memory_bytes: usize,
    /// Files on the disk that no sync has reached, each by the handle that wrote it: a later one may miss an error.
    unsynced: HashMap<PathBuf, Box<dyn DiskFile>>,
    /// The `meta.json` on the disk, and what it names.
    durable: Option<Vec<u8>>,
    durable_names: Named,
    /// What the save under way names.
    saving: Option<Named>,
    /// Removed by tantivy, but named by what is durable or being saved.
    doomed: HashSet<PathBuf>,
    /// Why nothing more is written.
    failure: Option<String>,
    is_closed: bool,
}

impl Books {
    fn keeps(&self, name: &str) -> bool {
        self.durable_names.has(name) || self.saving.as_ref().is_some_and(|saving| saving.has(name))
    }

    fn check(&self) -> io::Result<()> {
        self.failure.as_ref().map_or(Ok(()), |failure| Err(io::Error::other(failure.clone())))
    }
}

/// What could not be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    Lock(LockError),
    Io(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl FreshDirectory {
    /// Opens a folder for writing and removes what a crash left in it.
    pub(crate) fn open(dir: &Path, disk: Arc<dyn Disk>, memory_bytes_max: usize) -> Result<(Self, WriteRight), OpenError> {
        let mapped = MmapDirectory::open(dir).map_err(io::Error::other)?;
        let lock = Arc::new(mapped.acquire_lock(&INDEX_WRITER_LOCK).map_err(OpenError::Lock)?);
        let durable = match mapped.atomic_read(Path::new(META)) {
            Ok(meta) => Some(meta),
            Err(OpenReadError::FileDoesNotExist(_)) => None,
            Err(error) => return Err(io::Error::other(error).into()),
        };
        let names = disk.list(dir)?;
        // What can't be read is refused by whoever opens the index; until then nothing of it is touched.
        let named = durable.as_deref().map_or(Ok(Named::default()), Named::read).ok();
        let mut managed: Vec<&str> = Vec::new();
        if let (Some(named), true) = (&named, durable.is_some()) {
            for name in &names {
                if named.has(name) || name == META {
                    managed.push(name);
                } else if is_leftover(name) {
                    disk.remove(&dir.join(name))?;
                }
            }
        }
        let books = Books {
            meta: durable.clone(),
            managed: Some(serde_json::to_vec(&managed).map_err(io::Error::from)?),
            durable,
            durable_names: named.unwrap_or_default(),
            ..Books::default()
        };
        let inner = Inner { dir: dir.to_owned(), memory_bytes_max, mapped, disk, books: Mutex::new(books) };
        Ok((Self { inner: Arc::new(inner) }, WriteRight { _lock: lock }))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.inner.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is an index.
    pub(crate) fn has_index(&self) -> bool {
        self.books().meta.is_some()
    }

    /// Fails once a save has failed.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.books().check()
    }

    /// What tantivy writes from now on goes nowhere: merges may still run when the index is closed, and nobody waits for them.
    pub(crate) fn close(&self) {
        self.books().is_closed = true;
    }

    /// Begins to make the newest commit durable; `None` when it is. Only one save is under way at a time.
    pub(crate) fn begin_save(&self) -> io::Result<Option<Save>> {
        let mut books = self.books();
        books.check()?;
        assert!(books.saving.is_none(), "a save of {} began before the last one ended", self.inner.dir.display());
        let Some(meta) = books.meta.clone().filter(|meta| books.durable.as_ref() != Some(meta)) else { return Ok(None) };
        let named = Named::read(&meta)?;
        let memory = books.memory.iter().filter(|(path, _)| named.has(name_of(path)));
        let memory = memory.map(|(path, bytes)| (path.clone(), bytes.clone())).collect();
        let written = books.unsynced.extract_if(|path, _| named.has(name_of(path))).collect();
        books.saving = Some(named);
        Ok(Some(Save { directory: self.clone(), meta, memory, written }))
    }
}

/// A save that has begun: the commit as it was then, whatever tantivy writes and merges meanwhile.
pub(crate) struct Save {
    directory: FreshDirectory,
    meta: Vec<u8>,
    memory: Vec<(PathBuf, OwnedBytes)>,
    written: Vec<(PathBuf, Box<dyn DiskFile>)>,
}

impl Save {
    /// Makes it durable. A failure is the last thing that happens to the directory.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let done = self.write();
        let inner = Arc::clone(&self.directory.inner);
        let mut books = self.directory.books();
        let saved = books.saving.take().unwrap_or_default();
        if let Err(error) = done {
            books.failure.get_or_insert_with(|| format!("making it durable failed: {error}"));
            return Err(error);
        }
        books.durable = Some(std::mem::take(&mut self.meta));
        books.durable_names = saved;
        // From here on they are read from the disk. One that is not there was removed meanwhile, and counts as doomed.
        for (path, bytes) in &self.memory {
            if books.memory.remove(path).is_some() {
                books.memory_bytes -= bytes.len();
            }
        }
        let Books { doomed, durable_names, .. } = &mut *books;
        let gone: Vec<PathBuf> = doomed.extract_if(|path| !durable_names.has(name_of(path))).collect();
        drop(books);
        for path in gone {
            if let Err(error) = inner.disk.remove(&inner.dir.join(&path)) {
                tracing::warn!(%error, dir = %inner.dir.display(), file = name_of(&path), "an old file of a document index stays");
            }
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let Inner { dir, disk, .. } = &*self.directory.inner;
        self.directory.check()?;
        for (path, bytes) in &self.memory {
            let mut file = disk.create(&dir.join(path))?;
            file.append(bytes)?;
            self.written.push((path.clone(), file));
        }
        for (_, file) in &mut self.written {
            file.sync()?;
        }
        disk.sync_dir(dir)?;
        disk.replace(&dir.join(META), &self.meta)
    }
}

impl Drop for Save {
    /// One that was given up took the handles of its files with it: whether they are durable can't be said any more.
    fn drop(&mut self) {
        let mut books = self.directory.books();
        if books.saving.take().is_some() {
            books.failure.get_or_insert_with(|| "making it durable was given up".to_owned());
        }
    }
}

impl Directory for FreshDirectory {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        if let Some(bytes) = self.books().memory.get(path) {
            return Ok(Arc::new(bytes.clone()));
        }
        self.inner.mapped.get_file_handle(path)
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        let mut books = self.books();
        let in_memory = books.memory.remove(path);
        if let Some(bytes) = &in_memory {
            books.memory_bytes -= bytes.len();
        }
        if books.keeps(name_of(path)) {
            books.doomed.insert(path.to_owned());
            return Ok(());
        }
        books.unsynced.remove(path);
        drop(books);
        match self.inner.disk.remove(&self.inner.dir.join(path)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && in_memory.is_some() => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(DeleteError::FileDoesNotExist(path.to_owned())),
            Err(error) => Err(DeleteError::IoError { io_error: Arc::new(error), filepath: path.to_owned() }),
        }
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        let books = self.books();
        match name_of(path) {
            META => Ok(books.meta.is_some()),
            MANAGED => Ok(books.managed.is_some()),
            _ if books.memory.contains_key(path) => Ok(true),
            _ => self.inner.mapped.exists(path),
        }
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        let books = self.books();
        books.check().map_err(|error| OpenWriteError::wrap_io_error(error, path.to_owned()))?;
        if books.memory.contains_key(path) {
            return Err(OpenWriteError::FileAlreadyExists(path.to_owned()));
        }
        if books.is_closed {
            return Ok(BufWriter::new(Box::new(Nowhere)));
        }
        let writer = FreshWriter { inner: Arc::clone(&self.inner), path: path.to_owned(), memory: Vec::new(), file: None };
        Ok(BufWriter::new(Box::new(writer)))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        let books = self.books();
        let held = match name_of(path) {
            META => &books.meta,
            MANAGED => &books.managed,
            _ => return self.inner.mapped.atomic_read(path),
        };
        held.clone().ok_or_else(|| OpenReadError::FileDoesNotExist(path.to_owned()))
    }

    fn atomic_write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut books = self.books();
        books.check()?;
        let held = match name_of(path) {
            META => &mut books.meta,
            MANAGED => &mut books.managed,
            name => return Err(io::Error::other(format!("{name} is no file that this index replaces"))),
        };
        *held = Some(content.to_vec());
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn acquire_lock(&self, lock: &Lock) -> Result<DirectoryLock, LockError> {
        match lock.filepath == INDEX_WRITER_LOCK.filepath {
            // Held since the folder was opened, by the one materializer that asks for it here.
            true => Ok(DirectoryLock::from(Box::new(()))),
            false => self.inner.mapped.acquire_lock(lock),
        }
    }

    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}

/// Writes a file into memory while it is short and there is room, else to the disk.
struct FreshWriter {
    inner: Arc<Inner>,
    path: PathBuf,
    memory: Vec<u8>,
    file: Option<Box<dyn DiskFile>>,
}

impl FreshWriter {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.inner.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, bytes: usize) -> bool {
        let max = self.inner.memory_bytes_max;
        let mut books = self.books();
        let fits = self.memory.len() + bytes <= max / FILES_IN_MEMORY_MIN && books.memory_bytes + bytes <= max;
        if fits {
            books.memory_bytes += bytes;
        }
        fits
    }

    fn forget(&mut self) {
        let held = std::mem::take(&mut self.memory).len();
        self.books().memory_bytes -= held;
    }
}

impl Write for FreshWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() {
            if self.has_room(bytes.len()) {
                self.memory.extend_from_slice(bytes);
                return Ok(bytes.len());
            }
            let mut file = self.inner.disk.create(&self.inner.dir.join(&self.path))?;
            file.append(&self.memory)?;
            self.forget();
            self.file = Some(file);
        }
        self.file.as_mut().expect("it was just created").append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TerminatingWrite for FreshWriter {
    fn terminate_ref(&mut self, _: AntiCallToken) -> io::Result<()> {
        let (path, mut memory) = (self.path.clone(), std::mem::take(&mut self.memory));
        memory.shrink_to_fit();
        let file = self.file.take();
        let mut books = self.books();
        match file {
            Some(file) => drop(books.unsynced.insert(path, file)),
            None => drop(books.memory.insert(path, OwnedBytes::new(memory))),
        }
        Ok(())
    }
}

impl Drop for FreshWriter {
    /// One that was not terminated: nobody reads it.
    fn drop(&mut self) {
        self.forget();
    }
}

/// Takes what a closed index still writes.
struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TerminatingWrite for Nowhere {
    fn terminate_ref(&mut self, _: AntiCallToken) -> io::Result<()> {
        Ok(())
    }
}
