//! The tests every [`super::DiskIo`] backend runs: `disk_io_suite!(name, an_expression_that_gives_a_disk_and_a_folder)`.
//!
//! Called from `logcore/tests/disk_io.rs`, once per backend. A backend that a machine may forbid is given as a `Result`:
//! `disk_io_suite!(name, if_possible: expression)`; where it is forbidden, the tests check how that is said.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test suite: it panics when the contract is broken")]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;

use super::{DiskFile, DiskIo, Durability, Fill, Write};
use crate::error::{Error, Result};
use crate::sys::aligned::AlignedBuffer;
use crate::types::index;

/// Writes and waits.
fn write(disk: &dyn DiskIo, file: &Arc<dyn DiskFile>, at: u64, pieces: &[&[u8]]) -> Result<()> {
    let (tell, ended) = channel();
    submit(disk, file, at, pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect(), &tell);
    drop(tell);
    let result = ended.recv().expect("done is called");
    assert!(ended.recv().is_err(), "and let go afterwards");
    result
}

fn submit(disk: &dyn DiskIo, file: &Arc<dyn DiskFile>, at: u64, buffers: Vec<Bytes>, tell: &Sender<Result<()>>) {
    let tell = tell.clone();
    let done = Box::new(move |result| drop(tell.send(result)));
    disk.submit(Write { file: Arc::clone(file), at, buffers, durability: Durability::Data }, done);
}

/// Bytes that say where they belong.
fn pattern(at: usize, len: usize) -> Vec<u8> {
    (at..at + len).map(|at| u8::try_from((at * 31 + at / 4_096) % 251).unwrap()).collect()
}

/// The same at an address that O_DIRECT takes.
fn aligned(at: usize, len: usize) -> Bytes {
    let mut buffer = AlignedBuffer::new(len);
    buffer.as_mut_slice()[..len].copy_from_slice(&pattern(at, len));
    Bytes::from_owner(buffer).slice(..len)
}

/// Waits for all writes that share the channel.
fn all_ok(ended: &Receiver<Result<()>>, expected: usize) {
    let results: Vec<Result<()>> = ended.iter().collect();
    assert_eq!(results.len(), expected, "each done is called once");
    results.into_iter().for_each(Result::unwrap);
}

/// A created file has its length, reads as zeros, and is found again; whatever had the name before is gone.
pub fn created_files_are_zeros_of_full_length(disk: Box<dyn DiskIo>, folder: &Path) {
    for (fill, len) in [(Fill::Reserved, 10_000), (Fill::Zeros, 10_000), (Fill::Zeros, (2 << 20) + 5_001), (Fill::Zeros, 8_192)] {
        let path = folder.join("a.seg");
        let file = disk.create(&path, len as u64, fill).unwrap();
        assert_eq!(file.len_bytes().unwrap(), len as u64);
        assert_eq!(file.read(0, len + 1).unwrap(), vec![0; len]);
        write(disk.as_ref(), &file, 0, &[&[7; 9_000]]).unwrap();
    }
    let path = folder.join("a.seg");
    assert_eq!(disk.list(folder).unwrap(), ["a.seg"]);
    disk.rename(&path, &folder.join("b.seg")).unwrap();
    assert_eq!(disk.list(folder).unwrap(), ["b.seg"]);
    assert!(disk.open(&path).is_err());
    disk.remove(&folder.join("b.seg")).unwrap();
    disk.remove(&folder.join("b.seg")).expect("removing what is not there is fine");
    assert!(disk.list(folder).unwrap().is_empty());
}

/// A file that can't be made is not left behind, nor what had its name.
pub fn a_file_that_does_not_fit_leaves_nothing(disk: Box<dyn DiskIo>, folder: &Path) {
    let path = folder.join("a.seg");
    for _ in 0..2 {
        let error = disk.create(&path, 1 << 50, Fill::Reserved).map(drop).unwrap_err();
        assert!(matches!(&error, Error::Io { path: named, .. } if *named == path), "{error}");
        assert!(disk.list(folder).unwrap().is_empty());
        disk.create(&path, 4_096, Fill::Reserved).unwrap();
    }
}

