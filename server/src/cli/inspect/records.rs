//! Records of segment files as JSON lines, laid out as over HTTP.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use bytes::Bytes;
use logcore::frame::{Frame, FrameKind};
use logcore::segment::inspect::{Step, Summary, inspect_segment};
use logcore::{Batch, Offset, Record, StreamId};
use router::StoredRecord;

use super::{NotAFile, files_in, segment};
use crate::http::record::{Layout, write};

/// What was met while printing.
pub struct Printed {
    /// The frames.
    pub frames: Summary,
    /// Batches whose records can't be read: whole as frames, but not as batches.
    unreadable: u64,
}

impl Printed {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.frames.is_whole() && self.unreadable == 0
    }
}

/// Prints the records of the segment at `path`, a line each.
pub fn print(path: &Path, out: &mut dyn Write) -> Result<Printed> {
    let (mut failed, mut unreadable, mut line) = (None, 0, Vec::new());
    let frames = inspect_segment(path, |step| {
        if let Step::Frame(seen) = step
            && seen.frame.header.kind == FrameKind::Batch
        {
            match print_batch(&seen.frame, &mut line, out) {
                Ok(None) => {}
                Ok(Some(problem)) => {
                    unreadable += 1;
                    eprintln!("byte {}, offset {}: {problem}", seen.position, seen.frame.header.base_offset);
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.is_none()
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(Printed { frames, unreadable }),
    }
}

/// Prints the records of a batch; `Some` when they can't be read.
fn print_batch(frame: &Frame, line: &mut Vec<u8>, out: &mut dyn Write) -> std::io::Result<Option<logcore::Error>> {
    let batch = match Batch::open(&frame.body) {
        Ok(batch) => batch,
        Err(error) => return Ok(Some(error)),
    };
    for record in batch.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => return Ok(Some(error)),
        };
        line.clear();
        write(line, &stored(&record), Layout { one_line: true, ..Layout::default() });
        line.push(b'\n');
        out.write_all(line)?;
    }
    Ok(None)
}

fn stored(record: &Record<'_>) -> StoredRecord {
    let headers = record.headers().into_iter();
    StoredRecord {
        offset: record.offset.value(),
        timestamp: record.timestamp.value(),
        key: record.key.map(Bytes::copy_from_slice),
        value: record.value.map(Bytes::copy_from_slice),
        headers: headers.map(|(name, value)| (name.to_owned(), value.map(Bytes::copy_from_slice))).collect(),
    }
}

/// Prints the records of the catalog of a data folder; says whether all of it is whole.
pub fn print_catalog(data: &Path, out: &mut dyn Write) -> Result<bool> {
    let folder = data.join("log").join(StreamId::CATALOG.to_string()).join("0");
    if !folder.is_dir() {
        bail!(NotAFile(format!("{} is not a data folder: there is no {}", data.display(), folder.display())));
    }
    let (mut whole, mut next) = (true, None::<Offset>);
    for path in files_in(&folder, "seg")? {
        let printed = print(&path, out)?;
        if !printed.is_whole() {
            eprint!("{}", segment::summary_lines(&path, &printed.frames));
            whole = false;
        }
        let Some(offsets) = printed.frames.offsets else { continue };
        if let Some(next) = next.filter(|next| *next != offsets.start) {
            eprintln!("{} begins at offset {}, {next} was due", path.display(), offsets.start);
            whole = false;
        }
        next = Some(offsets.end);
    }
    Ok(whole)
}
