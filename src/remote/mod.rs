//! Other servers: how to reach them, and how both sides know each other by their keys.
//!
//! [`Remote::ask`] sends one of ruma's federation requests, signed, and returns its answer. Servers that do
//! not answer are left alone for a while ([`back_off`]). This layer knows nothing of rooms.

pub mod back_off;
pub mod discovery;
pub mod guard;
pub mod https;
pub mod inbound;
pub mod keys;
pub mod own_key;
pub mod permitted;
pub mod tls;
pub mod transport;
pub mod x_matrix;

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use ruma::{
    OwnedServerName, ServerName,
    api::{
        IncomingResponse, IncomingResponseExt, OutgoingRequest, auth_scheme::NoAuthentication,
        error::FromHttpResponseError, path_builder::SinglePath,
    },
};
use serde::Deserialize;

use self::{
    back_off::BackOff,
    keys::Keys,
    own_key::GivenUp,
    permitted::Permitted,
    transport::{Answer, Body, Failure, Outgoing, Transport, WebRequest},
    x_matrix::Signed,
};
use crate::{
    chance::Chance,
    clock::Clock,
    config::{Config, memory},
    error::{Error, Result},
    limits::{Buckets, Rate},
    protocol::{
        canonical::{self, Numbers},
        sign::KeyPair,
    },
    store::Store,
};

/// How many bytes an answer may have, unless the caller says otherwise.
const USUAL_LIMIT: usize = 10 * 1024 * 1024;
/// How much of a refusal is read where an answer is not held whole.
const LARGEST_REFUSAL: usize = 64 * 1024;
/// How long a server may ask to be left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);
/// How many lines of the log say why a server is left alone: whoever makes up names must not fill the disk.
const LINES: Rate = Rate { burst: 60.0, per_second: 0.1 };
/// How long an answer may take, unless the caller says otherwise.
const USUAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that talking to other servers needs.
pub struct Remote {
    /// The configuration.
    pub config: Arc<Config>,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub chance: Chance,
    /// Where keys and back-off are kept.
    pub store: Store,
    /// The key of this server.
    pub key: Arc<KeyPair>,
    /// Keys that this server has signed with before.
    pub given_up: Vec<GivenUp>,
    /// Whom this server talks to.
    pub permitted: Arc<Permitted>,
    /// The keys of the others.
    pub keys: Keys,
    /// Who is being left alone.
    pub back_off: BackOff,
    transport: Arc<dyn Transport>,
    /// The lines of the log about servers that do not answer.
    lines: Buckets<()>,
}

/// Why another server's help is not to be had.
#[derive(Debug)]
pub enum RemoteError {
    /// The configuration does not permit it.
    NotPermitted {
        /// Whether it permits anybody else.
        anybody: bool,
    },
    /// The server is being left alone until then (milliseconds since the epoch).
    LeftAlone {
        /// When it will be asked again.
        until: u64,
    },
    /// There was no answer.
    Failed(Failure),
    /// The server refused.
    Refused {
        /// The status of its answer.
        status: StatusCode,
        /// The errcode, if it gave one.
        errcode: String,
        /// Its explanation.
        message: String,
        /// The whole body.
        body: Bytes,
    },
    /// The answer makes no sense.
    Nonsense(String),
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted { anybody: true } => f.write_str("this server does not talk to it"),
            Self::NotPermitted { anybody: false } => f.write_str("this server does not talk to other servers"),
            Self::LeftAlone { .. } => f.write_str("it did not answer lately and is asked again later"),
            Self::Failed(failure) => failure.fmt(f),
            Self::Refused { status, errcode, message, .. } => {
                write!(f, "it says {} {errcode}: {message}", status.as_u16())
            }
            Self::Nonsense(what) => write!(f, "its answer makes no sense: {what}"),
        }
    }
}

impl std::error::Error for RemoteError {}

/// How patient a request is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long the whole exchange may take.
    pub timeout: Duration,
    /// How many bytes the answer may have.
    pub limit: usize,
    /// Whether to ask even a server that is being left alone.
    pub insist: bool,
}

