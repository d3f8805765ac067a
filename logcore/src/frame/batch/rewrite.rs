//! Takes records out of a batch: what compaction does to it.
//!
//! Called by `segment::compact`. Everything that says where the batch stands and who sent it is kept; the records that stay keep
//! their offsets, so the batch covers more offsets than it has records.

use bytes::Bytes;

use super::builder::pack;
use super::compression::{Compression, pack_zstd};
use super::header::{BATCH_HEADER_BYTES, Header};
use super::reader::{Batch, Record};
use crate::error::{Error, Result};
use crate::frame::header::{FRAME_BYTES_MAX, HEADER_BYTES};
use crate::types::len_u32;

/// Tried one after the other when a batch grows over the limit, because its producer packed it better than is done here.
const TIGHTER_ZSTD_LEVELS: [i32; 2] = [3, 19];

/// What [`rewrite`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewritten {
    /// Every record stays: the batch is good as it is.
    Unchanged,
    /// No record stays, and a batch without records there is not.
    Empty,
    /// The batch with fewer records.
    Batch(Vec<u8>),
}

/// Keeps the records of `batch` that `keep` says; it is asked once for each, in order.
///
/// Base offset, epoch, base timestamp, last offset delta, max timestamp, producer and compression stay; count and CRC are made
/// anew. Only a batch that would no longer fit into a frame is packed with zstd instead of what its producer chose.
///
/// # Errors
/// [`Error::InvalidBatch`] when the batch or one of its records is malformed, [`Error::BatchTooLarge`] when no frame holds the
/// result however it is packed.
pub fn rewrite(batch: &Bytes, keep: impl FnMut(&Record<'_>) -> bool) -> Result<Rewritten> {
    rewrite_within(FRAME_BYTES_MAX - HEADER_BYTES, batch, keep)
}

pub(super) fn rewrite_within(max: usize, batch: &Bytes, mut keep: impl FnMut(&Record<'_>) -> bool) -> Result<Rewritten> {
    let batch = Batch::open(batch)?;
    // Nothing is copied before the first record goes.
    let (mut count, mut kept) = (0_usize, None::<Vec<u8>>);
    let mut records = batch.records();
    loop {
        let before = records.rest;
        let Some(record) = records.next() else { break };
        let raw = &before[..before.len() - records.rest.len()];
        let stays = keep(&record?);
        match &mut kept {
            Some(kept) if stays => kept.extend_from_slice(raw),
            None if !stays => {
                let taken = batch.records.len() - before.len();
                let mut room = Vec::with_capacity(BATCH_HEADER_BYTES + batch.records.len() - raw.len());
                room.resize(BATCH_HEADER_BYTES, 0);
                room.extend_from_slice(&batch.records[..taken]);
                kept = Some(room);
            }
            _ => {}
        }
        count += usize::from(stays);
    }
    let Some(kept) = kept else { return Ok(Rewritten::Unchanged) };
    if count == 0 {
        return Ok(Rewritten::Empty);
    }
    let mut header = Header { count: len_u32(count), ..batch.header };
    let mut out = match header.compression {
        Compression::None => kept,
        compression => repack(&mut header, &kept[BATCH_HEADER_BYTES..], compression, max),
    };
    if out.len() > max {
        return Err(Error::BatchTooLarge { bytes: out.len(), max });
    }
    header.write(&mut out);
    Ok(Rewritten::Batch(out))
}

fn repack(header: &mut Header, records: &[u8], compression: Compression, max: usize) -> Vec<u8> {
    let mut out = pack(compression, records);
    for level in TIGHTER_ZSTD_LEVELS {
        if out.len() <= max {
            break;
        }
        header.compression = Compression::Zstd;
        out.truncate(BATCH_HEADER_BYTES);
        pack_zstd(records, level, &mut out).expect("compressing into memory does not fail");
    }
    out
}
