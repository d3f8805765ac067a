//! A disk in memory that crashes and fails on purpose, for tests.
//!
//! It keeps two images of every file: what a running process reads back, and what is on the medium. A sync moves the first to
//! the second; a [`SimDisk::crash`] throws away what was not synced, except for sectors that a seeded coin lets survive, torn
//! from their neighbours. Folder operations are durable at once, as [`DiskIo`] promises for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::{DiskFile, DiskIo, Done, Durability, Fill, Write};
use crate::error::{Error, Result};
use crate::types::index;

/// What a crash keeps or loses as a unit.
const SECTOR_BYTES: usize = 512;

#[derive(Default)]
struct Image {
    live: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Image>,
    writes: u64,
    fail_write: Option<u64>,
    fail_sync: bool,
    free_bytes: Option<u64>,
}

/// See the module docs. Clones share the disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a test that panicked ends here")
    }

    /// What is left after the power fails: a new disk. Unsynced sectors survive where the coin seeded by `seed` says so.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut coin = seed | 1;
        let mut survived = BTreeMap::new();
        for (path, image) in &self.state().files {
            let mut bytes = image.durable.clone();
            bytes.resize(image.live.len().max(bytes.len()), 0);
            for (sector, live) in image.live.chunks(SECTOR_BYTES).enumerate() {
                let at = sector * SECTOR_BYTES;
                // xorshift64: enough of a coin, and the same on every machine.
                coin ^= coin << 13;
                coin ^= coin >> 7;
                coin ^= coin << 17;
                if bytes[at..at + live.len()] != *live && coin & 1 == 1 {
                    bytes[at..at + live.len()].copy_from_slice(live);
                }
            }
            survived.insert(path.clone(), Image { live: bytes.clone(), durable: bytes });
        }
        Self { state: Arc::new(Mutex::new(State { files: survived, ..State::default() })) }
    }

    /// Lets the write after the next `after` writes fail half way, and none after it.
    pub fn fail_write_after(&self, after: u64) {
        let mut state = self.state();
        state.fail_write = Some(state.writes + after);
    }

    /// Lets the next sync fail. The pages are clean afterwards, as on Linux: another sync would succeed.
    pub fn fail_next_sync(&self) {
        self.state().fail_sync = true;
    }

    /// Says how much is free from now on; `None` for plenty.
    pub fn set_free_bytes(&self, free_bytes: Option<u64>) {
        self.state().free_bytes = free_bytes;
    }

    /// Flips one bit of what is stored.
    ///
    /// # Panics
    /// When there is no such file or byte.
    pub fn flip_bit(&self, path: &Path, at: u64) {
        let mut state = self.state();
        let image = state.files.get_mut(path).expect("the file exists");
        image.live[index(at)] ^= 1;
        image.durable[index(at)] ^= 1;
    }

    /// The files there are.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().files.keys().cloned().collect()
    }
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
}

impl SimFile {
    fn with<T>(&self, operation: &'static str, act: impl FnOnce(&mut Image) -> T) -> Result<T> {
        let mut state = self.disk.state();
        let image = state.files.get_mut(&self.path);
        image.map(act).ok_or_else(|| Error::io(operation, &self.path)(std::io::ErrorKind::NotFound.into()))
    }
}

impl DiskFile for SimFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, at: u64, len: usize) -> Result<Bytes> {
        self.with("reading", |image| {
            let from = index(at).min(image.live.len());
            let until = (from + len).min(image.live.len());
            Bytes::copy_from_slice(&image.live[from..until])
        })
    }

    fn write(&self, at: u64, buffers: &[Bytes], durability: Durability) -> Result<()> {
        let fails = {
            let mut state = self.disk.state();
            state.writes += 1;
            let writes = state.writes;
            state.fail_write.take_if(|nth| *nth < writes).is_some()
        };
        let content = buffers.concat();
        let written = if fails { content.len() / 2 } else { content.len() };
        self.with("writing", |image| {
            let from = index(at);
            if image.live.len() < from + written {
                image.live.resize(from + written, 0);
            }
            image.live[from..from + written].copy_from_slice(&content[..written]);
        })?;
        if fails {
            return Err(Error::io("writing", &self.path)(std::io::Error::other("injected write error")));
        }
        match durability {
            Durability::None => Ok(()),
            Durability::Data => self.sync(),
        }
    }

    fn len_bytes(&self) -> Result<u64> {
        self.with("reading the length of", |image| image.live.len() as u64)
    }

    fn zero_from(&self, at: u64) -> Result<()> {
        self.with("trimming", |image| {
            let from = index(at).min(image.live.len());
            image.live[from..].fill(0);
        })?;
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        if std::mem::take(&mut self.disk.state().fail_sync) {
            return Err(Error::io("syncing", &self.path)(std::io::Error::other("injected sync error")));
        }
        self.with("syncing", |image| image.durable.clone_from(&image.live))
    }
}

impl DiskIo for SimDisk {
    fn backend(&self) -> &'static str {
        "sim"
    }

    fn create_dir(&self, _path: &Path) -> Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        let state = self.state();
        let below = state.files.keys().filter_map(|file| file.strip_prefix(path).ok());
        let mut names: Vec<String> =
            below.filter_map(|rest| Some(rest.components().next()?.as_os_str().to_string_lossy().into_owned())).collect();
        names.dedup();
        Ok(names)
    }

    fn create(&self, path: &Path, len_bytes: u64, _fill: Fill) -> Result<Arc<dyn DiskFile>> {
        let zeros = vec![0; index(len_bytes)];
        self.state().files.insert(path.to_owned(), Image { live: zeros.clone(), durable: zeros });
        self.open(path)
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        if !self.state().files.contains_key(path) {
            return Err(Error::io("opening", path)(std::io::ErrorKind::NotFound.into()));
        }
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut state = self.state();
        let image = state.files.remove(from).ok_or_else(|| Error::io("renaming", from)(std::io::ErrorKind::NotFound.into()))?;
        state.files.insert(to.to_owned(), image);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.state().files.remove(path);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.state().files.retain(|file, _| !file.starts_with(path));
        Ok(())
    }

    fn write_atomic(&self, path: &Path, content: &[u8]) -> Result<()> {
        self.state().files.insert(path.to_owned(), Image { live: content.to_vec(), durable: content.to_vec() });
        Ok(())
    }

    fn read_small(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        Ok(self.state().files.get(path).map(|image| image.live.clone()))
    }

    fn free_bytes(&self, _path: &Path) -> Result<u64> {
        Ok(self.state().free_bytes.unwrap_or(u64::MAX))
    }

    fn submit(&self, write: Write, done: Done) {
        done(write.file.write(write.at, &write.buffers, write.durability));
    }

    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}
