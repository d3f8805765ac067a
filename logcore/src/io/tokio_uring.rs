//! The disk through tokio-uring: each write of whole blocks is one submission that is durable by itself.
//!
//! tokio-uring can't ask for durability write by write, so the files' direct descriptors are opened with `O_DSYNC`. What it does
//! not do (odd writes, reads, files and folders) the pool does: see [`super::direct`].
//!
//! # Concurrency
//! One thread runs the runtime. Writes reach it over a bounded channel. It ends, after everything that was submitted, when the
//! disk is dropped.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_uring::Runtime;
use tokio_uring::fs::File;

use super::direct::{DirectDisk, DirectWrite, Engine, refuse};
use super::pool::PoolDisk;
use crate::error::{Error, Result};
use crate::sys::thread;
use crate::sys::uring_buffer::UringBuffer;

/// Writes of all files under way at once; more wait in the channel.
const DEPTH: u32 = 64;

struct TokioUring {
    writes: Option<Sender<DirectWrite>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the backend, with `threads` threads and a queue of `queue` writes for what the runtime does not do.
///
/// # Errors
/// [`Error::NoDiskBackend`] when the system forbids io_uring, or writes around the page cache in `folder`.
pub fn start(folder: &Path, threads: usize, queue: usize) -> Result<DirectDisk> {
    let pool = PoolDisk::start_dsync(folder, threads, queue)?;
    if let Some(reason) = pool.buffered_because() {
        return Err(refuse("tokio-uring", folder, reason));
    }
    let (writes, taken) = channel(queue.max(1));
    let (tell, started) = crossbeam_channel::bounded(1);
    let body = move || match Runtime::new(&tokio_uring::builder()) {
        Ok(runtime) => {
            let _ = tell.send(Ok(()));
            runtime.block_on(run(taken));
        }
        Err(error) => drop(tell.send(Err(error))),
    };
    let thread = thread::spawn("disk-tokio-uring", body).map_err(Error::io("starting thread", "disk-tokio-uring"))?;
    match started.recv() {
        Ok(Ok(())) => Ok(DirectDisk::new(Box::new(TokioUring { writes: Some(writes), thread: Some(thread) }), pool)),
        Ok(Err(error)) => Err(refuse("tokio-uring", folder, format!("the system does not give an io_uring: {error}"))),
        Err(_) => Err(refuse("tokio-uring", folder, "its runtime did not start")),
    }
}

impl Engine for TokioUring {
    fn name(&self) -> &'static str {
        "tokio-uring"
    }

    fn offer(&self, write: DirectWrite) -> Result<(), Box<DirectWrite>> {
        match self.writes.as_ref().expect("present until drop").try_send(write) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(write) | TrySendError::Closed(write)) => Err(Box::new(write)),
        }
    }
}

impl Drop for TokioUring {
    fn drop(&mut self) {
        self.writes = None;
        // The last owner may be told of a write's end by this very thread; it can't wait for itself.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

async fn run(mut writes: Receiver<DirectWrite>) {
    let room = Arc::new(Semaphore::new(DEPTH as usize));
    while let Some(write) = writes.recv().await {
        let Some(write) = write.unless_given_up() else { continue };
        let place = Arc::clone(&room).acquire_owned().await.expect("nobody closes it");
        tokio_uring::spawn(async move {
            write_out(write).await;
            drop(place);
        });
    }
    let _all_over = room.acquire_many(DEPTH).await;
}

async fn write_out(write: DirectWrite) {
    // tokio-uring closes what it is given, so it gets a descriptor of its own, which shares the flags.
    let file = match write.descriptor.try_clone() {
        Ok(descriptor) => File::from_std(descriptor),
        Err(error) => return write.fail(error),
    };
    let mut left = Some(write);
    while let Some(write) = left {
        let buffers = write.progress.pieces().iter().cloned().map(UringBuffer::new).collect();
        let (result, _buffers) = file.writev_at(buffers, write.progress.at()).await;
        left = write.attempted(result);
    }
}
