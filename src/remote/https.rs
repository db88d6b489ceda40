//! HTTPS to other servers: found by their names, checked by their certificates, over connections that are kept.
//!
//! Spec: server-server-api#tls

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use http_body_util::{BodyDataStream, BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use quick_cache::sync::Cache;
use rustls::ClientConfig;
use rustls_pki_types::ServerName as TlsName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use super::{
    discovery::{Discovery, Route},
    transport::{Answer, Exchange, Failure, Opened, Opening, Outgoing, Transport, WebRequest},
};

/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept: less than most servers keep it, so that none ends under a request.
const IDLE: Duration = Duration::from_secs(30);
/// How long a connection of many requests may be silent, and then how long the other side has to say that it is there.
const SILENCE: Duration = Duration::from_secs(20);
/// How long a `.well-known` answer may take, with all its redirects, and how large it may be.
const WELL_KNOWN_TIMEOUT: Duration = Duration::from_secs(10);
const WELL_KNOWN_LIMIT: usize = 50 * 1024;
/// How many redirects a `.well-known` request follows.
const MOST_REDIRECTS: usize = 5;

/// The way to other servers over the network.
pub struct Https {
    discovery: Arc<Discovery>,
    routes: Arc<Cache<String, Route>>,
    servers: Client<Connector, Full<Bytes>>,
    web: Client<Connector, Full<Bytes>>,
}

impl Https {
    /// `tls` is made by [`super::tls::client`] and offers `h2` and `http/1.1`.
    pub fn new(discovery: Discovery, tls: Arc<ClientConfig>) -> Self {
        let discovery = Arc::new(discovery);
        let routes = Arc::new(Cache::new(2_000));
        let client = |routes: Option<Arc<Cache<String, Route>>>| {
            let connector = Connector { discovery: Arc::clone(&discovery), tls: Arc::clone(&tls), routes };
            Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .http2_keep_alive_interval(SILENCE)
                .http2_keep_alive_timeout(SILENCE)
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(4)
                .build(connector)
        };
        let (servers, web) = (client(Some(Arc::clone(&routes))), client(None));
        Self { discovery, routes, servers, web }
    }

    async fn exchange(&self, request: Outgoing) -> Result<Answer, Failure> {
        let limit = request.limit;
        whole(self.ask(request).await?, limit).await
    }

    async fn ask(&self, request: Outgoing) -> Result<http::Response<Incoming>, Failure> {
        let web = self.web.clone();
        let route = self.discovery.find(request.destination, |host| well_known(web, host)).await;
        let route = route.ok_or_else(|| Failure::Unreachable("this server is stopping".to_owned()))?;
        let unreachable = |error: &dyn std::fmt::Display| Failure::Unreachable(error.to_string());
        let uri: Uri = format!("https://{}{}", route.host, request.uri).parse().map_err(|error| unreachable(&error))?;
        self.routes.insert(route.host.clone(), route);
        let Outgoing { method, headers, body, timeout, limit, .. } = request;
        ask(&self.servers, WebRequest { method, uri, headers, body, timeout, limit }).await
    }
}

/// `https://<host>/.well-known/matrix/server`, redirects followed: nothing if there is no answer, or one of a server in
/// trouble; with an empty body if there is no such file.
async fn well_known(web: Client<Connector, Full<Bytes>>, host: String) -> Option<(HeaderMap, Vec<u8>)> {
    let fetch = async {
        let mut uri: Uri = format!("https://{host}/.well-known/matrix/server").parse().ok()?;
        for _ in 0..=MOST_REDIRECTS {
            let mut request = http::Request::new(Full::default());
            *request.uri_mut() = uri.clone();
            request.headers_mut().insert(header::USER_AGENT, user_agent());
            let answer = web.request(request).await.ok()?;
            if answer.status().is_redirection() {
                uri = redirected(&uri, answer.headers().get(header::LOCATION)?.to_str().ok()?)?;
                continue;
            }
            let status = answer.status();
            if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                return None;
            }
            if !status.is_success() {
                return Some((answer.headers().clone(), Vec::new()));
            }
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, WELL_KNOWN_LIMIT).collect().await.ok()?;
            return Some((parts.headers, body.to_bytes().to_vec()));
        }
        None
    };
    tokio::time::timeout(WELL_KNOWN_TIMEOUT, fetch).await.ok()?
}

/// Sends a request.
async fn ask(
    client: &Client<Connector, Full<Bytes>>,
    request: WebRequest,
) -> Result<http::Response<Incoming>, Failure> {
    let mut outgoing = http::Request::new(Full::new(request.body));
    *outgoing.method_mut() = request.method;
    *outgoing.uri_mut() = request.uri;
    *outgoing.headers_mut() = request.headers;
    outgoing.headers_mut().insert(header::USER_AGENT, user_agent());
    client.request(outgoing).await.map_err(failure)
}

/// Reads the whole body of an answer.
async fn whole(answer: http::Response<Incoming>, limit: usize) -> Result<Answer, Failure> {
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, limit).collect().await.map_err(|error| broken_off(&*error))?;
    Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
}

fn user_agent() -> HeaderValue {
    HeaderValue::from_static(concat!("Ingle/", env!("CARGO_PKG_VERSION")))
}

