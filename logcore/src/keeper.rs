//! The thread that looks after what is sealed: drops what retention lets go, compacts, and reads files again to find damage before
//! a reader does.
//!
//! Started by [`crate::log::Log`]; works on segments that nobody writes any more, beside owners and readers.
//!
//! # Concurrency
//! One thread for all partitions. Verification reads at a bounded rate and stops at once when the log is closed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::io::{DiskFile, Durability};
use crate::partition::Shared;
use crate::segment::recovery::scan;
use crate::segment::{Segment, Tally};
use crate::sys::clock;
use crate::types::{Offset, PartitionRef};

/// How often partitions are looked at.
const ROUND: Duration = Duration::from_secs(1);
/// A segment is verified again after this long.
const VERIFY_AGAIN: Duration = Duration::from_hours(24);

/// What wakes and stops the keeper.
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

    /// Ends the keeper.
    pub fn stop(&self) {
        self.state.lock().expect("no code panics inside").stopping = true;
        self.rung.notify_all();
    }

    /// Waits to be rung, at most for `patience`; `false` when the keeper should end.
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
    bell: Arc<Bell>,
    partitions: Arc<Mutex<HashMap<PartitionRef, Weak<Shared>>>>,
    verify_bytes_per_second: u64,
    verified: HashMap<(PartitionRef, Offset), Instant>,
}

impl Keeper {
    pub fn new(
        bell: Arc<Bell>,
        partitions: Arc<Mutex<HashMap<PartitionRef, Weak<Shared>>>>,
        verify_bytes_per_second: u64,
    ) -> Self {
        Self { bell, partitions, verify_bytes_per_second, verified: HashMap::new() }
    }

    /// The body of the keeper's thread.
    pub fn run(mut self) {
        while self.bell.wait(ROUND) {
            let partitions = self.living();
            for partition in &partitions {
                if let Err(error) = partition.retain(clock::now()) {
                    tracing::warn!(partition = %partition.id, %error, "retention could not drop what it should; it tries again");
                }
                match partition.compact(clock::now(), || !self.bell.is_stopping()) {
                    Ok(None) => {}
                    Ok(Some(went)) => tracing::info!(
                        partition = %partition.id, superseded = went.superseded, tombstones = went.tombstones,
                        bytes_before = went.bytes_before, bytes_after = went.bytes_after, "compacted"
                    ),
                    Err(error) => tracing::warn!(partition = %partition.id, %error, "compaction stopped; it tries again"),
                }
            }
            self.verify(&partitions);
        }
    }

    fn living(&self) -> Vec<Arc<Shared>> {
        let mut partitions = self.partitions.lock().expect("no code panics inside");
        partitions.retain(|_, partition| partition.strong_count() > 0);
        partitions.values().filter_map(Weak::upgrade).collect()
    }

    /// Reads sealed segments whose turn it is, for about one round.
    fn verify(&mut self, partitions: &[Arc<Shared>]) {
        if self.verify_bytes_per_second == 0 {
            return;
        }
        let round = clock::monotonic() + ROUND;
        for partition in partitions {
            for segment in partition.segments() {
                let place = (partition.id, segment.base_offset);
                let fresh = self.verified.get(&place).is_some_and(|last| last.elapsed() < VERIFY_AGAIN);
                let sealed = segment.next_base().is_some_and(|end| end <= partition.flushed.get());
                if fresh || !sealed || segment.damage().is_some() {
                    continue;
                }
                if clock::monotonic() >= round || self.bell.is_stopping() {
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
        let known: std::collections::HashSet<PartitionRef> = partitions.iter().map(|partition| partition.id).collect();
        self.verified.retain(|(partition, _), _| known.contains(partition));
    }

    /// Reads a sealed segment from its start; what is wrong with it.
    fn verify_segment(&self, segment: &Segment) -> Result<Option<String>> {
        let file = Paced { file: segment.file()?, bell: Arc::clone(&self.bell), bytes_per_second: self.verify_bytes_per_second };
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

/// A file that is read at a bounded rate, until the keeper stops.
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
        // Rung for other work, it goes on with what is left of its pause; stopped, it gives up.
        while let left = until.saturating_duration_since(clock::monotonic())
            && !left.is_zero()
        {
            if !self.bell.wait(left) {
                let stopped = std::io::Error::new(std::io::ErrorKind::Interrupted, "the log is closing");
                return Err(Error::io("verifying", self.path())(stopped));
            }
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
