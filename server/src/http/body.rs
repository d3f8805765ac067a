//! What a request says: bounded bodies, content types, `Accept`, deadlines, query strings and paths.
//!
//! Called by the handlers before they do anything. Every limit of a body is enforced here, because axum's own apply to its
//! extractors only.

use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use router::Cut;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// A body that is held in memory may stall for so long.
const STALL: Duration = Duration::from_secs(30);
/// Read and thrown away before a refusal, so that the client gets to read it.
const DRAIN_BYTES_MAX: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(3);
/// How long a request may take when it does not say.
const TIMEOUT_MS: u64 = 30_000;

/// Path parameters, refused in our shape.
pub struct ApiPath<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for ApiPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Ok(Self(Path::from_request_parts(parts, state).await?.0))
    }
}

/// The query string, refused in our shape.
pub struct ApiQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Ok(Self(Query::from_request_parts(parts, state).await?.0))
    }
}

/// The media type of the body, in lower case and without parameters.
///
/// # Errors
/// When the body is compressed.
pub fn media_type(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && encoding != "identity"
    {
        let error = ApiError::unsupported_media_type(format!("the content encoding {} is not read here", show(encoding)));
        return Err(error.hint("send the body uncompressed"));
    }
    Ok(headers.get(header::CONTENT_TYPE).map(|value| {
        let text = show(value);
        text.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
    }))
}

fn show(value: &axum::http::HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// The refusal of a body's media type, naming those that are taken.
pub fn wrong_media_type(found: Option<&str>, taken: &str) -> ApiError {
    let message = match found {
        Some(found) => format!("a body of type {found} is not read here"),
        None => "the body has no content-type".to_owned(),
    };
    ApiError::unsupported_media_type(message).hint(format!("send content-type: {taken}"))
}

/// The first of `offered` that the client takes best; `None` when it takes none of them.
pub fn negotiate<'a>(headers: &HeaderMap, offered: &[&'a str]) -> Option<&'a str> {
    let mut wanted: Vec<(String, f32)> = Vec::new();
    for value in headers.get_all(header::ACCEPT) {
        for part in show(value).split(',') {
            let mut pieces = part.split(';').map(str::trim);
            let Some(range) = pieces.next().filter(|range| !range.is_empty()) else { continue };
            let quality = pieces.find_map(|piece| piece.strip_prefix("q=")).and_then(|q| q.parse().ok()).unwrap_or(1.0);
            wanted.push((range.to_ascii_lowercase(), quality));
        }
    }
    if wanted.is_empty() {
        return offered.first().copied();
    }
    let mut best: Option<(&str, (f32, u8))> = None;
    for offer in offered {
        let family = offer.split('/').next().unwrap_or("");
        // The most specific range that names the offer decides about it.
        let matching = wanted.iter().filter_map(|(range, quality)| match range.as_str() {
            range if range == *offer => Some((2, *quality)),
            "*/*" => Some((0, *quality)),
            range if range.strip_suffix("/*") == Some(family) => Some((1, *quality)),
            _ => None,
        });
        let Some((specific, quality)) = matching.max_by_key(|(specific, _)| *specific) else { continue };
        if quality > 0.0 && best.is_none_or(|(_, found)| (quality, specific) > found) {
            best = Some((offer, (quality, specific)));
        }
    }
    best.map(|(offer, _)| offer)
}

/// A body that means nothing may have so many bytes.
const IGNORED_BYTES_MAX: usize = 64 << 10;

/// Reads a body that means nothing: were it left, the connection would be closed under the client's next request.
///
/// # Errors
/// As [`read_whole`].
pub async fn ignore(request: Request) -> Result<(), ApiError> {
    let (parts, body) = request.into_parts();
    read_whole(&parts.headers, body, IGNORED_BYTES_MAX).await.map(drop)
}

/// Reads a whole body of at most `bytes_max`.
///
/// # Errors
/// Too large, cut off, or stalled.
pub async fn read_whole(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > bytes_max) {
        drain(stream).await;
        return Err(body_too_large(bytes_max));
    }
    let mut first: Option<Bytes> = None;
    let mut gathered = BytesMut::new();
    loop {
        let chunk = match tokio::time::timeout(STALL, stream.next()).await {
            Err(_) => return Err(ApiError::timeout(format!("no byte of the body came for {} s", STALL.as_secs()))),
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(ApiError::invalid(format!("the body was cut off: {error}"))),
            Ok(Some(Ok(chunk))) => chunk,
        };
        let held = first.as_ref().map_or(gathered.len(), Bytes::len);
        if held + chunk.len() > bytes_max {
            drain(stream).await;
            return Err(body_too_large(bytes_max));
        }
        // A body of one piece is not copied.
        if held == 0 {
            first = Some(chunk);
        } else {
            if let Some(first) = first.take() {
                gathered.reserve(announced.unwrap_or(first.len() + chunk.len()));
                gathered.extend_from_slice(&first);
            }
            gathered.extend_from_slice(&chunk);
        }
    }
    Ok(first.unwrap_or_else(|| gathered.freeze()))
}

