//! Opening a partition: finding its segments, deciding where its log ends, and handing it to an owner.
//!
//! Called by [`crate::log::Log`] at start and when a stream is created. A partition without records has no file.
//!
//! # Crash safety
//! After a clean stop nothing is scanned but what is small. Otherwise the newest segment is read as a whole by
//! `segment::recovery`: what is torn above the durable watermark is trimmed, durably, before anything is appended; what is damaged
//! below it stays as it is and the partition takes no writes. What no flush frame calls durable is written again and synced before
//! it is served: a killed process, or one whose sync failed, may have left it in the page cache only. A rotation that was cut off
//! can leave an empty newest file behind one that is not sealed: it is removed, and the one before is the newest.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;

use super::commit::Standalone;
use super::owned::{Opened, Owned};
use super::owner::Message;
use super::{CleanState, Health, Mailbox, Partition, PartitionOptions, Reads, Shared};
use crate::error::{Error, Result};
use crate::frame::HEADER_BYTES;
use crate::io::{DiskFile, DiskIo, Durability};
use crate::keeper::Bell;
use crate::partition::watermark::Watermark;
use crate::ram::arena::Arena;
use crate::ram::tail::Tail;
use crate::segment::active::closing_flush;
use crate::segment::recent::Recent;
use crate::segment::recovery::{Before, Scan, scan, write_again};
use crate::segment::{Producers, Segment, SegmentEnd, SegmentMeta, SegmentsOf};
use crate::types::{Offset, PartitionRef};

/// What opening a partition needs from the log.
pub(crate) struct Opening<'a> {
    pub id: PartitionRef,
    pub dir: &'a Path,
    pub io: Arc<dyn DiskIo>,
    pub arena: Arc<Arena>,
    pub recent: Arc<Recent>,
    pub bell: Arc<Bell>,
    pub options: PartitionOptions,
    pub reserve_bytes: u64,
    pub clean: Option<CleanState>,
    pub mailbox: Mailbox,
    pub slot: u64,
}

/// The log as it was found.
struct Found {
    opened: Opened,
    health: Health,
}

impl Opening<'_> {
    /// Opens the partition.
    pub fn open(self) -> Result<Partition> {
        let of = SegmentsOf { io: self.io, dir: self.dir.to_owned(), partition: self.id, recent: self.recent };
        let of = Arc::new(of);
        let mut segments = find_segments(&of)?;
        let found = open_newest(&of, &mut segments, self.clean)?;
        if let Some((active, _)) = &found.opened.active {
            // Its first write opens it again.
            active.close_file();
        }
        let end = found.opened.end;
        let durable_place = (segments.last().map_or(end.offset, |newest| newest.base_offset), end.position);
        let shared = Arc::new_cyclic(|this| Shared {
            id: self.id,
            of,
            arena: self.arena,
            options: RwLock::new(self.options),
            option_changes: AtomicU64::new(0),
            reserve_bytes: self.reserve_bytes,
            segments: RwLock::new(segments),
            tail: Arc::new(RwLock::new(Tail::default())),
            appended: Watermark::new(end.offset),
            flushed: Watermark::new(end.offset),
            committed: Watermark::new(end.offset),
            reads: Reads::default(),
            health: RwLock::new(found.health),
            durable_place: Mutex::new(durable_place),
            listeners: Mutex::default(),
            holders: Mutex::default(),
            changing: Mutex::default(),
            compacting: Mutex::default(),
            closing: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            bell: self.bell,
            this: this.clone(),
        });
        let owned = Box::new(Owned::new(Arc::clone(&shared), found.opened, Box::new(Standalone)));
        let closed = |_| Error::Closed { partition: self.id };
        self.mailbox.queue.send(Message::Attach(self.slot, owned)).map_err(closed)?;
        Ok(Partition { shared, mailbox: self.mailbox, slot: self.slot })
    }
}

