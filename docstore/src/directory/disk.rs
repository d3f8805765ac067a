//! What [`super::FreshDirectory`] asks of the disk, so that tests can lose what was not synced, or let a sync fail.

use std::fmt::Debug;
use std::io;
use std::path::Path;

use logcore::sys::fs::{self, AppendFile};
use tantivy::Directory;
use tantivy::directory::MmapDirectory;
use tantivy::directory::error::DeleteError;

/// The disk below one folder. Files are read by mapping them, past this trait.
pub trait Disk: Debug + Send + Sync {
    /// The names in a folder.
    ///
    /// # Errors
    /// When the system does not tell.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates an empty file; one of the same name is emptied.
    ///
    /// # Errors
    /// When the system refuses.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// When the system does not promise it.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Replaces a file's content as one durable step.
    ///
    /// # Errors
    /// When the system refuses; the old content may then still be there.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Removes a file, not durably: a crash may bring it back.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`]; or when the system refuses.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// A file that is being written.
pub trait DiskFile: Debug + Send + Sync {
    /// Writes behind what is there.
    ///
    /// # Errors
    /// When the system refuses.
    fn append(&mut self, content: &[u8]) -> io::Result<()>;

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// When the system does not promise it.
    fn sync(&mut self) -> io::Result<()>;
}

/// The system's disk.
#[derive(Debug)]
pub struct RealDisk;

struct RealFile(AppendFile);

impl Debug for RealFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("RealFile")
    }
}

impl Disk for RealDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::list(dir).map_err(io::Error::other)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(AppendFile::open(path, 0).map_err(io::Error::other)?)))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::sync_dir(dir).map_err(io::Error::other)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        fs::write_atomic(path, content).map_err(io::Error::other)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Err(io::ErrorKind::NotFound.into()) };
        let removed = MmapDirectory::open(dir).map_err(io::Error::other)?.delete(Path::new(name));
        removed.map_err(|error| match error {
            DeleteError::FileDoesNotExist(_) => io::ErrorKind::NotFound.into(),
            error @ DeleteError::IoError { .. } => io::Error::other(error),
        })
    }
}

impl DiskFile for RealFile {
    fn append(&mut self, content: &[u8]) -> io::Result<()> {
        self.0.append(content).map_err(io::Error::other)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync().map_err(io::Error::other)
    }
}
