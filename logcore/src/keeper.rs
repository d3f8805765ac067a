//! The threads that look after what is sealed: one drops what retention lets go, one compacts, one reads files again to find
//! damage before a reader does.
//!
//! Started by [`crate::log::Log`]; they work on segments that nobody writes any more, beside owners and readers.
//!
//! # Concurrency
//! A thread for each, for all partitions: a ring must not grow while a large segment is compacted, and no compaction waits for
//! verification, which reads at a bounded rate. Two of them change one partition's files in turn, see `partition::Shared`.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::io::{DiskFile, Durability};
use crate::partition::Shared;
use crate::segment::recovery::scan;
use crate::segment::{Segment, Tally};
use crate::sys::{clock, thread};
use crate::types::{Offset, PartitionRef};

/// A segment is verified again after this long.
const VERIFY_AGAIN: Duration = Duration::from_hours(24);
/// A partition whose compaction failed is left alone for this long: what failed is read again from its start.
const REST: Duration = Duration::from_mins(10);

/// The partitions that are open.
pub(crate) type Kept = Mutex<HashMap<PartitionRef, Weak<Shared>>>;

/// What wakes and stops one of the threads.
#[derive(Default)]
pub(crate) struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Default)]
struct State {
    rung: bool,
    stopping: bool,
}

impl Bell {
    /// Asks for a round now.
    pub fn ring(&self) {
        self.state.lock().expect("no code panics inside").rung = true;
        self.rung.notify_all();
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.state.lock().expect("no code panics inside").stopping = true;
        self.rung.notify_all();
    }

    /// Waits to be rung, at most for `patience`; `false` when the thread should end.
    fn wait(&self, patience: Duration) -> bool {
        let until = clock::monotonic() + patience;
        let mut state = self.state.lock().expect("no code panics inside");
        loop {
            let left = until.saturating_duration_since(clock::monotonic());
            if state.stopping || state.rung || left.is_zero() {
                state.rung = false;
                return !state.stopping;
            }
            state = self.rung.wait_timeout(state, left).expect("no code panics inside").0;
        }
    }

    fn is_stopping(&self) -> bool {
        self.state.lock().expect("no code panics inside").stopping
    }
}

/// See the module docs.
pub(crate) struct Keeper {
    threads: Mutex<Vec<(Arc<Bell>, JoinHandle<()>)>>,
    retention: Arc<Bell>,
}

impl Keeper {
    /// Starts the threads; each looks at the partitions once per `interval`.
    pub fn start(kept: &Arc<Kept>, interval: Duration, verify_bytes_per_second: u64) -> Result<Self> {
        let keeper = Self { threads: Mutex::default(), retention: Arc::default() };
        let (partitions, bell) = (Arc::clone(kept), Arc::clone(&keeper.retention));
        keeper.spawn("log-retention", Arc::clone(&bell), move || {
            while bell.wait(interval) {
                living(&partitions).iter().for_each(|partition| retain(partition));
            }
        })?;
        let (partitions, bell) = (Arc::clone(kept), Arc::<Bell>::default());
        keeper.spawn("log-compaction", Arc::clone(&bell), move || {
            let mut resting = HashMap::new();
            while bell.wait(interval) {
                resting.retain(|_, since: &mut Instant| since.elapsed() < REST);
                for partition in
                    living(&partitions).iter().filter(|partition| !resting.contains_key(&partition.id)).collect::<Vec<_>>()
                {
                    if !compact(partition, &bell) {
                        resting.insert(partition.id, clock::monotonic());
                    }
                }
            }
        })?;
        if verify_bytes_per_second > 0 {
            let (partitions, bell) = (Arc::clone(kept), Arc::<Bell>::default());
            let mut verifier =
                Verifier { bell: Arc::clone(&bell), bytes_per_second: verify_bytes_per_second, verified: HashMap::new() };
            keeper.spawn("log-verifier", Arc::clone(&bell), move || {
                while bell.wait(interval) {
                    verifier.verify(&living(&partitions));
                }
            })?;
        }
        Ok(keeper)
    }

    fn spawn(&self, name: &str, bell: Arc<Bell>, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::spawn(name, body).map_err(Error::io("starting thread", name))?;
        self.threads.lock().expect("no code panics inside").push((bell, thread));
        Ok(())
    }