/// Buffers land one after the other, also many, large and empty ones; a read stops at the file's end.
pub fn buffers_land_in_order(disk: Box<dyn DiskIo>, folder: &Path) {
    let file = disk.create(&folder.join("a.seg"), 4 << 20, Fill::Reserved).unwrap();
    write(disk.as_ref(), &file, 3, &[b"one", b"", b"two"]).unwrap();
    assert_eq!(file.read(0, 10).unwrap(), b"\0\0\0onetwo\0"[..]);
    let large: Vec<Vec<u8>> = (0..=255_u8).cycle().take(700).map(|n| vec![n; 3_001]).collect();
    let pieces: Vec<&[u8]> = large.iter().map(Vec::as_slice).collect();
    write(disk.as_ref(), &file, 100, &pieces).unwrap();
    assert_eq!(file.read(100, 700 * 3_001).unwrap(), large.concat());
    assert_eq!(file.read((4 << 20) - 2, 10).unwrap().len(), 2);
    write(disk.as_ref(), &file, 0, &[]).unwrap();
    // More buffers than the system takes at once, each a whole block.
    let (tell, ended) = channel();
    submit(disk.as_ref(), &file, 8_192, (0..600).map(|n| aligned(n * 4_096, 4_096)).collect(), &tell);
    drop(tell);
    all_ok(&ended, 1);
    assert_eq!(file.read(8_192, 600 * 4_096).unwrap(), pattern(0, 600 * 4_096));
}

/// As many writes as may be under way at once all land, each is reported once, and whoever opens the file finds them.
pub fn writes_in_flight_all_land(disk: Box<dyn DiskIo>, folder: &Path) {
    const PIECE: usize = 64 << 10;
    for (name, fill) in [("a.seg", Fill::Zeros), ("b.seg", Fill::Reserved)] {
        let path = folder.join(name);
        let file = disk.create(&path, 4 << 20, fill).unwrap();
        let (tell, ended) = channel::<Result<()>>();
        let (mut under_way, mut reported) = (0, 0);
        // Not in the order of the file.
        let places: Vec<usize> = (0..64).map(|n| (n * 29 % 64) * PIECE).collect();
        for at in &places {
            if under_way == disk.writes_in_flight_max() {
                ended.recv().unwrap().unwrap();
                (under_way, reported) = (under_way - 1, reported + 1);
            }
            let halves = vec![aligned(*at, 4_096), aligned(at + 4_096, PIECE - 4_096)];
            submit(disk.as_ref(), &file, *at as u64, halves, &tell);
            under_way += 1;
        }
        drop(tell);
        all_ok(&ended, places.len() - reported);
        let expected = pattern(0, 4 << 20);
        assert_eq!(file.read(0, 4 << 20).unwrap(), expected);
        let again = disk.open(&path).unwrap();
        assert_eq!(again.read(1_000, 10_000).unwrap(), expected[1_000..11_000]);
        assert_eq!(again.len_bytes().unwrap(), 4 << 20);
    }
}

/// A write that the caller may do itself is there when it is reported, also beside others.
pub fn a_write_alone_lands_like_any_other(disk: Box<dyn DiskIo>, folder: &Path) {
    let file = disk.create(&folder.join("a.seg"), 64 << 10, Fill::Zeros).unwrap();
    for n in 0..8_u64 {
        let (tell, ended) = channel::<Result<()>>();
        let buffers = vec![aligned(index(n) * 4_096, 4_096)];
        let write = Write { file: Arc::clone(&file), at: n * 4_096, buffers, durability: Durability::Data };
        disk.submit_alone(write, Box::new(move |result| tell.send(result).unwrap()));
        all_ok(&ended, 1);
        assert_eq!(file.read(0, 4_096 * (index(n) + 1)).unwrap(), pattern(0, 4_096 * (index(n) + 1)));
    }
}

