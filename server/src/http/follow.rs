//! Server-sent events out of all partitions of a stream, for as long as the client listens: what `tail` and `matches` share.
//!
//! The id of an event is the cut over all partitions after its record, so that `Last-Event-ID` goes on in every partition
//! without loss and without repetition.
//!
//! # Concurrency
//! One read per partition is under way and holds at most its share of [`READ_BYTES`]; the next begins when its records went out.
//! Nothing runs while the client does not read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use logcore::Offset;
use router::{Cut, PartitionInfo, ReadFrom, ReadLimits};

use super::App;
use super::body;
use super::error::ApiError;

/// Held by all reads of one client together, about.
const READ_BYTES: usize = 1 << 20;
const READ_RECORDS: usize = 500;
/// A read without records begins anew after this long.
const READ_WAIT: Duration = Duration::from_secs(15);
/// A comment goes out after so long without records, so that nobody in between hangs up.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The id while nothing was ever in the stream: an empty one would be forgotten by clients.
const NOTHING: &str = "earliest";

/// Takes an event: its offset, and what appends its data.
pub type Event<'a> = &'a mut dyn FnMut(u64, &dyn Fn(&mut Vec<u8>));

/// What events are made of.
pub trait Source: Send + Sync + Unpin + 'static {
    /// What one read gives.
    type Page: Send;

    /// Reads a page of a partition from an offset on; waits as the limits say.
    fn read(&self, partition: u32, next: u64, limits: ReadLimits) -> BoxFuture<'static, router::Result<Self::Page>>;

    /// Where the next read goes on.
    fn next_offset(page: &Self::Page) -> u64;

    /// The events of a page in order: the offset of each, and its data on one line, which `write` appends.
    fn each(partition: u32, page: &Self::Page, event: Event<'_>);
}

/// Where a client that comes begins.
pub struct Begin<'a> {
    /// The stream.
    pub stream: &'a str,
    /// What its partitions have.
    pub partitions: &'a [PartitionInfo],
    /// Only this one.
    pub only: Option<u32>,
    /// For clients without an event id.
    pub from: ReadFrom,
}

/// Answers with events.
///
/// # Errors
/// What the client does not take, ids and places that are none.
pub fn follow<S: Source>(app: App, source: S, begin: &Begin<'_>, headers: &HeaderMap) -> Result<Response, ApiError> {
    if body::negotiate(headers, &["text/event-stream"]).is_none() {
        return Err(ApiError::not_acceptable("this is given as text/event-stream"));
    }
    let last_id = match headers.get("last-event-id") {
        None => None,
        Some(id) => {
            let text = id.to_str().map_err(|_| ApiError::invalid("Last-Event-ID is not text"))?;
            let cut = if text == NOTHING { Ok(Cut::new()) } else { text.parse::<Cut>() };
            Some(cut.map_err(|error| ApiError::from(error).at("Last-Event-ID"))?)
        }
    };
    let bounds: Vec<Bounds> = begin.partitions.iter().map(Bounds::of).collect();
    let places = places(begin.stream, &bounds, begin.only, begin.from, last_id.as_ref())?;
    let tail = Tail::new(app, source, begin.stream.to_owned(), places);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(futures::stream::unfold(tail, Tail::step))).into_response())
}

/// What a partition has.
#[derive(Clone, Copy)]
struct Bounds {
    partition: u32,
    start: u64,
    end: u64,
}

impl Bounds {
    fn of(info: &PartitionInfo) -> Self {
        let status = &info.status;
        Self { partition: info.partition, start: status.log_start.value(), end: status.committed.value() }
    }
}

/// The next offset to send, for each partition that is followed.
fn places(
    stream: &str,
    partitions: &[Bounds],
    only: Option<u32>,
    from: ReadFrom,
    last_id: Option<&Cut>,
) -> Result<BTreeMap<u32, u64>, ApiError> {
    if let Some(only) = only.filter(|only| partitions.iter().all(|found| found.partition != *only)) {
        let message = format!("{stream} has no partition {only}");
        return Err(ApiError::invalid(message).hint(format!("it has {}", partitions.len())));
    }
    if let Some((other, _, _)) = last_id.and_then(|id| id.ends().find(|(named, _, _)| *named != stream)) {
        let message = format!("Last-Event-ID is of stream \"{other}\", this is \"{stream}\"");
        return Err(ApiError::invalid(message).hint("send back an id that this tail gave, or begin at offset="));
    }
    let mut places = BTreeMap::new();
    for Bounds { partition, start, end } in
        partitions.iter().copied().filter(|found| only.is_none_or(|only| only == found.partition))
    {
        let next = match (last_id, from) {
            (Some(id), _) => {
                // A partition that the id does not name had nothing when it was written.
                let next = id.end(stream, partition).map_or(0, Offset::value);
                if next > end {
                    let message = format!("Last-Event-ID is ahead of {stream}/{partition}, which ends at {end}");
                    return Err(ApiError::invalid(message));
                }
                next
            }
            (None, ReadFrom::Offset(offset)) => offset.min(end),
            (None, ReadFrom::Earliest | ReadFrom::Timestamp(_)) => start,
            (None, ReadFrom::Latest) => end,
        };
        places.insert(partition, next.max(start));
    }
    Ok(places)
}

