//! A disk in memory that crashes and fails on purpose, for tests.
//!
//! It keeps two images of every file: what a running process reads back, and what is on the medium. A durable write or a sync
//! moves the first to the second; a [`SimDisk::crash`] throws away what is not durable, except for sectors that a seeded coin
//! lets survive, torn from their neighbours. Folder entries are kept twice as well: durable at once, as [`DiskIo`] promises,
//! unless [`SimDisk::forget_folder_syncs`] breaks that promise.
//!
//! Operations are counted ([`SimDisk::operations`]), so that a test can run once, and then again for each of them with that one
//! failing. By default a write is done, and reported, on the thread that submits it; [`SimDisk::hold_completions`] lets writes
//! pile up under way and end in any order.

mod faults;
mod file;
mod image;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use rustix::io::Errno;

use self::faults::Faults;
use self::file::{FILE_BYTES_MAX, SimFile};
use self::image::Image;
pub(in crate::io) use self::image::{Coin, lay_sectors};
use super::{DiskFile, DiskIo, Done, Fill, Write};
use crate::error::{Error, Result};
use crate::types::index;

type Names = BTreeMap<PathBuf, Arc<Mutex<Image>>>;

struct Held {
    write: Write,
    done: Done,
}

#[derive(Default)]
struct State {
    names: Names,
    durable_names: Names,
    forget_folder_syncs: bool,
    faults: Faults,
    free_bytes: Option<u64>,
    writes_in_flight_max: Option<usize>,
    hold: bool,
    held: Vec<Held>,
}

impl State {
    /// Changes folder entries, durably unless that is to be forgotten.
    fn change_names(&mut self, change: impl Fn(&mut Names)) {
        change(&mut self.names);
        if !self.forget_folder_syncs {
            change(&mut self.durable_names);
        }
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    held: Condvar,
}

/// See the module docs. Clones share the disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk with these files on it, durably.
    pub(in crate::io) fn holding(files: BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let image = |content| Arc::new(Mutex::new(Image::holding(content)));
        let names: Names = files.into_iter().map(|(path, content)| (path, image(content))).collect();
        let disk = Self::new();
        *disk.state() = State { names: names.clone(), durable_names: names, ..State::default() };
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("a test that panicked ends here")
    }

