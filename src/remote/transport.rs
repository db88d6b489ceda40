//! One request to one server, by its name, or to an address of the web: over HTTPS, or in memory for tests.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use ruma::OwnedServerName;

/// A request to another server.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The server's name; how to get there is the transport's to find out.
    pub destination: OwnedServerName,
    /// The method.
    pub method: http::Method,
    /// Path and query.
    pub uri: String,
    /// The headers; `Authorization` is among them if the request is signed.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// How long the whole exchange may take.
    pub timeout: Duration,
    /// How many bytes the answer may have.
    pub limit: usize,
}

/// A request to an address of the web, such as a push gateway's.
#[derive(Debug, Clone)]
pub struct WebRequest {
    /// The method.
    pub method: http::Method,
    /// The whole address, with `https`; plain `http` where private addresses are allowed.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// How long the whole exchange may take.
    pub timeout: Duration,
    /// How many bytes the answer may have.
    pub limit: usize,
}

impl WebRequest {
    /// Posts JSON.
    pub fn post_json(uri: Uri, json: String, timeout: Duration, limit: usize) -> Self {
        let json_type = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, json_type)]);
        Self { method: http::Method::POST, uri, headers, body: json.into(), timeout, limit }
    }
}

/// What the other server said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, no longer than the request's limit.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The server cannot be reached, or broke off.
    Unreachable(String),
    /// It took too long.
    TimedOut,
    /// The answer is larger than the request's limit.
    TooLarge,
    /// The name leads to an address that this server may not connect to.
    Forbidden(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "it cannot be reached: {why}"),
            Self::TimedOut => f.write_str("it took too long to answer"),
            Self::TooLarge => f.write_str("its answer is too large"),
            Self::Forbidden(why) => write!(f, "this server may not connect to it: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

/// The future of an answer.
pub type Exchange<'a> = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send + 'a>>;

/// A body as it comes.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

/// An answer whose body is still coming.
pub struct Opened {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; an error ends it, such as that it is longer than the request's limit.
    pub body: Body,
}

/// The future of such an answer.
pub type Opening<'a> = Pin<Box<dyn Future<Output = Result<Opened, Failure>> + Send + 'a>>;

/// A way to other servers.
pub trait Transport: Send + Sync {
    /// Sends a request and reads the whole answer.
    fn send(&self, request: Outgoing) -> Exchange<'_>;

    /// Sends a request and leaves the body of the answer to be read.
    fn open(&self, request: Outgoing) -> Opening<'_> {
        Box::pin(async move {
            let Answer { status, headers, body } = self.send(request).await?;
            Ok(Opened { status, headers, body: Box::pin(stream::iter([Ok(body)])) })
        })
    }

    /// Sends a request to an address of the web and reads the whole answer. Redirects are not followed.
    fn web(&self, request: WebRequest) -> Exchange<'_> {
        let host = request.uri.host().unwrap_or_default().to_owned();
        Box::pin(async move { Err(Failure::Forbidden(format!("there is no way to {host}"))) })
    }
}

/// The way to the web, but to no other server: for a server without federation.
pub struct WithoutServers<T>(pub T);

impl<T: Transport> Transport for WithoutServers<T> {
    fn send(&self, request: Outgoing) -> Exchange<'_> {
        Island.send(request)
    }

    fn web(&self, request: WebRequest) -> Exchange<'_> {
        self.0.web(request)
    }
}

/// No way to anybody.
pub struct Island;

impl Transport for Island {
    fn send(&self, _: Outgoing) -> Exchange<'_> {
        Box::pin(async { Err(Failure::Forbidden("federation is switched off".to_owned())) })
    }
}
