//! How a partition is kept: when appends are answered, what may be dropped, what is rewritten.
//!
//! The catalog stores these for each stream; `ALTER STREAM` changes them while the partition is open.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When an append is answered, weakest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckClass {
    /// The frame is in RAM. Survives an orderly stop; spilled by age, size and pressure.
    Memory,
    /// The frame is durable here. Survives a kill and a power loss.
    #[default]
    Disk,
}

impl AckClass {
    /// Its name in SQL and HTTP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

impl fmt::Display for AckClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for AckClass {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Memory, Self::Disk].into_iter().find(|class| class.name() == text).ok_or(())
    }
}

/// What may be dropped from the old end of a partition: whole sealed segments only. Each bound that is set applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Records older than this may go.
    pub age: Option<Duration>,
    /// The oldest segments may go while the rest still holds at least this much.
    pub bytes: Option<u64>,
    /// The oldest segments may go while the rest still holds at least this many records.
    pub records: Option<u64>,
    /// What every registered cursor has passed may go; nothing goes while there is no cursor.
    pub consumed: bool,
    /// A ring: `bytes` and `records` are the size of the stream, the oldest is overwritten whoever still wants it.
    pub ring: bool,
}

/// Keeping only the last record of each key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// A record without a value deletes its key, and goes itself when it is this old.
    pub tombstone_grace: Duration,
}

impl Default for Compaction {
    fn default() -> Self {
        Self { tombstone_grace: Duration::from_hours(24) }
    }
}

/// How a partition is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionOptions {
    /// Length of a segment file.
    pub segment_bytes: u64,
    /// Durable chunks that may stay in RAM behind the one being filled.
    pub tail_chunks_max: usize,
    /// The class that appends get which don't ask for a stronger one.
    pub ack: AckClass,
    /// `memory`: what is only in RAM goes to the disk at the latest after this long.
    pub flush_interval: Duration,
    /// What may be dropped.
    pub retention: Retention,
    /// Whether sealed segments are rewritten to the last record of each key.
    pub compaction: Option<Compaction>,
    /// How long views may hold back retention: their checkpoints keep segments until the partition is this much over its bounds.
    pub view_hold_bytes_max: u64,
}

impl Default for PartitionOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            tail_chunks_max: 8,
            ack: AckClass::Disk,
            flush_interval: Duration::from_secs(1),
            retention: Retention::default(),
            compaction: None,
            view_hold_bytes_max: 10 << 30,
        }
    }
}