    /// What is left after the power fails: a new disk, on which nothing fails any more. Sectors that are not durable survive
    /// where the coin seeded by `seed` says so, those of writes that are held back as well. This disk goes on as if nothing had
    /// happened.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut coin = Coin::new(seed);
        let state = self.state();
        let mut survived = BTreeMap::new();
        for (path, image) in &state.durable_names {
            let mut content = image.lock().expect("a test that panicked ends here").after_crash(&mut coin);
            let under_way = state.held.iter().map(|held| &held.write);
            for write in under_way.filter(|write| sim_file(write).is_some_and(|file| Arc::ptr_eq(file.image(), image))) {
                lay_sectors(&mut content, index(write.at), &write.buffers.concat(), || coin.heads());
            }
            survived.insert(path.clone(), content);
        }
        let crashed = Self::holding(survived);
        crashed.state().writes_in_flight_max = state.writes_in_flight_max;
        crashed
    }

    /// What the next process finds when this one is killed: everything that was written, whether it is on the medium or not, and
    /// of writes that are held back what the coin seeded by `seed` chooses. A power failure still loses what is not on the medium.
    /// Nothing fails any more; this disk goes on as if nothing had happened.
    #[must_use]
    pub fn killed(&self, seed: u64) -> Self {
        let mut coin = Coin::new(seed);
        let state = self.state();
        let mut copies: BTreeMap<*const Mutex<Image>, Arc<Mutex<Image>>> = BTreeMap::new();
        for image in state.names.values().chain(state.durable_names.values()) {
            let copy = || Arc::new(Mutex::new(image.lock().expect("a test that panicked ends here").clone()));
            copies.entry(Arc::as_ptr(image)).or_insert_with(copy);
        }
        for write in state.held.iter().map(|held| &held.write) {
            if let Some(copy) = sim_file(write).and_then(|file| copies.get(&Arc::as_ptr(file.image()))) {
                let written = write.buffers.concat();
                let part = [0, written.len() / 2, written.len()][coin.below(3)];
                copy.lock().expect("a test that panicked ends here").write(index(write.at), &written[..part]);
            }
        }
        let copied = |names: &Names| -> Names {
            names.iter().map(|(path, image)| (path.clone(), Arc::clone(&copies[&Arc::as_ptr(image)]))).collect()
        };
        let killed = Self::new();
        *killed.state() = State {
            names: copied(&state.names),
            durable_names: copied(&state.durable_names),
            writes_in_flight_max: state.writes_in_flight_max,
            ..State::default()
        };
        killed
    }

    /// Operations of any kind so far, on the disk and its files.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().faults.operations
    }

    /// Lets the `nth` operation since the disk was made fail with the system's error number `errno` (5 is EIO), and none after
    /// it. A write is then half there, a sync has lost what it was to write, anything else has not happened.
    pub fn fail_operation(&self, nth: u64, errno: i32) {
        self.state().faults.fail_operation(nth, errno);
    }

    /// From the `nth` operation on, whatever needs space it does not have yet fails with ENOSPC; `None` lifts that.
    pub fn no_space_from(&self, nth: Option<u64>) {
        self.state().faults.no_space_from(nth);
    }

    /// Lets the write after the next `after` writes fail half way, and none after it.
    pub fn fail_write_after(&self, after: u64) {
        self.state().faults.fail_write_after(after);
    }

    /// Lets the next sync fail, that of a durable write or one by itself. The pages are clean afterwards, as on Linux: another
    /// sync, through another handle, would succeed without writing them.
    pub fn fail_next_sync(&self) {
        self.state().faults.fail_next_sync();
    }

    /// Lets writes reach the medium in pieces of a length that the coin seeded by `seed` chooses; `None` stops that.
    pub fn short_writes(&self, seed: Option<u64>) {
        self.state().faults.short_writes = seed.map(Coin::new);
    }

    /// Lets folder changes from now on be lost by a crash: what a backend does that never syncs a folder.
    pub fn forget_folder_syncs(&self, forget: bool) {
        self.state().forget_folder_syncs = forget;
    }

    /// What [`DiskIo::writes_in_flight_max`] says from now on; 1 before this is called.
    pub fn set_writes_in_flight_max(&self, writes: usize) {
        self.state().writes_in_flight_max = Some(writes);
    }

    /// Lets submitted writes wait from now on, neither written nor reported; those that wait already still do when this ends.
    /// Whoever drops the disk meanwhile never hears of them.
    pub fn hold_completions(&self, hold: bool) {
        self.state().hold = hold;
    }

    /// How many writes are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.state().held.len()
    }

    /// Blocks until at least `writes` writes are held back.
    ///
    /// # Panics
    /// When another test thread panicked.
    pub fn wait_held(&self, writes: usize) {
        let enough = self.shared.held.wait_while(self.state(), |state| state.held.len() < writes);
        drop(enough.expect("a test that panicked ends here"));
    }

    /// Does and reports all writes that are held back now, in the order that the coin seeded by `seed` chooses, on this thread;
    /// says how many.
    pub fn release(&self, seed: u64) -> usize {
        let mut coin = Coin::new(seed);
        let mut waiting = std::mem::take(&mut self.state().held);
        let count = waiting.len();
        while !waiting.is_empty() {
            waiting.swap_remove(coin.below(waiting.len())).end();
        }
        count
    }

    /// Does and reports one write of those that are held back, the one the coin seeded by `seed` chooses; says whether there
    /// was one.
    pub fn release_one(&self, seed: u64) -> bool {
        let mut state = self.state();
        if state.held.is_empty() {
            return false;
        }
        let chosen = Coin::new(seed).below(state.held.len());
        let held = state.held.swap_remove(chosen);
        drop(state);
        held.end();
        true
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
        let state = self.state();
        let image = state.names.get(path).expect("the file exists");
        image.lock().expect("a test that panicked ends here").flip_bit(index(at));
    }

    /// The files there are.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }

    /// Counts an operation and runs it if it does not fail.
    fn operate<T>(&self, operation: &'static str, path: &Path, act: impl FnOnce(&mut State) -> std::io::Result<T>) -> Result<T> {
        let mut state = self.state();
        state.faults.begin().and_then(|()| act(&mut state)).map_err(Error::io(operation, path))
    }
}