/// Where a redirect leads; only to https.
fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    let to: Uri = location.parse().ok()?;
    match (to.scheme_str(), to.path_and_query()) {
        (Some("https"), _) => Some(to),
        (None, Some(path)) => format!("https://{}{path}", from.authority()?).parse().ok(),
        _ => None,
    }
}

fn failure(error: hyper_util::client::legacy::Error) -> Failure {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match cause.downcast_ref::<io::Error>() {
        Some(io) if io.kind() == io::ErrorKind::PermissionDenied => Failure::Forbidden(io.to_string()),
        _ => Failure::Unreachable(cause.to_string()),
    }
}

/// Why a body ended before its end.
fn broken_off(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Failure {
    match error.downcast_ref() {
        Some(http_body_util::LengthLimitError { .. }) => Failure::TooLarge,
        None => Failure::Unreachable(error.to_string()),
    }
}

impl Transport for Https {
    fn send(&self, request: Outgoing) -> Exchange<'_> {
        let timeout = request.timeout;
        Box::pin(async move {
            tokio::time::timeout(timeout, self.exchange(request)).await.unwrap_or(Err(Failure::TimedOut))
        })
    }

    fn open(&self, request: Outgoing) -> Opening<'_> {
        let (until, limit) = (tokio::time::Instant::now() + request.timeout, request.limit);
        Box::pin(async move {
            let answer = tokio::time::timeout_at(until, self.ask(request)).await;
            let (parts, body) = answer.unwrap_or(Err(Failure::TimedOut))?.into_parts();
            let pieces = BodyDataStream::new(Limited::new(body, limit));
            // The time is for the whole exchange: whoever sends a byte now and then does not hold us for ever.
            let body = stream::unfold(Some(pieces), move |pieces| async move {
                let mut pieces = pieces?;
                match tokio::time::timeout_at(until, pieces.next()).await {
                    Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(pieces))),
                    Ok(Some(Err(error))) => Some((Err(broken_off(&*error)), None)),
                    Ok(None) => None,
                    Err(_) => Some((Err(Failure::TimedOut), None)),
                }
            });
            Ok(Opened { status: parts.status, headers: parts.headers, body: Box::pin(body) })
        })
    }

    fn web(&self, request: WebRequest) -> Exchange<'_> {
        let (timeout, limit) = (request.timeout, request.limit);
        let exchange = async move { whole(ask(&self.web, request).await?, limit).await };
        Box::pin(async move { tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(Failure::TimedOut)) })
    }
}

/// Makes connections. With `routes`, the authority of a URI is looked up there; without, it is an ordinary
/// web address.
#[derive(Clone)]
struct Connector {
    discovery: Arc<Discovery>,
    tls: Arc<ClientConfig>,
    routes: Option<Arc<Cache<String, Route>>>,
}

impl Connector {
    async fn connect(self, uri: Uri) -> io::Result<Stream> {
        let authority = uri.authority().ok_or(io::ErrorKind::InvalidInput)?.as_str().to_owned();
        let route = match &self.routes {
            // Of very many at the same time, one may be gone: then it must not be taken for a web server.
            Some(routes) => routes.get(&authority).ok_or_else(|| io::Error::other("the way to it got lost"))?,
            None => {
                let name = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let usual = if uri.scheme_str() == Some("http") { 80 } else { 443 };
                Route { host: authority, targets: vec![(name.clone(), uri.port_u16().unwrap_or(usual))], name }
            }
        };
        let plain = uri.scheme_str() == Some("http");
        if plain && !self.discovery.allows_private() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it does not speak https"));
        }
        let name = TlsName::try_from(route.name.clone()).map_err(io::Error::other)?;
        let mut last = io::Error::other("it has no address");
        for (host, port) in &route.targets {
            let addresses = match self.discovery.addresses(host, *port).await {
                Ok(addresses) => addresses,
                Err(why) => {
                    last = io::Error::new(io::ErrorKind::PermissionDenied, why);
                    continue;
                }
            };
            for address in addresses {
                let name = Some(name.clone()).filter(|_| !plain);
                match tokio::time::timeout(CONNECT, self.handshake(address, name)).await {
                    Ok(Ok(stream)) => return Ok(stream),
                    Ok(Err(error)) => last = error,
                    Err(_) => last = io::ErrorKind::TimedOut.into(),
                }
            }
        }
        Err(last)
    }

    /// Connects; with a name, over TLS.
    async fn handshake(&self, address: SocketAddr, name: Option<TlsName<'static>>) -> io::Result<Stream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = match name {
            Some(name) => Either::Left(TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?),
            None => Either::Right(stream),
        };
        Ok(Stream(TokioIo::new(stream)))
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// A connection to another server.
struct Stream(TokioIo<Either<TlsStream<TcpStream>, TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let Either::Left(stream) = self.0.inner() else { return Connected::new() };
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Connected::new().negotiated_h2(),
            _ => Connected::new(),
        }
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_https() {
        let from: Uri = "https://a.example/.well-known/matrix/server".parse().unwrap();
        assert_eq!(redirected(&from, "/x").unwrap(), "https://a.example/x");
        assert_eq!(redirected(&from, "https://b.example/y").unwrap(), "https://b.example/y");
        assert_eq!(redirected(&from, "http://b.example/y"), None);
    }
}
