//! Rows of many pages, put together as Arrow arrays.
//!
//! Rows come as stretches of pages; a point that several records wrote comes with its earlier versions, from which the fields are
//! taken that the latest does not have.

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, DictionaryArray, StringArray, StringBuilder, TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{concat, interleave};

use super::run::Page;
use crate::error::Error;
use crate::names::Names;
use crate::schema::{FieldKind, Place};

/// Stretches of at least this many rows are copied as such.
const STRETCH_ROWS: usize = 16;

/// Rows put together so far.
#[derive(Default)]
pub(crate) struct Gather {
    pages: Vec<Rc<Page>>,
    /// The number of the page, and the rows of it.
    stretches: Vec<(usize, Range<u32>)>,
    /// The series of each row.
    series: Vec<u32>,
    /// Stretches of one row with earlier versions, newest first: the number of the stretch, page and row of each.
    merged: Vec<(usize, Vec<(usize, u32)>)>,
}

impl Gather {
    pub fn rows(&self) -> usize {
        self.series.len()
    }

    pub fn series(&self) -> &[u32] {
        &self.series
    }

    fn page(&mut self, page: &Rc<Page>) -> usize {
        // The page is among the last ones, if it is there.
        if let Some(at) = self.pages.iter().rposition(|known| Rc::ptr_eq(known, page)) {
            return at;
        }
        self.pages.push(Rc::clone(page));
        self.pages.len() - 1
    }

    /// Adds rows of a page that are of one series.
    pub fn push(&mut self, page: &Rc<Page>, series: u32, rows: Range<u32>) {
        let page = self.page(page);
        self.series.resize(self.series.len() + rows.len(), series);
        let is_merged = self.merged.last().is_some_and(|(at, _)| at + 1 == self.stretches.len());
        match self.stretches.last_mut() {
            Some((last, before)) if *last == page && before.end == rows.start && !is_merged => before.end = rows.end,
            _ => self.stretches.push((page, rows)),
        }
    }

    /// Adds one point of several versions, newest first.
    pub fn push_merged(&mut self, series: u32, versions: &[(Rc<Page>, u32)]) {
        let at = self.stretches.len();
        let mut pages = versions.iter().map(|(page, row)| (self.page(page), *row)).collect::<Vec<_>>();
        let (page, row) = pages.remove(0);
        self.series.push(series);
        self.stretches.push((page, row..row + 1));
        if !pages.is_empty() {
            self.merged.push((at, pages));
        }
    }

    /// Starts again.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.stretches.clear();
        self.series.clear();
        self.merged.clear();
    }

    pub fn times(&self) -> Result<Vec<i64>, Error> {
        let mut out = Vec::with_capacity(self.rows());
        for (page, rows) in &self.stretches {
            out.extend_from_slice(&self.pages[*page].times()?[rows.start as usize..rows.end as usize]);
        }
        Ok(out)
    }

    pub fn offsets(&self) -> Result<Vec<u64>, Error> {
        let mut out = Vec::with_capacity(self.rows());
        for (page, rows) in &self.stretches {
            out.extend_from_slice(&self.pages[*page].offsets()?[rows.start as usize..rows.end as usize]);
        }
        Ok(out)
    }

    /// A field; `None` when no row has a value.
    pub fn field(&self, field: u32, kind: FieldKind) -> Result<Option<ArrayRef>, Error> {
        let arrays = self.pages.iter().map(|page| page.field(field, kind)).collect::<Result<Vec<_>, _>>()?;
        if arrays.iter().all(Option::is_none) {
            return Ok(None);
        }
        let none = arrays.len();
        let mut stretches = Cow::Borrowed(&self.stretches[..]);
        for (at, versions) in &self.merged {
            let has = |page: usize, row: u32| arrays[page].as_ref().is_some_and(|array| array.is_valid(row as usize));
            let (page, rows) = &self.stretches[*at];
            if !has(*page, rows.start) {
                let older = versions.iter().find(|(page, row)| has(*page, *row));
                stretches.to_mut()[*at] = older.map_or((none, 0..1), |&(page, row)| (page, row..row + 1));
            }
        }
        if self.rows() >= STRETCH_ROWS * stretches.len() {
            let slices = stretches.iter().map(|(page, rows)| match arrays.get(*page) {
                Some(Some(array)) => array.slice(rows.start as usize, rows.len()),
                _ => new_null_array(&kind.data_type(), rows.len()),
            });
            let slices: Vec<ArrayRef> = slices.collect();
            return match &slices[..] {
                [one] => Ok(Some(Arc::clone(one))),
                many => Ok(Some(concat(&many.iter().map(AsRef::as_ref).collect::<Vec<_>>())?)),
            };
        }
        let null = new_null_array(&kind.data_type(), 1);
        let mut sources: Vec<&dyn Array> = arrays.iter().map(|array| array.as_ref().unwrap_or(&null).as_ref()).collect();
        sources.push(null.as_ref());
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(self.rows());
        for (page, rows) in stretches.iter() {
            match arrays.get(*page) {
                Some(Some(_)) => places.extend(rows.clone().map(|row| (*page, row as usize))),
                _ => places.resize(places.len() + rows.len(), (none, 0)),
            }
        }
        Ok(Some(interleave(&sources, &places)?))
    }

    /// A column of the table.
    pub fn column(&self, place: Place, names: &Names, as_dictionary: bool) -> Result<ArrayRef, Error> {
        match place {
            Place::Time => Ok(time_array(self.times()?.into())),
            Place::Tag(tag) => Ok(tag_array(names, tag, &self.series, as_dictionary)),
            Place::Field(field, kind) => match self.field(field, kind)? {
                Some(array) => Ok(array),
                None => Ok(new_null_array(&kind.data_type(), self.rows())),
            },
        }
    }
}

/// Times as a column of the table.
pub(crate) fn time_array(times: ScalarBuffer<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::new(times, None).with_timezone("UTC"))
}

/// The values of a tag for rows of these series.
pub(crate) fn tag_array(names: &Names, tag: usize, series: &[u32], as_dictionary: bool) -> ArrayRef {
    let runs = series.chunk_by(|a, b| a == b).map(|run| (names.code(run[0], tag), run.len()));
    if !as_dictionary {
        let mut builder = StringBuilder::with_capacity(series.len(), series.len() * 8);
        for (code, rows) in runs {
            let text = names.text(code);
            (0..rows).for_each(|_| builder.append_option(text));
        }
        return Arc::new(builder.finish());
    }
    let mut known = std::collections::HashMap::new();
    let (mut values, mut keys) = (Vec::new(), Vec::with_capacity(series.len()));
    for (code, rows) in runs {
        let key = names.text(code).map(|text| {
            *known.entry(code).or_insert_with(|| {
                values.push(text);
                logcore::types::len_u32(values.len() - 1)
            })
        });
        keys.resize(keys.len() + rows, key);
    }
    let keys = UInt32Array::from(keys);
    Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(values))))
}
