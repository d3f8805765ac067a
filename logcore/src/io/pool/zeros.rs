//! Zeros on the disk, for files whose commits must carry no metadata.
//!
//! Called when a file is created with [`crate::io::Fill::Zeros`], and by [`super::file`] where the file system can't zero a range
//! by itself.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use crate::io::blocks::BLOCK_BYTES;
use crate::sys::aligned::AlignedBuffer;
use crate::types::index;

/// Written at once: small enough that the writes of others get in between.
const PIECE_BYTES: usize = 1 << 20;

/// Zeros to write from.
fn zeros() -> &'static [u8] {
    static ZEROS: OnceLock<AlignedBuffer> = OnceLock::new();
    ZEROS.get_or_init(|| AlignedBuffer::new(PIECE_BYTES)).as_slice()
}

/// Writes zeros over `from..until`, around the page cache where blocks allow it. Nothing is synced.
pub(crate) fn write_zeros(file: &File, direct: Option<&File>, from: u64, until: u64) -> Result<()> {
    let mut at = from;
    while at < until {
        let left = index(until - at).min(PIECE_BYTES);
        let into_block = index(at) % BLOCK_BYTES;
        let (target, piece) = match direct {
            Some(direct) if into_block == 0 && left >= BLOCK_BYTES => (direct, left / BLOCK_BYTES * BLOCK_BYTES),
            // Up to the next whole block, from where the direct way may be open.
            _ => (file, left.min(if direct.is_some() { BLOCK_BYTES - into_block } else { PIECE_BYTES })),
        };
        match target.write_at(&zeros()[..piece], at) {
            Ok(0) => return Err(Error::new(ErrorKind::WriteZero, "the system took no byte of the zeros")),
            Ok(written) => at += written as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn zeros_cover_the_range_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for direct in [false, true] {
            std::fs::write(&path, vec![7; 3 << 20]).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            let around = direct.then(|| super::super::open_direct(&path, rustix::fs::OFlags::DIRECT)).and_then(Result::ok);
            write_zeros(&file, around.as_ref(), 5_000, (2 << 20) + 77).unwrap();
            let content = std::fs::read(&path).unwrap();
            assert_eq!(content.len(), 3 << 20);
            assert!(content.iter().enumerate().all(|(at, byte)| (*byte == 0) == (5_000..(2 << 20) + 77).contains(&at)));
        }
    }
}
