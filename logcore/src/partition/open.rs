//! Opening a partition: finding its segments, deciding where its log ends, and handing it to an owner.
//!
//! Called by [`crate::log::Log`] at start and when a stream is created.
//!
//! # Crash safety
//! After a clean stop nothing is scanned. Otherwise the newest segment is read as a whole by `segment::recovery`: what is torn
//! above the durable watermark is trimmed, durably, before anything is appended; what is damaged below it stays as it is and
//! the partition takes no writes. Either way the file is synced before its content is served, since a killed process may have
//! left acknowledged-looking bytes in the page cache only.

use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use super::commit::Standalone;
use super::owner::{Message, Owned};
use super::{CleanState, Health, Mailbox, Partition, PartitionOptions, Shared};
use crate::error::{Error, Result};
use crate::io::{DiskIo, Fill};
use crate::partition::watermark::Watermark;
use crate::ram::arena::{Arena, Evict};
use crate::ram::tail::Tail;
use crate::segment::recovery::scan;
use crate::segment::{Segment, SegmentEnd, SegmentMeta, SparseIndex};
use crate::types::{Offset, PartitionRef};

/// What opening a partition needs from the log.
pub(crate) struct Opening<'a> {
    pub id: PartitionRef,
    pub dir: &'a Path,
    pub io: Arc<dyn DiskIo>,
    pub arena: Arc<Arena>,
    pub options: PartitionOptions,
    pub reserve_bytes: u64,
    pub clean: Option<CleanState>,
    pub mailbox: Mailbox,
    pub slot: u64,
}

/// The newest segment as it was found.
struct Newest {
    segment: Arc<Segment>,
    end: SegmentEnd,
    health: Health,
}

impl Opening<'_> {
    /// Opens the partition, creating its first segment if it has none.
    pub fn open(self) -> Result<Partition> {
        let mut segments = self.find_segments()?;
        let newest = match segments.pop() {
            Some(segment) => self.open_newest(segment, segments.last())?,
            None => self.create_first()?,
        };
        segments.push(Arc::clone(&newest.segment));
        let (end, arena) = (newest.end, Arc::clone(&self.arena));
        let shared = Arc::new(Shared {
            id: self.id,
            dir: self.dir.to_owned(),
            io: self.io,
            arena: self.arena,
            options: RwLock::new(self.options),
            reserve_bytes: self.reserve_bytes,
            segments: RwLock::new(segments),
            tail: Arc::new(RwLock::new(Tail::default())),
            appended: Watermark::new(end.offset),
            flushed: Watermark::new(end.offset),
            committed: Watermark::new(end.offset),
            health: RwLock::new(newest.health),
            durable_place: Mutex::new((newest.segment.base_offset, end.position)),
            listeners: Mutex::default(),
            holders: Mutex::default(),
        });
        let holder: Arc<dyn Evict> = Arc::clone(&shared) as Arc<dyn Evict>;
        arena.register(Arc::downgrade(&holder));
        let active = shared.active(newest.segment, end, end.term.next());
        let owned = Box::new(Owned::new(Arc::clone(&shared), active, Box::new(Standalone)));
        let closed = |_| Error::Closed { partition: self.id };
        self.mailbox.queue.send(Message::Attach(self.slot, owned)).map_err(closed)?;
        Ok(Partition { shared, mailbox: self.mailbox, slot: self.slot })
    }

    fn find_segments(&self) -> Result<Vec<Arc<Segment>>> {
        self.io.create_dir(self.dir)?;
        self.io.remove(&self.dir.join("next.tmp"))?;
        let names = self.io.list(self.dir)?;
        let bases = names.iter().filter_map(|name| Segment::parse_file_name(name));
        let segments: Vec<Arc<Segment>> =
            bases.map(|base| Arc::new(Segment::at(Arc::clone(&self.io), self.dir, self.id, base))).collect();
        for pair in segments.windows(2) {
            pair[0].followed_by(pair[1].base_offset);
        }
        Ok(segments)
    }

    fn create_first(&self) -> Result<Newest> {
        let path = self.dir.join(Segment::file_name(Offset::ZERO));
        let free_bytes = self.io.free_bytes(self.dir)?;
        let reserve_bytes = self.reserve_bytes.saturating_add(self.options.segment_bytes);
        if free_bytes < reserve_bytes {
            return Err(Error::NoSpace { path, free_bytes, reserve_bytes });
        }
        let file = self.io.create(&path, self.options.segment_bytes, Fill::Reserved)?;
        let segment = Segment::at(Arc::clone(&self.io), self.dir, self.id, Offset::ZERO).with_file(file);
        let end = SegmentEnd::empty(Offset::ZERO);
        segment.set_meta(SegmentMeta { index: SparseIndex::default(), end });
        Ok(Newest { segment: Arc::new(segment), end, health: Health::Healthy })
    }

    fn open_newest(&self, segment: Arc<Segment>, before: Option<&Arc<Segment>>) -> Result<Newest> {
        let segment = self.with_open_file(segment)?;
        let newest = self.find_end(segment, before)?;
        // The index file of the newest segment is true only until the first append.
        newest.segment.remove_index()?;
        Ok(newest)
    }

    /// The newest segment keeps its file open.
    fn with_open_file(&self, segment: Arc<Segment>) -> Result<Arc<Segment>> {
        let file = segment.file()?;
        let named = Segment::at(Arc::clone(&self.io), self.dir, self.id, segment.base_offset);
        Ok(Arc::new(named.with_file(file)))
    }

    fn find_end(&self, segment: Arc<Segment>, before: Option<&Arc<Segment>>) -> Result<Newest> {
        if let Some(clean) = self.clean.filter(|clean| clean.segment == segment.base_offset) {
            let end = segment.with_meta(|meta| meta.end)?;
            let agrees = (end.position, end.offset, end.raft_index) == (clean.position, clean.end_offset, clean.raft_index);
            if agrees {
                return Ok(Newest { segment, end, health: Health::Healthy });
            }
        }
        let before = match before {
            Some(before) => before.with_meta(|meta| meta.end)?,
            None => SegmentEnd::empty(segment.base_offset),
        };
        let follows = before.offset == segment.base_offset;
        let file = segment.file()?;
        let found = scan(file.as_ref(), segment.base_offset, Some(before).filter(|_| follows))?;
        let mut health = Health::Healthy;
        if !follows {
            let reason = format!(
                "the segment before {} ends at offset {}, records up to {} are missing",
                segment.path().display(),
                before.offset,
                segment.base_offset
            );
            tracing::error!(partition = %self.id, "{reason}");
            health = Health::Corrupt(reason);
        } else if let Some(damage) = found.corrupt.first() {
            let reason = format!(
                "records from offset {} on are damaged in {} at byte {} ({}), below what was acknowledged as durable",
                damage.offset,
                segment.path().display(),
                damage.position,
                damage.reason
            );
            tracing::error!(partition = %self.id, "{reason}");
            health = Health::Corrupt(reason);
        } else if let Some(torn) = &found.torn {
            tracing::warn!(
                partition = %self.id, offset = %torn.offset, position = torn.position, reason = torn.reason,
                "trimmed a torn write that was never acknowledged"
            );
            file.zero_from(torn.position)?;
        }
        file.sync()?;
        let end = found.end;
        segment.set_meta(SegmentMeta { index: found.index, end });
        Ok(Newest { segment, end, health })
    }
}
