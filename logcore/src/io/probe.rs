//! Chooses the disk backend for a data folder, by trying it there.
//!
//! Called once by [`crate::Log::open`]. What was chosen, and why the others were not, is said in [`Chosen::detail`].

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;

use super::blocks::BLOCK_BYTES;
use super::direct::refuse;
use super::pool::PoolDisk;
use super::{DiskFile, DiskIo, Durability, Fill, Write, tokio_uring, uring};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::aligned::AlignedBuffer;

/// Writes that wait for a thread of a backend.
const QUEUE: usize = 256;
/// What [`Backend::Auto`] tries, the fastest first, by `examples/disk.rs`. With idle processors all three keep up with the disk,
/// the ring being ahead for single small writes. With busy ones a ring's one thread keeps four writes going where the pool's
/// threads wait for their turns; one write at a time is then quicker through the pool.
const CANDIDATES: [Backend; 3] = [Backend::Uring, Backend::Pool, Backend::TokioUring];

/// How the disk is reached, as in `--disk-io`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The fastest that works.
    #[default]
    Auto,
    /// Threads and plain system calls.
    Pool,
    /// The `tokio-uring` crate.
    TokioUring,
    /// One io_uring.
    Uring,
}

impl Backend {
    const ALL: [Self; 4] = [Self::Auto, Self::Pool, Self::TokioUring, Self::Uring];

    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Pool => "pool",
            Self::TokioUring => "tokio-uring",
            Self::Uring => "uring",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no backend has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a disk backend; use auto, pool, tokio-uring or uring")]
pub struct UnknownBackend(String);

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        Self::ALL.into_iter().find(|backend| backend.name() == text).ok_or_else(|| UnknownBackend(text.to_owned()))
    }
}

/// A backend that works.
pub struct Chosen {
    /// It.
    pub io: Arc<dyn DiskIo>,
    /// What it is and why it was chosen, in a sentence for the log.
    pub detail: String,
}

/// Starts `backend` for the data folder `folder`, which has to exist, after trying it there. `threads` threads do the work that
/// blocks.
///
/// # Errors
/// [`Error::NoDiskBackend`] when the one that was named does not work, the disk's errors otherwise.
pub fn start(backend: Backend, folder: &Path, threads: usize) -> Result<Chosen> {
    if backend != Backend::Auto {
        return try_one(backend, folder, threads);
    }
    let mut refused = String::new();
    for candidate in CANDIDATES {
        match try_one(candidate, folder, threads) {
            Ok(chosen) => return Ok(Chosen { detail: chosen.detail + &refused, ..chosen }),
            Err(Error::NoDiskBackend { backend, reason, .. }) => refused += &format!("; not {backend}: {reason}"),
            Err(error) => return Err(error),
        }
    }
    Err(refuse("auto", folder, format!("none works{refused}")))
}

fn try_one(backend: Backend, folder: &Path, threads: usize) -> Result<Chosen> {
    let direct = "writes of whole blocks go around the page cache and are durable by themselves";
    let (io, way): (Arc<dyn DiskIo>, String) = match backend {
        Backend::Pool | Backend::Auto => {
            let pool = PoolDisk::start(folder, threads, QUEUE)?;
            let buffered = pool.buffered_because().map(|why| format!("through the page cache with fdatasync, since {why}"));
            (Arc::new(pool), buffered.unwrap_or_else(|| direct.to_owned()))
        }
        Backend::TokioUring => (Arc::new(tokio_uring::start(folder, threads, QUEUE)?), direct.to_owned()),
        Backend::Uring => (Arc::new(uring::start(folder, threads, QUEUE)?), direct.to_owned()),
    };
    let detail = match write_and_read_back(io.as_ref(), folder) {
        Ok(()) => format!("{backend}: {way}"),
        // A full disk must not keep a database from being read.
        Err(error) if error.kind() == ErrorKind::NoSpace => format!("{backend}: {way}; not tried, the disk is full"),
        Err(error) => return Err(refuse(backend.name(), folder, format!("what was written there did not come back: {error}"))),
    };
    Ok(Chosen { io, detail })
}

/// Writes, durably, and reads back, with whole blocks and without.
fn write_and_read_back(io: &dyn DiskIo, folder: &Path) -> Result<()> {
    let path = folder.join("probe.tmp");
    let attempt = || -> Result<()> {
        let file = io.create(&path, 4 * BLOCK_BYTES as u64, Fill::Zeros)?;
        let mut blocks = AlignedBuffer::new(2 * BLOCK_BYTES);
        blocks.as_mut_slice().fill(0xa5);
        let blocks = Bytes::from_owner(blocks);
        write(io, &file, BLOCK_BYTES as u64, blocks.clone())?;
        write(io, &file, 5, Bytes::from_static(b"probe"))?;
        let mut expected = vec![0; 4 * BLOCK_BYTES];
        expected[5..10].copy_from_slice(b"probe");
        expected[BLOCK_BYTES..3 * BLOCK_BYTES].copy_from_slice(&blocks);
        for file in [file, io.open(&path)?] {
            if file.read(0, 4 * BLOCK_BYTES)? != expected {
                return Err(Error::io("reading", &path)(std::io::Error::other("other bytes were read than were written")));
            }
        }
        Ok(())
    };
    let tried = attempt();
    let removed = io.remove(&path);
    tried.and(removed)
}

fn write(io: &dyn DiskIo, file: &Arc<dyn DiskFile>, at: u64, bytes: Bytes) -> Result<()> {
    let (tell, ended) = channel();
    let write = Write { file: Arc::clone(file), at, buffers: vec![bytes], durability: Durability::Data };
    io.submit(write, Box::new(move |result| drop(tell.send(result))));
    let unheard = |_| Error::io("writing", file.path())(std::io::Error::other("the backend never told how the write ended"));
    ended.recv().map_err(unheard)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_others_are_refused_with_the_choice() {
        for backend in Backend::ALL {
            assert_eq!(backend.to_string().parse(), Ok(backend));
        }
        let error = "floppy".parse::<Backend>().unwrap_err().to_string();
        assert_eq!(error, "\"floppy\" is not a disk backend; use auto, pool, tokio-uring or uring");
    }

    #[test]
    fn a_backend_is_chosen_that_works_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        for backend in Backend::ALL {
            match start(backend, folder.path(), 2) {
                Ok(chosen) => {
                    assert!(chosen.detail.starts_with(chosen.io.backend()), "{}", chosen.detail);
                    assert!(backend == Backend::Auto || backend.name() == chosen.io.backend());
                }
                Err(error) => {
                    let ring = matches!(backend, Backend::Uring | Backend::TokioUring);
                    assert!(ring && matches!(error, Error::NoDiskBackend { .. }), "{backend}: {error}");
                    assert!(error.to_string().contains("use `--disk-io auto`"), "{error}");
                }
            }
            assert_eq!(crate::sys::fs::list(folder.path()).unwrap(), [""; 0]);
        }
    }

    #[test]
    fn a_disk_that_loses_bytes_is_refused_and_a_full_one_is_not() {
        use crate::io::sim::SimDisk;
        let disk = SimDisk::new();
        write_and_read_back(&disk, "/sim".as_ref()).unwrap();
        assert!(disk.paths().is_empty());
        disk.fail_write_after(1);
        assert_eq!(write_and_read_back(&disk, "/sim".as_ref()).unwrap_err().kind(), ErrorKind::Unavailable);
        disk.no_space_from(Some(0));
        assert_eq!(write_and_read_back(&disk, "/sim".as_ref()).unwrap_err().kind(), ErrorKind::NoSpace);
    }
}
