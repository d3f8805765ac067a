//! The chunk files of one view: how they are named, and which of them count after a crash.
//!
//! # Crash safety
//! A checkpoint that takes in the points of an earlier file writes the new one first and removes the old one later. Between the
//! two, or after a checkpoint that failed behind its rename, one file's offsets lie within another's: the inner one goes.

use std::path::Path;
use std::sync::Arc;

use logcore::Offset;
use logcore::sys::fs;

use super::sealed::SealedChunk;
use crate::error::Error;
use crate::schema::Layout;

const EXTENSION: &str = "chunk";
/// What `write_atomic` calls a file that is not finished.
const ASIDE_EXTENSION: &str = "tmp";
const DIGITS: usize = 20;

/// The name of the file that covers the offsets `from..to`.
pub(crate) fn file_name(from: Offset, to: Offset) -> String {
    format!("{:0DIGITS$}-{:0DIGITS$}.{EXTENSION}", from.value(), to.value())
}

fn parse(name: &str, extension: &str) -> Option<(Offset, Offset)> {
    let (from, to) = name.strip_suffix(extension)?.strip_suffix('.')?.split_once('-')?;
    let number = |digits: &str| {
        let whole = digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit());
        if whole { digits.parse().ok().map(Offset::new) } else { None }
    };
    let (from, to) = (number(from)?, number(to)?);
    (from < to).then_some((from, to))
}

/// Opens the files that make up the view, in order, and removes what a crash left. Other files in the folder are not touched.
pub(crate) fn open(dir: &Path, layout: &Arc<Layout>) -> Result<Vec<Arc<SealedChunk>>, Error> {
    fs::create_dir(dir)?;
    let names = fs::list(dir)?;
    let mut ranges: Vec<(Offset, Offset)> = names.iter().filter_map(|name| parse(name, EXTENSION)).collect();
    ranges.sort_by_key(|&(from, to)| (from, std::cmp::Reverse(to)));
    let mut end = Offset::ZERO;
    let mut chunks = Vec::with_capacity(ranges.len());
    let mut contained = Vec::new();
    for (from, to) in ranges {
        if to <= end {
            contained.push(file_name(from, to));
        } else if from == end {
            chunks.push(Arc::new(SealedChunk::open(dir.join(file_name(from, to)), from, to, layout)?));
            end = to;
        } else {
            return Err(Error::Gap { path: dir.to_owned(), expected: end, found: from });
        }
    }
    let unfinished = names.into_iter().filter(|name| parse(name, ASIDE_EXTENSION).is_some());
    for name in unfinished.chain(contained) {
        fs::remove_file(&dir.join(name))?;
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_the_range_they_were_made_of() {
        let (from, to) = (Offset::new(7), Offset::new(u64::MAX));
        let name = file_name(from, to);
        assert_eq!(name, "00000000000000000007-18446744073709551615.chunk");
        assert_eq!(parse(&name, EXTENSION), Some((from, to)));
        let swapped = format!("{:020}-{:020}.chunk", 7, 7);
        for other in ["7-8.chunk", "dead_letters", "00000000000000000007.chunk", &name.replace("chunk", "tmp"), &swapped] {
            assert_eq!(parse(other, EXTENSION), None, "{other}");
        }
    }
}
