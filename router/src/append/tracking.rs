//! Which streams' appends must say what keys they write, so that appends that expect something of a key see them.
//!
//! A stream is tracked as soon as it has a key view ([`crate::view::keys`]): from its first `expect` on, and after each start. The
//! owner of a partition judges an expectation by the keys it heard of since the snapshot; an append that names no keys would
//! pass it unseen. So tracking begins only when every append that was begun without it has ended: a snapshot taken afterwards
//! covers them all.
//!
//! # Concurrency
//! An untracked append holds the stream's lock for reading, from its look at the switch to its answer, also when its client
//! vanishes ([`super::finishing`]). Switching on takes it for writing once. A tracked append takes no lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Instant;

use tokio::sync::{OwnedRwLockReadGuard, RwLock as AsyncRwLock};

#[derive(Default)]
struct Stream {
    on: AtomicBool,
    untracked: Arc<AsyncRwLock<()>>,
}

/// See the module docs. Streams are known by id.
#[derive(Default)]
pub struct Tracking {
    streams: RwLock<HashMap<u32, Arc<Stream>>>,
}

/// How an append goes on; held until its end.
pub enum Entry {
    /// It names the keys it writes.
    Tracked,
    /// It need not; tracking does not begin before this is dropped.
    Untracked {
        /// The stream's lock.
        _until: OwnedRwLockReadGuard<()>,
    },
}

impl Entry {
    /// Whether the keys must be named.
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        matches!(self, Self::Tracked)
    }
}

impl Tracking {
    fn stream(&self, id: u32) -> Arc<Stream> {
        if let Some(stream) = self.streams.read().expect("no code panics inside").get(&id) {
            return Arc::clone(stream);
        }
        Arc::clone(self.streams.write().expect("no code panics inside").entry(id).or_default())
    }

    /// Begins an append.
    pub async fn enter(&self, id: u32) -> Entry {
        let stream = self.stream(id);
        if stream.on.load(Ordering::Acquire) {
            return Entry::Tracked;
        }
        let until = Arc::clone(&stream.untracked).read_owned().await;
        // Switched on while this waited for the lock.
        if stream.on.load(Ordering::Acquire) { Entry::Tracked } else { Entry::Untracked { _until: until } }
    }

    /// Whether every append of a stream names its keys.
    #[must_use]
    pub fn is_on(&self, id: u32) -> bool {
        self.streams.read().expect("no code panics inside").get(&id).is_some_and(|stream| stream.on.load(Ordering::Acquire))
    }

    /// Switches tracking on; afterwards every append that does not name its keys has ended. `false`, and nothing is changed, when
    /// one of them goes on until `deadline`.
    pub async fn switch_on(&self, id: u32, deadline: Instant) -> bool {
        let stream = self.stream(id);
        match tokio::time::timeout_at(deadline.into(), stream.untracked.write()).await {
            Ok(_alone) => {
                stream.on.store(true, Ordering::Release);
                true
            }
            Err(_) => false,
        }
    }

    /// Switches it on before there is any append.
    pub fn start_with(&self, id: u32) {
        self.stream(id).on.store(true, Ordering::Release);
    }

    /// Nothing is expected of a stream any more.
    pub fn forget(&self, id: u32) {
        self.streams.write().expect("no code panics inside").remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn tracking_begins_when_every_append_without_it_has_ended() {
        let tracking = Arc::new(Tracking::default());
        let before = tracking.enter(7).await;
        assert!(!before.is_tracked());
        assert!(!tracking.switch_on(7, Instant::now() + Duration::from_millis(1)).await, "one is still under way");
        let far = Instant::now() + Duration::from_secs(60);
        let switching = tokio::spawn({
            let tracking = Arc::clone(&tracking);
            async move { tracking.switch_on(7, far).await }
        });
        assert!(!tracking.is_on(7));
        drop(before);
        assert!(switching.await.unwrap());
        assert!(tracking.enter(7).await.is_tracked());
        assert!(!tracking.enter(8).await.is_tracked(), "other streams go on as they were");
        tracking.forget(7);
        assert!(!tracking.enter(7).await.is_tracked());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_begins_while_it_is_switched_on_is_tracked() {
        let tracking = Arc::new(Tracking::default());
        let before = tracking.enter(7).await;
        let far = Instant::now() + Duration::from_secs(60);
        let spawn = |tracking: &Arc<Tracking>, on: bool| {
            let tracking = Arc::clone(tracking);
            tokio::spawn(async move { if on { tracking.switch_on(7, far).await } else { tracking.enter(7).await.is_tracked() } })
        };
        let switching = spawn(&tracking, true);
        while tracking.stream(7).untracked.try_read().is_ok() {
            tokio::task::yield_now().await;
        }
        let begun: Vec<_> = (0..10).map(|_| spawn(&tracking, false)).collect();
        drop(before);
        assert!(switching.await.unwrap());
        for append in begun {
            assert!(append.await.unwrap());
        }
    }
}