impl Default for Patience {
    fn default() -> Self {
        Self { timeout: USUAL_TIMEOUT, limit: USUAL_LIMIT, insist: false }
    }
}

impl Remote {
    /// A way to other servers over `transport`.
    pub fn new(
        config: Arc<Config>,
        clock: Clock,
        chance: Chance,
        store: Store,
        key: Arc<KeyPair>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self> {
        let back_off = BackOff::load(&store)?;
        // A quarter each is for addresses and for rooms that this server is not in.
        let permitted = Arc::new(Permitted::new(&config));
        let keys = Keys::new(store.clone(), Arc::clone(&permitted), memory::share(&config, memory::Share::Remote) / 2);
        let (given_up, lines) = (Vec::new(), Buckets::new(LINES, 1));
        Ok(Self { config, clock, chance, store, key, given_up, permitted, keys, back_off, transport, lines })
    }

    /// Sends a signed request.
    pub async fn ask<R>(&self, to: &ServerName, request: R) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
    {
        self.ask_with(to, request, Patience::default()).await
    }

    /// The same with a patience of the caller's own.
    pub async fn ask_with<R>(
        &self,
        to: &ServerName,
        request: R,
        patience: Patience,
    ) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
    {
        let answer = self.exchange(to, request, patience, true).await?;
        read::<R::IncomingResponse>(answer)
    }

    /// Sends a request that is not signed, such as the one for a server's keys.
    pub async fn ask_unsigned<R>(&self, to: &ServerName, request: R, patience: Patience) -> Result<Bytes, RemoteError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath, Authentication = NoAuthentication>,
    {
        let answer = self.exchange(to, request, patience, false).await?;
        match answer.status() {
            status if status.is_success() => Ok(answer.into_body()),
            _ => Err(RemoteError::refusal(&answer)),
        }
    }

    /// Sends a request and returns the raw answer; for answers that are too large for a tree in memory.
    pub async fn exchange<R>(
        &self,
        to: &ServerName,
        request: R,
        patience: Patience,
        signed: bool,
    ) -> Result<http::Response<Bytes>, RemoteError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
    {
        let (method, uri, body) = raw(request)?;
        self.send(to, method, uri, body, patience, signed).await
    }

    /// Sends a signed request and gives the body of the answer as it comes; for answers that are too large to be
    /// held.
    pub async fn stream<R>(&self, to: &ServerName, request: R, patience: Patience) -> Result<Body, RemoteError>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
    {
        let (method, uri, body) = raw(request)?;
        self.open(to, method, uri, body, patience).await
    }

    /// The same for any request with an optional JSON body.
    pub async fn open(
        &self,
        to: &ServerName,
        method: http::Method,
        uri: String,
        body: Option<Vec<u8>>,
        patience: Patience,
    ) -> Result<Body, RemoteError> {
        let request = self.prepare(to, method, uri, body, patience, true)?;
        let mut answer = self.answered(to, self.transport.open(request).await, |answer| (answer.status, None))?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let mut body = Vec::new();
        while let Some(Ok(bytes)) = answer.body.next().await
            && body.len() + bytes.len() <= LARGEST_REFUSAL
        {
            body.extend_from_slice(&bytes);
        }
        let mut refusal = http::Response::new(Bytes::from(body));
        *refusal.status_mut() = answer.status;
        Err(RemoteError::refusal(&refusal))
    }

    /// Sends any request with an optional JSON body.
    pub async fn send(
        &self,
        to: &ServerName,
        method: http::Method,
        uri: String,
        body: Option<Vec<u8>>,
        patience: Patience,
        signed: bool,
    ) -> Result<http::Response<Bytes>, RemoteError> {
        let request = self.prepare(to, method, uri, body, patience, signed)?;
        let answer = self.transport.send(request).await.map(|answer| {
            let mut response = http::Response::new(answer.body);
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            response
        });
        self.answered(to, answer, |answer| (answer.status(), asked_to_wait(answer)))
    }

    fn prepare(
        &self,
        to: &ServerName,
        method: http::Method,
        uri: String,
        body: Option<Vec<u8>>,
        patience: Patience,
        signed: bool,
    ) -> Result<Outgoing, RemoteError> {
        if !self.permitted.is(to) {
            return Err(RemoteError::NotPermitted { anybody: self.permitted.anybody() });
        }
        let now = self.clock.now();
        if let Some(until) = self.back_off.until(to, now).filter(|_| !patience.insist) {
            return Err(RemoteError::LeftAlone { until });
        }
        let mut headers = HeaderMap::new();
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if signed {
            headers.insert(header::AUTHORIZATION, self.signature(to, &method, &uri, body.as_deref())?);
        }
        Ok(Outgoing {
            destination: to.to_owned(),
            method,
            uri,
            headers,
            body: body.unwrap_or_default().into(),
            timeout: patience.timeout,
            limit: patience.limit,
        })
    }

    /// Notes whether there is an answer, and whether it is one of a server that works, or wants to be left alone.
    fn answered<A>(
        &self,
        to: &ServerName,
        answer: Result<A, Failure>,
        says: impl Fn(&A) -> (StatusCode, Option<Duration>),
    ) -> Result<A, RemoteError> {
        match answer {
            Ok(answer) => {
                let (status, wait) = says(&answer);
                match status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                    true => self.note_failure(to, &format!("it says {}", status.as_u16()), wait),
                    false => self.note_answer(to),
                }
                Ok(answer)
            }
            Err(failure) => {
                match failure {
                    // It is there; it only says too much.
                    Failure::TooLarge => {
                        tracing::info!(server = %to, "an answer of {to} is larger than it may be, and is cut off");
                        self.note_answer(to);
                    }
                    _ => self.note_failure(to, &failure.to_string(), None),
                }
                Err(RemoteError::Failed(failure))
            }
        }
    }

