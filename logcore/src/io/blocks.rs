//! What O_DIRECT asks of a write, and how a write goes on after the system took only a part of it.
//!
//! Used by every backend: they differ in how they hand bytes to the system, not in what happens between two attempts.

use std::io::{Error, ErrorKind, IoSlice};

use bytes::{Buf, Bytes};

use crate::sys::append_buffer::PAGE_BYTES;
use crate::types::index;

/// Positions, lengths and addresses of a direct write are multiples of this. The logical block of a disk is this or smaller.
pub(crate) const BLOCK_BYTES: usize = PAGE_BYTES;
/// Buffers handed to the system at once; its own limit is 1,024.
pub(crate) const VECTORS_MAX: usize = 256;

/// Whether a write can go around the page cache: it has bytes, and position, addresses and lengths are whole blocks.
pub(crate) fn whole_blocks(at: u64, buffers: &[Bytes]) -> bool {
    let mut pieces = buffers.iter().filter(|buffer| !buffer.is_empty()).peekable();
    let aligned = |piece: &Bytes| piece.len().is_multiple_of(BLOCK_BYTES) && piece.as_ptr().addr().is_multiple_of(BLOCK_BYTES);
    pieces.peek().is_some() && index(at).is_multiple_of(BLOCK_BYTES) && pieces.all(aligned)
}

/// The part of a write that the system has not taken yet.
pub(crate) struct Progress {
    at: u64,
    pieces: Vec<Bytes>,
    first: usize,
}

impl Progress {
    /// Nothing is written yet.
    pub fn new(at: u64, buffers: &[Bytes]) -> Self {
        Self { at, pieces: buffers.iter().filter(|buffer| !buffer.is_empty()).cloned().collect(), first: 0 }
    }

    /// Where the rest goes.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Whether everything is written.
    pub fn is_done(&self) -> bool {
        self.first == self.pieces.len()
    }

    /// What to hand to the system next.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces[self.first..self.pieces.len().min(self.first + VECTORS_MAX)]
    }

    /// The same, in the form the system takes.
    pub fn vectors(&self) -> Vec<IoSlice<'_>> {
        self.pieces().iter().map(|piece| IoSlice::new(piece)).collect()
    }

    /// Takes note of `written` bytes.
    ///
    /// # Errors
    /// When none was written: trying again would go on for ever.
    pub fn advance(&mut self, mut written: usize) -> std::io::Result<()> {
        if written == 0 {
            return Err(Error::new(ErrorKind::WriteZero, "the system took no byte of the write"));
        }
        self.at += written as u64;
        while written > 0 {
            let step = written.min(self.pieces[self.first].len());
            self.pieces[self.first].advance(step);
            written -= step;
            if self.pieces[self.first].is_empty() {
                self.first += 1;
            }
        }
        Ok(())
    }

    /// As [`Self::advance`], for a direct write: one that ended inside a block goes on from the block's start, since the rest
    /// has to be aligned again. The bytes written twice are the same.
    ///
    /// # Errors
    /// When less than a block was written.
    pub fn advance_blocks(&mut self, written: usize) -> std::io::Result<()> {
        let whole = written / BLOCK_BYTES * BLOCK_BYTES;
        if whole == 0 {
            return Err(Error::new(ErrorKind::WriteZero, format!("the system took {written} bytes, less than a block")));
        }
        self.advance(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::aligned::AlignedBuffer;

    fn pages(count: usize) -> Bytes {
        Bytes::from_owner(AlignedBuffer::new(count * BLOCK_BYTES))
    }

    #[test]
    fn only_whole_blocks_go_around_the_page_cache() {
        assert!(whole_blocks(8_192, &[pages(1), Bytes::new(), pages(3)]));
        assert!(!whole_blocks(8_191, &[pages(1)]), "the position");
        assert!(!whole_blocks(0, &[pages(1), pages(2).slice(1..)]), "an address");
        assert!(!whole_blocks(0, &[pages(2).slice(..5_000)]), "a length");
        assert!(!whole_blocks(0, &[Bytes::new()]), "nothing to write");
    }

    #[test]
    fn a_short_write_goes_on_where_it_ended() {
        let mut progress = Progress::new(10, &[Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"two")]);
        progress.advance(4).unwrap();
        assert_eq!((progress.at(), progress.vectors()[0].to_vec()), (14, b"wo".to_vec()));
        assert!(progress.advance(0).is_err());
        progress.advance(2).unwrap();
        assert!(progress.is_done());
    }

    #[test]
    fn a_direct_write_that_ended_inside_a_block_writes_the_block_again() {
        let mut progress = Progress::new(0, &[pages(2), pages(2)]);
        progress.advance_blocks(2 * 4_096 + 512).unwrap();
        assert_eq!((progress.at(), progress.pieces().len()), (8_192, 1));
        assert!(progress.advance_blocks(4_095).is_err());
        progress.advance_blocks(8_192).unwrap();
        assert!(progress.is_done());
    }
}