type Read<P> = BoxFuture<'static, (u32, router::Result<P>)>;

struct Tail<S: Source> {
    app: App,
    source: S,
    stream: String,
    /// The next offset to send, per partition.
    places: BTreeMap<u32, u64>,
    reads: FuturesUnordered<Read<S::Page>>,
    bytes_each: usize,
    begun: bool,
    ended: bool,
}

impl<S: Source> Tail<S> {
    fn new(app: App, source: S, stream: String, places: BTreeMap<u32, u64>) -> Self {
        let bytes_each = READ_BYTES / places.len().max(1);
        let mut tail =
            Self { app, source, stream, places, reads: FuturesUnordered::new(), bytes_each, begun: false, ended: false };
        for partition in tail.places.keys().copied().collect::<Vec<_>>() {
            tail.read(partition);
        }
        tail
    }

    fn read(&mut self, partition: u32) {
        let limits = ReadLimits { records: READ_RECORDS, bytes: self.bytes_each, wait_until: Some(Instant::now() + READ_WAIT) };
        let page = self.source.read(partition, self.places[&partition], limits);
        self.reads.push(Box::pin(async move { (partition, page.await) }));
    }

    /// The id after everything that was sent.
    fn id(&self) -> String {
        let mut cut = Cut::new();
        for (partition, next) in &self.places {
            cut.raise(&self.stream, *partition, Offset::new(*next));
        }
        let text = cut.to_string();
        if text.is_empty() { NOTHING.to_owned() } else { text }
    }

    /// The next piece of the answer; none when it ends.
    async fn step(mut self) -> Option<(Result<Bytes, std::io::Error>, Self)> {
        if self.ended {
            return None;
        }
        if !self.begun {
            // An id without data: a client that loses the connection before the first record goes on from here.
            self.begun = true;
            let head = format!("retry: 1000\nid: {}\n\n", self.id());
            return Some((Ok(head.into()), self));
        }
        loop {
            let (partition, page) = tokio::select! {
                Some(read) = self.reads.next() => read,
                () = tokio::time::sleep(KEEP_ALIVE) => return Some((Ok(Bytes::from_static(b": keep-alive\n\n")), self)),
                () = self.app.stopped() => return None,
                else => return None,
            };
            match page {
                Err(error) => {
                    self.ended = true;
                    let text = format!("event: error\ndata: {}\n\n", ApiError::from(error).to_json());
                    return Some((Ok(text.into()), self));
                }
                Ok(page) => {
                    let events = self.take(partition, &page);
                    self.read(partition);
                    if !events.is_empty() {
                        return Some((Ok(events.into()), self));
                    }
                }
            }
        }
    }

    fn take(&mut self, partition: u32, page: &S::Page) -> Vec<u8> {
        let before = self.places[&partition];
        let mut out = Vec::new();
        S::each(partition, page, &mut |offset, write| {
            self.places.insert(partition, offset + 1);
            out.extend_from_slice(format!("id: {}\ndata: ", self.id()).as_bytes());
            write(&mut out);
            out.extend_from_slice(b"\n\n");
        });
        let next = S::next_offset(page);
        self.places.insert(partition, next);
        if out.is_empty() && next > before {
            // The client need not have this looked through again.
            out = format!("id: {}\n\n", self.id()).into_bytes();
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(ends: &[(u64, u64)]) -> Vec<Bounds> {
        ends.iter().zip(0..).map(|((start, end), partition)| Bounds { partition, start: *start, end: *end }).collect()
    }

    fn ends(places: &BTreeMap<u32, u64>) -> Vec<u64> {
        places.values().copied().collect()
    }

    #[test]
    fn a_tail_begins_where_it_was_told() {
        let has = bounds(&[(2, 10), (0, 0), (0, 3)]);
        let begin = |from| ends(&places("s", &has, None, from, None).unwrap());
        assert_eq!(begin(ReadFrom::Latest), [10, 0, 3]);
        assert_eq!(begin(ReadFrom::Earliest), [2, 0, 0]);
        assert_eq!(begin(ReadFrom::Offset(5)), [5, 0, 3]);
        assert_eq!(ends(&places("s", &has, Some(2), ReadFrom::Latest, None).unwrap()), [3]);
        assert!(places("s", &has, Some(9), ReadFrom::Latest, None).is_err());
    }

    #[test]
    fn the_last_event_id_goes_on_in_every_partition() {
        let has = bounds(&[(0, 10), (0, 4), (0, 3)]);
        let id: Cut = "s/0@6,s/2@2".parse().unwrap();
        // Partition 1 was empty when the id was written: all of it is new.
        assert_eq!(ends(&places("s", &has, None, ReadFrom::Latest, Some(&id)).unwrap()), [7, 0, 3]);
        let ahead: Cut = "s/0@10".parse().unwrap();
        assert!(places("s", &has, None, ReadFrom::Latest, Some(&ahead)).is_err());
        let other: Cut = "s/0@1,t/0@1".parse().unwrap();
        let error = places("s", &has, None, ReadFrom::Latest, Some(&other)).unwrap_err();
        assert!(error.to_json().contains("of stream \\\"t\\\""), "{}", error.to_json());
    }
}
