//! A request on its way to a handler: its parts, its body within limits, and its JSON.
//!
//! Bodies are counted while they are read, so that a body without a length, or with a false one, is
//! cut at the limit as well. ruma reads the JSON; what it refuses is looked at again here, because a
//! client is told apart whether its text is no JSON (`M_NOT_JSON`) or JSON of a wrong shape
//! (`M_BAD_JSON`).

use std::{borrow::Cow, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Method, StatusCode, Uri, header::CONTENT_LENGTH};
use ruma::api::{
    IncomingRequest,
    error::{DeserializationError, HeaderDeserializationError},
};
use serde::de::IgnoredAny;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Peer;
use crate::error::{Error, Result};

/// How deep objects and arrays may stand in each other.
const DEPTH: usize = 100;
/// How long a path argument may be: longer than any identifier of the specification.
const ARGUMENT: usize = 1024;
/// How many KiB of bodies may be held in memory at once: of those up to 1 MiB, and of larger ones, so that whoever lets
/// the latter come slowly keeps nobody waiting but their like.
const BODIES: usize = 48 << 10;
const LARGE_BODIES: usize = 32 << 10;
/// Beyond how many KiB a body is large: what ends the last one counts as a whole.
const LARGE: usize = (1 << 10) + 1;
/// How long a client may take to send a body that is read as a whole.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request as it came in.
pub struct Incoming {
    /// Its method.
    pub method: Method,
    /// Its path and query, as they were sent.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// Who sent it, if that is known.
    pub peer: Option<Peer>,
    /// Its body.
    pub body: Body,
}

/// The body of a request.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// What comes from the connection.
    Pieces(Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send + Sync>>),
}

impl Body {
    /// The whole body, if it is at most `limit` bytes long.
    pub async fn read(self, limit: usize) -> Result<Bytes> {
        match self {
            Self::Whole(bytes) if bytes.len() > limit => Err(too_large(limit)),
            Self::Whole(bytes) => Ok(bytes),
            Self::Pieces(pieces) => match tokio::time::timeout(PATIENCE, collect(pieces, limit)).await {
                Ok(body) => body,
                Err(_) => Err(Error::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", "the body took too long to arrive")),
            },
        }
    }

    /// The next piece of the body, for handlers that stream it. The caller counts.
    pub async fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => None,
            Self::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
            Self::Pieces(pieces) => pieces.next().await,
        }
    }
}

/// The memory for all bodies that are read as a whole.
#[derive(Clone)]
pub(super) struct Memory {
    usual: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Memory {
    pub fn new() -> Self {
        Self { usual: Arc::new(Semaphore::new(BODIES)), large: Arc::new(Semaphore::new(LARGE_BODIES)) }
    }

    /// Reads a body within its limit and that for all together. The permit is kept as long as the body.
    pub async fn read(
        &self,
        body: Body,
        headers: &HeaderMap,
        limit: usize,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>)> {
        let Body::Pieces(_) = &body else { return Ok((body.read(limit).await?, None)) };
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > limit) {
            return Err(too_large(limit));
        }
        let kib = length.unwrap_or(limit) / 1024 + 1;
        let (pool, most) = if kib > LARGE { (&self.large, LARGE_BODIES) } else { (&self.usual, BODIES) };
        let permits = u32::try_from(kib.min(most)).unwrap_or(u32::MAX);
        let permit = Arc::clone(pool).acquire_many_owned(permits).await.map_err(Error::internal)?;
        Ok((body.read(limit).await?, Some(permit)))
    }
}

async fn collect(mut pieces: impl Stream<Item = std::io::Result<Bytes>> + Unpin, limit: usize) -> Result<Bytes> {
    // Most bodies are one piece, which is then not copied.
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| Error::bad_request("M_UNKNOWN", "the body broke off"))?;
        if first.len() + more.len() + piece.len() > limit {
            return Err(too_large(limit));
        }
        if first.is_empty() && more.is_empty() {
            first = piece;
        } else {
            more.extend_from_slice(&std::mem::take(&mut first));
            more.extend_from_slice(&piece);
        }
    }
    Ok(if more.is_empty() { first } else { more.freeze() })
}