/// What goes around the page cache and what goes through it see each other.
pub fn large_and_small_writes_see_each_other(disk: Box<dyn DiskIo>, folder: &Path) {
    let file = disk.create(&folder.join("a.seg"), 1 << 20, Fill::Zeros).unwrap();
    for round in 0..8_u8 {
        let at = usize::from(round) * 8_192;
        assert_eq!(file.read(at as u64, 8_192).unwrap(), vec![0; 8_192], "now it is cached");
        let (tell, ended) = channel();
        submit(disk.as_ref(), &file, at as u64, vec![aligned(at, 8_192)], &tell);
        drop(tell);
        all_ok(&ended, 1);
        assert_eq!(file.read(at as u64, 8_192).unwrap(), pattern(at, 8_192));
        write(disk.as_ref(), &file, at as u64 + 100, &[&[round; 50]]).unwrap();
        file.write(at as u64 + 150, &[Bytes::from(vec![round; 50])], Durability::None).unwrap();
        let content = file.read(0, 1 << 20).unwrap();
        assert_eq!(content[at + 100..at + 200], [round; 100]);
        assert_eq!(content[at + 200..at + 8_192], pattern(at, 8_192)[200..]);
        assert_eq!(content.len(), 1 << 20);
    }
    file.sync().unwrap();
}

/// Every place and length can be read; a read ends where the file does.
pub fn reads_take_any_place_and_length(disk: Box<dyn DiskIo>, folder: &Path) {
    const LEN: usize = (3 << 20) + 1_234;
    let file = disk.create(&folder.join("a.seg"), LEN as u64, Fill::Reserved).unwrap();
    let content = pattern(0, LEN);
    write(disk.as_ref(), &file, 0, &[&content[..1_000_001], &content[1_000_001..]]).unwrap();
    for at in
        [0, 1, 511, 4_095, 4_096, 1 << 20, (1 << 20) + 7, LEN - (256 << 10), LEN - 5_000, LEN - 1, LEN, LEN + 1, LEN + 9_000]
    {
        for len in [0, 1, 4_096, 5_000, 256 << 10, (256 << 10) + 1, 1 << 20, (1 << 20) + 333, 5 << 20] {
            let expected = &content[at.min(LEN)..(at + len).min(LEN)];
            assert!(file.read(at as u64, len).unwrap() == expected, "{len} bytes from {at}");
        }
    }
    let held: Vec<Bytes> = (0..20).map(|n| file.read(n * 100_000 + n, 1 << 20).unwrap()).collect();
    for (n, held) in held.iter().enumerate() {
        let at = n * 100_000 + n;
        assert!(*held == content[at..(at + (1 << 20)).min(LEN)], "what was read stays as it is while other reads go on");
    }
}

/// Zeroing a tail leaves what is before it and the length, and the file takes writes afterwards.
pub fn a_trim_zeroes_the_rest(disk: Box<dyn DiskIo>, folder: &Path) {
    for (name, fill) in [("a.seg", Fill::Reserved), ("b.seg", Fill::Zeros)] {
        let file = disk.create(&folder.join(name), 81_920, fill).unwrap();
        write(disk.as_ref(), &file, 0, &[&[7; 81_920]]).unwrap();
        file.zero_from(5_000).unwrap();
        assert_eq!(file.len_bytes().unwrap(), 81_920);
        let content = file.read(0, 81_920).unwrap();
        assert!(content[..5_000].iter().all(|byte| *byte == 7) && content[5_000..].iter().all(|byte| *byte == 0));
        let (tell, ended) = channel();
        submit(disk.as_ref(), &file, 8_192, vec![aligned(8_192, 4_096)], &tell);
        submit(disk.as_ref(), &file, 5_000, vec![Bytes::from_static(b"after")], &tell);
        drop(tell);
        all_ok(&ended, 2);
        let content = file.read(0, 81_920).unwrap();
        assert_eq!((&content[4_999..5_006], &content[8_192..12_288]), (&b"\x07after\0"[..], &pattern(8_192, 4_096)[..]));
        assert!(content[12_288..].iter().all(|byte| *byte == 0));
        file.zero_from(81_920).unwrap();
        assert_eq!(file.read(0, 81_920).unwrap(), content);
    }
}

