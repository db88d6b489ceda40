//! From a request to its answer, for every route alike.

use std::{panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_MAX_AGE, ALLOW, CONTENT_LENGTH,
    },
};
use tokio::sync::Semaphore;
use tracing::{Instrument, debug, info_span};

use super::{
    Incoming,
    caller::{Caller, Evidence},
    limits::Limits,
    reply::{Reply, ReplyBody, refuse},
    request::{Body, Memory, argument},
    routes::{Facts, Found, Routes, Table},
};
use crate::{
    app::Ctx,
    error::{Error, Result},
};

/// How many requests may be under way at once, waiting ones included.
const REQUESTS: usize = 8192;

/// The routes and everything that answering from them needs.
pub struct Http {
    pub(super) ctx: Ctx,
    table: Table,
    limits: Limits,
    requests: Semaphore,
    pub(super) memory: Memory,
}

impl Http {
    /// Answers from these routes.
    pub fn new(ctx: Ctx, routes: Routes) -> Arc<Self> {
        Arc::new(Self {
            limits: Limits::new(ctx.config.limits.enabled),
            ctx,
            table: routes.table(),
            requests: Semaphore::new(REQUESTS),
            memory: Memory::new(),
        })
    }

    /// Answers a request that is in memory, exactly as one from the network.
    pub async fn call(self: &Arc<Self>, request: http::Request<Bytes>) -> Response<Bytes> {
        let (parts, body) = request.into_parts();
        let peer = parts.extensions.get().copied();
        let body = Body::Whole(body);
        let incoming = Incoming { method: parts.method, uri: parts.uri, headers: parts.headers, peer, body };
        let (parts, body) = self.answer(incoming).await.into_parts();
        let body = match body {
            ReplyBody::Whole(bytes) => bytes,
            ReplyBody::Pieces(pieces) => Body::Pieces(pieces).read(usize::MAX).await.unwrap_or_default(),
        };
        Response::from_parts(parts, body)
    }

    /// Answers a request. Whatever goes wrong is an answer too.
    pub async fn answer(self: &Arc<Self>, incoming: Incoming) -> Response<ReplyBody> {
        let head = incoming.method == Method::HEAD;
        let span = info_span!("request", method = %incoming.method, path = incoming.uri.path());
        let mut answer = async {
            match self.route(incoming).await {
                Ok(Reply(answer)) => {
                    debug!(status = answer.status().as_u16(), "answered");
                    answer
                }
                Err(error) => {
                    debug!("refused: {error:?}");
                    refuse(&error)
                }
            }
        }
        .instrument(span)
        .await;
        cors(answer.headers_mut());
        if head { without_body(answer) } else { answer }
    }

    async fn route(self: &Arc<Self>, incoming: Incoming) -> Result<Reply> {
        if incoming.method == Method::OPTIONS {
            return Ok(preflight());
        }
        let Ok(_under_way) = self.requests.try_acquire() else {
            return Err(Error::limit_exceeded(std::time::Duration::from_secs(1)));
        };
        let query = incoming.uri.query().unwrap_or_default();
        let (route, raw) = match self.table.find(&incoming.method, incoming.uri.path(), query) {
            Found::Route(route, args) => (route, args),
            Found::OtherMethods => {
                let message = format!("this endpoint does not know the method {}", incoming.method);
                return Err(Error::new(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", message));
            }
            Found::Nothing => return Err(Error::unrecognized()),
        };
        let args = raw.iter().map(|raw| argument(raw).map(|arg| arg.into_owned())).collect::<Result<_>>()?;
        let facts = route.facts;
        // What reads the request may panic too, before the handler runs.
        let answer = AssertUnwindSafe(async move { (route.run)(Arc::clone(self), facts, incoming, args).await });
        answer.catch_unwind().await.unwrap_or_else(|panic| Err(panicked(facts, &*panic)))
    }

    /// Whether this caller may use this route, and not too often.
    pub(super) fn allow<C: Caller>(&self, facts: Facts, caller: &C, evidence: &Evidence<'_>) -> Result<()> {
        if let Some(user) = caller.user() {
            if user.locked && !facts.locked {
                return Err(locked());
            }
            if user.guest && !facts.guests {
                let message = "guests may not do this; make an account first";
                return Err(Error::new(StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", message));
            }
        }
        if facts.rate_limited && caller.limited() {
            let user = caller.user().map(|user| user.number);
            self.limits.check(user, evidence, self.ctx.clock.now())?;
        }
        Ok(())
    }
}

/// 401 `M_USER_LOCKED`: the account is there, but may do nothing but log out.
///
/// Spec: client-server-api#account-locking
fn locked() -> Error {
    let message = "this account is locked; ask whoever runs the server";
    Error::new(StatusCode::UNAUTHORIZED, "M_USER_LOCKED", message).with("soft_logout", true)
}

/// Runs a handler. One that changes something runs in a task of its own, so that a client that hangs
/// up leaves nothing half done. A panic becomes a 500 for this request alone.
pub(super) async fn carry_out(
    facts: Facts,
    handler: impl Future<Output = Result<Reply>> + Send + 'static,
) -> Result<Reply> {
    if !facts.mutating {
        return handler.await;
    }
    match tokio::spawn(handler.in_current_span()).await {
        Ok(answer) => answer,
        Err(error) => Err(match error.try_into_panic() {
            Ok(panic) => panicked(facts, &*panic),
            Err(_) => Error::internal("the server is stopping"),
        }),
    }
}

fn panicked(facts: Facts, panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    Error::internal(format!("{} panicked: {text}", facts.name))
}

/// Spec: client-server-api#web-browser-clients
fn cors(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS"));
    let allowed = HeaderValue::from_static("X-Requested-With, Content-Type, Authorization");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
}

fn preflight() -> Reply {
    let mut response = Response::new(ReplyBody::Whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS"));
    Reply(response)
}

fn without_body(answer: Response<ReplyBody>) -> Response<ReplyBody> {
    let (mut parts, body) = answer.into_parts();
    if let ReplyBody::Whole(bytes) = &body {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    Response::from_parts(parts, ReplyBody::Whole(Bytes::new()))
}

/// The answer to a request whose path or body cannot even be read.
pub(super) fn unreadable() -> Response<ReplyBody> {
    let mut answer = refuse(&Error::bad_request("M_UNKNOWN", "this request cannot be read"));
    cors(answer.headers_mut());
    answer
}
