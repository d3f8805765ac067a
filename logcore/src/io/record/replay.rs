//! What a power failure may leave of a list of operations: the contract of [`crate::io::DiskIo`], read as weakly as it allows.
//!
//! # What is possible
//! - A write that ended with [`Durability::Data`] is there, and nothing else because of it.
//! - Any other write, under way, failed or without durability, is there in any subset of its sectors, until a sync of the file
//!   that started after the write ended has ended.
//! - A zeroing is there when it has ended, in any subset of its sectors before.
//! - A change of folder entries is there when it has ended. Before, or when it failed, it may have happened or not; removing a
//!   folder may have removed any of its files; a file that is being created may have any shorter length.
//! - Seed 0 keeps nothing of what may be there or not, seed 1 everything, others flip a coin, biased differently for each
//!   operation.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;

use super::{Action, FileId, Operation};
use crate::io::Durability;
use crate::io::sim::{Coin, SimDisk, lay_sectors};
use crate::types::index;

/// The disk that a power failure after the first `upto` operations may leave; `seed` chooses among the possible ones.
#[must_use]
pub fn crash_state(operations: &[Operation], upto: usize, seed: u64) -> SimDisk {
    let mut replay = Replay::default();
    operations[..upto].iter().for_each(|operation| replay.take(operation));
    replay.crash(seed)
}

/// One possible end.
pub struct CrashState {
    /// How many operations happened before.
    pub upto: usize,
    /// Which of the possible disks it is: [`crash_state`] makes the same one of both numbers.
    pub seed: u64,
    /// The last mark before.
    pub marked: Option<u64>,
    /// What is left.
    pub disk: SimDisk,
}

/// The disks that power failures at every place of a list may leave, some for each place.
pub struct CrashStates<'a> {
    rest: std::slice::Iter<'a, Operation>,
    replay: Replay,
    seed: u64,
    seeds: u64,
}

impl<'a> CrashStates<'a> {
    /// With `seeds` disks for each place, at least one, those of the seeds from 0 on; only one where nothing is left to chance.
    #[must_use]
    pub fn new(operations: &'a [Operation], seeds: u64) -> Self {
        Self { rest: operations.iter(), replay: Replay::default(), seed: 0, seeds: seeds.max(1) }
    }
}

impl Iterator for CrashStates<'_> {
    type Item = CrashState;

    fn next(&mut self) -> Option<CrashState> {
        if self.seed == self.seeds {
            self.replay.take(self.rest.next()?);
            self.seed = 0;
        }
        let seed = self.seed;
        self.seed = if self.replay.is_certain() { self.seeds } else { seed + 1 };
        Some(CrashState { upto: self.replay.taken, seed, marked: self.replay.marked, disk: self.replay.crash(seed) })
    }
}

/// How much of something a crash keeps.
struct Keep {
    coin: Coin,
    /// In sixteenths.
    share: usize,
}

impl Keep {
    fn new(seed: u64, id: u64) -> Self {
        let mut coin = Coin::new(seed ^ id.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let share = match seed {
            0 => 0,
            1 => 16,
            _ => [0, 1, 8, 8, 8, 15, 16][coin.below(7)],
        };
        Self { coin, share }
    }

    fn one(&mut self) -> bool {
        self.coin.below(16) < self.share
    }
}

/// A write that lies over others.
struct Layer {
    id: u64,
    at: usize,
    /// `None` for zeros to the end.
    content: Option<Bytes>,
    /// What its success is worth.
    durability: Durability,
    ended: bool,
    durable: bool,
}

/// A file's content: what is settled, and the writes over it in the order they started.
#[derive(Default)]
struct Content {
    settled: Vec<u8>,
    layers: Vec<Layer>,
}

impl Content {
    fn add(&mut self, id: u64, at: u64, content: Option<Bytes>, durability: Durability) {
        self.layers.push(Layer { id, at: index(at), content, durability, ended: false, durable: false });
    }

    fn lay(settled: &mut Vec<u8>, layer: &Layer, keeps: impl FnMut() -> bool) {
        match &layer.content {
            Some(content) => lay_sectors(settled, layer.at, content, keeps),
            None => {
                let zeros = vec![0; settled.len().saturating_sub(layer.at)];
                lay_sectors(settled, layer.at.min(settled.len()), &zeros, keeps);
            }
        }
    }

    /// Takes what nothing can undo out of the layers.
    fn settle(&mut self) {
        let until = self.layers.iter().position(|layer| !layer.durable).unwrap_or(self.layers.len());
        for layer in self.layers.drain(..until) {
            Self::lay(&mut self.settled, &layer, || true);
        }
    }

    fn after_crash(&self, seed: u64) -> Vec<u8> {
        let mut content = self.settled.clone();
        for layer in &self.layers {
            let mut keep = Keep::new(seed, layer.id);
            Self::lay(&mut content, layer, || layer.durable || keep.one());
        }
        content
    }
}

/// A change of folder entries.
struct NameChange {
    id: u64,
    action: Action,
    durable: bool,
}

/// The list so far, boiled down.
#[derive(Default)]
struct Replay {
    names: BTreeMap<PathBuf, FileId>,
    changes: Vec<NameChange>,
    files: BTreeMap<FileId, Content>,
    /// Syncs under way, with the writes they cover.
    syncs: BTreeMap<u64, (FileId, Vec<u64>)>,
    /// Which file a write under way goes to.
    writes: BTreeMap<u64, FileId>,
    marked: Option<u64>,
    /// Operations so far.
    taken: usize,
}

impl Replay {
    fn take(&mut self, operation: &Operation) {
        self.taken += 1;
        match operation {
            Operation::Mark(safe) => self.marked = Some(*safe),
            Operation::Started { id, action } => self.start(*id, action),
            Operation::Ended { id, succeeded } => self.end(*id, *succeeded),
        }
    }