fn find_segments(of: &Arc<SegmentsOf>) -> Result<Vec<Arc<Segment>>> {
    of.io.create_dir(&of.dir)?;
    let names = of.io.list(&of.dir)?;
    // Made ahead, or rewritten and not put in its place: worth nothing after a stop.
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        of.io.remove(&of.dir.join(name))?;
    }
    let bases = names.iter().filter_map(|name| Segment::parse_file_name(name));
    let segments: Vec<Arc<Segment>> = bases.map(|base| Segment::at(of, base)).collect();
    // What a clean stop left beside a segment that is sealed by now, and retention beside one that is not the first any more.
    let index = segments.last().map(|newest| newest.index_path());
    let start = segments.first().map(|first| first.start_path());
    let is_beside = |name: &&String| name.ends_with(".idx") || name.ends_with(".start");
    for path in names.iter().filter(is_beside).map(|name| of.dir.join(name)) {
        if index.as_ref() != Some(&path) && start.as_ref() != Some(&path) {
            of.io.remove(&path)?;
        }
    }
    for pair in segments.windows(2) {
        pair[0].followed_by(pair[1].base_offset);
    }
    Ok(segments)
}

/// Finds where the log ends. `segments` loses an empty newest one that a rotation left behind.
fn open_newest(of: &Arc<SegmentsOf>, segments: &mut Vec<Arc<Segment>>, clean: Option<CleanState>) -> Result<Found> {
    loop {
        let Some(newest) = segments.last() else {
            let (end, producers) = (SegmentEnd::empty(Offset::ZERO), Producers::default());
            let opened = Opened { active: None, end, previous_hash: 0, producers, newest_bytes: 0 };
            return Ok(Found { opened, health: Health::Healthy });
        };
        // It takes frames from now on, unless it turns out to be sealed.
        newest.pin();
        let before = segments.len().checked_sub(2).map(|at| &segments[at]);
        if let Some(found) = open_clean(newest, before, clean)? {
            return Ok(found);
        }
        if let Some(footer) = newest.read_footer(newest.file()?.as_ref())? {
            return opened_sealed(newest, SegmentMeta::of_footer(footer));
        }
        let blank = is_blank(newest)?;
        // A segment takes its first byte when the one before is durable; while it has none, nobody has said so.
        if let Some(before) = before.filter(|_| blank) {
            before.make_durable()?;
        }
        let standing_in_front = match before {
            Some(before) => before.before_next()?,
            None => newest.before_first()?,
        };
        let follows = standing_in_front.end.offset == newest.base_offset;
        // The one before goes on when it ends elsewhere, and also when its end was cut off behind its last entry: only a seal
        // says what was known in front of it.
        let is_sealed = || before.map_or(Ok(true), |before| before.with_meta(|meta| meta.sealed));
        if blank && before.is_some() && !(follows && is_sealed()?) {
            tracing::info!(partition = %of.partition, file = %newest.path().display(), "removed an empty segment that was begun and never used");
            of.io.remove(newest.path())?;
            let base_offset = segments.pop().map_or(Offset::ZERO, |gone| gone.base_offset);
            drop_follower(of, segments, base_offset);
            continue;
        }
        return open_scanned(of, newest, &standing_in_front);
    }
}

/// The segment in front of one that was removed is the newest again.
fn drop_follower(of: &Arc<SegmentsOf>, segments: &mut [Arc<Segment>], gone: Offset) {
    if let Some(last) = segments.last_mut().filter(|last| last.next_base() == Some(gone)) {
        *last = Segment::at(of, last.base_offset);
    }
}

fn is_blank(segment: &Segment) -> Result<bool> {
    let start: Bytes = segment.file()?.read(0, HEADER_BYTES)?;
    Ok(start.iter().all(|byte| *byte == 0))
}

/// What a clean stop recorded, if it agrees with what the files say.
fn open_clean(newest: &Arc<Segment>, before: Option<&Arc<Segment>>, clean: Option<CleanState>) -> Result<Option<Found>> {
    let Some(clean) = clean.filter(|clean| clean.segment == newest.base_offset) else { return Ok(None) };
    let (mut meta, producers) = if clean.position > CleanState::SCANNED_BYTES_MAX {
        let Some(footer) = newest.load_index()? else { return Ok(None) };
        let (meta, producers) = SegmentMeta::of_footer(footer);
        (SegmentMeta { sealed: false, ..meta }, producers)
    } else {
        let in_front = match before {
            Some(before) => before.before_next()?,
            None => newest.before_first()?,
        };
        let Scan { meta, producers, .. } =
            scan(newest.file()?.as_ref(), newest.base_offset, Some(&in_front), Some(clean.position))?;
        (meta, producers)
    };
    let end = &mut meta.end;
    if (end.position, end.offset, end.raft_index) != (clean.position, clean.end_offset, clean.raft_index) {
        return Ok(None);
    }
    // All that was given out is here.
    end.ceiling = end.offset;
    let (end, previous_hash) = (meta.end, meta.previous_hash);
    newest.set_meta(meta);
    let file_bytes = newest.file()?.len_bytes()?;
    let active = Some((Arc::clone(newest), file_bytes));
    let opened = Opened { active, end, previous_hash, producers, newest_bytes: file_bytes };
    Ok(Some(Found { opened, health: Health::Healthy }))
}

