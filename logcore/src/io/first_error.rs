//! The first error of a file: after it, nothing more is written through the handle.
//!
//! Kept by every backend's file. The system reports a failed writeback once and marks the pages clean, so an error that is not
//! remembered would be followed by a success that means nothing.

use std::path::Path;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// See the module docs.
#[derive(Default)]
pub(crate) struct FirstError(OnceLock<String>);

impl FirstError {
    /// Refuses what comes after an error.
    pub fn check(&self, operation: &'static str, path: &Path) -> Result<()> {
        let Some(first) = self.0.get() else { return Ok(()) };
        let detail = format!("given up since {first}: what is on the disk is unknown until a restart verifies it");
        Err(Error::io(operation, path)(std::io::Error::other(detail)))
    }

    /// Keeps the first error, and lets what was under way meanwhile fail with it.
    pub fn conclude(&self, operation: &'static str, path: &Path, result: std::io::Result<()>) -> Result<()> {
        if let Err(error) = result {
            let error = Error::io(operation, path)(error);
            let _ = self.0.set(error.to_string());
            return Err(error);
        }
        self.check(operation, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write that was under way while another failed must not report success after it.
    #[test]
    fn an_error_reaches_what_was_under_way_and_what_comes_after() {
        let (failed, path) = (FirstError::default(), Path::new("/a"));
        failed.check("writing", path).unwrap();
        failed.conclude("writing", path, Ok(())).unwrap();
        failed.conclude("writing", path, Err(std::io::Error::other("broken"))).unwrap_err();
        let under_way = failed.conclude("writing", path, Ok(())).unwrap_err().to_string();
        assert!(under_way.contains("given up since writing /a failed: broken"), "{under_way}");
        assert!(failed.check("syncing", path).is_err());
    }
}
