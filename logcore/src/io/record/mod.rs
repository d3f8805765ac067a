//! A disk that keeps the list of what was asked of another one, so that a test can put the power failure anywhere in it.
//!
//! A test runs the log on a [`RecordDisk`], pushes a [`RecordDisk::mark`] whenever it was told that something is safe, and then
//! opens the log again on what [`CrashStates`] makes of every prefix of the list: [`replay`] says which states are possible.
//!
//! Each operation is in the list twice, when it started and when it ended. Reads are not in it.

mod replay;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

pub use self::replay::{CrashState, CrashStates, crash_state};
use super::{DiskFile, DiskIo, Done, Durability, Fill, Write};
use crate::error::Result;
use crate::types::index;

/// A file, whatever it is called: it keeps its number when it is renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u64);

/// One entry of the list.
#[derive(Clone, Debug)]
pub enum Operation {
    /// From here on the action may show on the medium.
    Started {
        /// Ties it to its end.
        id: u64,
        /// What was begun.
        action: Action,
    },
    /// The caller is about to hear how the action ended.
    Ended {
        /// That of its start.
        id: u64,
        /// From here on it is durable, if that was asked for; otherwise nothing is known.
        succeeded: bool,
    },
    /// What the test was told to be safe.
    Mark(u64),
}

/// What was asked of the disk.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are the arguments of the calls")]
pub enum Action {
    /// A file that was there, durably, before the list begins.
    Found { file: FileId, path: PathBuf, content: Bytes },
    /// [`DiskIo::create`].
    Create { file: FileId, path: PathBuf, len_bytes: u64 },
    /// [`DiskIo::submit`] or [`DiskFile::write`]: all buffers in one.
    Write { file: FileId, at: u64, content: Bytes, durability: Durability },
    /// [`DiskFile::sync`].
    Sync { file: FileId },
    /// [`DiskFile::zero_from`].
    ZeroFrom { file: FileId, at: u64 },
    /// [`DiskIo::rename`].
    Rename { from: PathBuf, to: PathBuf },
    /// [`DiskIo::remove`].
    Remove { path: PathBuf },
    /// [`DiskIo::create_dir`].
    CreateDir { path: PathBuf },
    /// [`DiskIo::remove_dir`].
    RemoveDir { path: PathBuf },
    /// [`DiskIo::write_atomic`].
    WriteAtomic { file: FileId, path: PathBuf, content: Bytes },
}

#[derive(Default)]
struct Journal {
    operations: Vec<Operation>,
    next_file: u64,
    next_action: u64,
    names: BTreeMap<PathBuf, FileId>,
}

impl Journal {
    fn new_file(&mut self) -> FileId {
        self.next_file += 1;
        FileId(self.next_file)
    }

    fn start(&mut self, action: Action) -> u64 {
        self.next_action += 1;
        self.operations.push(Operation::Started { id: self.next_action, action });
        self.next_action
    }

    fn end<T>(&mut self, id: u64, result: &Result<T>) {
        self.operations.push(Operation::Ended { id, succeeded: result.is_ok() });
    }
}

/// See the module docs. Clones share the list.
#[derive(Clone)]
pub struct RecordDisk {
    inner: Arc<dyn DiskIo>,
    journal: Arc<Mutex<Journal>>,
}

struct RecordFile {
    inner: Arc<dyn DiskFile>,
    file: FileId,
    journal: Arc<Mutex<Journal>>,
}

fn locked(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().expect("a test that panicked ends here")
}

impl RecordDisk {
    /// Records what is asked of `inner`, which has no files yet.
    #[must_use]
    pub fn new(inner: Arc<dyn DiskIo>) -> Self {
        Self { inner, journal: Arc::default() }
    }

    /// Records what is asked of `inner`; the list begins with the files that are below `folder`.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn over(inner: Arc<dyn DiskIo>, folder: &Path) -> Result<Self> {
        let disk = Self::new(inner);
        disk.find_below(folder)?;
        Ok(disk)
    }

    fn find_below(&self, folder: &Path) -> Result<()> {
        for name in self.inner.list(folder)? {
            let path = folder.join(name);
            // Only a folder can't be opened as a file.
            let Ok(opened) = self.inner.open(&path) else {
                self.find_below(&path)?;
                continue;
            };
            let content = opened.read(0, index(opened.len_bytes()?))?;
            let mut journal = locked(&self.journal);
            let file = journal.new_file();
            journal.names.insert(path.clone(), file);
            let id = journal.start(Action::Found { file, path, content });
            journal.end(id, &Ok(()));
        }
        Ok(())
    }

    /// The list so far.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        locked(&self.journal).operations.clone()
    }

    /// Notes that the caller was told that everything up to `safe` survives; what that counts is the test's affair.
    pub fn mark(&self, safe: u64) {
        locked(&self.journal).operations.push(Operation::Mark(safe));
    }

    /// Runs an action on folder entries, and if it succeeds changes the names accordingly.
    fn act<T>(
        &self,
        action: Action,
        run: impl FnOnce() -> Result<T>,
        change: impl FnOnce(&mut BTreeMap<PathBuf, FileId>),
    ) -> Result<T> {
        let id = locked(&self.journal).start(action);
        let result = run();
        let mut journal = locked(&self.journal);
        journal.end(id, &result);
        if result.is_ok() {
            change(&mut journal.names);
        }
        result
    }

    fn file(&self, inner: Arc<dyn DiskFile>, file: FileId) -> Arc<dyn DiskFile> {
        Arc::new(RecordFile { inner, file, journal: Arc::clone(&self.journal) })
    }
}

