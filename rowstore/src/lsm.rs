//! The LSM tree behind a small interface: versions by offset, one checkpoint key, flushes that keep every version.
//!
//! # Invariants
//! - The sequence number of a record is `2^40 + offset`. The tree's own counters are private to it and stay far below, so every
//!   read finds its newest version set; see `docs/adr/0004`.
//! - Flush and compaction get `2^40` as their eviction mark: below it there is nothing, so no version is ever dropped.
//!
//! # Concurrency
//! One materializer inserts; any thread reads. Compaction runs on one thread shared by all trees ([`Compactor`]).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use logcore::Offset;
use logcore::sys::thread;
use lsm_tree::config::{CompressionPolicy, FilterPolicy, FilterPolicyEntry};
use lsm_tree::{AbstractTree, AnyTree, Cache, CompressionType, Config, Guard, SequenceNumberCounter};

use crate::error::{Error, Result};

/// What the sequence number of offset 0 is, and the eviction mark below which there is nothing.
const BASE: u64 = 1 << 40;
/// The key of the checkpoint; rows begin with [`ROW_PREFIX`].
const CHECKPOINT_KEY: [u8; 1] = [0];
/// The key of what a tree without old versions was made with; see [`crate::vacuum`].
const KEPT_KEY: [u8; 2] = [0, 1];
/// The first byte of every row's key.
pub(crate) const ROW_PREFIX: u8 = 1;
/// The first byte of every index entry's key.
pub(crate) const INDEX_PREFIX: u8 = 2;
/// Level-0 runs beyond which the materializer compacts itself before it flushes more.
const RUNS_MAX: usize = 16;

/// See the module docs. Clones share the tree; dropping the last one waits for a compaction that is under way, so that the
/// folder can be opened again or removed.
#[derive(Clone)]
pub(crate) struct Tree {
    shared: Arc<Shared>,
}

struct Shared {
    tree: AnyTree,
    path: PathBuf,
    compactor: Compactor,
    turn: Arc<Turn>,
}

/// What a tree and its queued compaction agree on.
#[derive(Default)]
struct Turn {
    queued: AtomicBool,
    closed: AtomicBool,
    running: Mutex<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.turn.closed.store(true, Ordering::Release);
        drop(self.turn.running.lock());
    }
}

/// The thread that compacts trees, one after the other. It ends with the last handle.
#[derive(Clone)]
pub struct Compactor {
    queue: crossbeam_channel::Sender<Job>,
}

struct Job {
    tree: AnyTree,
    turn: Arc<Turn>,
    path: PathBuf,
}

impl Job {
    fn run(self) {
        let Self { tree, turn, path } = self;
        let Ok(_running) = turn.running.lock() else { return };
        turn.queued.store(false, Ordering::Release);
        if !turn.closed.load(Ordering::Acquire)
            && let Err(error) = compact(&tree)
        {
            tracing::warn!(path = %path.display(), %error, "a compaction failed; it is tried again after the next flush");
        }
        // The tree goes before the turn ends: whoever waits for it may open the folder again.
        drop(tree);
    }
}

impl Compactor {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start() -> Result<Self> {
        let (queue, jobs) = crossbeam_channel::bounded::<Job>(256);
        let started = thread::spawn("row-compact", move || jobs.into_iter().for_each(Job::run));
        let failed = |source| Error::Log(logcore::Error::Io { operation: "starting thread", path: "row-compact".into(), source });
        started.map_err(failed)?;
        Ok(Self { queue })
    }
}

fn compact(tree: &AnyTree) -> lsm_tree::Result<()> {
    let strategy = Arc::new(lsm_tree::compaction::Leveled::default());
    // One call does one step and does not say whether there is another.
    for _ in 0..8 {
        let before = (tree.table_count(), tree.l0_run_count());
        tree.compact(Arc::clone(&strategy) as Arc<_>, BASE)?;
        if (tree.table_count(), tree.l0_run_count()) == before {
            break;
        }
    }
    Ok(())
}