impl Held {
    fn end(self) {
        (self.done)(self.write.file.write(self.write.at, &self.write.buffers, self.write.durability));
    }
}

fn sim_file(write: &Write) -> Option<&SimFile> {
    let file: &dyn Any = write.file.as_ref();
    file.downcast_ref()
}

fn find(names: &Names, path: &Path) -> std::io::Result<Arc<Mutex<Image>>> {
    names.get(path).map(Arc::clone).ok_or_else(|| std::io::ErrorKind::NotFound.into())
}

impl DiskIo for SimDisk {
    fn backend(&self) -> &'static str {
        "sim"
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.operate("creating folder", path, |_| Ok(()))
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        self.operate("listing folder", path, |state| {
            let below = state.names.keys().filter_map(|file| file.strip_prefix(path).ok());
            let mut names: Vec<String> =
                below.filter_map(|rest| Some(rest.components().next()?.as_os_str().to_string_lossy().into_owned())).collect();
            names.dedup();
            Ok(names)
        })
    }

    fn writes_in_flight_max(&self) -> usize {
        self.state().writes_in_flight_max.unwrap_or(1)
    }

    fn create(&self, path: &Path, len_bytes: u64, _fill: Fill) -> Result<Arc<dyn DiskFile>> {
        let image = self.operate("creating", path, |state| {
            let space = state.faults.take_space();
            if let Err(error) = space.and_then(|()| if len_bytes > FILE_BYTES_MAX { Err(Errno::FBIG.into()) } else { Ok(()) }) {
                state.change_names(|names| drop(names.remove(path)));
                return Err(error);
            }
            let image = Arc::new(Mutex::new(Image::holding(vec![0; index(len_bytes)])));
            state.change_names(|names| drop(names.insert(path.to_owned(), Arc::clone(&image))));
            Ok(image)
        })?;
        Ok(Arc::new(SimFile::new(self, path, image)))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        let image = self.operate("opening", path, |state| find(&state.names, path))?;
        Ok(Arc::new(SimFile::new(self, path, image)))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.operate("renaming", from, |state| {
            let image = find(&state.names, from)?;
            state.change_names(|names| {
                names.remove(from);
                names.insert(to.to_owned(), Arc::clone(&image));
            });
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.operate("removing", path, |state| {
            state.change_names(|names| drop(names.remove(path)));
            Ok(())
        })
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.operate("removing folder", path, |state| {
            state.change_names(|names| names.retain(|file, _| !file.starts_with(path)));
            Ok(())
        })
    }

    fn write_atomic(&self, path: &Path, content: &[u8]) -> Result<()> {
        self.operate("writing", path, |state| {
            state.faults.take_space()?;
            let image = Arc::new(Mutex::new(Image::holding(content.to_vec())));
            state.change_names(|names| drop(names.insert(path.to_owned(), Arc::clone(&image))));
            Ok(())
        })
    }

    fn read_small(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.operate("reading", path, |state| {
            let image = state.names.get(path);
            Ok(image.map(|image| image.lock().expect("a test that panicked ends here").live.clone()))
        })
    }

    fn free_bytes(&self, path: &Path) -> Result<u64> {
        self.operate("asking for the free space of", path, |state| Ok(state.free_bytes.unwrap_or(u64::MAX)))
    }

    fn submit(&self, write: Write, done: Done) {
        let held = Held { write, done };
        let mut state = self.state();
        if state.hold {
            state.held.push(held);
            self.shared.held.notify_all();
            return;
        }
        drop(state);
        held.end();
    }

    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}
