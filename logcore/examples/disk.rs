//! Measures disk backends on a folder: `cargo run --release -p logcore --example disk -- FOLDER [MEGABYTES [BACKEND...]]`.
//!
//! Sequential durable writes with one and four under way, small ones one after the other, and sequential reads. The order in
//! which the log tries backends comes from here; compare with `fio --direct=1 --sync=dsync` on the same folder in the same hour.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for a person to look at")]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;
use logcore::io::pool::PoolDisk;
use logcore::io::{DiskFile, DiskIo, Durability, Fill, Write, tokio_uring, uring};
use logcore::sys::aligned::AlignedBuffer;
use logcore::sys::clock::monotonic;

const SMALL_WRITES: u64 = 4_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().expect("the first argument names a folder to write to");
    let megabytes: u64 = arguments.next().map_or(512, |text| text.parse().expect("the second is a number of megabytes"));
    let (folder, wanted) = (Path::new(&folder), arguments.collect::<Vec<_>>());
    let mut disks: Vec<(&str, Box<dyn DiskIo>)> = vec![
        ("buffered", Box::new(PoolDisk::start_buffered(4, 64).unwrap())),
        ("pool", Box::new(PoolDisk::start(folder, 4, 64).unwrap())),
    ];
    for (name, started) in [("uring", uring::start(folder, 4, 64)), ("tokio-uring", tokio_uring::start(folder, 4, 64))] {
        match started {
            Ok(disk) => disks.push((name, Box::new(disk))),
            Err(error) => println!("{error}"),
        }
    }
    disks.retain(|(name, _)| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name));
    println!("| backend | fill | 1 MiB x1 | 1 MiB x4 | 4 MiB x1 | 4 MiB x4 | 4 KiB x1 | fill | read 1 MiB |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for fill in [Fill::Zeros, Fill::Reserved] {
        for (name, disk) in &disks {
            measure(name, disk.as_ref(), folder, fill, megabytes << 20);
        }
    }
}

fn measure(name: &str, disk: &dyn DiskIo, folder: &Path, fill: Fill, len: u64) {
    let path = folder.join("disk-example.tmp");
    let mut cells = Vec::new();
    let mut filled = 0.0;
    for (piece, under_way) in [(1 << 20, 1), (1 << 20, 4), (4 << 20, 1), (4 << 20, 4)] {
        let begun = monotonic();
        let file = disk.create(&path, len, fill).unwrap();
        filled = megabytes_per_second(len, begun);
        let begun = monotonic();
        write_all(disk, &file, piece, under_way, len / piece as u64);
        cells.push(format!("{:.0} MB/s", megabytes_per_second(len, begun)));
    }
    let file = disk.create(&path, len, fill).unwrap();
    let begun = monotonic();
    write_all(disk, &file, 4 << 10, 1, SMALL_WRITES);
    cells.push(format!("{:.0}/s", 4_000.0 / begun.elapsed().as_secs_f64()));
    cells.push(format!("{filled:.0} MB/s"));
    write_all(disk, &file, 4 << 20, 4, len / (4 << 20));
    let begun = monotonic();
    for at in (0..len).step_by(1 << 20) {
        assert_eq!(file.read(at, 1 << 20).unwrap().len(), 1 << 20);
    }
    cells.push(format!("{:.0} MB/s", megabytes_per_second(len, begun)));
    println!("| {name} | {fill:?} | {} |", cells.join(" | "));
    disk.remove(&path).unwrap();
}

#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn megabytes_per_second(bytes: u64, begun: std::time::Instant) -> f64 {
    bytes as f64 / 1e6 / begun.elapsed().as_secs_f64()
}

/// Writes `count` pieces one behind the other, `under_way` of them at once.
fn write_all(disk: &dyn DiskIo, file: &Arc<dyn DiskFile>, piece: usize, under_way: usize, count: u64) {
    let mut buffer = AlignedBuffer::new(piece);
    buffer.as_mut_slice().fill(0x5a);
    let buffer = Bytes::from_owner(buffer);
    let mut waiting = VecDeque::new();
    for n in 0..count {
        if waiting.len() == under_way {
            let ended: std::sync::mpsc::Receiver<logcore::Result<()>> = waiting.pop_front().unwrap();
            ended.recv().unwrap().unwrap();
        }
        let (tell, ended) = channel();
        let write =
            Write { file: Arc::clone(file), at: n * piece as u64, buffers: vec![buffer.clone()], durability: Durability::Data };
        disk.submit(write, Box::new(move |result| drop(tell.send(result))));
        waiting.push_back(ended);
    }
    for ended in waiting {
        ended.recv().unwrap().unwrap();
    }
}
