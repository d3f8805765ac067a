//! A handle on a file of the simulated disk.

use std::io::Result as IoResult;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use rustix::io::Errno;

use super::image::Image;
use super::{SimDisk, State};
use crate::error::{Error, Result};
use crate::io::blocks::{BLOCK_BYTES, Progress, whole_blocks};
use crate::io::first_error::FirstError;
use crate::io::{DiskFile, Durability};
use crate::types::index;

/// No file is longer, as on ext4.
pub(super) const FILE_BYTES_MAX: u64 = 16 << 40;

/// See the module docs. It stays on its file when that is renamed or removed, as a descriptor does.
pub(super) struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    image: Arc<Mutex<Image>>,
    failed: FirstError,
}

impl SimFile {
    pub fn new(disk: &SimDisk, path: &Path, image: Arc<Mutex<Image>>) -> Self {
        Self { disk: disk.clone(), path: path.to_owned(), image, failed: FirstError::default() }
    }

    /// The image behind the handle, for a crash that meets writes under way.
    pub fn image(&self) -> &Arc<Mutex<Image>> {
        &self.image
    }

    /// Runs one operation on the file. The disk's state is locked first, always.
    fn with<T>(&self, act: impl FnOnce(&mut State, &mut Image) -> IoResult<T>) -> IoResult<T> {
        let mut state = self.disk.state();
        let mut image: MutexGuard<'_, Image> = self.image.lock().expect("a test that panicked ends here");
        act(&mut state, &mut image)
    }

    fn put(state: &mut State, image: &mut Image, at: u64, buffers: &[Bytes], durability: Durability) -> IoResult<()> {
        let len: usize = buffers.iter().map(Bytes::len).sum();
        let until = index(at) + len;
        if until as u64 > FILE_BYTES_MAX {
            return Err(Errno::FBIG.into());
        }
        // The half of a write that failed is there, and nobody knows which.
        let failed = state.faults.begin().and_then(|()| state.faults.begin_write());
        let grown = if until > image.live.len() { state.faults.take_space() } else { Ok(()) };
        let room = grown.as_ref().map_or_else(|_| image.live.len().saturating_sub(index(at)), |()| len);
        let limit = if failed.is_err() { (len / 2).min(room) } else { room };
        let direct = whole_blocks(at, buffers);
        let (mut progress, mut written) = (Progress::new(at, buffers), 0);
        while written < limit {
            let mut step = limit - written;
            if let Some(coin) = &mut state.faults.short_writes {
                let least = if direct { BLOCK_BYTES.min(step) } else { 1 };
                step = least + coin.below(step - least + 1);
            }
            let (mut left, mut to) = (step, index(progress.at()));
            for piece in progress.pieces() {
                let part = piece.len().min(left);
                image.write(to, &piece[..part]);
                (to, left) = (to + part, left - part);
            }
            let before = progress.at();
            let took = step - left;
            if direct && took < limit - written {
                progress.advance_blocks(took)?
            } else {
                progress.advance(took)?
            }
            written += index(progress.at() - before);
        }
        failed.and(grown)?;
        if durability == Durability::Data {
            if let Err(error) = state.faults.begin_sync() {
                image.lose(index(at), until);
                return Err(error);
            }
            image.sync(index(at), until);
        }
        Ok(())
    }

    fn sync_all(state: &mut State, image: &mut Image) -> IoResult<()> {
        if let Err(error) = state.faults.begin_sync() {
            image.lose(0, image.live.len());
            return Err(error);
        }
        image.sync(0, image.live.len());
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, at: u64, len: usize) -> Result<Bytes> {
        let read = self.with(|state, image| {
            state.faults.begin()?;
            let from = usize::try_from(at).map_or(image.live.len(), |at| at.min(image.live.len()));
            let until = from.saturating_add(len).min(image.live.len());
            Ok(Bytes::copy_from_slice(&image.live[from..until]))
        });
        read.map_err(Error::io("reading", &self.path))
    }

    fn write(&self, at: u64, buffers: &[Bytes], durability: Durability) -> Result<()> {
        self.failed.check("writing", &self.path)?;
        let written = self.with(|state, image| Self::put(state, image, at, buffers, durability));
        self.failed.conclude("writing", &self.path, written)
    }

    fn len_bytes(&self) -> Result<u64> {
        let len = self.with(|state, image| state.faults.begin().map(|()| image.live.len() as u64));
        len.map_err(Error::io("reading the length of", &self.path))
    }

    fn zero_from(&self, at: u64) -> Result<()> {
        self.failed.check("trimming", &self.path)?;
        let zeroed = self.with(|state, image| {
            let begun = state.faults.begin();
            let from = index(at).min(image.live.len());
            let until = if begun.is_ok() { image.live.len() } else { from + (image.live.len() - from) / 2 };
            image.write(from, &vec![0; until - from]);
            begun?;
            Self::sync_all(state, image)
        });
        self.failed.conclude("trimming", &self.path, zeroed)
    }

    fn sync(&self) -> Result<()> {
        self.failed.check("syncing", &self.path)?;
        let synced = self.with(|state, image| {
            if let Err(error) = state.faults.begin() {
                image.lose(0, image.live.len());
                return Err(error);
            }
            Self::sync_all(state, image)
        });
        self.failed.conclude("syncing", &self.path, synced)
    }
}
