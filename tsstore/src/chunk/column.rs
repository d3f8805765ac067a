//! One column of one page, as a block of bytes and back.
//!
//! Encoded by [`super::sealed::ChunkWriter`], decoded by [`super::sealed::SealedChunk`] when a scan needs the column. Numbers go
//! through pco, which finds decimal steps and regular intervals by itself; strings are stored once a page when they repeat.
//!
//! # Invariants
//! - What is decoded equals what was encoded, bit for bit.
//! - Nothing of a block is looked at before its checksum was verified; a block that is whole but makes no sense is damage too.
//!
//! # Format
//! `docs/format.md`, "Chunk file", "Block". Nulls are a bitmap; values are stored for the rows that have one.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use logcore::types::len_u32;
use pco::ChunkConfig;
use pco::data_types::Number;
use pco::standalone::{simple_compress_into, simple_decompress_into};

use super::wire::{Damage, Input, put_packed, seal, unseal};
use crate::error::Error;
use crate::schema::{ColumnKind, FieldKind};

const NUMBERS: u8 = 1;
const BITS: u8 = 2;
const TEXT: u8 = 3;
const DICTIONARY: u8 = 4;

/// The block of a column.
pub(crate) fn encode(array: &dyn Array, level: usize) -> Result<Vec<u8>, Error> {
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
    match array.data_type() {
        DataType::Timestamp(..) => numbers(array.as_primitive::<TimestampMicrosecondType>().values(), nulls, level),
        DataType::Int64 => numbers(array.as_primitive::<Int64Type>().values(), nulls, level),
        DataType::Float64 => numbers(array.as_primitive::<Float64Type>().values(), nulls, level),
        DataType::Boolean => Ok(bits(array.as_boolean(), nulls)),
        DataType::Utf8 => text(array.as_string(), nulls, level),
        other => Err(Error::Compression { detail: format!("no encoding for {other}") }),
    }
}

/// The block of the points' offsets.
pub(crate) fn encode_offsets(offsets: &[u64], level: usize) -> Result<Vec<u8>, Error> {
    numbers(offsets, None, level)
}

fn header(encoding: u8, nulls: Option<&NullBuffer>) -> Vec<u8> {
    let mut body = vec![encoding, u8::from(nulls.is_some())];
    if let Some(nulls) = nulls {
        put_bits(&mut body, nulls.len(), |row| nulls.is_valid(row));
    }
    body
}

fn put_bits(body: &mut Vec<u8>, len: usize, bit: impl FnMut(usize) -> bool) {
    put_packed(body, BooleanBuffer::collect_bool(len, bit).into_inner().as_slice());
}

fn numbers<T: Number>(values: &[T], nulls: Option<&NullBuffer>, level: usize) -> Result<Vec<u8>, Error> {
    let mut body = header(NUMBERS, nulls);
    match nulls {
        Some(nulls) => put_numbers(&mut body, &nulls.valid_indices().map(|row| values[row]).collect::<Vec<_>>(), level)?,
        None => put_numbers(&mut body, values, level)?,
    }
    Ok(seal(body))
}

fn put_numbers<T: Number>(body: &mut Vec<u8>, values: &[T], level: usize) -> Result<(), Error> {
    if !values.is_empty() {
        simple_compress_into(values, &ChunkConfig::default().with_compression_level(level), body)
            .map_err(|error| Error::Compression { detail: error.to_string() })?;
    }
    Ok(())
}

fn bits(array: &BooleanArray, nulls: Option<&NullBuffer>) -> Vec<u8> {
    let mut body = header(BITS, nulls);
    let present: Vec<bool> = array.iter().flatten().collect();
    put_bits(&mut body, present.len(), |at| present[at]);
    seal(body)
}

fn text(array: &StringArray, nulls: Option<&NullBuffer>, level: usize) -> Result<Vec<u8>, Error> {
    let present: Vec<&str> = array.iter().flatten().collect();
    let Some((entries, codes)) = dictionary(&present) else {
        let mut body = header(TEXT, nulls);
        put_strings(&mut body, &present);
        return Ok(seal(body));
    };
    let mut body = header(DICTIONARY, nulls);
    put_strings(&mut body, &entries);
    put_numbers(&mut body, &codes, level)?;
    Ok(seal(body))
}