fn too_large(limit: usize) -> Error {
    Error::too_large(format!("the body of this request may have at most {limit} bytes"))
}

/// What a raw handler gets: the request with the arguments of its path, decoded, and its body unread.
pub struct Raw {
    /// The method.
    pub method: Method,
    /// The path and query, as they were sent.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// Who sent it, if that is known.
    pub peer: Option<Peer>,
    /// The arguments of the path, in its order, percent-decoded.
    pub args: Vec<String>,
    /// The body.
    pub body: Body,
    /// The limit of the route for bodies.
    pub limit: usize,
    pub(super) memory: Memory,
}

impl Raw {
    /// The JSON object in the body; no body is an empty object.
    pub async fn json<T: serde::de::DeserializeOwned>(self) -> Result<T> {
        let (body, _permit) = self.memory.read(self.body, &self.headers, self.limit).await?;
        let body = object(body)?;
        serde_json::from_slice(&body).map_err(|error| json_error(&error, &body))
    }

    /// The fields of an HTML form.
    pub async fn form(self) -> Result<Form> {
        let (body, _permit) = self.memory.read(self.body, &self.headers, self.limit).await?;
        let text = String::from_utf8(body.to_vec());
        text.map(Form).map_err(|_| Error::invalid_param("a form is sent as text"))
    }

    /// The request as ruma reads it.
    pub async fn typed<R: IncomingRequest>(self) -> Result<R> {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let (body, _permit) = self.memory.read(self.body, &self.headers, self.limit).await?;
        let body = object(body)?;
        typed(self.method, self.uri, self.headers, &args, &body)
    }

    /// The first value of a parameter in the query, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        parameter(self.uri.query()?, name)
    }
}

/// What somebody filled in on a page.
pub struct Form(String);

impl Form {
    /// What was written into a field; empty if there is no such field.
    pub fn field(&self, name: &str) -> String {
        parameter(&self.0, name).unwrap_or_default()
    }
}

/// The first value of a parameter in a query, decoded.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let value = value.replace('+', " ");
    Some(percent_encoding::percent_decode_str(&value).decode_utf8().ok()?.into_owned())
}

/// An argument of a path without its percent signs.
pub(super) fn argument(raw: &str) -> Result<Cow<'_, str>> {
    if raw.len() > ARGUMENT {
        return Err(Error::invalid_param("a part of the path is longer than anything it could name"));
    }
    match raw.contains('%') {
        false => Ok(Cow::Borrowed(raw)),
        true => percent_encoding::percent_decode_str(raw)
            .decode_utf8()
            .map_err(|_| Error::invalid_param("a part of the path is not UTF-8")),
    }
}

/// The request as ruma reads it.
pub(super) fn typed<R: IncomingRequest>(
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    args: &[&str],
    body: &[u8],
) -> Result<R> {
    let mut request = http::Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    R::try_from_http_request_inner(request, args).map_err(|error| refusal(error, body))
}

fn refusal(error: DeserializationError, body: &[u8]) -> Error {
    match error {
        DeserializationError::Json(error) => json_error(&error, body),
        DeserializationError::Utf8(_) => Error::not_json("the body is not UTF-8"),
        // The same type for arguments of the path and of the query.
        DeserializationError::Query(error) => match error.to_string() {
            text if text.starts_with("missing field") => Error::missing_param(text),
            text => Error::invalid_param(text),
        },
        DeserializationError::Header(HeaderDeserializationError::MissingHeader(name)) => {
            Error::missing_param(format!("the header {name} is missing"))
        }
        other => Error::invalid_param(other.to_string()),
    }
}

fn json_error(error: &serde_json::Error, body: &[u8]) -> Error {
    // A wrong type is found before a slip in the syntax that comes after it.
    match serde_json::from_slice::<IgnoredAny>(body) {
        Ok(_) => Error::bad_json(format!("the JSON of this request is not of the right shape: {error}")),
        Err(error) => Error::not_json(format!("the body is not JSON: {error}")),
    }
}

