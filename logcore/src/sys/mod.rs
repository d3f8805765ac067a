//! The operating system, in small safe pieces: page-aligned memory, files and folders, the clock, threads, limits.
//!
//! Called by everything else in the log and by the stores. The lints ban the system's clock, files and threads elsewhere, so
//! that a simulator can rule them, and unsafe code outside this module.

pub mod aligned;
pub mod append_buffer;
pub mod clock;
pub mod fs;
pub mod limits;
pub mod ring;
pub mod thread;
pub mod uring_buffer;
