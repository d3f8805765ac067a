//! The one place that starts threads, so that every one has a name and is counted.

use std::thread::{Builder, JoinHandle};

/// Starts a named thread.
///
/// # Errors
/// When the system refuses another thread.
#[allow(clippy::disallowed_methods, reason = "this module owns thread spawning")]
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(body)
}
