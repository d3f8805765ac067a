//! What the system allows this process. Called once by the server, before it opens anything.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the number of files that may be open to what the system allows without privileges, and gives it; `None` when there is
/// no bound or it can't be changed.
#[must_use]
pub fn raise_open_files() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).ok()?;
    limit.current
}

/// Files that this process may have open.
#[must_use]
pub fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
