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

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, DictionaryArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType, UInt32Type};
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
const PLAIN: u8 = 5;
const DECIMALS: u8 = 6;
/// Decimal places that are looked for, most.
const PLACES_MAX: u8 = 6;
/// Values that are tried before all are.
const SAMPLE: usize = 32;
/// Integers up to this are floats without rounding.
const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;
/// Fewer numbers than this are stored as they are: pco's tables take more than they save.
const PACKED_NUMBERS_MIN: usize = 24;

/// The block of a column.
pub(crate) fn encode(array: &dyn Array, level: usize) -> Result<Vec<u8>, Error> {
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
    match array.data_type() {
        DataType::Timestamp(..) => numbers(array.as_primitive::<TimestampMicrosecondType>().values(), nulls, level),
        DataType::Int64 => numbers(array.as_primitive::<Int64Type>().values(), nulls, level),
        DataType::Float64 => floats(array.as_primitive::<Float64Type>().values(), nulls, level),
        DataType::Boolean => Ok(bits(array.as_boolean(), nulls)),
        DataType::Utf8 => text(array.as_string(), nulls, level),
        other => Err(Error::Compression { detail: format!("no encoding for {other}") }),
    }
}

/// The block of times or offsets.
pub(crate) fn encode_numbers_block<T: PlainNumber>(values: &[T], level: usize) -> Result<Vec<u8>, Error> {
    numbers(values, None, level)
}

/// Numbers of any kind without nulls, as a block of their own.
pub(crate) fn encode_numbers<T: Number>(values: &[T], level: usize) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    put_numbers(&mut body, values, level)?;
    Ok(seal(body))
}

/// What [`encode_numbers`] made.
pub(crate) fn decode_numbers<T: Number>(block: &[u8], count: usize) -> Result<Vec<T>, Damage> {
    read_numbers(unseal(block)?, count)
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

fn numbers<T: PlainNumber>(values: &[T], nulls: Option<&NullBuffer>, level: usize) -> Result<Vec<u8>, Error> {
    let present: Cow<'_, [T]> = match nulls {
        Some(nulls) => Cow::Owned(nulls.valid_indices().map(|row| values[row]).collect()),
        None => Cow::Borrowed(values),
    };
    if present.len() < PACKED_NUMBERS_MIN {
        let mut body = header(PLAIN, nulls);
        present.iter().for_each(|value| body.extend_from_slice(&value.plain()));
        return Ok(seal(body));
    }
    let mut body = header(NUMBERS, nulls);
    put_numbers(&mut body, &present, level)?;
    Ok(seal(body))
}

/// Floats: most sensors round to some decimal places, and integers pack and unpack better than what pco makes of such floats.
fn floats(values: &[f64], nulls: Option<&NullBuffer>, level: usize) -> Result<Vec<u8>, Error> {
    let present: Cow<'_, [f64]> = match nulls {
        Some(nulls) => Cow::Owned(nulls.valid_indices().map(|row| values[row]).collect()),
        None => Cow::Borrowed(values),
    };
    if present.len() < PACKED_NUMBERS_MIN {
        return numbers(values, nulls, level);
    }
    let found = (0..=PLACES_MAX).find_map(|places| Some((places, decimals(&present, places)?)));
    let Some((places, integers)) = found else { return numbers(values, nulls, level) };
    let mut body = header(DECIMALS, nulls);
    body.push(places);
    put_numbers(&mut body, &integers, level)?;
    Ok(seal(body))
}

/// The values as integers of units of the last decimal place, if all of them come back bit for bit.
fn decimals(values: &[f64], places: u8) -> Option<Vec<i64>> {
    let scale = 10_f64.powi(i32::from(places));
    let integer = |value: f64| {
        let scaled = (value * scale).round();
        #[allow(clippy::cast_possible_truncation, reason = "it is checked below that the value comes back; casts saturate")]
        let integer = scaled as i64;
        (scaled.abs() < INTEGER_MAX && from_decimal(integer, scale).to_bits() == value.to_bits()).then_some(integer)
    };
    if values.iter().take(SAMPLE).any(|&value| integer(value).is_none()) {
        return None;
    }
    values.iter().map(|&value| integer(value)).collect()
}

fn from_decimal(integer: i64, scale: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "integers that were written are floats without rounding")]
    let float = integer as f64;
    float / scale
}

/// A number of eight bytes that can also be stored as it is.
pub(crate) trait PlainNumber: Number + Copy + Default {
    /// Its bytes, the lowest first.
    fn plain(self) -> [u8; 8];
    /// What [`Self::plain`] gave.
    fn from_plain(raw: [u8; 8]) -> Self;
}

