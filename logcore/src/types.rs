//! The vocabulary types: what is counted, named and pointed at. Every other module speaks in them.
//!
//! They are tuple structs without arithmetic, so that an offset can't be added to a raft index or a partition passed for a
//! stream. What may be computed has a name: [`Offset::advance`], [`Offset::records_until`].

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// Wraps the raw number.
            #[must_use]
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }

            /// The raw number, for encoding and printing.
            #[must_use]
            pub const fn value(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A stream's number; names live in the catalog.
    StreamId, u32
}
id! {
    /// A partition's number within its stream, from 0.
    PartitionId, u32
}
id! {
    /// A record's place in its partition, dense from 0.
    Offset, u64
}
id! {
    /// The reign of one leader; standalone: one more at each start.
    Term, u64
}
id! {
    /// An entry's number in its partition, dense from 1; 0 means "none yet".
    RaftIndex, u64
}
id! {
    /// Milliseconds since 1970 in UTC, negative before.
    TimestampMillis, i64
}

impl StreamId {
    /// Definitions of streams, tables and views.
    pub const CATALOG: Self = Self(0);
    /// Durable reader positions.
    pub const CURSORS: Self = Self(1);
    /// Changes of tables that are written by SQL.
    pub const TABLES: Self = Self(2);
    /// The first id that users' streams get.
    pub const FIRST_USER: Self = Self(16);
}

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);

    /// The offset `records` further on.
    #[must_use]
    pub const fn advance(self, records: u64) -> Self {
        Self(self.0 + records)
    }

    /// How many offsets lie in `self..end`; 0 when `end` is not ahead.
    #[must_use]
    pub const fn records_until(self, end: Self) -> u64 {
        end.0.saturating_sub(self.0)
    }

    /// The offset before this one, or `None` at 0: turns an exclusive end into the last offset inside.
    #[must_use]
    pub const fn before(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }
}

impl RaftIndex {
    /// No entry.
    pub const NONE: Self = Self(0);

    /// The index of the entry after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Term {
    /// The term after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One partition of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionRef {
    /// The stream.
    pub stream: StreamId,
    /// The partition within it.
    pub partition: PartitionId,
}

impl PartitionRef {
    /// Names partition `partition` of `stream`.
    #[must_use]
    pub const fn new(stream: StreamId, partition: u32) -> Self {
        Self { stream, partition: PartitionId::new(partition) }
    }
}

impl fmt::Display for PartitionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {} partition {}", self.stream, self.partition)
    }
}

/// A length that the caller knows to be below 4 GiB, as the formats store it.
///
/// # Panics
/// When it is not: lengths are checked against their limits before they come here.
#[must_use]
pub fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("lengths are checked against their limits before they are encoded")
}

/// A position within something that is in memory, as an index.
///
/// # Panics
/// On a machine whose address space is smaller than the number; Headwater supports 64-bit machines only.
#[must_use]
pub fn index(position: u64) -> usize {
    usize::try_from(position).expect("64-bit machines only")
}
