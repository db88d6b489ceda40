//! What a handler answers, as bytes.
//!
//! A handler returns ruma's response type, or a [`Reply`] where the JSON is written by hand or the
//! body is not JSON. Errors become the JSON body that the specification describes.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use ruma::api::{OutgoingResponse, OutgoingResponseExt};
use serde::Serialize;
use tracing::error;

use crate::error::{Error, Result};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The body of a response.
pub enum ReplyBody {
    /// All of it.
    Whole(Bytes),
    /// What becomes available piece by piece.
    Pieces(Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send + Sync>>),
}

/// A response that is ready.
pub struct Reply(pub Response<ReplyBody>);

impl Reply {
    /// JSON that is already text.
    pub fn json(text: impl Into<Bytes>) -> Self {
        Self::bytes(JSON, text)
    }

    /// A value as JSON.
    pub fn value(value: &impl Serialize) -> Result<Self> {
        Ok(Self::json(serde_json::to_vec(value).map_err(Error::internal)?))
    }

    /// The empty JSON object.
    pub fn empty() -> Self {
        Self::json("{}")
    }

    /// A page for people.
    pub fn html(text: impl Into<Bytes>) -> Self {
        Self::bytes(HeaderValue::from_static("text/html; charset=utf-8"), text)
    }

    /// Bytes of some type.
    pub fn bytes(content_type: HeaderValue, bytes: impl Into<Bytes>) -> Self {
        Self::new(content_type, ReplyBody::Whole(bytes.into()))
    }

    /// A body that becomes available piece by piece.
    pub fn stream(
        content_type: HeaderValue,
        pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        Self::new(content_type, ReplyBody::Pieces(Box::pin(pieces)))
    }

    fn new(content_type: HeaderValue, body: ReplyBody) -> Self {
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        Self(response)
    }

    /// The same with another status.
    pub fn status(mut self, status: StatusCode) -> Self {
        *self.0.status_mut() = status;
        self
    }

    /// The same with one more header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers_mut().insert(name, value);
        self
    }

    /// The headers.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        self.0.headers_mut()
    }
}

/// What a handler may answer: a response type of ruma, or a [`Reply`].
pub trait IntoReply: Send + 'static {
    /// The same as bytes.
    fn into_reply(self) -> Result<Reply>;
}

impl IntoReply for Reply {
    fn into_reply(self) -> Result<Reply> {
        Ok(self)
    }
}

impl<T: OutgoingResponse + Send + 'static> IntoReply for T {
    fn into_reply(self) -> Result<Reply> {
        let response = self.try_into_http_response::<Vec<u8>>().map_err(Error::internal)?;
        Ok(Reply(response.map(|body| ReplyBody::Whole(body.into()))))
    }
}

/// An error as the network sees it; the cause of a fault of ours goes to the log.
pub(super) fn refuse(error: &Error) -> Response<ReplyBody> {
    if let Some(cause) = &error.cause {
        error!(status = error.status.as_u16(), "a request failed: {cause}");
    }
    let mut reply = Reply::json(error.body().to_string()).status(error.status);
    if let Some(wait) = error.fields.get("retry_after_ms").and_then(serde_json::Value::as_u64) {
        // Whole seconds, rounded up.  Spec: client-server-api#rate-limiting
        reply = reply.header(RETRY_AFTER, HeaderValue::from(wait.div_ceil(1000)));
    }
    reply.0
}
