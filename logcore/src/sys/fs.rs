//! Files and folders for the views: whole small files, written atomically. The log itself writes through [`crate::io`].
//!
//! # Crash safety
//! [`write_atomic`] writes aside, syncs, renames and syncs the folder: a reader finds the old bytes or the new, never a mixture.
#![allow(clippy::disallowed_methods, reason = "this module owns files and folders")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Creates a folder with its parents and makes the entries of all that are new durable.
///
/// # Errors
/// When the system refuses.
pub fn create_dir(path: &Path) -> Result<()> {
    let new: Vec<&Path> = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    fs::create_dir_all(path).map_err(Error::io("creating folder", path))?;
    new.iter().rev().filter_map(|folder| folder.parent()).try_for_each(sync_dir)
}

/// Makes the entries of a folder durable.
///
/// # Errors
/// When the system refuses.
pub fn sync_dir(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("syncing folder", path))
}

/// Replaces a file's content as one durable step.
///
/// # Errors
/// When the system refuses; the old content is then still there.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<()> {
    let aside = path.with_extension("tmp");
    let mut file = File::create(&aside).map_err(Error::io("creating", &aside))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(Error::io("writing", &aside))?;
    fs::rename(&aside, path).map_err(Error::io("renaming onto", path))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// A file's content, or `None` when there is no such file.
///
/// # Errors
/// When it exists and can't be read.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("reading", path)(error)),
    }
}

/// `len` bytes of a file from `at`; fewer at its end.
///
/// # Errors
/// When it can't be read.
pub fn read_range(path: &Path, at: u64, len: usize) -> Result<Vec<u8>> {
    use std::io::{Seek, SeekFrom};
    let mut content = Vec::with_capacity(len);
    File::open(path)
        .and_then(|mut file| {
            file.seek(SeekFrom::Start(at))?;
            file.take(len as u64).read_to_end(&mut content)
        })
        .map_err(Error::io("reading", path))?;
    Ok(content)
}

/// A file that is only read: it may belong to someone else.
pub struct ReadFile {
    file: File,
    path: PathBuf,
    len_bytes: u64,
}

impl ReadFile {
    /// Opens `path`.
    ///
    /// # Errors
    /// When it is not there, can't be read, or is a folder.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("opening", path))?;
        let metadata = file.metadata().map_err(Error::io("reading the length of", path))?;
        if metadata.is_dir() {
            return Err(Error::io("opening", path)(std::io::ErrorKind::IsADirectory.into()));
        }
        Ok(Self { file, path: path.to_owned(), len_bytes: metadata.len() })
    }

    /// Its length when it was opened.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// `len` bytes from `at`; fewer at its end.
    ///
    /// # Errors
    /// When the system does not give them.
    pub fn read_at(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let mut content = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match self.file.read_at(&mut content[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("reading", &self.path)(error)),
            }
        }
        content.truncate(filled);
        Ok(content)
    }
}

/// The names in a folder, sorted; none when there is no such folder.
///
/// # Errors
/// When it exists and can't be listed.
pub fn list(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("listing folder", path)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("listing folder", path))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// A file's length in bytes, 0 when there is none.
///
/// # Errors
/// When it can't be told.
pub fn len_bytes(path: &Path) -> Result<u64> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::io("reading the length of", path)(error)),
    }
}

/// The bytes of all files below a folder.
///
/// # Errors
/// When a folder can't be listed.
pub fn tree_bytes(path: &Path) -> Result<u64> {
    let mut total = 0;
    for name in list(path)? {
        let below = path.join(name);
        total += if below.is_dir() { tree_bytes(&below)? } else { len_bytes(&below)? };
    }
    Ok(total)
}

/// Removes a file durably, if it is there.
///
/// # Errors
/// When it is there and can't be removed.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(path.parent().unwrap_or(Path::new("."))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("removing", path)(error)),
    }
}

/// Removes a folder with everything in it, if it is there.
///
/// # Errors
/// When it is there and can't be removed.
pub fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => sync_dir(path.parent().unwrap_or(Path::new("."))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("removing folder", path)(error)),
    }
}

/// Gives a folder another name in the same parent, as one durable step. There must be none of that name, or an empty one.
///
/// # Errors
/// When the system refuses; the folder then has its old name.
pub fn rename_dir(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io("renaming folder", from))?;
    sync_dir(to.parent().unwrap_or(Path::new(".")))
}

/// A file that only grows, with the sync left to the caller.
pub struct AppendFile {
    file: File,
    path: PathBuf,
}

impl AppendFile {
    /// Opens or creates `path` and cuts it to `len_bytes`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(path: &Path, len_bytes: u64) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(Error::io("opening", path))?;
        file.set_len(len_bytes).map_err(Error::io("truncating", path))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Writes behind what is there.
    ///
    /// # Errors
    /// When the system refuses; the file may then end in a part of `content`.
    pub fn append(&mut self, content: &[u8]) -> Result<()> {
        self.file.write_all(content).map_err(Error::io("appending to", &self.path))
    }

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// When the system can't promise it; the file must not be trusted further in this process.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("syncing", &self.path))
    }
}

/// An exclusive lock on a data folder, held until dropped or the process ends.
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Locks `folder/LOCK`.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process holds it.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join("LOCK");
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(Error::io("opening", &path))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked { path: folder.to_owned() }),
            Err(error) => Err(Error::io("locking", &path)(error.into())),
        }
    }
}

/// The bytes an unprivileged process may still write to the disk under `path`.
///
/// # Errors
/// When the file system doesn't say.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path).map_err(|error| Error::io("asking for the free space of", path)(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Writes a file out and asks the system to drop what it caches of it, so that the next read comes from the disk: for measurements.
///
/// # Errors
/// When the file can't be opened or synced.
pub fn forget_cached(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(Error::io("opening", path))?;
    file.sync_all().map_err(Error::io("syncing", path))?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
        .map_err(|error| Error::io("dropping the cache of", path)(error.into()))
}

/// Sixteen random bytes in hexadecimal, for identities.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random_id() -> Result<String> {
    let mut raw = [0_u8; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut raw))
        .map_err(Error::io("reading", "/dev/urandom"))?;
    Ok(raw.iter().map(|byte| format!("{byte:02x}")).collect())
}
