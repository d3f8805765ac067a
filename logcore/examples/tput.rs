//! Throughput probe while tuning.
#![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "x")]
use std::time::{Duration, Instant};
use logcore::*;
use logcore::partition::PartitionOptions;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let batch: usize = a[1].parse().unwrap();
    let inflight: usize = a[2].parse().unwrap();
    let producers: usize = a[3].parse().unwrap();
    let secs: f64 = a[4].parse().unwrap();
    let ack: AckClass = a[5].parse().unwrap();
    let seg: u64 = a.get(6).map_or(64, |s| s.parse().unwrap());
    let dir = std::path::PathBuf::from("/tmp/w/tput");
    let _ = std::fs::remove_dir_all(&dir);
    let log = Log::open(&dir, LogOptions { memory_bytes_max: 512 << 20, ..LogOptions::default() }).unwrap();
    let p = log.open_partition_with(PartitionRef::new(StreamId::new(20), 0), PartitionOptions { ack, segment_bytes: seg << 20, ..Default::default() }).unwrap();
    let value = vec![7u8; 1024];
    let end = Instant::now() + Duration::from_secs_f64(secs);
    let t = Instant::now();
    let total: u64 = std::thread::scope(|s| {
        (0..producers).map(|_| s.spawn(|| {
            let mut q = std::collections::VecDeque::new();
            let mut n = 0u64;
            let mut lat = Vec::new();
            while Instant::now() < end {
                let mut b = BatchBuilder::with_capacity(batch * 1060 + 100);
                for _ in 0..batch { b.push(&NewRecord { value: Some(&value), timestamp: TimestampMillis::new(1), ..Default::default() }); }
                let pr = Proposal::from_records(b, Compression::None).unwrap();
                let due = Instant::now();
                let mut pr = Some(pr);
                loop {
                    if q.len() >= inflight { let (x, d): (Ticket, Instant) = q.pop_front().unwrap(); x.wait().unwrap(); lat.push(d.elapsed()); n += batch as u64; continue; }
                    match p.try_append(pr.take().unwrap()) { Ok(x) => { q.push_back((x, due)); break; } Err(e) => panic!("{e}") }
                }
            }
            for (x, d) in q { x.wait().unwrap(); lat.push(d.elapsed()); n += batch as u64; }
            lat.sort();
            println!("p50 {:?} p99 {:?} p999 {:?} max {:?}", lat[lat.len()/2], lat[lat.len()*99/100], lat[lat.len()*999/1000], lat.last().unwrap());
            n
        })).collect::<Vec<_>>().into_iter().map(|h| h.join().unwrap()).sum()
    });
    let el = t.elapsed().as_secs_f64();
    println!("{} batch {batch} inflight {inflight} producers {producers} {ack}: {:.0} rec/s {:.0} MB/s", log.disk_backend(), total as f64 / el, total as f64 * 1024.0 / el / 1e6);
    let part = log.partition(PartitionRef::new(StreamId::new(20), 0)).unwrap();
    println!("{:?}", part.status().segments);
    if a.len() > 7 {
        let t = Instant::now();
        let mut r = part.reader(part.log_start());
        let mut bytes = 0u64;
        loop { let f = r.read(1 << 20).unwrap(); if f.is_empty() { break; } bytes += f.iter().map(|f| f.body.len() as u64).sum::<u64>(); }
        println!("read {:.0} MB/s", bytes as f64 / t.elapsed().as_secs_f64() / 1e6);
    }
    drop(part); drop(p);
    log.close().unwrap();
    let _ = std::fs::remove_dir_all(&dir);
}
