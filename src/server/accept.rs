//! From a connection to requests: accept, TLS, HTTP/1.1 or 2, the service.
//!
//! One task per connection. It ends when the other side leaves, keeps the server waiting for too long,
//! or when the server stops and what was in flight is answered.

use std::{
    convert::Infallible, io, marker::PhantomData, net::IpAddr, panic::AssertUnwindSafe, pin::pin, sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;
use tracing::{debug, error, warn};

use super::{
    limits::{Gate, Limits, Place},
    listen::{Kind, Socket},
    patience::{Activity, Answer, Patient, Upload},
};
use crate::{error::Error, http::Peer};

/// What answers requests: warp's service, or anything of its kind in a test.
pub trait Answers<B>:
    Service<Request<Upload>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
{
}

impl<B, S> Answers<B> for S where
    S: Service<Request<Upload>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What a body must be to be sent.
pub trait Sends: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static {}

impl<B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static> Sends for B {}

/// What all connections share.
pub struct House<S> {
    /// Answers requests.
    pub service: S,
    /// How TLS is spoken, if it is.
    pub tls: Option<Arc<ServerConfig>>,
    /// How long and how much.
    pub limits: Limits,
    /// Counts connections.
    pub gate: Gate,
    /// Told when the server stops.
    pub stop: CancellationToken,
    /// The connections.
    pub tasks: TaskTracker,
}

/// Accepts connections on `socket` until the server stops.
pub async fn accept<S: Answers<B>, B: Sends>(socket: Socket, house: Arc<House<S>>) {
    loop {
        let accepted = tokio::select! {
            accepted = next(&socket.kind) => accepted,
            () = house.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                // A full house: this one waits here, and the next ones in the kernel's queue.
                let permit = tokio::select! {
                    permit = house.gate.wait() => permit,
                    () = house.stop.cancelled() => return,
                };
                let Some(place) = house.gate.enter(permit, address) else {
                    debug!(?address, "too many connections from this address: one was closed");
                    continue;
                };
                let peer = Peer { address: address.map(|address| address.to_canonical()), tls: socket.tls };
                house.tasks.spawn(welcome(stream, peer, place, Arc::clone(&house)));
            }
            // The other side left while it waited.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
            }
            Err(error) => {
                // Most likely there are no more file descriptors; some come back as connections end.
                warn!("cannot accept a connection: {error}");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// A connection of any kind.
enum Stream {
    Tcp(TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn next(kind: &Kind) -> io::Result<(Stream, Option<IpAddr>)> {
    match kind {
        Kind::Tcp(socket) => {
            let (stream, address) = socket.accept().await?;
            // Answers are written whole: waiting to fill a packet would only delay them.
            _ = stream.set_nodelay(true);
            Ok((Stream::Tcp(stream), Some(address.ip())))
        }
        Kind::Unix(socket, _) => socket.accept().await.map(|(stream, _)| (Stream::Unix(stream), None)),
    }
}

async fn welcome<S: Answers<B>, B: Sends>(stream: Stream, peer: Peer, place: Place, house: Arc<House<S>>) {
    match stream {
        Stream::Tcp(stream) => secure(stream, peer, &house).await,
        Stream::Unix(stream) => secure(stream, peer, &house).await,
    }
    drop(place);
}

async fn secure<S, B, IO>(stream: IO, peer: Peer, house: &House<S>)
where
    S: Answers<B>,
    B: Sends,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(tls) = house.tls.as_ref().filter(|_| peer.tls) else {
        return converse(stream, peer, house).await;
    };
    let handshake = timeout(house.limits.handshake, TlsAcceptor::from(Arc::clone(tls)).accept(stream));
    tokio::select! {
        result = handshake => match result {
            Ok(Ok(stream)) => converse(stream, peer, house).await,
            Ok(Err(error)) => debug!(?peer.address, "no TLS: {error}"),
            Err(_) => debug!(?peer.address, "no TLS: the handshake took too long"),
        },
        () = house.stop.cancelled() => {}
    }
}

async fn converse<S, B, IO>(stream: IO, peer: Peer, house: &House<S>)
where
    S: Answers<B>,
    B: Sends,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &house.limits;
    let activity = Activity::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(limits.head_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.streams)
        .keep_alive_interval(limits.stalled)
        .keep_alive_timeout(limits.stalled);
    let guard = Guard {
        service: house.service.clone(),
        peer,
        activity: activity.clone(),
        stalled: limits.stalled,
        body: PhantomData,
    };
    let stream = TokioIo::new(Patient::new(stream, limits.stalled));
    let mut connection = pin!(builder.serve_connection(stream, guard));
    let (mut stopping, mut leaving) = (false, false);
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    debug!(?peer.address, "a connection ended: {error}");
                }
                return;
            }
            () = house.stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = activity.idle(limits.idle) => {
                // Say goodbye first; who does not listen is left alone.
                if leaving {
                    return;
                }
                leaving = true;
                activity.touch();
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The service of one connection: says who is there, and keeps a panic to the request it is in.
struct Guard<S, B> {
    service: S,
    peer: Peer,
    activity: Activity,
    stalled: Duration,
    body: PhantomData<fn() -> B>,
}

impl<S: Answers<B>, B: Sends> hyper::service::Service<Request<Incoming>> for Guard<S, B> {
    type Response = Response<Answer<B>>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut service = self.service.clone();
        let busy = self.activity.busy();
        let mut request = request.map(|body| Upload::new(body, self.stalled));
        request.extensions_mut().insert(self.peer);
        let answer = AssertUnwindSafe(async move { service.call(request).await }).catch_unwind();
        Box::pin(async move {
            Ok(match answer.await {
                Ok(Ok(answer)) => answer.map(|body| Answer::new(body, busy)),
                Err(_) => broken().map(|body| Answer::ours(body, busy)),
            })
        })
    }
}

/// The answer to a request in which there was a panic. The panic itself is logged where it happens.
fn broken() -> Response<Full<Bytes>> {
    error!("a request was answered with 500 because of the panic above");
    let body = Error::internal("panic").body().to_string();
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, header::HeaderValue::from_static("*"));
    answer
}
