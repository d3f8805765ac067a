//! Bounds what sealed segments keep in RAM: open files and indexes of those that were read last.
//!
//! Segments report here when they open a file or load an index; the ones that did so longest ago forget theirs.

use std::collections::VecDeque;
use std::sync::{Mutex, Weak};

use super::Segment;

/// Sealed segments that keep their file open and their index in RAM.
const SEGMENTS_MAX: usize = 256;
/// Bytes of their indexes.
const BYTES_MAX: usize = 32 << 20;

/// See the module docs.
#[derive(Default)]
pub(crate) struct Recent {
    queue: Mutex<VecDeque<Weak<Segment>>>,
}

impl Recent {
    /// Notes that `segment` keeps something, and lets the oldest forget until the bounds hold.
    pub fn touch(&self, segment: &Weak<Segment>) {
        let mut queue = self.queue.lock().expect("no code panics inside");
        queue.retain(|other| other.strong_count() > 0 && !other.ptr_eq(segment));
        queue.push_back(segment.clone());
        let mut bytes: usize = queue.iter().filter_map(Weak::upgrade).map(|segment| segment.cached_bytes()).sum();
        let mut forgotten = Vec::new();
        while queue.len() > 1 && (queue.len() > SEGMENTS_MAX || bytes > BYTES_MAX) {
            if let Some(oldest) = queue.pop_front().and_then(|oldest| oldest.upgrade()) {
                bytes = bytes.saturating_sub(oldest.cached_bytes());
                forgotten.push(oldest);
            }
        }
        drop(queue);
        forgotten.iter().for_each(|segment| segment.forget());
    }
}
