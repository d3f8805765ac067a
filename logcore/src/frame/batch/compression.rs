//! How the records of a batch are packed: the four codecs of Kafka's producers, and none.
//!
//! [`super::builder`] and [`super::rewrite()`] pack, [`super::reader`] unpacks.
//!
//! # Format
//! `docs/format.md`, "Batch". Snappy is written in the framing of xerial's Java library, as Kafka's Java producer does; producers
//! in C send one bare block, and both are read. Lz4 is the frame format with independent blocks of 64 KiB, the only kind that
//! Kafka's Java consumer reads.

use std::io::{self, Read, Write};
use std::str::FromStr;

use bytes::Bytes;
use thiserror::Error;

use super::invalid;
use crate::error::Result;
use crate::types::len_u32;

/// The records of a batch may not unfold into more than this; nobody should append what does.
pub const RECORDS_BYTES_MAX: usize = 64 << 20;

const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// Magic, version, and the oldest version that can read it.
const XERIAL_HEADER_BYTES: usize = 16;
const XERIAL_VERSION: u32 = 1;
const XERIAL_BLOCK_BYTES: usize = 32 << 10;
const ZSTD_LEVEL: i32 = 3;

/// How records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, level 6.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard, level 3.
    Zstd,
}

/// A name that is none of [`Compression::name`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("compression `{name}` is not known; use none, gzip, snappy, lz4 or zstd")]
pub struct UnknownCompression {
    /// What was asked for.
    pub name: String,
}

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|compression| compression.name() == name);
        found.ok_or_else(|| UnknownCompression { name: name.to_owned() })
    }
}

impl Compression {
    /// All there are, in the order of their numbers in a batch.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// What it is called in SQL and over HTTP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Its number in a batch's attributes.
    pub(super) const fn number(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    pub(super) fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| compression.number() == number)
    }

    /// Appends `records` to `out`, packed.
    pub(super) fn pack(self, records: &[u8], out: &mut Vec<u8>) {
        let packed = match self {
            Self::None => out.write_all(records),
            Self::Gzip => pack_gzip(records, out),
            Self::Snappy => pack_snappy(records, out),
            Self::Lz4 => pack_lz4(records, out),
            Self::Zstd => pack_zstd(records, ZSTD_LEVEL, out),
        };
        packed.expect("compressing into memory does not fail");
    }

    /// What [`Self::pack`], or a Kafka producer, packed.
    ///
    /// # Errors
    /// [`crate::Error::InvalidBatch`] when it is damaged or holds more than [`RECORDS_BYTES_MAX`].
    pub(super) fn unpack(self, packed: &Bytes) -> Result<Bytes> {
        let records = match self {
            Self::None => return Ok(packed.clone()),
            Self::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(&packed[..])),
            Self::Snappy => unpack_snappy(packed),
            Self::Lz4 => read_bounded(lz4_flex::frame::FrameDecoder::new(&packed[..])),
            Self::Zstd => zstd::stream::read::Decoder::with_buffer(&packed[..]).and_then(read_bounded),
        };
        let records = records.map_err(|error| invalid(format!("{}: {error}", self.name())))?;
        if records.len() > RECORDS_BYTES_MAX {
            return Err(invalid(format!("its records unpack to more than {RECORDS_BYTES_MAX} bytes")));
        }
        Ok(records.into())
    }
}

/// Reads up to one byte over the limit, for the caller to see.
fn read_bounded(decoder: impl Read) -> io::Result<Vec<u8>> {
    let mut records = Vec::new();
    decoder.take(RECORDS_BYTES_MAX as u64 + 1).read_to_end(&mut records)?;
    Ok(records)
}

fn pack_gzip(records: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
    encoder.write_all(records)?;
    encoder.finish().map(drop)
}

fn pack_lz4(records: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let frame = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(frame, out);
    encoder.write_all(records)?;
    encoder.finish()?;
    Ok(())
}

/// Also called by [`super::rewrite()`], with other levels.
pub(super) fn pack_zstd(records: &[u8], level: i32, out: &mut Vec<u8>) -> io::Result<()> {
    let at = out.len();
    out.resize(at + zstd::zstd_safe::compress_bound(records.len()), 0);
    let packed = zstd::bulk::compress_to_buffer(records, &mut out[at..], level)?;
    out.truncate(at + packed);
    Ok(())
}

fn pack_snappy(records: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(XERIAL_MAGIC);
    out.extend_from_slice(&XERIAL_VERSION.to_be_bytes());
    out.extend_from_slice(&XERIAL_VERSION.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(XERIAL_BLOCK_BYTES) {
        let at = out.len() + 4;
        out.resize(at + snap::raw::max_compress_len(block.len()), 0);
        let packed = encoder.compress(block, &mut out[at..])?;
        out[at - 4..at].copy_from_slice(&len_u32(packed).to_be_bytes());
        out.truncate(at + packed);
    }
    Ok(())
}

fn unpack_snappy(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut records = Vec::new();
    if !packed.starts_with(XERIAL_MAGIC) {
        unpack_snappy_block(packed, &mut records)?;
        return Ok(records);
    }
    let mut rest = packed.get(XERIAL_HEADER_BYTES..).ok_or(io::ErrorKind::UnexpectedEof)?;
    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(io::Error::other)?;
        let (block, behind) = behind.split_at_checked(len).ok_or(io::ErrorKind::UnexpectedEof)?;
        unpack_snappy_block(block, &mut records)?;
        rest = behind;
    }
    if rest.is_empty() { Ok(records) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The block says how long it is unpacked: believed only within the limit.
fn unpack_snappy_block(block: &[u8], records: &mut Vec<u8>) -> io::Result<()> {
    let at = records.len();
    let len = snap::raw::decompress_len(block)?;
    if len > RECORDS_BYTES_MAX - at {
        return Err(io::Error::other(format!("it unpacks to more than {RECORDS_BYTES_MAX} bytes")));
    }
    records.resize(at + len, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut records[at..])?;
    records.truncate(at + written);
    Ok(())
}
