//! The newest part of a partition, in RAM: a chain of chunks that hold the very bytes of the segment files.
//!
//! Written by `partition::owner` through `segment::active`, read by `partition::reader` under a short read lock; what a reader
//! takes out are shared handles, so it holds no lock while it works.
//!
//! # Invariants
//! - Chunks are in file order without gaps; each starts at a frame and ends at one.
//! - Only chunks whose bytes are all durable leave the chain, unless nobody will ever see what they hold.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::sys::append_buffer::Reader;
use crate::types::Offset;

/// One chunk as readers see it.
#[derive(Clone)]
pub struct TailChunk {
    /// The base offset of the segment whose file holds the same bytes.
    pub segment: Offset,
    /// The file position of the chunk's first byte.
    pub at: u64,
    /// The offset of the first record at or after the chunk's start.
    pub base_offset: Offset,
    /// Its number among all chunks of the arena, in the order they were taken.
    pub birth: u64,
    /// The bytes.
    pub reader: Reader,
}

impl TailChunk {
    /// A part of the published bytes as a shared handle that keeps the chunk alive.
    ///
    /// # Panics
    /// When the range is not published.
    #[must_use]
    pub fn bytes(&self, range: std::ops::Range<usize>) -> Bytes {
        Bytes::from_owner(Held { len: range.end, chunk: self.clone() }).slice(range)
    }
}

/// What a reader holds: the bytes published when it looked.
struct Held {
    chunk: TailChunk,
    len: usize,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.chunk.reader.as_slice()[..self.len]
    }
}

/// See the module docs.
#[derive(Default)]
pub struct Tail {
    chunks: VecDeque<TailChunk>,
}

impl Tail {
    /// Adds the newest chunk.
    pub fn push(&mut self, chunk: TailChunk) {
        self.chunks.push_back(chunk);
    }

    /// Chunks in RAM.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether no chunk is in RAM.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes in RAM.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.reader.as_slice().len() as u64).sum()
    }

    /// The first offset that is in RAM as a whole.
    #[must_use]
    pub fn start(&self) -> Option<Offset> {
        self.chunks.front().map(|chunk| chunk.base_offset)
    }

    /// Whether all of the oldest chunk lies below `durable`, a place in the log: segment and file position.
    #[must_use]
    pub fn oldest_is_below(&self, durable: (Offset, u64)) -> bool {
        self.chunks.front().is_some_and(|chunk| {
            let end = chunk.at + chunk.reader.as_slice().len() as u64;
            (chunk.segment, end) <= durable
        })
    }

    /// The birth of the oldest chunk.
    #[must_use]
    pub fn oldest_birth(&self) -> Option<u64> {
        self.chunks.front().map(|chunk| chunk.birth)
    }

    /// The first offset behind the oldest chunk, if there is a chunk behind it.
    #[must_use]
    pub fn oldest_end(&self) -> Option<Offset> {
        self.chunks.get(1).map(|chunk| chunk.base_offset)
    }

    /// Lets the oldest chunk go if all of it lies below `durable`.
    pub fn drop_oldest(&mut self, durable: (Offset, u64)) -> bool {
        let may_go = self.oldest_is_below(durable);
        if may_go {
            self.chunks.pop_front();
        }
        may_go
    }

    /// Lets all chunks go, durable or not.
    pub fn clear(&mut self) {
        self.chunks.clear();
    }

    /// The published bytes from the frame boundary at or before `at` in the chunk that holds `offset`; `None` when it is not in
    /// RAM. `at` is a hint from the sparse index, in the file of segment `segment`.
    #[must_use]
    pub fn bytes_from(&self, offset: Offset, segment: Offset, at: u64) -> Option<Bytes> {
        let after = self.chunks.partition_point(|chunk| chunk.base_offset <= offset);
        let chunk = self.chunks.get(after.checked_sub(1)?)?;
        let bytes = chunk.bytes(0..chunk.reader.as_slice().len());
        let skip = match chunk.segment == segment {
            true => usize::try_from(at.saturating_sub(chunk.at)).ok()?,
            false => 0,
        };
        Some(if skip < bytes.len() { bytes.slice(skip..) } else { bytes })
    }
}