    /// Sends a request to an address of the web, such as a push gateway's. Nobody is left alone here: that is the
    /// caller's to decide.
    pub async fn web(&self, request: WebRequest) -> Result<Answer, Failure> {
        self.transport.web(request).await
    }

    fn note_answer(&self, server: &ServerName) {
        if let Err(error) = self.back_off.answered(server) {
            tracing::warn!(%server, ?error, "cannot save that {server} answers");
        }
    }

    /// Keeps the back-off. That it cannot be saved is no reason to fail the request.
    fn note_failure(&self, server: &ServerName, why: &str, wanted: Option<Duration>) {
        let jitter = u64::from_le_bytes(self.chance.bytes());
        match self.back_off.failed(server, self.clock.now(), jitter, wanted.unwrap_or_default()) {
            Ok(true) if self.lines.take(&(), self.clock.now()).is_ok() => {
                tracing::info!(%server, "{server} is left alone for a while: {why}");
            }
            Ok(_) => tracing::debug!(%server, "{server} is left alone: {why}"),
            Err(error) => tracing::warn!(%server, ?error, "cannot save that {server} does not answer"),
        }
    }

    fn signature(
        &self,
        to: &ServerName,
        method: &http::Method,
        uri: &str,
        body: Option<&[u8]>,
    ) -> Result<HeaderValue, RemoteError> {
        let nonsense = |error: &dyn fmt::Display| RemoteError::Nonsense(format!("our own request: {error}"));
        let content =
            body.map(|body| canonical::parse(body, Numbers::Lax)).transpose().map_err(|error| nonsense(&error))?;
        let header = Signed {
            origin: &self.config.server_name,
            destination: to,
            method: method.as_str(),
            uri,
            content: content.as_ref(),
        }
        .header(&self.key);
        HeaderValue::from_str(&header).map_err(|error| nonsense(&error))
    }
}