/// The distinct strings in order of appearance and the number of each row's, unless most rows have a string of their own.
fn dictionary<'a>(rows: &[&'a str]) -> Option<(Vec<&'a str>, Vec<u32>)> {
    let mut numbers = HashMap::new();
    let mut entries = Vec::new();
    let mut codes = Vec::with_capacity(rows.len());
    for &row in rows {
        let code = *numbers.entry(row).or_insert_with(|| {
            entries.push(row);
            len_u32(entries.len() - 1)
        });
        codes.push(code);
        if entries.len() > rows.len() / 2 {
            return None;
        }
    }
    Some((entries, codes))
}

fn put_strings(body: &mut Vec<u8>, strings: &[&str]) {
    let mut raw = Vec::with_capacity(strings.iter().map(|string| string.len() + 4).sum());
    for string in strings {
        raw.extend_from_slice(&len_u32(string.len()).to_le_bytes());
    }
    for string in strings {
        raw.extend_from_slice(string.as_bytes());
    }
    body.extend_from_slice(&len_u32(strings.len()).to_le_bytes());
    put_packed(body, &raw);
}

/// The column in a block of `rows` rows.
pub(crate) fn decode(kind: ColumnKind, block: &[u8], rows: usize) -> Result<ArrayRef, Damage> {
    let body = Body::open(block, rows)?;
    Ok(match kind {
        ColumnKind::Time => {
            let (values, nulls) = body.numbers::<i64>()?;
            if nulls.is_some() {
                return Err("a time in it is null");
            }
            Arc::new(TimestampMicrosecondArray::new(values, None).with_timezone("UTC"))
        }
        ColumnKind::Field(FieldKind::Integer) => {
            let (values, nulls) = body.numbers()?;
            Arc::new(Int64Array::new(values, nulls))
        }
        ColumnKind::Field(FieldKind::Float) => {
            let (values, nulls) = body.numbers()?;
            Arc::new(Float64Array::new(values, nulls))
        }
        ColumnKind::Field(FieldKind::Boolean) => Arc::new(body.bits()?),
        ColumnKind::Tag | ColumnKind::Field(FieldKind::Text) => body.text()?,
    })
}

/// The offsets in a block of `rows` rows.
pub(crate) fn decode_offsets(block: &[u8], rows: usize) -> Result<Vec<u64>, Damage> {
    let body = Body::open(block, rows)?;
    if body.nulls.is_some() || body.encoding != NUMBERS {
        return Err("it holds no offsets");
    }
    read_numbers(body.input.remaining(), rows)
}

/// Which rows of a text block hold one of `wanted`. A null row holds none.
pub(crate) fn decode_membership(block: &[u8], rows: usize, wanted: &[String]) -> Result<BooleanBuffer, Damage> {
    let mut body = Body::open(block, rows)?;
    if body.encoding != DICTIONARY {
        return Ok(membership(body.text()?.as_string(), wanted));
    }
    let entries = read_strings(&mut body.input)?;
    let hits: Vec<bool> = entries.iter().map(|entry| entry.is_some_and(|entry| wanted.iter().any(|one| one == entry))).collect();
    let codes = read_numbers::<u32>(body.input.remaining(), body.present)?;
    if codes.iter().any(|&code| code as usize >= hits.len()) {
        return Err("a string number in it is too large");
    }
    let Some(nulls) = body.nulls else {
        return Ok(BooleanBuffer::collect_bool(rows, |row| hits[codes[row] as usize]));
    };
    let mut codes = codes.into_iter();
    Ok(nulls.iter().map(|valid| valid && codes.next().is_some_and(|code| hits[code as usize])).collect())
}

/// Which rows of a text column hold one of `wanted`.
pub(crate) fn membership(array: &StringArray, wanted: &[String]) -> BooleanBuffer {
    BooleanBuffer::collect_bool(array.len(), |row| array.is_valid(row) && wanted.iter().any(|one| one == array.value(row)))
}

/// A verified block, read up to its values.
struct Body<'a> {
    encoding: u8,
    rows: usize,
    present: usize,
    nulls: Option<NullBuffer>,
    input: Input<'a>,
}

impl<'a> Body<'a> {
    fn open(block: &'a [u8], rows: usize) -> Result<Self, Damage> {
        let mut input = Input::new(unseal(block)?);
        let encoding = input.u8()?;
        let nulls = match input.u8()? {
            0 => None,
            1 => Some(NullBuffer::new(read_bits(&mut input, rows)?)),
            _ => return Err("its null flag is neither 0 nor 1"),
        };
        let present = rows - nulls.as_ref().map_or(0, NullBuffer::null_count);
        Ok(Self { encoding, rows, present, nulls, input })
    }

