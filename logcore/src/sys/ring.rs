//! An io_uring for writes, behind a safe interface: what the kernel reads is kept alive until the kernel is done with it.
//!
//! Owned by the one thread of [`crate::io::uring`]; everything there about files and promises is above this.
//!
//! # Invariants
//! - A slot holds the descriptor, the buffers and the vectors of a write from before it is handed to the kernel until its
//!   completion was taken. A slot is used again only then, so a completion names one write.
//! - Fewer operations are under way than the completion queue has entries: none is ever lost.
#![allow(unsafe_code, reason = "the kernel reads memory that it is told about by address")]

use std::fs::File;
use std::io::{Error, IoSlice, PipeReader, Read, Result};
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use bytes::Bytes;
use io_uring::{IoUring, opcode, types};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ReadWriteFlags};

/// The completion of the wake-up's poll.
const WAKE: u64 = u64::MAX;
/// "There is something to read", in Linux's `poll`.
const POLLIN: u32 = 1;

/// One attempt at a write.
pub struct RingWrite {
    /// Where to.
    pub file: Arc<File>,
    /// The byte position of the first buffer.
    pub at: u64,
    /// One after the other; at most as many as the system takes at once.
    pub buffers: Vec<Bytes>,
    /// Whether its completion means that it is on the medium.
    pub durable: bool,
}

struct Slot<T> {
    /// The descriptor, and the buffers that the vectors point into.
    write: RingWrite,
    vectors: Vec<IoSlice<'static>>,
    tag: T,
}

/// See the module docs. A `T` comes back with each write's end.
pub struct Ring<T> {
    ring: IoUring,
    slots: Vec<Option<Slot<T>>>,
    free: Vec<usize>,
    wake: PipeReader,
    wake_armed: bool,
}

impl<T> Ring<T> {
    /// A ring for up to `depth` writes at once. Bytes that arrive on `wake` end a [`Self::wait`].
    ///
    /// # Errors
    /// When the system has no io_uring, or forbids it to this process.
    pub fn new(depth: u16, wake: PipeReader) -> Result<Self> {
        // One entry more than writes, for the wake-up; the completion queue is twice as long.
        let ring = IoUring::new(u32::from(depth) + 1)?;
        let flags = fcntl_getfl(&wake)?;
        fcntl_setfl(&wake, flags | OFlags::NONBLOCK)?;
        let slots = (0..depth).map(|_| None).collect();
        let free = (0..usize::from(depth)).collect();
        Ok(Self { ring, slots, free, wake, wake_armed: false })
    }

