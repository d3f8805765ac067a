//! How a stream is kept, as the catalog stores it: what `CREATE STREAM ... WITH` and `ALTER STREAM ... SET` say.
//!
//! [`crate::define`] reads them from SQL; here they become the log's [`PartitionOptions`], and words again for people.
//!
//! # Format
//! Members of a stream's catalog record. All but the first two are younger than the format: where they are absent, the defaults
//! hold.

use std::time::Duration;

use logcore::{AckClass, Compaction, Compression, PartitionOptions, Retention};
use serde::{Deserialize, Serialize};

use crate::units::show_span;

/// What a record may be dropped for, beside the sizes a stream is bounded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetentionPolicy {
    /// Nothing.
    #[default]
    None,
    /// Being older than so many milliseconds.
    AgeMs(u64),
    /// Every registered cursor has passed it.
    Consumed,
    /// The stream is a ring of its sizes: the oldest makes room, whoever still wants it.
    Ring,
}

/// How far back a row table can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum History {
    /// As it was so many milliseconds ago.
    AgeMs(u64),
    /// As it was so many records of each partition of its stream ago.
    Records(u64),
}

/// See the module docs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamOptions {
    /// The class that appends get which don't ask for a stronger one.
    pub ack: AckClass,
    /// How batches built here are compressed, by name.
    pub compression: String,
    /// What a record may be dropped for.
    #[serde(default)]
    pub retention: RetentionPolicy,
    /// Bytes of a partition beyond which its oldest segments may go.
    #[serde(default)]
    pub retention_bytes: Option<u64>,
    /// Records of a partition beyond which its oldest segments may go.
    #[serde(default)]
    pub retention_records: Option<u64>,
    /// Whether only the last record of each key is kept.
    #[serde(default)]
    pub compact: bool,
    /// How long a tombstone outlives its key.
    #[serde(default = "day_ms")]
    pub tombstone_grace_ms: u64,
    /// Length of a segment file; `None`: as the server is configured.
    #[serde(default)]
    pub segment_bytes: Option<u64>,
    /// `memory`: what is only in RAM goes to the disk at the latest after this long.
    #[serde(default = "second_ms")]
    pub flush_interval_ms: u64,
}

const fn day_ms() -> u64 {
    86_400_000
}

const fn second_ms() -> u64 {
    1_000
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            ack: AckClass::Disk,
            compression: "none".into(),
            retention: RetentionPolicy::None,
            retention_bytes: None,
            retention_records: None,
            compact: false,
            tombstone_grace_ms: day_ms(),
            segment_bytes: None,
            flush_interval_ms: second_ms(),
        }
    }
}

impl StreamOptions {
    /// How its partitions are kept, where the server's `defaults` hold for what the stream does not say.
    #[must_use]
    pub fn partition(&self, defaults: &PartitionOptions) -> PartitionOptions {
        let age = match self.retention {
            RetentionPolicy::AgeMs(millis) => Some(Duration::from_millis(millis)),
            _ => None,
        };
        let compaction = Compaction { tombstone_grace: Duration::from_millis(self.tombstone_grace_ms) };
        PartitionOptions {
            segment_bytes: self.segment_bytes.unwrap_or(defaults.segment_bytes),
            ack: self.ack,
            flush_interval: Duration::from_millis(self.flush_interval_ms),
            retention: Retention {
                age,
                bytes: self.retention_bytes,
                records: self.retention_records,
                consumed: self.retention == RetentionPolicy::Consumed,
                ring: self.is_ring(),
            },
            compaction: self.compact.then_some(compaction),
            ..defaults.clone()
        }
    }

    /// Whether the oldest records make room, whoever still wants them.
    #[must_use]
    pub fn is_ring(&self) -> bool {
        self.retention == RetentionPolicy::Ring
    }

    /// How batches built here are compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression.parse().unwrap_or_default()
    }

    /// The retention as it is written in SQL.
    #[must_use]
    pub fn retention_text(&self) -> String {
        match self.retention {
            RetentionPolicy::None => "none".into(),
            RetentionPolicy::AgeMs(millis) => show_span(Duration::from_millis(millis)),
            RetentionPolicy::Consumed => "consumed".into(),
            RetentionPolicy::Ring => "ring".into(),
        }
    }
}