    fn start(&mut self, id: u64, action: &Action) {
        match action {
            Action::CreateDir { .. } => {}
            Action::Write { file, at, content, durability } => self.add_layer(id, *file, *at, Some(content.clone()), *durability),
            Action::ZeroFrom { file, at } => self.add_layer(id, *file, *at, None, Durability::Data),
            Action::Sync { file } => {
                let layers = self.files.get(file).into_iter().flat_map(|content| &content.layers);
                let covered = layers.filter(|layer| layer.ended).map(|layer| layer.id).collect();
                self.syncs.insert(id, (*file, covered));
            }
            Action::Found { file, content, .. } | Action::WriteAtomic { file, content, .. } => {
                self.files.insert(*file, Content { settled: content.to_vec(), layers: Vec::new() });
                self.add_change(id, action);
            }
            Action::Create { file, len_bytes, .. } => {
                self.files.insert(*file, Content { settled: vec![0; index(*len_bytes)], layers: Vec::new() });
                self.add_change(id, action);
            }
            Action::Rename { .. } | Action::Remove { .. } | Action::RemoveDir { .. } => self.add_change(id, action),
        }
    }

    fn add_layer(&mut self, id: u64, file: FileId, at: u64, content: Option<Bytes>, durability: Durability) {
        self.writes.insert(id, file);
        self.files.entry(file).or_default().add(id, at, content, durability);
    }

    fn add_change(&mut self, id: u64, action: &Action) {
        self.changes.push(NameChange { id, action: action.clone(), durable: false });
    }

    fn end(&mut self, id: u64, succeeded: bool) {
        let (file, durable) = if let Some(file) = self.writes.remove(&id) {
            (file, vec![id])
        } else if let Some((file, covered)) = self.syncs.remove(&id) {
            (file, if succeeded { covered } else { Vec::new() })
        } else {
            return self.end_change(id, succeeded);
        };
        let Some(content) = self.files.get_mut(&file) else { return };
        for layer in content.layers.iter_mut().filter(|layer| durable.contains(&layer.id)) {
            // A sync covers what ended; a write that ends is worth what it was asked for.
            layer.durable |= if layer.ended { true } else { succeeded && layer.durability == Durability::Data };
            layer.ended |= succeeded;
        }
        content.settle();
    }

    fn end_change(&mut self, id: u64, succeeded: bool) {
        if let Some(change) = self.changes.iter_mut().find(|change| change.id == id) {
            change.durable = succeeded;
        }
        let until = self.changes.iter().position(|change| !change.durable).unwrap_or(self.changes.len());
        for change in self.changes.drain(..until) {
            apply(&mut self.names, &change.action, || true);
        }
        // Nobody writes to a file without a name for long; its content would be kept for nothing.
        let named = |file: &FileId| self.names.values().any(|named| named == file);
        if self.changes.is_empty() && self.writes.is_empty() && self.syncs.is_empty() {
            self.files.retain(|file, _| named(file));
        }
    }

    /// Whether a crash now leaves one disk only.
    fn is_certain(&self) -> bool {
        self.changes.is_empty() && self.files.values().all(|content| content.layers.is_empty())
    }

    fn crash(&self, seed: u64) -> SimDisk {
        // A coin falls differently at each place.
        let seed = if seed < 2 { seed } else { seed.wrapping_add((self.taken as u64) << 32) };
        let mut names = self.names.clone();
        let mut lens = BTreeMap::new();
        for change in &self.changes {
            let mut keep = Keep::new(seed, change.id);
            apply(&mut names, &change.action, || change.durable || keep.one());
            if let Action::Create { file, len_bytes, .. } = &change.action
                && !change.durable
                && seed > 1
            {
                lens.insert(*file, keep.coin.below(index(*len_bytes) + 1));
            }
        }
        let content = |file: FileId| {
            let mut content = self.files.get(&file).map(|content| content.after_crash(seed)).unwrap_or_default();
            content.truncate(lens.get(&file).copied().unwrap_or(usize::MAX));
            content
        };
        SimDisk::holding(names.into_iter().map(|(path, file)| (path, content(file))).collect())
    }
}

/// Changes folder entries, as far as `happens` says; it is asked for each entry of its own.
fn apply(names: &mut BTreeMap<PathBuf, FileId>, action: &Action, mut happens: impl FnMut() -> bool) {
    match action {
        Action::Found { file, path, .. } | Action::Create { file, path, .. } | Action::WriteAtomic { file, path, .. } => {
            if happens() {
                names.insert(path.clone(), *file);
            }
        }
        Action::Rename { from, to } => {
            if happens()
                && let Some(file) = names.remove(from)
            {
                names.insert(to.clone(), file);
            }
        }
        Action::Remove { path } => {
            if happens() {
                names.remove(path);
            }
        }
        Action::RemoveDir { path } => names.retain(|file, _| !(file.starts_with(path) && happens())),
        Action::CreateDir { .. } | Action::Write { .. } | Action::Sync { .. } | Action::ZeroFrom { .. } => {}
    }
}
