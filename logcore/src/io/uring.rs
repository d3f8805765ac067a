//! The disk through one io_uring: each write of whole blocks is one submission that is durable by itself.
//!
//! What the ring does not do (odd writes, reads, files and folders) the pool does: see [`super::direct`]. A write is never
//! linked to a sync, since a short write would break the link's promise; `RWF_DSYNC` on the write keeps it.
//!
//! # Concurrency
//! One thread owns the ring. Writes reach it over a bounded channel, and a byte in a pipe that the ring polls wakes it. It ends,
//! after everything that was submitted, when the disk is dropped.

use std::io::{PipeWriter, Write as _};
use std::path::Path;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

use super::direct::{DirectDisk, DirectWrite, Engine, refuse};
use super::pool::PoolDisk;
use crate::error::{Error, Result};
use crate::sys::ring::{Ring, RingWrite};
use crate::sys::thread;

/// Writes of all files under way at once; more wait in the channel.
const DEPTH: u16 = 64;

struct Uring {
    writes: Option<Sender<DirectWrite>>,
    wake: PipeWriter,
    thread: Option<JoinHandle<()>>,
}

/// Starts the backend, with `threads` threads and a queue of `queue` writes for what the ring does not do.
///
/// # Errors
/// [`Error::NoDiskBackend`] when the system forbids io_uring, or writes around the page cache in `folder`.
pub fn start(folder: &Path, threads: usize, queue: usize) -> Result<DirectDisk> {
    let pool = PoolDisk::start(folder, threads, queue)?;
    if let Some(reason) = pool.buffered_because() {
        return Err(refuse("uring", folder, reason));
    }
    let (wake_reader, wake) = std::io::pipe().map_err(Error::io("making a pipe for", folder))?;
    let ring = Ring::new(DEPTH, wake_reader)
        .map_err(|error| refuse("uring", folder, format!("the system does not give an io_uring: {error}")))?;
    let (writes, taken) = bounded(queue.max(1));
    let thread = thread::spawn("disk-uring", move || run(ring, &taken)).map_err(Error::io("starting thread", "disk-uring"))?;
    Ok(DirectDisk::new(Box::new(Uring { writes: Some(writes), wake, thread: Some(thread) }), pool))
}

impl Uring {
    fn wake(&self) {
        // It can't fail while the thread holds the other side, and it is not needed any more when it doesn't.
        let _ = (&self.wake).write(&[1]);
    }
}

impl Engine for Uring {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn offer(&self, write: DirectWrite) -> Result<(), Box<DirectWrite>> {
        match self.writes.as_ref().expect("present until drop").try_send(write) {
            Ok(()) => {
                self.wake();
                Ok(())
            }
            Err(TrySendError::Full(write) | TrySendError::Disconnected(write)) => Err(Box::new(write)),
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.writes = None;
        self.wake();
        // The last owner may be told of a write's end by this very thread; it can't wait for itself.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

fn run(mut ring: Ring<DirectWrite>, writes: &Receiver<DirectWrite>) {
    let mut open = true;
    while open || !ring.is_idle() {
        while open && ring.has_room() {
            match writes.try_recv() {
                Ok(write) => write.unless_given_up().into_iter().for_each(|write| begin(&mut ring, write)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => open = false,
            }
        }
        if !open && ring.is_idle() {
            return;
        }
        if let Err(error) = ring.wait() {
            tracing::error!(%error, "the io_uring of the disk failed: its writes under way are lost, others go on without it");
            for lost in ring.abandon() {
                lost.fail(std::io::Error::new(error.kind(), format!("the io_uring failed: {error}")));
            }
            return writes.iter().for_each(DirectWrite::do_plainly);
        }
        while let Some((write, result)) = ring.ended() {
            write.attempted(result).into_iter().for_each(|write| begin(&mut ring, write));
        }
    }
}

fn begin(ring: &mut Ring<DirectWrite>, write: DirectWrite) {
    let attempt = RingWrite {
        file: write.descriptor.clone(),
        at: write.progress.at(),
        buffers: write.progress.pieces().to_vec(),
        durable: write.durable(),
    };
    ring.write(attempt, write);
}
