//! The tests every [`super::DiskIo`] backend runs: `disk_io_suite!(a_closure_that_gives_a_disk_and_a_folder)`.
//!
//! Called from `logcore/tests/disk_io.rs`, once per backend.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;

use super::{DiskFile, DiskIo, Durability, Fill, Write};
use crate::error::Result;

fn write(disk: &dyn DiskIo, file: &Arc<dyn DiskFile>, at: u64, pieces: &[&[u8]]) -> Result<()> {
    let buffers = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
    let (tell, ended) = channel();
    let done = Box::new(move |result| tell.send(result).expect("the test waits"));
    disk.submit(Write { file: Arc::clone(file), at, buffers, durability: Durability::Data }, done);
    ended.recv().expect("done is called exactly once")
}

/// A created file has its length, reads as zeros, and is found again.
///
/// # Panics
/// When the backend breaks the contract; so do all functions of this module.
#[allow(clippy::unwrap_used, reason = "a test suite")]
pub fn created_files_are_zeros_of_full_length(disk: &dyn DiskIo, folder: &Path) {
    let path = folder.join("a.seg");
    let file = disk.create(&path, 10_000, Fill::Reserved).unwrap();
    assert_eq!(file.len_bytes().unwrap(), 10_000);
    assert_eq!(file.read(0, 10_000).unwrap(), vec![0; 10_000]);
    assert_eq!(disk.list(folder).unwrap(), ["a.seg"]);
    disk.rename(&path, &folder.join("b.seg")).unwrap();
    assert_eq!(disk.list(folder).unwrap(), ["b.seg"]);
    assert!(disk.open(&path).is_err());
    disk.remove(&folder.join("b.seg")).unwrap();
    assert!(disk.list(folder).unwrap().is_empty());
}

/// Buffers land one after the other, also many, large and empty ones; a read stops at the file's end.
#[allow(clippy::unwrap_used, reason = "a test suite")]
#[allow(clippy::missing_panics_doc, reason = "see above")]
pub fn buffers_land_in_order(disk: &dyn DiskIo, folder: &Path) {
    let file = disk.create(&folder.join("a.seg"), 4 << 20, Fill::Reserved).unwrap();
    write(disk, &file, 3, &[b"one", b"", b"two"]).unwrap();
    assert_eq!(file.read(0, 10).unwrap(), b"\0\0\0onetwo\0"[..]);
    let large: Vec<Vec<u8>> = (0..=255_u8).cycle().take(700).map(|n| vec![n; 3_001]).collect();
    let pieces: Vec<&[u8]> = large.iter().map(Vec::as_slice).collect();
    write(disk, &file, 100, &pieces).unwrap();
    assert_eq!(file.read(100, 700 * 3_001).unwrap(), large.concat());
    assert_eq!(file.read((4 << 20) - 2, 10).unwrap().len(), 2);
}

/// Zeroing a tail leaves what is before it and the length.
#[allow(clippy::unwrap_used, reason = "a test suite")]
#[allow(clippy::missing_panics_doc, reason = "see above")]
pub fn a_trim_zeroes_the_rest(disk: &dyn DiskIo, folder: &Path) {
    let file = disk.create(&folder.join("a.seg"), 8_192, Fill::Reserved).unwrap();
    write(disk, &file, 0, &[&[7; 8_192]]).unwrap();
    file.zero_from(5_000).unwrap();
    assert_eq!(file.len_bytes().unwrap(), 8_192);
    let content = file.read(0, 8_192).unwrap();
    assert!(content[..5_000].iter().all(|byte| *byte == 7) && content[5_000..].iter().all(|byte| *byte == 0));
}

/// A small file is there in its old or its new version.
#[allow(clippy::unwrap_used, reason = "a test suite")]
#[allow(clippy::missing_panics_doc, reason = "see above")]
pub fn small_files_are_replaced_whole(disk: &dyn DiskIo, folder: &Path) {
    let path = folder.join("identity");
    assert_eq!(disk.read_small(&path).unwrap(), None);
    disk.write_atomic(&path, b"first").unwrap();
    disk.write_atomic(&path, b"2nd").unwrap();
    assert_eq!(disk.read_small(&path).unwrap().as_deref(), Some(&b"2nd"[..]));
}

/// Runs the whole contract against the disk and fresh folder that the expression gives.
#[macro_export]
macro_rules! disk_io_suite {
    ($name:ident, $fresh:expr) => {
        mod $name {
            use super::*;

            macro_rules! case {
                ($case:ident) => {
                    #[test]
                    fn $case() {
                        let (disk, folder) = $fresh;
                        $crate::io::suite::$case(&disk, folder.as_ref());
                    }
                };
            }

            case!(created_files_are_zeros_of_full_length);
            case!(buffers_land_in_order);
            case!(a_trim_zeroes_the_rest);
            case!(small_files_are_replaced_whole);
        }
    };
}
