//! Reading many rows as Arrow batches, in primary key order, at a cut.
//!
//! Called by the router's row provider on a blocking thread.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use logcore::Offset;
use lsm_tree::Slice;

use crate::error::Result;
use crate::key::after_prefix;
use crate::lsm::ROW_PREFIX;
use crate::table::RowTable;
use crate::value::{ColumnBuilder, RowReader};

/// Which rows and columns to read.
#[derive(Clone, Debug, Default)]
pub struct ScanRequest {
    /// Columns by position in the schema, in the order wanted; none: the rows are only counted.
    pub projection: Vec<usize>,
    /// Encoded key bytes, inclusive; of an index entry's when `by_index`.
    pub from: Vec<u8>,
    /// Encoded key bytes, exclusive; `None` for the end of the table.
    pub until: Option<Vec<u8>>,
    /// Rows are found by index entries. Rows of `overlay` then come whether they are in the range or not, and last.
    pub by_index: bool,
    /// Rows that are put over the table's, by encoded key; `None` removes.
    pub overlay: Option<Arc<Overlay>>,
    /// Rows at most.
    pub limit: Option<usize>,
    /// Everything the records below this offset left.
    pub cut: Offset,
    /// Rows per batch at most.
    pub batch_rows: usize,
}

/// Rows by encoded key, as a transaction leaves them; `None` is a removed one.
pub type Overlay = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// An encoded row, from wherever it came.
enum RowBytes<'a> {
    Stored(Slice),
    Copied(Vec<u8>),
    Own(&'a [u8]),
}

impl AsRef<[u8]> for RowBytes<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Stored(row) => row,
            Self::Copied(row) => row,
            Self::Own(row) => row,
        }
    }
}

type Rows<'a> = Box<dyn Iterator<Item = Result<RowBytes<'a>>> + 'a>;

impl RowTable {
    /// The encoded rows of a scan.
    fn rows<'a>(&'a self, request: &'a ScanRequest) -> Rows<'a> {
        let overlay = request.overlay.as_deref().filter(|overlay| !overlay.is_empty());
        if request.by_index {
            let stored = self.entries(&request.from, request.until.as_deref(), request.cut).filter_map(move |entry| {
                let (_, key) = match entry {
                    Ok(entry) => entry,
                    Err(error) => return Some(Err(error)),
                };
                if overlay.is_some_and(|overlay| overlay.contains_key(&key)) {
                    return None;
                }
                self.get(&key, request.cut).map(|row| row.map(RowBytes::Copied)).transpose()
            });
            let own = overlay.into_iter().flatten().filter_map(|(_, row)| Some(Ok(RowBytes::Own(row.as_ref()?))));
            return Box::new(stored.chain(own));
        }
        let from = [&[ROW_PREFIX], &request.from[..]].concat();
        let until = match &request.until {
            Some(until) => [&[ROW_PREFIX], &until[..]].concat(),
            None => after_prefix(&[ROW_PREFIX]).expect("the prefix is not 0xff"),
        };
        let stored = self.tree.range(&from, &until, request.cut);
        let Some(overlay) = overlay else {
            return Box::new(stored.map(|item| item.map(|(_, row)| RowBytes::Stored(row))));
        };
        let inside = (Bound::Included(&request.from[..]), request.until.as_deref().map_or(Bound::Unbounded, Bound::Excluded));
        // A range whose end lies before its start holds nothing.
        let own: Rows<'a> = match request.until.as_deref().is_some_and(|until| until <= &request.from[..]) {
            true => Box::new(std::iter::empty()),
            false => Box::new(merge(stored, overlay.range::<[u8], _>(inside))),
        };
        own
    }

    /// The Arrow schema of a projection.
    ///
    /// # Panics
    /// When a position is not a column's.
    #[must_use]
    pub fn projected(&self, projection: &[usize]) -> SchemaRef {
        let schema = self.schema.arrow();
        Arc::new(schema.project(projection).expect("positions come from this schema"))
    }

    /// Hands the rows to `emit`, batch by batch, until it breaks.
    ///
    /// # Errors
    /// When the files can't be read or a row does not decode.
    pub fn scan(&self, request: &ScanRequest, emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>) -> Result<()> {
        let schema = self.projected(&request.projection);
        let mut columns: Vec<ColumnBuilder> =
            request.projection.iter().map(|at| ColumnBuilder::new(&self.schema.columns[*at].kind)).collect();
        let wanted = self.wanted(&request.projection);
        let mut rows = 0;
        let mut left = request.limit.unwrap_or(usize::MAX);
        let batch_rows = request.batch_rows.max(1);
        let mut flush = |columns: &mut Vec<ColumnBuilder>, rows: usize| -> Result<ControlFlow<()>> {
            let arrays = columns.iter_mut().map(ColumnBuilder::finish).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            Ok(emit(RecordBatch::try_new_with_options(Arc::clone(&schema), arrays, &options)?))
        };
        for row in self.rows(request) {
            if left == 0 {
                break;
            }
            let row = row?;
            self.push_row(row.as_ref(), &wanted, &mut columns)?;
            rows += 1;
            left -= 1;
            if rows == batch_rows {
                if flush(&mut columns, rows)?.is_break() {
                    return Ok(());
                }
                rows = 0;
            }
        }
        if rows > 0 {
            let _ = flush(&mut columns, rows)?;
        }
        Ok(())
    }

    /// For each column up to the last one projected: where its values go.
    pub(crate) fn wanted(&self, projection: &[usize]) -> Vec<Vec<usize>> {
        let last = projection.iter().max().map_or(0, |last| last + 1);
        (0..last).map(|at| projection.iter().enumerate().filter(|(_, p)| **p == at).map(|(n, _)| n).collect()).collect()
    }

    pub(crate) fn push_row(&self, row: &[u8], wanted: &[Vec<usize>], columns: &mut [ColumnBuilder]) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut reader = RowReader::new(row, &self.schema)?;
        for targets in wanted {
            let value = reader.next()?.expect("columns that are wanted are in the schema");
            for target in targets {
                columns[*target].push(value)?;
            }
        }
        Ok(())
    }
}

/// Stored rows with those of a transaction over them, in key order.
fn merge<'a>(
    stored: impl Iterator<Item = Result<(Slice, Slice)>> + 'a,
    own: impl Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)> + 'a,
) -> impl Iterator<Item = Result<RowBytes<'a>>> + 'a {
    let (mut stored, mut own) = (stored.peekable(), own.peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (stored.peek(), own.peek()) {
                (None, None) => return None,
                (Some(Err(_)), _) => Ordering::Less,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                // Stored keys begin with the prefix.
                (Some(Ok((key, _))), Some((own, _))) => key[1..].cmp(own),
            };
            if order == Ordering::Less {
                return Some(stored.next()?.map(|(_, row)| RowBytes::Stored(row)));
            }
            if order == Ordering::Equal {
                drop(stored.next());
            }
            if let Some((_, Some(row))) = own.next() {
                return Some(Ok(RowBytes::Own(row)));
            }
        }
    })
}