/// Method, path with query, and body of a request.
fn raw<R>(request: R) -> Result<(http::Method, String, Option<Vec<u8>>), RemoteError>
where
    R: OutgoingRequest<PathBuilder = SinglePath>,
{
    use ruma::api::OutgoingBody;
    let nonsense = |error: &dyn fmt::Display| RemoteError::Nonsense(format!("our own request: {error}"));
    let request = request.try_into_http_request_inner("", ()).map_err(|error| nonsense(&error))?;
    let (parts, body) = request.into_parts();
    let has_content = body.content_type().is_some();
    let body: Vec<u8> = body.try_into_buf().map_err(|error| nonsense(&error.into()))?;
    let uri = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    Ok((parts.method, uri, has_content.then_some(body)))
}

/// Reads an answer as ruma's type.
pub fn read<R: IncomingResponse>(answer: http::Response<Bytes>) -> Result<R, RemoteError> {
    if answer.status().as_u16() >= 400 {
        return Err(RemoteError::refusal(&answer));
    }
    let (parts, body) = answer.into_parts();
    R::try_from_http_response(http::Response::from_parts(parts, &body[..])).map_err(|error| match error {
        FromHttpResponseError::Deserialization(error) => RemoteError::Nonsense(error.to_string()),
        _ => RemoteError::Nonsense("an error with a good status".to_owned()),
    })
}

impl RemoteError {
    /// What an answer with an error says.
    pub fn refusal(answer: &http::Response<Bytes>) -> Self {
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let text = |field: &str| body.get(field).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        Self::Refused {
            status: answer.status(),
            errcode: text("errcode"),
            message: text("error"),
            body: answer.body().clone(),
        }
    }

    /// Whether the server does not have the endpoint that was asked for, as old servers do not have new ones.
    ///
    /// Spec: server-server-api#unsupported-endpoints
    pub fn is_unknown_endpoint(&self) -> bool {
        let Self::Refused { status, errcode, .. } = self else { return false };
        match &**errcode {
            "M_UNRECOGNIZED" => status.is_client_error(),
            "" => matches!(*status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED),
            _ => false,
        }
    }

    /// The error for a client whose wish depended on that server: its refusal is passed on.
    pub fn for_client(self, server: &ServerName) -> Error {
        match self {
            Self::Refused { status, errcode, message, body } if status.is_client_error() && !errcode.is_empty() => {
                let status = if status == StatusCode::UNAUTHORIZED { StatusCode::FORBIDDEN } else { status };
                let version = serde_json::from_slice::<Versioned>(&body).ok().filter(|_| errcode == INCOMPATIBLE);
                let error = Error::new(status, errcode, message);
                match version {
                    Some(Versioned { room_version }) => error.with("room_version", room_version),
                    None => error,
                }
            }
            Self::NotPermitted { anybody: true } => {
                Error::forbidden(format!("this server does not talk to {server}; its configuration forbids it"))
            }
            Self::NotPermitted { anybody: false } => {
                Error::forbidden("this server does not talk to other servers; its configuration forbids it")
            }
            error => {
                Error::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", format!("{server} cannot help at the moment: {error}"))
            }
        }
    }
}

/// The errcode for a room whose version the asking server does not have; that version is named beside it.
const INCOMPATIBLE: &str = "M_INCOMPATIBLE_ROOM_VERSION";

#[derive(Deserialize)]
struct Versioned {
    room_version: String,
}

/// Whether a name is this server's own.
pub fn is_own(config: &Config, server: &ServerName) -> bool {
    *server == *config.server_name
}

/// Several servers that may know something, each once, without this server.
pub fn candidates(config: &Config, servers: impl IntoIterator<Item = OwnedServerName>) -> Vec<OwnedServerName> {
    let mut seen = HashSet::new();
    servers.into_iter().filter(|server| !is_own(config, server) && seen.insert(server.clone())).collect()
}

/// How long a server that has too much to do wants to be left alone, if it says so: an hour at most.
pub fn asked_to_wait(answer: &http::Response<Bytes>) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Limited {
        retry_after_ms: u64,
    }
    if !matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let header = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let wait = header.map(Duration::from_secs).or_else(|| {
        let limited: Limited = serde_json::from_slice(answer.body()).ok()?;
        Some(Duration::from_millis(limited.retry_after_ms))
    });
    wait.map(|wait| wait.min(LONGEST_WAIT))
}
