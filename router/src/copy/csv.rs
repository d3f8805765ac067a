//! CSV as PostgreSQL has it: a field that is empty and not quoted is NULL, one that is quoted never is.
//!
//! That difference is why this is not the `csv` crate's, nor Arrow's, reader: they don't tell whether a field was quoted.

use std::io::{BufRead, Write};

use logcore::ErrorKind;

use super::Options;
use crate::error::{Error, Result, sqlstate};

/// Bytes of one record at most: more is a quote that never ends.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// Reads records one by one.
pub(super) struct Reader<R> {
    input: R,
    options: Options,
    /// The line that was read last, from 1.
    line: u64,
}

/// Fields, and the line on which they begin.
pub(super) struct Record {
    pub line: u64,
    pub fields: Vec<Option<String>>,
}

fn bad(line: u64, what: &str) -> Error {
    Error::new(sqlstate::BAD_COPY_FILE_FORMAT, ErrorKind::Invalid, format!("line {line}: {what}"))
}

impl<R: BufRead> Reader<R> {
    pub fn new(input: R, options: Options) -> Self {
        Self { input, options, line: 0 }
    }

    /// The next record; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Record>> {
        let (mut raw, first) = (Vec::new(), self.line + 1);
        loop {
            let before = raw.len();
            let limit = (RECORD_BYTES_MAX + 1).saturating_sub(before) as u64;
            let read = std::io::Read::take(&mut self.input, limit).read_until(b'\n', &mut raw);
            let read = read.map_err(|error| bad(self.line, &error.to_string()))?;
            if raw.len() > RECORD_BYTES_MAX {
                return Err(bad(first, &format!("a row of more than {RECORD_BYTES_MAX} bytes; is a quote missing?")));
            }
            if read == 0 {
                return match raw.is_empty() {
                    true => Ok(None),
                    false => Err(bad(first, "a quoted field does not end")),
                };
            }
            self.line += 1;
            // A line break inside quotes belongs to the field.
            if raw.iter().filter(|byte| **byte == self.options.quote).count() % 2 == 0 {
                break;
            }
        }
        while matches!(raw.last(), Some(b'\n' | b'\r')) {
            raw.pop();
        }
        let fields = self.split(&raw, first)?;
        Ok(Some(Record { line: first, fields }))
    }

    fn split(&self, raw: &[u8], line: u64) -> Result<Vec<Option<String>>> {
        let Options { delimiter, quote, null, .. } = &self.options;
        let mut fields = Vec::new();
        let (mut field, mut quoted, mut inside) = (Vec::new(), false, false);
        let mut bytes = raw.iter().peekable();
        let mut end = |field: &mut Vec<u8>, quoted: bool| {
            let text = String::from_utf8(std::mem::take(field)).map_err(|_| {
                let message = format!("line {line}: invalid byte sequence for encoding UTF8");
                Error::new(sqlstate::CHARACTER_NOT_IN_REPERTOIRE, ErrorKind::Invalid, message)
            })?;
            fields.push(Some(text).filter(|text| quoted || text != null));
            Ok::<_, Error>(())
        };
        while let Some(byte) = bytes.next() {
            if inside && byte == quote && bytes.peek() == Some(&quote) {
                bytes.next();
                field.push(*quote);
            } else if byte == quote {
                (inside, quoted) = (!inside, true);
            } else if byte == delimiter && !inside {
                end(&mut field, quoted)?;
                quoted = false;
            } else {
                field.push(*byte);
            }
        }
        end(&mut field, quoted)?;
        Ok(fields)
    }
}

/// Writes a record.
pub(super) fn write<'a>(
    out: &mut impl Write,
    fields: impl Iterator<Item = Option<&'a str>>,
    options: &Options,
) -> std::io::Result<()> {
    for (n, field) in fields.enumerate() {
        if n > 0 {
            out.write_all(&[options.delimiter])?;
        }
        let Some(text) = field else {
            out.write_all(options.null.as_bytes())?;
            continue;
        };
        let special = |byte: u8| byte == options.delimiter || byte == options.quote || byte == b'\n' || byte == b'\r';
        if text != options.null && !text.bytes().any(special) {
            out.write_all(text.as_bytes())?;
            continue;
        }
        out.write_all(&[options.quote])?;
        for byte in text.bytes() {
            if byte == options.quote {
                out.write_all(&[byte])?;
            }
            out.write_all(&[byte])?;
        }
        out.write_all(&[options.quote])?;
    }
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::super::Format;
    use super::*;

    fn options() -> Options {
        Options { format: Format::Csv, header: false, delimiter: b',', quote: b'"', null: String::new() }
    }

    fn read(text: &[u8]) -> Result<Vec<Vec<Option<String>>>> {
        let mut reader = Reader::new(text, options());
        let mut rows = Vec::new();
        while let Some(record) = reader.next()? {
            rows.push(record.fields);
        }
        Ok(rows)
    }

    #[test]
    fn what_is_written_is_read() {
        let rows = [
            vec![Some("a"), None, Some("")],
            vec![Some("x,y"), Some("\"q\""), Some("two\nlines\r\nthree")],
            vec![Some(" pad "), Some("ünï"), None],
        ];
        let mut out = Vec::new();
        for row in &rows {
            write(&mut out, row.iter().copied(), &options()).unwrap();
        }
        let back = read(&out).unwrap();
        let back: Vec<Vec<Option<&str>>> = back.iter().map(|row| row.iter().map(Option::as_deref).collect()).collect();
        assert_eq!(back, rows);
    }

    #[test]
    fn damaged_text_is_refused_with_its_line() {
        for (text, line) in [(&b"a,b\n\"c"[..], "line 2"), (b"a\nb\n\xff\xfe\n", "line 3")] {
            let error = read(text).unwrap_err();
            assert!(error.message().contains(line), "{error}");
        }
        assert_eq!(read(b"1,2\r\n3,4").unwrap().len(), 2);
    }
}
