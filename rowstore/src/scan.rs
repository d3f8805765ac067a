//! Reading many rows as Arrow batches, in primary key order, at a cut.
//!
//! Called by the router's row provider on a blocking thread.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use logcore::Offset;

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
    /// Encoded key bytes, inclusive.
    pub from: Vec<u8>,
    /// Encoded key bytes, exclusive; `None` for the end of the table.
    pub until: Option<Vec<u8>>,
    /// Rows at most.
    pub limit: Option<usize>,
    /// Everything the records below this offset left.
    pub cut: Offset,
    /// Rows per batch at most.
    pub batch_rows: usize,
}

impl RowTable {
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
        let from = [&[ROW_PREFIX], &request.from[..]].concat();
        let until = match &request.until {
            Some(until) => [&[ROW_PREFIX], &until[..]].concat(),
            None => after_prefix(&[ROW_PREFIX]).expect("the prefix is not 0xff"),
        };
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
        for item in self.tree.range(&from, &until, request.cut) {
            if left == 0 {
                break;
            }
            let (_, row) = item?;
            self.push_row(&row, &wanted, &mut columns)?;
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
    fn wanted(&self, projection: &[usize]) -> Vec<Vec<usize>> {
        let last = projection.iter().max().map_or(0, |last| last + 1);
        (0..last).map(|at| projection.iter().enumerate().filter(|(_, p)| **p == at).map(|(n, _)| n).collect()).collect()
    }

    fn push_row(&self, row: &[u8], wanted: &[Vec<usize>], columns: &mut [ColumnBuilder]) -> Result<()> {
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
