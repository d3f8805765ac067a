//! Which cursor: a name and a partition.
//!
//! Ordered by partition first, so that the cursors of one lie together in the map of [`super::Cursors`].

use std::fmt;

use crate::error::{Error, Result};
use crate::types::{PartitionRef, StreamId};

/// Bytes of a cursor's name.
pub const NAME_BYTES_MAX: usize = 200;

/// See the module docs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorId {
    /// What it reads.
    pub of: PartitionRef,
    name: Box<str>,
}

impl CursorId {
    /// The cursor `name` in `of`.
    ///
    /// # Errors
    /// [`Error::InvalidCursorName`].
    pub fn new(name: &str, of: PartitionRef) -> Result<Self> {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fine) {
            return Err(Error::InvalidCursorName { name: name.to_owned(), bytes_max: NAME_BYTES_MAX });
        }
        Ok(Self { of, name: name.into() })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Not after any cursor in `of`.
    pub(super) fn first(of: PartitionRef) -> Self {
        Self { of, name: "".into() }
    }

    /// Not after any cursor in `stream`.
    pub(super) fn first_of(stream: StreamId) -> Self {
        Self::first(PartitionRef::new(stream, 0))
    }
}

/// As keys of `_cursors` write it: `name/stream id/partition`.
impl fmt::Display for CursorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.name, self.of.stream, self.of.partition)
    }
}

impl std::str::FromStr for CursorId {
    type Err = ();

    fn from_str(key: &str) -> Result<Self, ()> {
        let mut parts = key.splitn(3, '/');
        let (name, stream, partition) = (parts.next().ok_or(())?, parts.next().ok_or(())?, parts.next().ok_or(())?);
        let stream = StreamId::new(stream.parse().map_err(|_| ())?);
        Self::new(name, PartitionRef::new(stream, partition.parse().map_err(|_| ())?)).map_err(|_| ())
    }
}
