//! The one place that reads the system clock. Records without a timestamp get one here, through [`crate::partition::owner`]'s callers.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::types::TimestampMillis;

/// The wall clock now.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this module owns the clock")]
pub fn now() -> TimestampMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimestampMillis::new(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A point on the monotonic clock, for deadlines and ages.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this module owns the clock")]
pub fn monotonic() -> std::time::Instant {
    std::time::Instant::now()
}
