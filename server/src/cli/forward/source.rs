//! The side that is read: pages of a partition, and the cursor that remembers how far they were forwarded.

use std::time::Duration;

use serde_json::{Value, json};

use super::http::{Fault, Http, Refusal, SERVER_TIMEOUT_MS};
use crate::cli::client::segment;
use crate::cli::cursor;

/// Records a request asks for: the most there are.
const PAGE_RECORDS: usize = 10_000;

/// See the module docs. Clones share connections.
#[derive(Clone)]
pub struct Source {
    http: Http,
    base: String,
    stream: String,
    cursor: String,
    batch_bytes: usize,
}

/// Where a cursor is, or what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The next offset to read.
    At(u64),
    /// There is no such cursor.
    Nowhere,
}

impl Source {
    /// The server at `base`; nothing is asked of it yet.
    pub fn new(base: &str, stream: &str, cursor: &str, batch_bytes: usize) -> Self {
        let own = str::to_owned;
        Self { http: Http::new(), base: own(base), stream: own(stream), cursor: own(cursor), batch_bytes }
    }

    /// The server's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A batch is at most so large.
    pub fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    /// How a partition is named in messages.
    pub fn place(&self, partition: u32) -> String {
        format!("{}/{partition}", self.stream)
    }

    /// How the cursor of a partition is named in messages.
    fn cursor_place(&self, partition: u32) -> String {
        format!("cursor \"{}\" of {}", self.cursor, self.place(partition))
    }

    fn stream_url(&self) -> String {
        format!("{}/v1/streams/{}", self.base, segment(&self.stream))
    }

    fn cursor_url(&self, partition: u32) -> String {
        format!("{}{}", self.base, cursor::path(&self.cursor, &self.stream, partition.into()))
    }