/// A body that holds a JSON object, as every body of the Matrix APIs does; an empty one counts as `{}`.
pub(super) fn object(body: Bytes) -> Result<Bytes> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Bytes::from_static(b"{}"));
    }
    if std::str::from_utf8(&body).is_err() {
        return Err(Error::not_json("the body is not UTF-8"));
    }
    if too_deep(&body) {
        return Err(Error::bad_json(format!("the JSON of this request is nested more than {DEPTH} levels deep")));
    }
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(match serde_json::from_slice::<IgnoredAny>(&body) {
            Ok(_) => Error::bad_json("the body must be a JSON object"),
            Err(error) => Error::not_json(format!("the body is not JSON: {error}")),
        });
    }
    Ok(body)
}

/// Whether brackets stand in each other deeper than [`DEPTH`]. Parsers that skip a value do not count.
fn too_deep(json: &[u8]) -> bool {
    let (mut depth, mut text, mut escaped) = (0usize, false, false);
    for byte in json {
        match (text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => text = !text,
            (false, b'{' | b'[') => {
                depth += 1;
                if depth > DEPTH {
                    return true;
                }
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_body(body: &[u8], expected: &str) {
        let answer = match object(Bytes::copy_from_slice(body)) {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.errcode.into_owned(),
        };
        assert_eq!(answer, expected, "{}", String::from_utf8_lossy(body));
    }

    #[test]
    fn a_body_is_an_object_or_nothing() {
        check_body(b"", "ok");
        check_body(b" \n", "ok");
        check_body(b" {\"a\": 1}", "ok");
        check_body(b"[1]", "M_BAD_JSON");
        check_body(b"\"text\"", "M_BAD_JSON");
        check_body(b"text", "M_NOT_JSON");
        check_body(b"{\"a\": \"\xff\"}", "M_NOT_JSON");
    }

    #[test]
    fn depth_is_counted_outside_of_texts() {
        let nested = |levels| [vec![b'{'], b"\"a\":".repeat(0), b"[".repeat(levels)].concat();
        check_body(&nested(DEPTH), "M_BAD_JSON");
        check_body(format!("{{\"a\": \"{}\\\"{}\"}}", "[".repeat(500), "{".repeat(500)).as_bytes(), "ok");
    }

    #[test]
    fn arguments_are_decoded_and_bounded() {
        assert_eq!(argument("%23room%3Aexample.org").as_deref().ok(), Some("#room:example.org"));
        assert!(argument("%ff").is_err());
        assert!(argument(&"a".repeat(2000)).is_err());
        assert_eq!(parameter("a=1&user_id=%40ann%3Ab", "user_id").as_deref(), Some("@ann:b"));
        assert_eq!(parameter("user_ids=1", "user_id"), None);
    }

    #[tokio::test]
    async fn a_body_is_counted_while_it_is_read() {
        let pieces = |count: usize| {
            let pieces = futures_util::stream::iter((0..count).map(|_| Ok(Bytes::from_static(b"12345"))));
            Body::Pieces(Box::pin(pieces))
        };
        assert_eq!(pieces(3).read(15).await.map(|body| body.len()).ok(), Some(15));
        assert_eq!(pieces(1000).read(15).await.map_err(|error| error.errcode.into_owned()), Err("M_TOO_LARGE".into()));
    }

    #[tokio::test]
    async fn large_bodies_that_do_not_come_hold_up_no_small_ones() {
        let memory = Memory::new();
        let read = |length: usize, body| {
            let headers = HeaderMap::from_iter([(CONTENT_LENGTH, length.into())]);
            let memory = memory.clone();
            async move { memory.read(body, &headers, 10 << 20).await.map(|(body, _)| body.len()) }
        };
        let never = || Body::Pieces(Box::pin(futures_util::stream::pending()));
        for _ in 0..8 {
            tokio::spawn(read(9 << 20, never()));
        }
        tokio::task::yield_now().await;
        let small = Body::Pieces(Box::pin(futures_util::stream::iter([Ok(Bytes::from_static(b"12345"))])));
        assert_eq!(read(1 << 20, small).await.ok(), Some(5));
    }
}
