//! A file as the pool sees it: one descriptor through the page cache and, where the file system allows it, one around it.
//!
//! Made by [`super::PoolDisk`]; the ring backends write to its direct descriptor themselves and leave the rest to it.
//!
//! # Which way bytes take
//! A write of whole blocks (position, addresses and lengths) goes around the page cache, and with `RWF_DSYNC` it is durable by
//! itself: its errors are told to it and to nobody else, so several may be under way. Everything else goes through the page
//! cache and is followed by `fdatasync`. Large reads go around the page cache, small ones through it. The system keeps the two
//! ways coherent: a direct write drops the cached pages it covers, a direct read first writes back dirty ones.
//!
//! # Errors
//! `fdatasync` reports that *some* page of the file failed, once per descriptor. So buffered writes with their syncs run one
//! after the other: what the sync reports belongs to the write in front of it. What was written with [`Durability::None`] has
//! nobody to tell any more; its error reaches the next sync, as everywhere.
//!
//! After an error nothing more is known about the file: the system has marked pages clean that it could not write, and a
//! failed flush of the disk's cache may concern writes that reported success or are about to. So the first error is kept:
//! every later write and sync through this handle fails without being tried, and so does a write that was under way meanwhile.
//! Reads go on. A handle opened later starts afresh: who opens the file again verifies it.
#![allow(clippy::disallowed_methods, reason = "a disk backend owns its files and threads")]

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::zeros::write_zeros;
use crate::error::{Error, Result};
use crate::io::blocks::{BLOCK_BYTES, Progress, whole_blocks};
use crate::io::buffers::ReadBuffers;
use crate::io::first_error::FirstError;
use crate::io::{DiskFile, Durability};
use crate::types::index;

/// Reads from this length on go around the page cache.
pub(crate) const DIRECT_READ_BYTES: usize = 256 << 10;

/// See the module docs.
pub(crate) struct PoolFile {
    file: File,
    direct: Option<Arc<File>>,
    path: PathBuf,
    buffers: Arc<ReadBuffers>,
    /// Held by a buffered write until its sync is over.
    buffered: Mutex<()>,
    failed: FirstError,
    /// Counts this file's descriptors among all of the pool's.
    open_files: Arc<AtomicU64>,
}

impl Drop for PoolFile {
    fn drop(&mut self) {
        self.open_files.fetch_sub(self.descriptors(), Ordering::Relaxed);
    }
}

impl PoolFile {
    pub fn new(file: File, direct: Option<File>, path: &Path, buffers: &Arc<ReadBuffers>, open_files: &Arc<AtomicU64>) -> Self {
        let file = Self {
            file,
            direct: direct.map(Arc::new),
            path: path.to_owned(),
            buffers: Arc::clone(buffers),
            buffered: Mutex::new(()),
            failed: FirstError::default(),
            open_files: Arc::clone(open_files),
        };
        open_files.fetch_add(file.descriptors(), Ordering::Relaxed);
        file
    }

    fn descriptors(&self) -> u64 {
        1 + u64::from(self.direct.is_some())
    }

    /// The descriptor to write around the page cache with, if this write can go that way.
    pub fn direct_for(&self, at: u64, buffers: &[Bytes]) -> Option<&Arc<File>> {
        self.direct.as_ref().filter(|_| whole_blocks(at, buffers))
    }

    /// Refuses what comes after an error.
    pub fn check(&self, operation: &'static str) -> Result<()> {
        self.failed.check(operation, &self.path)
    }

    /// Keeps the first error, and lets what was under way meanwhile fail with it.
    pub fn conclude(&self, operation: &'static str, result: std::io::Result<()>) -> Result<()> {
        self.failed.conclude(operation, &self.path, result)
    }

    fn write_direct(direct: &File, at: u64, buffers: &[Bytes], durability: Durability) -> std::io::Result<()> {
        let flags = match durability {
            Durability::None => ReadWriteFlags::empty(),
            Durability::Data => ReadWriteFlags::DSYNC,
        };
        let mut progress = Progress::new(at, buffers);
        while !progress.is_done() {
            match rustix::io::pwritev2(direct, &progress.vectors(), progress.at(), flags) {
                Err(Errno::INTR) => {}
                written => progress.advance_blocks(written?)?,
            }
        }
        Ok(())
    }

