//! Cuts the chunks of a body into lines without copying, for the doors that take one record a line.

use bytes::{Bytes, BytesMut};

use super::error::ApiError;

/// Beside the value, a line may hold so much white space.
const LINE_SLACK_BYTES: usize = 1 << 10;

/// Cuts chunks into lines.
pub struct Lines {
    /// The beginning of a line whose end has not come.
    carry: BytesMut,
    chunk: Bytes,
    /// The number of the line that was given last, from 1.
    pub number: u64,
    line_bytes_max: usize,
}

impl Lines {
    /// Lines that hold records of at most so many bytes.
    pub fn new(record_bytes_max: usize) -> Self {
        let line_bytes_max = record_bytes_max + LINE_SLACK_BYTES;
        Self { carry: BytesMut::new(), chunk: Bytes::new(), number: 0, line_bytes_max }
    }

    /// Gives more bytes; those before must have been taken.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "lines are taken before more is pushed");
        self.chunk = chunk;
    }

    /// The next whole line, without its line break.
    ///
    /// # Errors
    /// When it is too long.
    pub fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let end = self.chunk.iter().position(|byte| *byte == b'\n');
        let len = self.carry.len() + end.unwrap_or(self.chunk.len());
        if len > self.line_bytes_max {
            let message = format!(
                "line {}: the record is over the limit of {} bytes",
                self.number + 1,
                self.line_bytes_max - LINE_SLACK_BYTES
            );
            return Err(ApiError::too_large(message).hint("split it, or store a reference to what is large"));
        }
        let Some(end) = end else {
            self.carry.extend_from_slice(&self.chunk);
            self.chunk = Bytes::new();
            return Ok(None);
        };
        let mut line = self.chunk.split_to(end + 1);
        line.truncate(end);
        self.number += 1;
        if self.carry.is_empty() {
            return Ok(Some(line));
        }
        self.carry.extend_from_slice(&line);
        Ok(Some(self.carry.split().freeze()))
    }

    /// After the orderly end: the last line, if it had no line break.
    pub fn last(&mut self) -> Option<Bytes> {
        if self.carry.is_empty() {
            return None;
        }
        self.number += 1;
        Some(self.carry.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(chunks: &[&'static str], max: usize) -> (Vec<Bytes>, Option<Bytes>, Option<ApiError>) {
        let (mut lines, mut whole) = (Lines::new(max), Vec::new());
        for chunk in chunks {
            lines.push(Bytes::from_static(chunk.as_bytes()));
            loop {
                match lines.next() {
                    Ok(Some(line)) => whole.push(line),
                    Ok(None) => break,
                    Err(error) => return (whole, None, Some(error)),
                }
            }
        }
        (whole, lines.last(), None)
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut_into_chunks() {
        let (whole, last, _) = lines_of(&["1\n2", "2", "\n\n3\r\n4"], 100);
        assert_eq!(whole, ["1", "22", "", "3\r"]);
        assert_eq!(last.unwrap(), "4");
        let (whole, last, _) = lines_of(&["1\n"], 100);
        assert_eq!((whole.len(), last), (1, None));
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_before_its_end_came() {
        let long = "x".repeat(LINE_SLACK_BYTES + 11).leak();
        let (whole, _, error) = lines_of(&["1\n", long], 10);
        let error = error.unwrap();
        assert_eq!((whole.len(), error.status().as_u16()), (1, 413));
        assert!(error.to_json().contains("\"line 2: the record is over the limit of 10 bytes"));
    }
}
