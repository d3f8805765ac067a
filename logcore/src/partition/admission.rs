//! Lets a change in only if nobody wrote its keys since the state it was computed from.
//!
//! The owner of a partition asks it before it gives out offsets, so what enters the log is a fact. It knows keys as 64-bit
//! hashes and nothing of SQL; a hash collision costs a needless retry, never a wrong answer.
//!
//! # Invariants
//! - For every key written at or after `window_start`, in-flight writes included, the last writer's offset is known.
//! - A snapshot older than the window is refused: about the time before it nothing is known.

use std::collections::{HashMap, VecDeque};

use crate::error::{Error, Result};
use crate::types::Offset;

/// Keys remembered; 16 bytes each, twice.
const KEYS_MAX: usize = 1 << 20;

/// What a proposal was computed from and touches.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// The state it was computed from: everything below this offset.
    pub snapshot: Offset,
    /// Hashes of keys that must not have changed.
    pub reads: Vec<u64>,
    /// Hashes of keys that change; they must not have changed either.
    pub writes: Vec<u64>,
}

/// See the module docs.
pub(crate) struct Admission {
    window_start: Offset,
    last_writer: HashMap<u64, Offset>,
    order: VecDeque<(Offset, u64)>,
    keys_max: usize,
}

impl Admission {
    /// An empty window that starts at the partition's end: what was written before is older than any proposal may be.
    pub fn new(window_start: Offset) -> Self {
        Self { window_start, last_writer: HashMap::new(), order: VecDeque::new(), keys_max: KEYS_MAX }
    }

    /// Whether the change may enter.
    pub fn check(&self, conditions: &Conditions) -> Result<()> {
        let snapshot = conditions.snapshot;
        if snapshot < self.window_start {
            return Err(Error::SnapshotTooOld { snapshot, window_start: self.window_start });
        }
        let newer = |key: &u64| Some((*key, *self.last_writer.get(key)?)).filter(|(_, written)| *written >= snapshot);
        match conditions.reads.iter().chain(&conditions.writes).find_map(newer) {
            Some((key, last_writer)) => Err(Error::Conflict { snapshot, last_writer, key }),
            None => Ok(()),
        }
    }

    /// Notes that `writes` were written at `offset`.
    pub fn record(&mut self, writes: &[u64], offset: Offset) {
        for key in writes {
            self.last_writer.insert(*key, offset);
            self.order.push_back((offset, *key));
        }
        while self.order.len() > self.keys_max {
            let Some((offset, key)) = self.order.pop_front() else { break };
            if self.last_writer.get(&key) == Some(&offset) {
                self.last_writer.remove(&key);
            }
            self.window_start = self.window_start.max(offset.advance(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(snapshot: u64, reads: &[u64], writes: &[u64]) -> Conditions {
        Conditions { snapshot: Offset::new(snapshot), reads: reads.to_vec(), writes: writes.to_vec() }
    }

    #[test]
    fn a_key_written_since_the_snapshot_is_refused_read_or_written() {
        let mut admission = Admission::new(Offset::new(10));
        admission.record(&[1], Offset::new(12));
        assert!(admission.check(&conditions(12, &[], &[1])).is_err());
        assert!(admission.check(&conditions(12, &[1], &[2])).is_err());
        assert!(admission.check(&conditions(13, &[1], &[1])).is_ok());
        assert!(admission.check(&conditions(12, &[3], &[2])).is_ok());
    }

    #[test]
    fn the_window_moves_and_older_snapshots_are_refused() {
        let mut admission = Admission { keys_max: 3, ..Admission::new(Offset::ZERO) };
        for n in 0..5 {
            admission.record(&[n], Offset::new(n));
        }
        assert_eq!(admission.last_writer.len(), 3);
        assert!(matches!(admission.check(&conditions(1, &[], &[9])), Err(Error::SnapshotTooOld { .. })));
        assert!(admission.check(&conditions(2, &[], &[9])).is_ok());
        assert!(admission.check(&conditions(2, &[2], &[])).is_err());
    }
}