macro_rules! plain_number {
    ($($number:ty),*) => {$(
        impl PlainNumber for $number {
            fn plain(self) -> [u8; 8] {
                self.to_le_bytes()
            }

            fn from_plain(raw: [u8; 8]) -> Self {
                Self::from_le_bytes(raw)
            }
        }
    )*};
}
plain_number!(i64, u64, f64);

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
    decode_bounded(kind, block, rows, usize::MAX)
}

/// As [`decode`], for a block that may claim anything: no more than `bytes_max` is unpacked at once.
pub(crate) fn decode_bounded(kind: ColumnKind, block: &[u8], rows: usize, bytes_max: usize) -> Result<ArrayRef, Damage> {
    let body = Body::open(block, rows, bytes_max)?;
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
            let (values, nulls) = body.floats()?;
            Arc::new(Float64Array::new(values, nulls))
        }
        ColumnKind::Field(FieldKind::Boolean) => Arc::new(body.bits()?),
        ColumnKind::Tag => Arc::new(body.dictionary()?),
        ColumnKind::Field(FieldKind::Text) => body.text()?,
    })
}

/// The offsets in a block of `rows` rows.
pub(crate) fn decode_offsets(block: &[u8], rows: usize) -> Result<ScalarBuffer<u64>, Damage> {
    let body = Body::open(block, rows, usize::MAX)?;
    if body.nulls.is_some() {
        return Err("it holds no offsets");
    }
    Ok(body.numbers()?.0)
}

/// The times in a block of `rows` rows.
pub(crate) fn decode_times(block: &[u8], rows: usize) -> Result<ScalarBuffer<i64>, Damage> {
    let body = Body::open(block, rows, usize::MAX)?;
    if body.nulls.is_some() {
        return Err("a time in it is null");
    }
    Ok(body.numbers()?.0)
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
    fn open(block: &'a [u8], rows: usize, bytes_max: usize) -> Result<Self, Damage> {
        let mut input = Input::bounded(unseal(block)?, bytes_max.min(i32::MAX.cast_unsigned() as usize));
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

    fn numbers<T: PlainNumber + arrow::datatypes::ArrowNativeType>(
        self,
    ) -> Result<(ScalarBuffer<T>, Option<NullBuffer>), Damage> {
        let values = if self.encoding == PLAIN {
            let (raw, rest) = self.input.remaining().as_chunks();
            if raw.len() != self.present || !rest.is_empty() {
                return Err("it holds too many or too few numbers");
            }
            raw.iter().map(|raw| T::from_plain(*raw)).collect()
        } else {
            self.expect(NUMBERS)?;
            read_numbers(self.input.remaining(), self.present)?
        };
        Ok((ScalarBuffer::from(spread(values, self.rows, self.nulls.as_ref())), self.nulls))
    }

    fn floats(mut self) -> Result<(ScalarBuffer<f64>, Option<NullBuffer>), Damage> {
        if self.encoding != DECIMALS {
            return self.numbers();
        }
        let places = self.input.u8()?;
        if places > PLACES_MAX {
            return Err("its numbers have too many decimal places");
        }
        let scale = 10_f64.powi(i32::from(places));
        let integers = read_numbers::<i64>(self.input.remaining(), self.present)?;
        let values = integers.iter().map(|&integer| from_decimal(integer, scale)).collect();
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

    fn text(self) -> Result<ArrayRef, Damage> {
        let is_plain = self.encoding == TEXT && self.nulls.is_none();
        let dictionary = self.dictionary()?;
        if is_plain {
            return Ok(Arc::clone(dictionary.values()));
        }
        arrow::compute::take(dictionary.values(), dictionary.keys(), None).map_err(|_| "its strings take too much memory")
    }

    fn dictionary(mut self) -> Result<DictionaryArray<UInt32Type>, Damage> {
        let strings = read_strings(&mut self.input)?;
        let numbers = match self.encoding {
            TEXT => {
                self.input.end()?;
                if strings.len() != self.present {
                    return Err("it holds too many or too few strings");
                }
                (0..len_u32(self.present)).collect()
            }
            DICTIONARY => read_numbers::<u32>(self.input.remaining(), self.present)?,
            _ => return Err("its encoding doesn't fit the column"),
        };
        if numbers.iter().any(|&number| number as usize >= strings.len()) {
            return Err("a string number in it is too large");
        }
        let numbers = UInt32Array::new(spread(numbers, self.rows, self.nulls.as_ref()).into(), self.nulls);
        DictionaryArray::try_new(numbers, Arc::new(strings)).map_err(|_| "a string number in it is too large")
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