/// The newest segment takes no more frames: the log goes on in the next one.
fn opened_sealed(newest: &Arc<Segment>, (meta, producers): (SegmentMeta, Producers)) -> Result<Found> {
    let end = SegmentEnd { position: 0, ..meta.end }.without_timestamps();
    let previous_hash = meta.tally.hash;
    newest.set_meta(meta);
    newest.followed_by(end.offset);
    let file = newest.file()?;
    file.sync()?;
    let opened = Opened { active: None, end, previous_hash, producers, newest_bytes: file.len_bytes()? };
    newest.settled();
    Ok(Found { opened, health: Health::Healthy })
}

/// What stands in the newest segment.
fn scan_newest(newest: &Segment, file: &dyn DiskFile, before: Option<&Before>) -> Result<Scan> {
    let found = scan(file, newest.base_offset, before, None)?;
    if found.torn.is_some() {
        // Inside a compacted segment the chain breaks, which must not be taken for a tear.
        let unchained = scan(file, newest.base_offset, None, None)?;
        if unchained.meta.compacted && unchained.torn.is_none() {
            return Ok(unchained);
        }
    }
    Ok(found)
}

fn open_scanned(of: &Arc<SegmentsOf>, newest: &Arc<Segment>, before: &Before) -> Result<Found> {
    let follows = before.end.offset == newest.base_offset;
    let file = newest.file()?;
    let scan_it = || scan_newest(newest, file.as_ref(), Some(before).filter(|_| follows));
    let mut found = scan_it()?;
    if follows && found.corrupt.is_empty() && write_again(file.as_ref(), found.durable_until, found.meta.end.position)? {
        // The file and the system's memory of it agree from here on; what they agree on is what was written.
        found = scan_it()?;
    }
    let mut health = Health::Healthy;
    if !follows {
        let reason = format!(
            "the segment before {} ends at offset {}, records up to {} are missing",
            newest.path().display(),
            before.end.offset,
            newest.base_offset
        );
        tracing::error!(partition = %of.partition, "{reason}");
        health = Health::Corrupt(reason);
    } else if let Some(damage) = found.corrupt.first() {
        let reason = format!(
            "records from offset {} on are damaged in {} at byte {} ({}), below what was acknowledged as durable",
            damage.offset,
            newest.path().display(),
            damage.position,
            damage.reason
        );
        tracing::error!(partition = %of.partition, "{reason}");
        health = Health::Corrupt(reason);
    } else if let Some(torn) = &found.torn {
        tracing::warn!(
            partition = %of.partition, offset = %torn.offset, position = torn.position, reason = torn.reason,
            "trimmed a torn write that was never acknowledged"
        );
        file.zero_from(torn.position)?;
    }
    if health == Health::Healthy && found.meta.sealed {
        return opened_sealed(newest, (found.meta, found.producers));
    }
    if health == Health::Healthy
        && let Some(flush) = closing_flush(&found.meta.end)
    {
        // Whole frames of a torn write are kept; what comes next starts at a block.
        let at = found.meta.end.position;
        found.meta.end.position += flush.len() as u64;
        file.write(at, &[flush.into()], Durability::Data)?;
    }
    file.sync()?;
    let (end, previous_hash, newest_bytes) = (found.meta.end, found.meta.previous_hash, file.len_bytes()?);
    newest.set_meta(found.meta);
    let active = Some((Arc::clone(newest), newest_bytes));
    Ok(Found { opened: Opened { active, end, previous_hash, producers: found.producers, newest_bytes }, health })
}