/// Small writes at odd places, one after the other, don't disturb their neighbours.
pub fn many_small_writes_land(disk: Box<dyn DiskIo>, folder: &Path) {
    let file = disk.create(&folder.join("a.seg"), 64 << 10, Fill::Zeros).unwrap();
    let mut expected = vec![0; 64 << 10];
    for n in 0..100_usize {
        let (at, len) = (n * 7_919 % 65_000, 1 + n * 37 % 500);
        let content = pattern(n, len);
        expected[at..at + len].copy_from_slice(&content);
        write(disk.as_ref(), &file, at as u64, &[&content]).unwrap();
    }
    assert_eq!(file.read(0, 64 << 10).unwrap(), expected);
}

/// A write that can't succeed is reported, with and without whole blocks; after it the handle takes no write, a new one does.
pub fn a_failed_write_is_reported_and_ends_the_handle(disk: Box<dyn DiskIo>, folder: &Path) {
    /// Together with the length, beyond what any file system can address.
    const FAR: u64 = (1 << 63) - 8_192;
    for (name, buffer) in [("a.seg", aligned(0, 16_384)), ("b.seg", Bytes::from(vec![1; 16_000]))] {
        let path = folder.join(name);
        let file = disk.create(&path, 65_536, Fill::Reserved).unwrap();
        let attempt = |file: &Arc<dyn DiskFile>, at: u64| {
            let (tell, ended) = channel();
            submit(disk.as_ref(), file, at, vec![buffer.clone()], &tell);
            drop(tell);
            ended.recv().expect("done is called")
        };
        attempt(&file, 0).unwrap();
        let error = attempt(&file, FAR).unwrap_err();
        assert!(matches!(&error, Error::Io { operation: "writing", path: named, .. } if *named == path), "{error}");
        for later in
            [attempt(&file, 0), file.write(0, &[Bytes::from_static(b"x")], Durability::None), file.sync(), file.zero_from(0)]
        {
            let later = later.unwrap_err().to_string();
            assert!(later.contains("given up since writing"), "{later}");
        }
        assert_eq!(file.read(0, buffer.len()).unwrap(), buffer, "reads go on");
        attempt(&disk.open(&path).unwrap(), 32_768).unwrap();
    }
}

/// What is under way ends, whoever lets go of the file, the results and the disk meanwhile.
pub fn writes_end_when_everything_is_dropped(disk: Box<dyn DiskIo>, folder: &Path) {
    let path = folder.join("a.seg");
    let file = disk.create(&path, 8 << 20, Fill::Zeros).unwrap();
    let writes = disk.writes_in_flight_max().min(4);
    // Of different lengths, so that they don't end together.
    let places = [(0, 64 << 10), (1 << 20, 256 << 10), (2 << 20, 1 << 20), (4 << 20, 4 << 20)];
    for (at, _) in &places[..writes] {
        let deaf = channel().0;
        submit(disk.as_ref(), &file, *at as u64, vec![aligned(at + 1, 8_192)], &deaf);
    }
    drop(file);
    let file = disk.open(&path).unwrap();
    let (tell, ended) = channel();
    for (at, len) in &places[..writes] {
        submit(disk.as_ref(), &file, (at + 8_192) as u64, vec![aligned(*at, len - 8_192)], &tell);
    }
    drop((disk, tell));
    all_ok(&ended, writes);
    for (at, len) in places[..writes].iter().copied() {
        assert!(file.read(at as u64, 8_192).unwrap() == pattern(at + 1, 8_192), "the first round");
        assert!(file.read((at + 8_192) as u64, len - 8_192).unwrap() == pattern(at, len - 8_192), "the second");
    }
    file.write(0, &[Bytes::from_static(b"later")], Durability::Data).unwrap();
    assert_eq!(file.read(0, 5).unwrap(), b"later"[..]);
}

