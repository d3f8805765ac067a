//! What a checkpoint does to points: sort them by time and offset, and cut them into pages.
//!
//! Called by `SeriesMaterializer::checkpoint`; every page goes to the chunk file's writer before the next one is
//! gathered, so that beside the points themselves there is one page in memory, and 24 bytes a point for the order.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::error::ArrowError;
use logcore::types::len_u32;

use super::open::OpenBlock;
use super::sealed::ChunkWriter;
use crate::error::Error;
use crate::schema::Layout;
use crate::series::SeriesOptions;

/// Where a point is and what it is sorted by. Block and row number make the order total and keep it stable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    time: i64,
    offset: u64,
    block: u32,
    row: u32,
}

/// Writes the points of `blocks` as pages.
pub(crate) fn write_pages(
    blocks: &[Arc<OpenBlock>],
    layout: &Layout,
    options: &SeriesOptions,
    writer: &mut ChunkWriter<'_>,
) -> Result<(), Error> {
    let places = sorted(blocks, layout);
    let columns: Vec<Vec<&dyn Array>> =
        (0..layout.columns.len()).map(|column| blocks.iter().map(|block| block.columns[column].as_ref()).collect()).collect();
    let mut rest = places.as_slice();
    while !rest.is_empty() {
        let (page, behind) = rest.split_at(page_len(rest, layout.chunk_micros, options));
        rest = behind;
        let rows: Vec<(usize, usize)> = page.iter().map(|place| (place.block as usize, place.row as usize)).collect();
        let gathered = columns.iter().map(|arrays| interleave(arrays, &rows)).collect::<Result<_, ArrowError>>()?;
        let offsets: Vec<u64> = page.iter().map(|place| place.offset).collect();
        writer.push(&RecordBatch::try_new(layout.arrow.clone(), gathered)?, &offsets)?;
    }
    Ok(())
}

fn sorted(blocks: &[Arc<OpenBlock>], layout: &Layout) -> Vec<Place> {
    let mut places = Vec::with_capacity(blocks.iter().map(|block| block.rows()).sum());
    for (number, block) in (0_u32..).zip(blocks) {
        let times = block.columns[layout.time].as_primitive::<TimestampMicrosecondType>().values();
        let rows = times.iter().zip(&block.offsets).enumerate();
        places.extend(rows.map(|(row, (&time, &offset))| Place { time, offset, block: number, row: len_u32(row) }));
    }
    places.sort_unstable();
    places
}

/// How many of the points go into the next page: up to a full page, and no further than the end of their stretch of
/// `chunk_micros` once that makes a page worth its header.
fn page_len(places: &[Place], chunk_micros: i64, options: &SeriesOptions) -> usize {
    let full = places.len().min(options.page_points);
    let stretch = |place: &Place| place.time.div_euclid(chunk_micros);
    let boundary = places[..full].windows(2).enumerate().skip(options.page_points_min.saturating_sub(1));
    boundary.into_iter().find(|(_, pair)| stretch(&pair[0]) != stretch(&pair[1])).map_or(full, |(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn len(times: &[i64]) -> usize {
        let places: Vec<Place> = times.iter().map(|&time| Place { time, offset: 0, block: 0, row: 0 }).collect();
        let options = SeriesOptions { page_points: 6, page_points_min: 3, ..SeriesOptions::default() };
        page_len(&places, 10, &options)
    }

    #[test]
    fn pages_end_at_stretches_of_time_once_they_are_worth_it() {
        assert_eq!(len(&[0, 1, 2, 3, 4, 5, 6, 7]), 6, "full");
        assert_eq!(len(&[0, 1, 2]), 3, "all there is");
        assert_eq!(len(&[0, 1, 2, 10, 11, 12]), 3, "the stretch ends");
        assert_eq!(len(&[0, 1, 10, 11, 12, 20]), 5, "too short at the first end, not at the second");
        assert_eq!(len(&[-12, -11, -2, -1, 0, 1]), 4, "stretches before 1970 are as long as others");
    }
}