impl Tree {
    pub fn open(path: &Path, cache: &Arc<Cache>, compactor: &Compactor) -> Result<Self> {
        let tree = Config::new(path, SequenceNumberCounter::default(), SequenceNumberCounter::default())
            .use_cache(Arc::clone(cache))
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
            .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(lsm_tree::config::BloomConstructionPolicy::BitsPerKey(
                10.0,
            ))))
            .open()
            .map_err(|source| Error::Tree { operation: "opening", path: path.to_owned(), source })?;
        let shared = Shared { tree, path: path.to_owned(), compactor: compactor.clone(), turn: Arc::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn error(&self, operation: &'static str) -> impl Fn(lsm_tree::Error) -> Error + '_ {
        move |source| Error::Tree { operation, path: self.shared.path.clone(), source }
    }

    /// The first offset that is not durable in here.
    pub fn checkpoint(&self) -> Result<Offset> {
        let stored = self.shared.tree.get(CHECKPOINT_KEY, u64::MAX >> 1).map_err(self.error("reading"))?;
        let Some(stored) = stored else { return Ok(Offset::ZERO) };
        let raw = stored.first_chunk::<8>().ok_or(Error::CorruptRow { detail: "the checkpoint is cut off" })?;
        Ok(Offset::new(u64::from_be_bytes(*raw)))
    }

    /// From which offset on every version is here, and how many rows and entries there were then.
    pub fn kept(&self) -> Result<(Offset, u64)> {
        let stored = self.shared.tree.get(KEPT_KEY, u64::MAX >> 1).map_err(self.error("reading"))?;
        let Some(stored) = stored else { return Ok((Offset::ZERO, 0)) };
        let raw = stored.first_chunk::<16>().ok_or(Error::CorruptRow { detail: "the start of its history is cut off" })?;
        let raw = u128::from_be_bytes(*raw);
        let half = |half: u128| u64::try_from(half & u128::from(u64::MAX)).expect("64 bits are left");
        Ok((Offset::new(half(raw >> 64)), half(raw)))
    }

    /// Notes that all versions from `from` on are here, beginning with `items` rows and entries. The next flush makes it durable.
    pub fn set_kept(&self, from: Offset, items: u64) {
        let raw = (u128::from(from.value()) << 64) | u128::from(items);
        self.shared.tree.insert(KEPT_KEY, raw.to_be_bytes(), BASE + from.value());
    }

    /// Versions of rows and entries, about; deletions count.
    pub fn items(&self) -> u64 {
        self.shared.tree.approximate_len() as u64
    }

    /// Puts or removes a row as of the record at `offset`.
    pub fn apply(&self, key: &[u8], value: Option<&[u8]>, offset: Offset) {
        let seqno = BASE + offset.value();
        match value {
            Some(value) => self.shared.tree.insert(key, value, seqno),
            None => self.shared.tree.remove(key, seqno),
        };
    }

    /// Makes everything below `next` durable, together with `next`.
    pub fn flush(&self, next: Offset) -> Result<()> {
        self.seal(next);
        self.flush_sealed()
    }

    /// Closes what is in memory, everything below `next`, for [`Self::flush_sealed`].
    pub fn seal(&self, next: Offset) {
        self.shared.tree.insert(CHECKPOINT_KEY, next.value().to_be_bytes(), BASE + next.value());
        self.shared.tree.rotate_memtable();
    }

    /// Writes out what is in memory. Without a checkpoint behind it, that is for trees that are of no use before they have one.
    pub fn spill(&self) -> Result<()> {
        self.shared.tree.rotate_memtable();
        self.flush_sealed()
    }

    /// Makes durable what was sealed, all of it or nothing.
    pub fn flush_sealed(&self) -> Result<()> {
        {
            let lock = self.shared.tree.get_flush_lock();
            self.shared.tree.flush(&lock, BASE).map_err(self.error("flushing"))?;
        }
        if self.shared.tree.l0_run_count() > RUNS_MAX {
            return compact(&self.shared.tree).map_err(self.error("compacting"));
        }
        let Shared { tree, turn, path, compactor } = &*self.shared;
        if !turn.queued.swap(true, Ordering::AcqRel) {
            let job = Job { tree: tree.clone(), turn: Arc::clone(turn), path: path.clone() };
            if compactor.queue.try_send(job).is_err() {
                turn.queued.store(false, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Bytes that the next flush writes.
    pub fn unflushed_bytes(&self) -> u64 {
        self.shared.tree.active_memtable().size()
    }

    pub fn disk_bytes(&self) -> u64 {
        self.shared.tree.disk_space()
    }

    /// The row under `key` as the records below `cut` left it.
    pub fn get(&self, key: &[u8], cut: Offset) -> Result<Option<lsm_tree::Slice>> {
        self.shared.tree.get(key, BASE + cut.value()).map_err(self.error("reading"))
    }

    /// As [`Self::get`], with the offset of the record that wrote it; in a vacuumed tree it may be that of a later one.
    pub fn get_version(&self, key: &[u8], cut: Offset) -> Result<Option<(Offset, lsm_tree::Slice)>> {
        let entry = self.shared.tree.get_internal_entry(key, BASE + cut.value()).map_err(self.error("reading"))?;
        Ok(entry.map(|entry| (Offset::new(entry.key.seqno.saturating_sub(BASE)), entry.value)))
    }

    /// Keys and rows in `from..until` in key order, as the records below `cut` left them. A stable snapshot.
    pub fn range<'t>(
        &'t self,
        from: &[u8],
        until: &[u8],
        cut: Offset,
    ) -> impl Iterator<Item = Result<(lsm_tree::Slice, lsm_tree::Slice)>> + use<'t> {
        let items = self.shared.tree.range::<&[u8], _>(from..until.max(from), BASE + cut.value(), None);
        items.map(move |item| item.into_inner().map_err(self.error("reading")))
    }
}