/// A small file is there in its old or its new version, and a folder goes with everything in it.
pub fn small_files_are_replaced_whole(disk: Box<dyn DiskIo>, folder: &Path) {
    let below = folder.join("x").join("y");
    let path = below.join("identity");
    disk.create_dir(&below).unwrap();
    assert_eq!(disk.read_small(&path).unwrap(), None);
    disk.write_atomic(&path, b"first").unwrap();
    disk.write_atomic(&path, b"2nd").unwrap();
    assert_eq!(disk.read_small(&path).unwrap().as_deref(), Some(&b"2nd"[..]));
    assert_eq!(disk.list(&folder.join("x")).unwrap(), ["y"]);
    disk.remove_dir(&folder.join("x")).unwrap();
    disk.remove_dir(&folder.join("x")).expect("removing what is not there is fine");
    assert_eq!(disk.read_small(&path).unwrap(), None);
    assert!(disk.list(&folder.join("x")).unwrap().is_empty());
    assert!(disk.free_bytes(folder).unwrap() > 0);
}

/// Work that nobody waits for runs, and may use the disk.
pub fn background_work_runs(disk: Box<dyn DiskIo>, folder: &Path) {
    let (tell, ended) = channel();
    let disk: Arc<dyn DiskIo> = disk.into();
    let (inside, path) = (Arc::clone(&disk), folder.join("a.seg"));
    disk.run(Box::new(move || drop(tell.send(inside.create(&path, 8_192, Fill::Zeros).map(|file| file.len_bytes().unwrap())))));
    assert_eq!(ended.recv().unwrap().unwrap(), 8_192);
    let (tell, read) = channel();
    let file = disk.open(&folder.join("a.seg")).unwrap();
    disk.read_ahead(Box::new(move || drop(tell.send(file.read(1, 8_192)))));
    assert_eq!(read.recv().unwrap().unwrap(), vec![0; 8_191]);
}

/// What is checked where a machine forbids the backend: that it is said why and what to do.
#[allow(clippy::print_stdout, reason = "a test that could not run must not pass in silence")]
pub fn refused(name: &str, error: &Error) {
    println!("NOT RUN: this machine forbids the disk backend of the suite {name}: {error}");
    assert!(matches!(error, Error::NoDiskBackend { .. }), "{error}");
}

/// Runs the whole contract against the disk and fresh folder that the expression gives.
#[macro_export]
macro_rules! disk_io_suite {
    ($name:ident, $fresh:expr) => {
        $crate::disk_io_suite!($name, if_possible: $crate::Result::Ok($fresh));
    };
    ($name:ident, if_possible: $fresh:expr) => {
        mod $name {
            use super::*;

            macro_rules! case {
                ($case:ident) => {
                    #[test]
                    fn $case() {
                        match $fresh {
                            Ok((disk, folder)) => $crate::io::suite::$case(Box::new(disk), folder.as_ref()),
                            Err(error) => $crate::io::suite::refused(stringify!($name), &error),
                        }
                    }
                };
            }

            case!(created_files_are_zeros_of_full_length);
            case!(a_file_that_does_not_fit_leaves_nothing);
            case!(buffers_land_in_order);
            case!(writes_in_flight_all_land);
            case!(a_write_alone_lands_like_any_other);
            case!(large_and_small_writes_see_each_other);
            case!(reads_take_any_place_and_length);
            case!(a_trim_zeroes_the_rest);
            case!(many_small_writes_land);
            case!(a_failed_write_is_reported_and_ends_the_handle);
            case!(writes_end_when_everything_is_dropped);
            case!(small_files_are_replaced_whole);
            case!(background_work_runs);
        }
    };
}
