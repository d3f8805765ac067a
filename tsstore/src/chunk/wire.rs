//! The primitives of the file formats: little-endian numbers, sized and packed byte strings, checksums behind blocks.
//!
//! What is wrong with bytes is said in words, as `&'static str`; the caller adds the file and the position.

use std::borrow::Cow;

use logcore::types::len_u32;

/// What is wrong with some bytes.
pub(crate) type Damage = &'static str;

/// The checksum behind a block.
pub(crate) const CHECKSUM_BYTES: usize = 4;
/// No packed string unfolds into more than this: Arrow's `Utf8` can't hold more either.
const UNPACKED_BYTES_MAX: usize = i32::MAX.cast_unsigned() as usize;
const ZSTD_LEVEL: i32 = 3;

/// Appends a byte string with its length in front.
pub(crate) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&len_u32(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a byte string, compressed when that makes it shorter: its own length, the length stored, the bytes.
pub(crate) fn put_packed(out: &mut Vec<u8>, raw: &[u8]) {
    out.extend_from_slice(&len_u32(raw.len()).to_le_bytes());
    match zstd::bulk::compress(raw, ZSTD_LEVEL) {
        Ok(packed) if packed.len() < raw.len() => put_sized(out, &packed),
        _ => put_sized(out, raw),
    }
}

/// Puts the checksum behind a block.
pub(crate) fn seal(mut body: Vec<u8>) -> Vec<u8> {
    let checksum = logcore::frame::checksum(&body);
    body.extend_from_slice(&checksum.to_le_bytes());
    body
}

/// Takes the checksum off a block, verified.
pub(crate) fn unseal(block: &[u8]) -> Result<&[u8], Damage> {
    let (body, checksum) = block.split_last_chunk::<CHECKSUM_BYTES>().ok_or("it is shorter than its checksum")?;
    if logcore::frame::checksum(body) == u32::from_le_bytes(*checksum) { Ok(body) } else { Err("its checksum is wrong") }
}

/// Reads numbers and strings off the front of some bytes.
pub(crate) struct Input<'a> {
    rest: &'a [u8],
    unpacked_bytes_max: usize,
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, unpacked_bytes_max: UNPACKED_BYTES_MAX }
    }

    /// As [`Self::new`], for bytes that may claim anything: no packed string may unfold into more than `bytes_max`.
    pub fn bounded(bytes: &'a [u8], bytes_max: usize) -> Self {
        Self { rest: bytes, unpacked_bytes_max: bytes_max }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (array, rest) = self.rest.split_first_chunk().ok_or("it ends too early")?;
        self.rest = rest;
        Ok(*array)
    }

    pub fn u8(&mut self) -> Result<u8, Damage> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Damage> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Damage> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Damage> {
        self.array().map(i64::from_le_bytes)
    }

    pub fn i128(&mut self) -> Result<i128, Damage> {
        self.array().map(i128::from_le_bytes)
    }

    pub fn f64(&mut self) -> Result<f64, Damage> {
        self.array().map(f64::from_le_bytes)
    }

    /// A count of things of which each takes at least `bytes_min` of what is left, so that it may size an allocation.
    pub fn count(&mut self, bytes_min: usize) -> Result<usize, Damage> {
        let count = self.u32()? as usize;
        if count.saturating_mul(bytes_min) > self.rest.len() { Err("it counts more than it holds") } else { Ok(count) }
    }

    pub fn sized(&mut self) -> Result<&'a [u8], Damage> {
        let len = self.count(1)?;
        let (bytes, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(bytes)
    }

    pub fn text(&mut self) -> Result<&'a str, Damage> {
        std::str::from_utf8(self.sized()?).map_err(|_| "a string in it is not UTF-8")
    }

    pub fn packed(&mut self) -> Result<Cow<'a, [u8]>, Damage> {
        let len = self.u32()? as usize;
        let stored = self.sized()?;
        if stored.len() == len {
            return Ok(Cow::Borrowed(stored));
        }
        if len > self.unpacked_bytes_max {
            return Err("a string in it is too long");
        }
        let raw = zstd::bulk::decompress(stored, len).map_err(|_| "a zstd frame in it is damaged")?;
        if raw.len() == len { Ok(Cow::Owned(raw)) } else { Err("a zstd frame in it has the wrong length") }
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or("it ends too early")?;
        self.rest = rest;
        Ok(bytes)
    }

    /// What was not read yet.
    pub fn remaining(self) -> &'a [u8] {
        self.rest
    }

    /// Checks that everything was read.
    pub fn end(self) -> Result<(), Damage> {
        if self.rest.is_empty() { Ok(()) } else { Err("it is longer than its content") }
    }
}