    /// Whether another write can be taken.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether no write is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Takes a write; it begins with the next [`Self::wait`].
    ///
    /// # Panics
    /// Without room: the caller asks [`Self::has_room`] first.
    pub fn write(&mut self, write: RingWrite, tag: T) {
        let at = self.free.pop().expect("the caller asked for room");
        // SAFETY: the bytes of a `Bytes` stay where they are while it lives, wherever the handle itself moves, and nobody
        // changes them. The vectors lie in the same slot as the buffers and are dropped with them, and never handed out.
        let lasting = |bytes: &Bytes| IoSlice::new(unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) });
        let vectors: Vec<IoSlice<'static>> = write.buffers.iter().map(lasting).collect();
        let count = u32::try_from(vectors.len()).expect("few buffers");
        let flags = if write.durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        // An `IoSlice` has the layout of an `iovec`.
        let entry = opcode::Writev::new(types::Fd(write.file.as_raw_fd()), vectors.as_ptr().cast(), count)
            .offset(write.at)
            .rw_flags(flags.bits().cast_signed())
            .build()
            .user_data(at as u64);
        self.slots[at] = Some(Slot { write, vectors, tag });
        // SAFETY: descriptor, vectors and bytes live in the slot until the completion with its number was taken.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("the queue has an entry for every slot");
    }

    /// Begins what was taken, and waits until a write has ended or a byte has arrived on the wake-up.
    ///
    /// # Errors
    /// When the ring itself can't be used any more; what is under way is then [`Self::abandon`]ed.
    pub fn wait(&mut self) -> Result<()> {
        if !self.wake_armed {
            let poll = opcode::PollAdd::new(types::Fd(self.wake.as_raw_fd()), POLLIN);
            let entry = poll.build().user_data(WAKE);
            // SAFETY: a poll has no memory, and `wake` is open as long as the ring.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            pushed.expect("the queue has an entry for it");
            self.wake_armed = true;
        }
        self.submit_and_wait()
    }

    fn submit_and_wait(&self) -> Result<()> {
        let busy = [Errno::INTR, Errno::AGAIN, Errno::BUSY].map(|errno| Some(errno.raw_os_error()));
        match self.ring.submit_and_wait(1) {
            // The caller takes the completions there are and comes again.
            Err(error) if busy.contains(&error.raw_os_error()) => {
                std::thread::yield_now();
                Ok(())
            }
            waited => waited.map(drop),
        }
    }

    /// A write that has ended, with the number of bytes the system took.
    pub fn ended(&mut self) -> Option<(T, Result<usize>)> {
        loop {
            let completion = self.ring.completion().next()?;
            if completion.user_data() == WAKE {
                self.wake_armed = false;
                self.drain_wake();
                continue;
            }
            let at = usize::try_from(completion.user_data()).expect("an index");
            let slot = self.slots[at].take().expect("a slot completes once");
            self.free.push(at);
            let written = usize::try_from(completion.result());
            let result = written.map_err(|_| Error::from_raw_os_error(-completion.result()));
            return Some((slot.tag, result));
        }
    }

    /// Empties the wake-up. It may be empty already: a writer tells of its byte after that could be read, perhaps by the read
    /// before, and then the next poll hears of it.
    fn drain_wake(&mut self) {
        let _ = self.wake.read(&mut [0; 512]);
    }

    /// Gives back what was under way when the ring failed. Its buffers are never freed: the kernel may still read them.
    pub fn abandon(&mut self) -> Vec<T> {
        let slots = self.slots.iter_mut().filter_map(Option::take);
        let give_up = |slot: Slot<T>| {
            let _kept = ManuallyDrop::new((slot.write, slot.vectors));
            slot.tag
        };
        let tags = slots.map(give_up).collect();
        self.free = (0..self.slots.len()).collect();
        tags
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        while !self.is_idle() {
            let waited = self.submit_and_wait();
            while self.ended().is_some() {}
            if waited.is_err() {
                self.abandon();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[allow(clippy::print_stdout, reason = "a test that could not run must not pass in silence")]
    fn ring(depth: u16) -> Option<(Ring<u32>, std::io::PipeWriter)> {
        let (reader, wake) = std::io::pipe().unwrap();
        match Ring::new(depth, reader) {
            Ok(ring) => Some((ring, wake)),
            Err(error) => {
                println!("NOT RUN: this machine forbids io_uring: {error}");
                assert!(error.raw_os_error().is_some(), "the system said no: {error}");
                None
            }
        }
    }

    fn write(file: &Arc<File>, at: u64, pieces: &[&str]) -> RingWrite {
        let buffers = pieces.iter().map(|piece| Bytes::copy_from_slice(piece.as_bytes())).collect();
        RingWrite { file: Arc::clone(file), at, buffers, durable: true }
    }

    #[test]
    fn writes_come_back_with_what_they_were_tagged() {
        let Some((mut ring, wake)) = ring(2) else { return };
        let file = Arc::new(tempfile::tempfile().unwrap());
        ring.write(write(&file, 2, &["one", "two"]), 1);
        ring.write(write(&file, 8, &["three"]), 2);
        assert!(!ring.has_room());
        let mut ended = Vec::new();
        while !ring.is_idle() {
            ring.wait().unwrap();
            ended.extend(std::iter::from_fn(|| ring.ended()).map(|(tag, result)| (tag, result.unwrap())));
        }
        ended.sort_unstable();
        assert_eq!(ended, [(1, 6), (2, 5)]);
        (&wake).write_all(b"x").unwrap();
        ring.wait().unwrap();
        assert!(ring.ended().is_none(), "woken, with nothing to tell");
        let mut content = [0; 13];
        std::os::unix::fs::FileExt::read_exact_at(file.as_ref(), &mut content, 0).unwrap();
        assert_eq!(&content, b"\0\0onetwothree");
    }

    #[test]
    fn a_wake_up_whose_byte_is_gone_already_blocks_nobody() {
        let Some((mut ring, wake)) = ring(2) else { return };
        ring.drain_wake();
        (&wake).write_all(b"x").unwrap();
        ring.wait().unwrap();
        ring.drain_wake();
        assert!(ring.ended().is_none(), "the poll's completion finds nothing to read");
    }

    #[test]
    fn a_failed_write_says_so_and_a_dropped_ring_waits() {
        let Some((mut ring, _wake)) = ring(2) else { return };
        let path = tempfile::NamedTempFile::new().unwrap();
        let unwritable = Arc::new(path.reopen().unwrap());
        ring.write(write(&unwritable, u64::from(u32::MAX) << 31, &["far"]), 7);
        ring.wait().unwrap();
        let (tag, result) = ring.ended().unwrap();
        assert_eq!(tag, 7);
        assert!(result.is_err());
        ring.write(write(&unwritable, 0, &["late"]), 8);
        drop(ring);
        assert_eq!(unwritable.metadata().unwrap().len(), 4, "what was taken was written");
    }
}