    /// What asks for a round of retention now.
    pub fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.retention)
    }

    /// Ends the threads and waits for them: no file is changed by them any more.
    pub fn stop(&self) {
        let threads: Vec<_> = self.threads.lock().expect("no code panics inside").drain(..).collect();
        threads.iter().for_each(|(bell, _)| bell.stop());
        for (_, thread) in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

fn living(kept: &Kept) -> Vec<Arc<Shared>> {
    let mut partitions = kept.lock().expect("no code panics inside");
    partitions.retain(|_, partition| partition.strong_count() > 0);
    partitions.values().filter_map(Weak::upgrade).collect()
}

/// Whether an error only says that files changed under the one who looked: the next round finds them as they are.
fn is_passing(partition: &Shared, error: &Error) -> bool {
    partition.is_closing() || matches!(error, Error::Retired { .. })
}

fn retain(partition: &Shared) {
    match partition.retain(clock::now()) {
        Err(error) if !is_passing(partition, &error) => {
            tracing::warn!(partition = %partition.id, %error, "retention could not drop what it should; it tries again");
        }
        _ => {}
    }
}

/// `false` when it failed and had better not be tried again at once.
fn compact(partition: &Shared, bell: &Bell) -> bool {
    match partition.compact(clock::now(), || !bell.is_stopping()) {
        Ok(None) => true,
        Ok(Some(went)) => {
            tracing::info!(
                partition = %partition.id, superseded = went.superseded, tombstones = went.tombstones,
                bytes_before = went.bytes_before, bytes_after = went.bytes_after, "compacted"
            );
            true
        }
        Err(error) if is_passing(partition, &error) => true,
        Err(error) => {
            tracing::warn!(partition = %partition.id, %error, "compaction stopped; it tries again in ten minutes");
            false
        }
    }
}

/// Reads sealed segments again, at a bounded rate.
struct Verifier {
    bell: Arc<Bell>,
    bytes_per_second: u64,
    verified: HashMap<(PartitionRef, Offset), Instant>,
}

impl Verifier {
    /// Reads the sealed segments whose turn it is.
    fn verify(&mut self, partitions: &[Arc<Shared>]) {
        let mut there = HashSet::new();
        for partition in partitions {
            for segment in partition.segments() {
                let place = (partition.id, segment.base_offset);
                there.insert(place);
                let fresh = self.verified.get(&place).is_some_and(|last| last.elapsed() < VERIFY_AGAIN);
                let sealed = segment.next_base().is_some_and(|end| end <= partition.flushed.get());
                if fresh || !sealed || segment.damage().is_some() || partition.is_closing() {
                    continue;
                }
                if self.bell.is_stopping() {
                    return;
                }
                match self.verify_segment(&segment) {
                    Ok(None) => drop(self.verified.insert(place, clock::monotonic())),
                    Ok(Some(damage)) => {
                        tracing::error!(partition = %partition.id, file = %segment.path().display(), damage, "a sealed segment is damaged");
                        segment.set_damage(format!("{}: {damage}", segment.path().display()));
                    }
                    // Dropped or compacted meanwhile, or stopped; a disk that does not answer is asked again the next time.
                    Err(error) => tracing::debug!(%error, "a segment was not verified"),
                }
            }
        }
        self.verified.retain(|place, _| there.contains(place));
    }

    /// Reads a sealed segment from its start; what is wrong with it.
    fn verify_segment(&self, segment: &Segment) -> Result<Option<String>> {
        let file = Paced { file: segment.file()?, bell: Arc::clone(&self.bell), bytes_per_second: self.bytes_per_second };
        let found = scan(&file, segment.base_offset, None, None)?;
        if let Some(damage) = found.corrupt.first().or(found.torn.as_ref()) {
            return Ok(Some(format!("from offset {} on, at byte {}: {}", damage.offset, damage.position, damage.reason)));
        }
        let facts = segment.facts()?;
        let counted = Tally { records: facts.tally.records, ..found.meta.tally };
        if counted != facts.tally {
            return Ok(Some("its entries are not those its footer was made for".into()));
        }
        Ok(None)
    }
}

/// A file that is read at a bounded rate, until the verifier stops.
struct Paced {
    file: Arc<dyn DiskFile>,
    bell: Arc<Bell>,
    bytes_per_second: u64,
}

impl DiskFile for Paced {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read(&self, at: u64, len: usize) -> Result<Bytes> {
        let millis = len as u64 * 1_000 / self.bytes_per_second.max(1);
        let until = clock::monotonic() + Duration::from_millis(millis);
        let bytes = self.file.read(at, len)?;
        if !self.bell.wait(until.saturating_duration_since(clock::monotonic())) {
            let stopped = std::io::Error::new(std::io::ErrorKind::Interrupted, "the log is closing");
            return Err(Error::io("verifying", self.path())(stopped));
        }
        Ok(bytes)
    }

    fn write(&self, at: u64, buffers: &[Bytes], durability: Durability) -> Result<()> {
        self.file.write(at, buffers, durability)
    }

    fn len_bytes(&self) -> Result<u64> {
        self.file.len_bytes()
    }

    fn zero_from(&self, at: u64) -> Result<()> {
        self.file.zero_from(at)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}