fn body_too_large(bytes_max: usize) -> ApiError {
    ApiError::too_large(format!("the body is over the limit of {bytes_max} bytes")).hint("split it, or raise http.body_bytes_max")
}

/// Throws away what the client still sends, within bounds: it reads its answer only after it has sent everything.
pub async fn drain(mut stream: BodyDataStream) {
    let all = async {
        let mut left = DRAIN_BYTES_MAX;
        while let Some(Ok(chunk)) = stream.next().await {
            match left.checked_sub(chunk.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // A client that takes longer than this loses the answer, nothing else.
    let _ = tokio::time::timeout(DRAIN_TIME, all).await;
}

/// A JSON body of a known shape.
///
/// # Errors
/// Where it is not JSON, too deep, or which member is unknown.
pub fn parse_json<'a, T: serde::Deserialize<'a>>(body: &'a [u8], depth_max: usize) -> Result<T, ApiError> {
    if super::json::deeper_than(body, depth_max) {
        return Err(ApiError::invalid(format!("the JSON of the body is nested more than {depth_max} deep")));
    }
    serde_json::from_slice(body).map_err(|error| ApiError::invalid(format!("the JSON of the body: {error}")))
}

/// When a request is given up.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// Then.
    pub at: Instant,
    /// What it was set to, for messages.
    pub timeout_ms: u64,
}

impl Deadline {
    /// `timeout_ms` from now, or the default, but never more than `timeout_ms_max`.
    ///
    /// # Errors
    /// When it is 0.
    pub fn new(timeout_ms: Option<u64>, timeout_ms_max: u64) -> Result<Self, ApiError> {
        if timeout_ms == Some(0) {
            return Err(ApiError::invalid("timeout_ms is 0, the least is 1"));
        }
        let timeout_ms = timeout_ms.unwrap_or(TIMEOUT_MS).min(timeout_ms_max);
        Ok(Self { at: Instant::now() + Duration::from_millis(timeout_ms), timeout_ms })
    }

    /// `what` did not come about in time.
    pub fn passed(&self, what: &str) -> ApiError {
        ApiError::timeout(format!("{what} within {} ms", self.timeout_ms))
    }
}

/// The position or cut a read waits for.
///
/// # Errors
/// When it is not one.
pub fn parse_wait(wait: Option<&str>) -> Result<Cut, ApiError> {
    wait.unwrap_or("").parse::<Cut>().map_err(|error| ApiError::from(error).at("wait"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, value.parse().unwrap())])
    }

    #[test]
    fn the_client_chooses_among_what_is_offered() {
        let offered = ["application/json", "application/x-ndjson", "text/csv"];
        assert_eq!(negotiate(&HeaderMap::new(), &offered), Some("application/json"));
        for (wanted, given) in [
            ("*/*", Some("application/json")),
            ("text/csv", Some("text/csv")),
            ("TEXT/CSV; charset=utf-8", Some("text/csv")),
            ("text/*", Some("text/csv")),
            ("application/x-ndjson, application/json;q=0.5", Some("application/x-ndjson")),
            ("text/html, */*;q=0.1", Some("application/json")),
            ("application/json;q=0, */*", Some("application/x-ndjson")),
            ("application/xml", None),
        ] {
            assert_eq!(negotiate(&accept(wanted), &offered), given, "{wanted}");
        }
    }

    #[test]
    fn media_types_lose_their_parameters_and_compression_is_refused() {
        let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, "Text/Plain; charset=utf-8".parse().unwrap())]);
        assert_eq!(media_type(&headers).unwrap().as_deref(), Some("text/plain"));
        headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        assert_eq!(media_type(&headers).unwrap_err().status().as_u16(), 415);
    }

    #[test]
    fn deadlines_are_capped_and_waits_are_positions() {
        assert_eq!(Deadline::new(None, 10_000).unwrap().timeout_ms, 10_000);
        assert_eq!(Deadline::new(Some(5), 10_000).unwrap().timeout_ms, 5);
        assert!(Deadline::new(Some(0), 10_000).is_err());
        assert!(parse_wait(None).unwrap().is_empty());
        assert!(parse_wait(Some("commits")).unwrap_err().to_json().contains("\"wait: "));
    }

    #[tokio::test]
    async fn bodies_are_bounded_whether_they_say_their_length_or_not() {
        let headers = HeaderMap::new();
        assert_eq!(read_whole(&headers, Body::from("12345"), 5).await.unwrap(), "12345");
        let chunks = || futures::stream::iter(["123", "456"].map(|chunk| Ok::<_, std::io::Error>(Bytes::from(chunk))));
        assert_eq!(read_whole(&headers, Body::from_stream(chunks()), 6).await.unwrap(), "123456");
        assert_eq!(read_whole(&headers, Body::from_stream(chunks()), 5).await.unwrap_err().status().as_u16(), 413);
        let lying = HeaderMap::from_iter([(header::CONTENT_LENGTH, "9999".parse().unwrap())]);
        assert_eq!(read_whole(&lying, Body::from("1"), 5).await.unwrap_err().status().as_u16(), 413);
    }
}