    /// Each partition with its committed end.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn partitions(&self) -> Result<Vec<(u32, u64)>, Fault> {
        Ok(self.watermarks()?.into_iter().map(|(partition, _, end)| (partition, end)).collect())
    }

    /// Each partition with the first offset that is kept and the committed end.
    fn watermarks(&self) -> Result<Vec<(u32, u64, u64)>, Fault> {
        let url = self.stream_url();
        let info = parse(&url, &self.http.get(&url)?)?;
        let partition = |partition: &Value| {
            let number = u32::try_from(partition["partition"].as_u64()?).ok()?;
            Some((number, partition["log_start"].as_u64()?, partition["committed"].as_u64()?))
        };
        let all: Option<Vec<_>> = info["partitions"].as_array().and_then(|all| all.iter().map(partition).collect());
        all.ok_or_else(|| no_headwater(&url))
    }

    /// The text of a page; waits so long for the first record.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn read(&self, partition: u32, offset: u64, wait: Duration) -> Result<Vec<u8>, Fault> {
        let (bytes, wait_ms) = (self.batch_bytes, wait.as_millis());
        let url = self.stream_url();
        self.http.get(&format!(
            "{url}/partitions/{partition}/records?offset={offset}&limit={PAGE_RECORDS}&max_bytes={bytes}&wait_ms={wait_ms}"
        ))
    }

    /// Where the cursor of a partition is, and the first offset that is kept there.
    ///
    /// # Errors
    /// See [`Fault`].
    fn find(&self, partition: u32) -> Result<(Found, u64), Fault> {
        let url = self.cursor_url(partition);
        let cursor = match self.http.get(&url) {
            Ok(bytes) => parse(&url, &bytes)?,
            Err(Fault::Refused(refusal)) if refusal.is_missing_cursor() => return Ok((Found::Nowhere, 0)),
            Err(fault) => return Err(fault),
        };
        match (cursor["offset"].as_u64(), cursor["log_start"].as_u64()) {
            (Some(offset), Some(log_start)) => Ok((Found::At(offset), log_start)),
            _ => Err(no_headwater(&url)),
        }
    }

    /// Where to begin: at the cursor, which is created at the first record that is kept if it is not there.
    ///
    /// # Errors
    /// See [`Fault`]; refused when records before it were dropped and not forwarded.
    pub fn begin(&self, partition: u32) -> Result<u64, Fault> {
        match self.find(partition)? {
            (Found::At(offset), log_start) if offset < log_start => Err(Fault::Refused(self.lost(partition, offset, log_start))),
            (Found::At(offset), _) => Ok(offset),
            (Found::Nowhere, _) => {
                let all = self.watermarks()?;
                let found = all.into_iter().find(|(found, ..)| *found == partition);
                let (_, first, _) = found.ok_or_else(|| no_headwater(&self.stream_url()))?;
                match self.put(partition, first, -1) {
                    // Another one was faster, or an attempt of ours whose answer was lost.
                    Err(Fault::Refused(refusal)) if refusal.status == 409 => match self.find(partition)? {
                        (Found::At(offset), _) => Ok(offset),
                        (Found::Nowhere, _) => Err(Fault::Refused(refusal)),
                    },
                    put => put.map(|()| first),
                }
            }
        }
    }

    /// Says what a refused read means, if records are gone that were not forwarded.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn explain_read(&self, partition: u32, offset: u64, refusal: Refusal) -> Result<Refusal, Fault> {
        Ok(match self.find(partition)? {
            (Found::At(_), log_start) if offset < log_start => self.lost(partition, offset, log_start),
            _ => refusal,
        })
    }

    fn lost(&self, partition: u32, offset: u64, log_start: u64) -> Refusal {
        let place = self.place(partition);
        let message = format!("the records {offset} to {} of {place} are gone and were not forwarded", log_start - 1);
        let (cursor, stream) = (&self.cursor, &self.stream);
        let hint = format!(
            "to go on behind them: headwater cursor set {cursor} --stream {stream} --partition {partition} --offset {log_start}; \
             retention = 'consumed' keeps what was not forwarded"
        );
        Refusal::new(message, Some(hint))
    }

    fn put(&self, partition: u32, offset: u64, expect: i64) -> Result<(), Fault> {
        let url = format!("{}?timeout_ms={SERVER_TIMEOUT_MS}", self.cursor_url(partition));
        self.http.put(&url, &json!({ "offset": offset, "expect": expect })).map(drop)
    }

    /// Moves the cursor of a partition; tells where it was found if it was not at `from`. `unsure` says that an attempt before this
    /// one may have moved it.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn advance(&self, partition: u32, from: u64, to: u64, unsure: bool) -> Result<Option<Found>, Fault> {
        let expect = i64::try_from(from).expect("no log has 2^63 records");
        match self.put(partition, to, expect) {
            Err(Fault::Refused(refusal)) if refusal.status == 409 => match self.find(partition)?.0 {
                Found::At(found) if found == to && unsure => Ok(None),
                found => Ok(Some(found)),
            },
            put => put.map(|()| None),
        }
    }

    /// What it means that the cursor was found elsewhere.
    pub fn taken(&self, partition: u32, from: u64, found: Found) -> Refusal {
        let place = self.cursor_place(partition);
        let what = match found {
            Found::At(found) => format!("was moved to {found}"),
            Found::Nowhere => "was deleted".to_owned(),
        };
        let message = format!("{place} {what} while this forwarder had it at {from}: someone else uses it");
        Refusal::new(message, Some("give each forwarder a cursor of its own, and run one of them at a time".to_owned()))
    }
}

fn parse(url: &str, bytes: &[u8]) -> Result<Value, Fault> {
    serde_json::from_slice(bytes).map_err(|_| no_headwater(url))
}

fn no_headwater(url: &str) -> Fault {
    Fault::Refused(Refusal::new(format!("{url} does not answer as a Headwater does"), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_place_and_what_to_do() {
        let source = Source::new("http://h:1", "a b", "c", 1);
        assert_eq!(source.cursor_url(2), "http://h:1/v1/cursors/c/a%20b/2");
        let lost = source.lost(2, 5, 10).error;
        assert_eq!(lost.message, "the records 5 to 9 of a b/2 are gone and were not forwarded");
        assert!(lost.hint.unwrap().contains("headwater cursor set c --stream a b --partition 2 --offset 10"));
        let taken = source.taken(2, 5, Found::Nowhere).error.message;
        assert_eq!(taken, "cursor \"c\" of a b/2 was deleted while this forwarder had it at 5: someone else uses it");
    }
}
