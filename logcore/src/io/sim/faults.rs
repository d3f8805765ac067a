//! What goes wrong on the simulated disk, and when: set by tests on [`super::SimDisk`], asked by every operation.

use std::io::{Error, Result};

use rustix::io::Errno;

use super::image::Coin;

/// See the module docs.
#[derive(Default)]
pub(super) struct Faults {
    /// Operations so far, of any kind.
    pub operations: u64,
    /// The operation that fails, and how.
    fail_operation: Option<(u64, i32)>,
    /// From this operation on nothing that needs space succeeds.
    no_space_from: Option<u64>,
    writes: u64,
    fail_write: Option<u64>,
    fail_sync: bool,
    /// Lets the system take less than it is given.
    pub short_writes: Option<Coin>,
}

impl Faults {
    /// Counts an operation, and fails it if its turn has come.
    pub fn begin(&mut self) -> Result<()> {
        self.operations += 1;
        let now = self.operations;
        let due = self.fail_operation.take_if(|(nth, _)| *nth == now);
        due.map_or(Ok(()), |(_, errno)| Err(Error::from_raw_os_error(errno)))
    }

    /// Asked by what needs space that it does not have yet.
    pub fn take_space(&self) -> Result<()> {
        match self.no_space_from {
            Some(from) if self.operations >= from => Err(Error::from_raw_os_error(Errno::NOSPC.raw_os_error())),
            _ => Ok(()),
        }
    }

    /// Counts a write, and fails it if its turn has come.
    pub fn begin_write(&mut self) -> Result<()> {
        self.writes += 1;
        let writes = self.writes;
        let due = self.fail_write.take_if(|nth| *nth < writes);
        due.map_or(Ok(()), |_| Err(Error::other("injected write error")))
    }

    pub fn begin_sync(&mut self) -> Result<()> {
        if std::mem::take(&mut self.fail_sync) { Err(Error::other("injected sync error")) } else { Ok(()) }
    }

    pub fn fail_operation(&mut self, nth: u64, errno: i32) {
        self.fail_operation = Some((nth, errno));
    }

    pub fn no_space_from(&mut self, nth: Option<u64>) {
        self.no_space_from = nth;
    }

    pub fn fail_write_after(&mut self, after: u64) {
        self.fail_write = Some(self.writes + after);
    }

    pub fn fail_next_sync(&mut self) {
        self.fail_sync = true;
    }
}