    fn write_buffered(&self, at: u64, buffers: &[Bytes], durability: Durability) -> std::io::Result<()> {
        let mut progress = Progress::new(at, buffers);
        while !progress.is_done() {
            match rustix::io::pwritev(&self.file, &progress.vectors(), progress.at()) {
                Err(Errno::INTR) => {}
                written => progress.advance(written?)?,
            }
        }
        match durability {
            Durability::None => Ok(()),
            Durability::Data => self.file.sync_data(),
        }
    }

    /// Reads through the page cache until `buffer` is full or the file ends, and says how much.
    fn read_buffered(&self, at: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Reads the whole blocks around what is asked for. `at` and `len` lie inside the file.
    fn read_direct(&self, direct: &File, at: u64, len: usize) -> std::io::Result<Bytes> {
        let before = index(at) % BLOCK_BYTES;
        let start = at - before as u64;
        let wanted = (before + len).next_multiple_of(BLOCK_BYTES);
        let mut lent = self.buffers.lend(wanted);
        let buffer = &mut lent.as_mut_slice()[..wanted];
        let mut filled = 0;
        while filled < before + len {
            match direct.read_at(&mut buffer[filled..], start + filled as u64) {
                Ok(0) => break,
                Ok(read) if read.is_multiple_of(BLOCK_BYTES) => filled += read,
                // The file ends inside a block here, or the read was cut off: the rest would not be aligned.
                Ok(read) => {
                    filled += read;
                    filled += self.read_buffered(start + filled as u64, &mut buffer[filled..])?;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let until = filled.min(before + len);
        Ok(lent.into_bytes().slice(before.min(until)..until))
    }

    fn zero(&self, at: u64, len: u64) -> std::io::Result<()> {
        // The space stays the file's: a hole would have to be allocated again, perhaps on a disk that is full by then.
        match rustix::fs::fallocate(&self.file, FallocateFlags::ZERO_RANGE, at, len - at) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => write_zeros(&self.file, self.direct.as_deref(), at, len)?,
            zeroed => zeroed?,
        }
        self.file.sync_all()
    }
}

impl DiskFile for PoolFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, at: u64, len: usize) -> Result<Bytes> {
        let read = || {
            if len >= DIRECT_READ_BYTES
                && let Some(direct) = &self.direct
            {
                let inside = self.file.metadata()?.len().saturating_sub(at).min(len as u64);
                return self.read_direct(direct, at, index(inside));
            }
            let mut buffer = vec![0; len];
            let filled = self.read_buffered(at, &mut buffer)?;
            buffer.truncate(filled);
            Ok(Bytes::from(buffer))
        };
        read().map_err(Error::io("reading", &self.path))
    }

    fn write(&self, at: u64, buffers: &[Bytes], durability: Durability) -> Result<()> {
        self.check("writing")?;
        if let Some(direct) = self.direct_for(at, buffers) {
            return self.conclude("writing", Self::write_direct(direct, at, buffers, durability));
        }
        let _alone = self.buffered.lock().expect("no code panics inside");
        self.check("writing")?;
        self.conclude("writing", self.write_buffered(at, buffers, durability))
    }

    fn len_bytes(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(Error::io("reading the length of", &self.path))?.len())
    }

    fn zero_from(&self, at: u64) -> Result<()> {
        let len = self.len_bytes()?;
        if at >= len {
            return self.sync();
        }
        let _alone = self.buffered.lock().expect("no code panics inside");
        self.check("trimming")?;
        self.conclude("trimming", self.zero(at, len))
    }

    fn sync(&self) -> Result<()> {
        let _alone = self.buffered.lock().expect("no code panics inside");
        self.check("syncing")?;
        self.conclude("syncing", self.file.sync_data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full device takes no byte: the error is told, and nothing is tried after it.
    #[test]
    fn after_an_error_nothing_is_written_through_the_handle() {
        let path = Path::new("/dev/full");
        let full = File::options().read(true).write(true).open(path).unwrap();
        let file = PoolFile::new(full, None, path, &Arc::default(), &Arc::default());
        let error = file.write(0, &[Bytes::from_static(b"x")], Durability::Data).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::NoSpace, "{error}");
        for later in [file.write(0, &[Bytes::from_static(b"y")], Durability::None), file.sync(), file.zero_from(0)] {
            let later = later.unwrap_err().to_string();
            assert!(later.contains("given up since") && later.contains("No space left"), "{later}");
        }
    }
}