    fn expect(&self, encoding: u8) -> Result<(), Damage> {
        if self.encoding == encoding { Ok(()) } else { Err("its encoding doesn't fit the column") }
    }

    fn numbers<T: Number + arrow::datatypes::ArrowNativeType>(self) -> Result<(ScalarBuffer<T>, Option<NullBuffer>), Damage> {
        self.expect(NUMBERS)?;
        let values = read_numbers(self.input.remaining(), self.present)?;
        Ok((ScalarBuffer::from(spread(values, self.rows, self.nulls.as_ref())), self.nulls))
    }

    fn bits(mut self) -> Result<BooleanArray, Damage> {
        self.expect(BITS)?;
        let values = read_bits(&mut self.input, self.present)?;
        self.input.end()?;
        let values = match &self.nulls {
            None => values,
            Some(nulls) => spread(values.iter().collect(), self.rows, Some(nulls)).into(),
        };
        Ok(BooleanArray::new(values, self.nulls))
    }

    fn text(mut self) -> Result<ArrayRef, Damage> {
        let strings = read_strings(&mut self.input)?;
        let (numbers, damage) = match self.encoding {
            TEXT => {
                self.input.end()?;
                if strings.len() != self.present {
                    return Err("it holds too many or too few strings");
                }
                if self.nulls.is_none() {
                    return Ok(Arc::new(strings));
                }
                ((0..len_u32(self.present)).collect(), "its strings are out of order")
            }
            DICTIONARY => (read_numbers::<u32>(self.input.remaining(), self.present)?, "a string number in it is too large"),
            _ => return Err("its encoding doesn't fit the column"),
        };
        if numbers.iter().any(|&number| number as usize >= strings.len()) {
            return Err(damage);
        }
        let numbers = UInt32Array::new(spread(numbers, self.rows, self.nulls.as_ref()).into(), self.nulls);
        arrow::compute::take(&strings, &numbers, None).map_err(|_| "its strings take too much memory")
    }
}

/// Puts the values of the rows that have one at their places.
fn spread<T: Copy + Default>(values: Vec<T>, rows: usize, nulls: Option<&NullBuffer>) -> Vec<T> {
    let Some(nulls) = nulls else { return values };
    let mut all = vec![T::default(); rows];
    for (row, value) in nulls.valid_indices().zip(values) {
        all[row] = value;
    }
    all
}

fn read_numbers<T: Number>(bytes: &[u8], count: usize) -> Result<Vec<T>, Damage> {
    let mut values = vec![T::default(); count];
    if count == 0 {
        return if bytes.is_empty() { Ok(values) } else { Err("it holds numbers where none should be") };
    }
    let progress = simple_decompress_into(bytes, &mut values).map_err(|_| "its numbers don't unpack")?;
    if progress.n_processed == count && progress.finished { Ok(values) } else { Err("it holds too many or too few numbers") }
}

fn read_bits(input: &mut Input<'_>, len: usize) -> Result<BooleanBuffer, Damage> {
    let bytes = input.packed()?;
    if bytes.len() != len.div_ceil(8) {
        return Err("a bitmap in it has the wrong length");
    }
    Ok(BooleanBuffer::new(Buffer::from_vec(bytes.into_owned()), 0, len))
}

fn read_strings(input: &mut Input<'_>) -> Result<StringArray, Damage> {
    let count = input.u32()? as usize;
    let raw = input.packed()?;
    let lengths_bytes = count.checked_mul(4).filter(|&bytes| bytes <= raw.len()).ok_or("it counts more strings than it holds")?;
    let (lengths, bytes) = raw.split_at(lengths_bytes);
    let mut offsets = Vec::with_capacity(count + 1);
    let mut end = 0_i32;
    offsets.push(end);
    for length in lengths.as_chunks().0 {
        let length = i32::try_from(u32::from_le_bytes(*length)).map_err(|_| "a string in it is too long")?;
        end = end.checked_add(length).ok_or("its strings are too long")?;
        offsets.push(end);
    }
    if usize::try_from(end) != Ok(bytes.len()) {
        return Err("its strings don't fill their space");
    }
    StringArray::try_new(OffsetBuffer::new(offsets.into()), Buffer::from_vec(bytes.to_vec()), None)
        .map_err(|_| "a string in it is not UTF-8")
}
