//! What a route is, and everything that holds for all of them.
//!
//! [`Routes::add`] takes an async function `(Ctx, Caller, ruma request) -> Result<response>`: the
//! request type says method, paths, who may call and whether the rate is limited. [`Http`] answers
//! requests from that table: [`service`] lifts it into warp for the accept loop, [`Http::call`] asks it
//! in memory. CORS, `OPTIONS`, `HEAD`, JSON errors for whatever goes wrong, size limits, panics and the
//! tracing span are done here, once.
//!
//! This module knows no endpoint; those are listed in `api`.

mod caller;
mod dispatch;
mod limits;
mod reply;
mod request;
mod routes;

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use http::{HeaderMap, Method, Uri};
use tower_service::Service;
use warp::{
    Filter, Reply as _,
    filters::path::FullPath,
    reply::{Response, stream},
};

pub use self::{
    caller::{Anyone, Bridge, Caller, Evidence, Origin, Scheme, User},
    dispatch::Http,
    reply::{IntoReply, Reply, ReplyBody},
    request::{Body, Form, Incoming, Raw},
    routes::{Facts, Routes},
};

/// Who is at the other end of the connection. The accept loop puts it into the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The address; none for a unix socket.
    pub address: Option<IpAddr>,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// The service for the accept loop: one filter that matches everything.
pub fn service<B>(
    http: Arc<Http>,
) -> impl Service<http::Request<B>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
where
    B: hyper::body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Sync + 'static,
{
    // `query::raw` rejects a request that has none.
    let query = warp::query::raw().map(Some).or(warp::any().map(|| None)).unify();
    let filter = warp::any()
        .and(warp::method())
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<Peer>())
        .and(warp::body::stream())
        .then(
            move |method: Method,
                  path: FullPath,
                  query: Option<String>,
                  headers: HeaderMap,
                  peer: Option<Peer>,
                  body| {
                let http = Arc::clone(&http);
                let uri = uri(path.as_str(), query.as_deref());
                async move {
                    let answer = match uri {
                        Some(uri) => http.answer(Incoming { method, uri, headers, peer, body: pieces(body) }).await,
                        None => dispatch::unreadable(),
                    };
                    into_warp(answer)
                }
            },
        );
    // The error type of `optional` and `full` is `Infallible`, that of the body is not.
    warp::service(filter.or_else(|_| async { Ok::<_, Infallible>((into_warp(dispatch::unreadable()),)) }))
}

/// The path and query as they stood in the request line. HTTP/2 sends the whole address, HTTP/1.1 the
/// path alone; signatures are made over the latter.
fn uri(path: &str, query: Option<&str>) -> Option<Uri> {
    match query {
        Some(query) => Uri::try_from(format!("{path}?{query}")).ok(),
        None => Uri::try_from(path).ok(),
    }
}

fn pieces<B: Buf, E: std::error::Error + Send + Sync + 'static>(
    body: impl futures_util::Stream<Item = Result<B, E>> + Send + Sync + 'static,
) -> Body {
    let pieces = body.map(|piece| match piece {
        Ok(mut piece) => Ok(piece.copy_to_bytes(piece.remaining())),
        Err(error) => Err(std::io::Error::other(error)),
    });
    Body::Pieces(Box::pin(pieces))
}

fn into_warp(answer: http::Response<ReplyBody>) -> Response {
    let (parts, body) = answer.into_parts();
    let body = match body {
        ReplyBody::Whole(bytes) => http::Response::new(bytes).into_response().into_body(),
        ReplyBody::Pieces(pieces) => stream::<_, Bytes, std::io::Error>(pieces).into_response().into_body(),
    };
    http::Response::from_parts(parts, body)
}
