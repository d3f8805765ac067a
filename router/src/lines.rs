//! Lines at contended keys: a change that lost against another waits for its turn before it is computed again.
//!
//! [`Attempts`] are made by statements by themselves, and by requests that hold a whole transaction. Only an order of trying: what enters the log is still decided by the owner of the partition ([`crate::txn`]). Without it, many
//! writers of one row compute most of their changes in vain.
//!
//! # Concurrency
//! Keys share a fixed number of lines. Whoever needs places in several takes them in one order, so nobody waits for somebody who
//! waits for him; places are not taken while the gate of definitions is held.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use logcore::{ErrorKind, Offset, PartitionRef, StreamId};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::database::Database;
use crate::error::{Error, Result, sqlstate};

/// Times a change is computed again when somebody else was faster.
const ATTEMPTS_MAX: usize = 32;
/// Keys that fall together only wait for each other.
const LINES: usize = 1_024;

/// See the module docs.
pub struct Lines(Box<[Arc<Mutex<()>>]>);

impl Default for Lines {
    fn default() -> Self {
        Self((0..LINES).map(|_| Arc::default()).collect())
    }
}

/// Somebody wrote what a change rests on.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// What is below has to be seen by the next attempt.
    pub seen: Offset,
    /// The hash of the key, if it was one key.
    pub key: Option<u64>,
}

impl Lost {
    /// As clients are told.
    #[must_use]
    pub fn error(message: &str) -> Error {
        Error::new(sqlstate::SERIALIZATION_FAILURE, ErrorKind::Conflict, message).hint("run it again")
    }
}

/// The attempts of one change.
#[derive(Default)]
pub struct Attempts {
    made: usize,
    places: Places,
}

impl Attempts {
    /// Waits for the turn of the next attempt. The caller does not hold the gate of definitions.
    ///
    /// # Errors
    /// When there were many, and after the deadline.
    pub async fn again(&mut self, database: &Database, lost: Lost, deadline: Instant) -> Result<()> {
        self.made += 1;
        if self.made >= ATTEMPTS_MAX || Instant::now() >= deadline {
            return Err(Lost::error("other changes of the same rows were faster"));
        }
        if let Some(key) = lost.key {
            self.places.stand(database.lines(), key, deadline).await;
        }
        let tables = database.log().partition(PartitionRef::new(StreamId::TABLES, 0))?;
        tables.committed().reached(lost.seen, deadline).await;
        Ok(())
    }
}

/// The places of one change in the lines of the keys it lost at; they are left when this is dropped.
#[derive(Default)]
struct Places {
    lines: BTreeSet<usize>,
    held: Vec<OwnedMutexGuard<()>>,
}

impl Places {
    /// Waits until it is this change's turn at a key it lost at, and at those before; after the deadline it is tried all the same.
    async fn stand(&mut self, lines: &Lines, key: u64, deadline: Instant) {
        let line = usize::try_from(key % LINES as u64).unwrap_or_default();
        if !self.lines.insert(line) {
            // It was its turn, and somebody who did not stand in line was faster.
            return;
        }
        self.held.clear();
        for line in &self.lines {
            let Ok(held) = tokio::time::timeout_at(deadline.into(), Arc::clone(&lines.0[*line]).lock_owned()).await else {
                return;
            };
            self.held.push(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_key_is_one_change_at_a_time_and_several_keys_never_block_each_other_for_good() {
        let lines = Arc::new(Lines::default());
        let inside = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let deadline = Instant::now() + Duration::from_secs(30);
        let one = |first: u64, second: u64| {
            let (lines, inside) = (Arc::clone(&lines), Arc::clone(&inside));
            tokio::spawn(async move {
                for _ in 0..200 {
                    let mut places = Places::default();
                    places.stand(&lines, first, deadline).await;
                    places.stand(&lines, second, deadline).await;
                    assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                }
            })
        };
        for task in [one(1, 2), one(2, 1), one(2, 3), one(1, 2)] {
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_deadline_ends_the_waiting() {
        let lines = Lines::default();
        let (mut first, mut second) = (Places::default(), Places::default());
        first.stand(&lines, 7, Instant::now()).await;
        second.stand(&lines, 7, Instant::now() + Duration::from_millis(10)).await;
        assert!(second.held.is_empty());
        drop(first);
        let mut third = Places::default();
        third.stand(&lines, 7, Instant::now() + Duration::from_secs(30)).await;
        assert_eq!(third.held.len(), 1);
    }
}