impl RecordFile {
    fn act(&self, action: Action, run: impl FnOnce() -> Result<()>) -> Result<()> {
        let id = locked(&self.journal).start(action);
        let result = run();
        locked(&self.journal).end(id, &result);
        result
    }

    fn write_action(&self, at: u64, buffers: &[Bytes], durability: Durability) -> Action {
        Action::Write { file: self.file, at, content: buffers.concat().into(), durability }
    }
}

impl DiskFile for RecordFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn read(&self, at: u64, len: usize) -> Result<Bytes> {
        self.inner.read(at, len)
    }

    fn write(&self, at: u64, buffers: &[Bytes], durability: Durability) -> Result<()> {
        self.act(self.write_action(at, buffers, durability), || self.inner.write(at, buffers, durability))
    }

    fn len_bytes(&self) -> Result<u64> {
        self.inner.len_bytes()
    }

    fn zero_from(&self, at: u64) -> Result<()> {
        self.act(Action::ZeroFrom { file: self.file, at }, || self.inner.zero_from(at))
    }

    fn sync(&self) -> Result<()> {
        self.act(Action::Sync { file: self.file }, || self.inner.sync())
    }
}

impl DiskIo for RecordDisk {
    fn backend(&self) -> &'static str {
        "record"
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.act(Action::CreateDir { path: path.to_owned() }, || self.inner.create_dir(path), |_| {})
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        self.inner.list(path)
    }

    fn writes_in_flight_max(&self) -> usize {
        self.inner.writes_in_flight_max()
    }

    fn create(&self, path: &Path, len_bytes: u64, fill: Fill) -> Result<Arc<dyn DiskFile>> {
        let file = locked(&self.journal).new_file();
        let action = Action::Create { file, path: path.to_owned(), len_bytes };
        let create = || self.inner.create(path, len_bytes, fill);
        let inner = self.act(action, create, |names| _ = names.insert(path.to_owned(), file))?;
        Ok(self.file(inner, file))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(path)?;
        let file = locked(&self.journal).names.get(path).copied();
        Ok(self.file(inner, file.expect("files from before the recording are known through `RecordDisk::over`")))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let action = Action::Rename { from: from.to_owned(), to: to.to_owned() };
        self.act(
            action,
            || self.inner.rename(from, to),
            |names| {
                if let Some(file) = names.remove(from) {
                    names.insert(to.to_owned(), file);
                }
            },
        )
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.act(Action::Remove { path: path.to_owned() }, || self.inner.remove(path), |names| _ = names.remove(path))
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        let action = Action::RemoveDir { path: path.to_owned() };
        self.act(action, || self.inner.remove_dir(path), |names| names.retain(|file, _| !file.starts_with(path)))
    }

    fn write_atomic(&self, path: &Path, content: &[u8]) -> Result<()> {
        let file = locked(&self.journal).new_file();
        let action = Action::WriteAtomic { file, path: path.to_owned(), content: Bytes::copy_from_slice(content) };
        self.act(action, || self.inner.write_atomic(path, content), |names| _ = names.insert(path.to_owned(), file))
    }

    fn read_small(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.inner.read_small(path)
    }

    fn free_bytes(&self, path: &Path) -> Result<u64> {
        self.inner.free_bytes(path)
    }

    fn submit(&self, write: Write, done: Done) {
        let any: &dyn Any = write.file.as_ref();
        let file = any.downcast_ref::<RecordFile>().expect("the file was opened through this disk");
        let id = locked(&self.journal).start(file.write_action(write.at, &write.buffers, write.durability));
        let (inner, journal) = (Arc::clone(&file.inner), Arc::clone(&self.journal));
        let recorded = Box::new(move |result: Result<()>| {
            locked(&journal).end(id, &result);
            done(result);
        });
        self.inner.submit(Write { file: inner, ..write }, recorded);
    }

    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        self.inner.run(job);
    }
}
