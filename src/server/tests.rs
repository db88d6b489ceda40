//! The server over real loopback sockets, spoken to by hyper's and rustls's clients.

use std::{convert::Infallible, fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::Notify,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower_service::Service;

use super::*;
use crate::config::{Address, Listen};

type Body = BoxBody<Bytes, Infallible>;

/// Answers what the tests ask.
#[derive(Clone, Default)]
struct Scene {
    /// `/slow` says here that it was asked, ...
    asked: Arc<Notify>,
    /// ... and waits for this.
    go_on: Arc<Notify>,
}

impl Service<Request<Upload>> for Scene {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Upload>) -> Self::Future {
        let scene = self.clone();
        Box::pin(async move {
            let peer = *request.extensions().get::<crate::http::Peer>().expect("the accept loop says who asks");
            let answer = match request.uri().path() {
                "/slow" => {
                    scene.asked.notify_one();
                    scene.go_on.notified().await;
                    "at last".to_owned()
                }
                "/peer" => format!("{:?} {}", peer.address, peer.tls),
                "/panic" => panic!("as the test wants it"),
                "/count" => {
                    let mut body = request.into_body();
                    let mut bytes = 0;
                    while let Some(Ok(frame)) = body.frame().await {
                        bytes += frame.data_ref().map_or(0, Bytes::len);
                    }
                    bytes.to_string()
                }
                path => format!("{path} by {:?}", request.version()),
            };
            Ok(Response::new(Full::from(answer)))
        })
    }
}

/// A running server.
struct Running {
    scene: Scene,
    port: u16,
    stop: CancellationToken,
    certificates: Option<Arc<Certificates>>,
    ended: tokio::task::JoinHandle<bool>,
    folder: tempfile::TempDir,
}

/// Starts a server; with TLS if `names` has a name for each certificate.
async fn start(names: &[&str], limits: impl FnOnce(&mut Limits)) -> Running {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = Config::for_tests();
    config.listen[0].tls = !names.is_empty();
    for name in names {
        certificate(folder.path(), name);
        config.tls.certificate.push(folder.path().join(format!("{name}.pem")));
        config.tls.key.push(folder.path().join(format!("{name}.key")));
    }
    config.listen.push(Listen { address: Address::Unix(folder.path().join("sock")), tls: false });
    let server = Server::bind(&config).expect("a free port");
    let mut ours = server.limits.clone();
    limits(&mut ours);
    let (scene, stop) = (Scene::default(), CancellationToken::new());
    let (port, certificates) = (server.addresses()[0].port(), server.certificates());
    let run = server.with_limits(ours).run(scene.clone(), stop.clone());
    let ended = tokio::spawn(async { run.await.expect("TLS") });
    Running { scene, port, stop, certificates, ended, folder }
}

/// Writes a new self-signed certificate for `name`.
fn certificate(folder: &Path, name: &str) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    fs::write(folder.join(format!("{name}.pem")), cert.pem()).expect("a file");
    fs::write(folder.join(format!("{name}.key")), signing_key.serialize_pem()).expect("a file");
}

impl Running {
    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.expect("the server listens")
    }

    fn root(&self, name: &str) -> CertificateDer<'static> {
        use rustls_pki_types::pem::PemObject;
        CertificateDer::from_pem_file(self.folder.path().join(format!("{name}.pem"))).expect("a certificate")
    }

    /// A TLS connection to `name`, trusting `root` alone.
    async fn tls(
        &self,
        name: &str,
        root: CertificateDer<'static>,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(root).expect("a root");
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        TlsConnector::from(Arc::new(tls)).connect(name, self.tcp().await).await
    }
}

/// A connection that speaks HTTP/1.1.
async fn http1<IO>(io: IO) -> hyper::client::conn::http1::SendRequest<Body>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    sender
}

/// A connection that speaks HTTP/2.
async fn http2<IO>(io: IO) -> hyper::client::conn::http2::SendRequest<Body>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "a.example").body(Empty::new().boxed()).expect("a request")
}

fn get2(path: &str) -> Request<Body> {
    get(&format!("https://a.example{path}"))
}

async fn text(answer: hyper::Result<Response<hyper::body::Incoming>>) -> String {
    let body = answer.expect("an answer").into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

/// 50 MB in pieces.
fn large() -> Body {
    let piece = Bytes::from(vec![7; 50_000]);
    BodyExt::boxed(StreamBody::new(stream::repeat(piece).take(1000).map(|piece| Ok(Frame::data(piece)))))
}

#[tokio::test]
async fn both_protocols_are_spoken_by_alpn_and_both_versions_of_tls() {
    let server = start(&["a.example"], |_| {}).await;
    let root = server.root("a.example");
    for (version, spoken) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let io = server.tls("a.example", root.clone(), &[version], &["h2", "http/1.1"]).await.expect("TLS");
        assert_eq!(io.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(io.get_ref().1.protocol_version(), Some(spoken));
        assert_eq!(text(http2(io).await.send_request(get2("/x")).await).await, "/x by HTTP/2.0");

        let io = server.tls("a.example", root.clone(), &[version], &["http/1.1"]).await.expect("TLS");
        assert_eq!(text(http1(io).await.send_request(get("/x")).await).await, "/x by HTTP/1.1");
        let io = server.tls("a.example", root.clone(), &[version], &[]).await.expect("TLS");
        assert_eq!(text(http1(io).await.send_request(get("/peer")).await).await, "Some(127.0.0.1) true");
    }
}

#[tokio::test]
async fn plain_and_unix_sockets_answer_too() {
    let server = start(&[], |_| {}).await;
    let io = server.tcp().await;
    assert_eq!(text(http1(io).await.send_request(get("/peer")).await).await, "Some(127.0.0.1) false");
    assert_eq!(text(http2(server.tcp().await).await.send_request(get2("/x")).await).await, "/x by HTTP/2.0");
    let io = UnixStream::connect(server.folder.path().join("sock")).await.expect("the socket's file");
    assert_eq!(text(http1(io).await.send_request(get("/peer")).await).await, "None false");
}

#[tokio::test]
async fn the_certificate_fits_the_name_that_is_asked_for() {
    let server = start(&["a.example", "b.example"], |_| {}).await;
    let (a, b) = (server.root("a.example"), server.root("b.example"));
    let versions = rustls::ALL_VERSIONS;
    server.tls("b.example", b.clone(), versions, &[]).await.expect("the second certificate");
    server.tls("a.example", a, versions, &[]).await.expect("the first certificate");
    server.tls("c.example", b, versions, &[]).await.expect_err("no certificate fits");
}

#[tokio::test]
async fn a_new_certificate_is_shown_after_a_reload_and_a_broken_one_never() {
    let server = start(&["a.example"], |_| {}).await;
    let old = server.root("a.example");
    let certificates = server.certificates.clone().expect("TLS");
    let file = server.folder.path().join("a.example.pem");

    fs::write(&file, "half a certif").expect("a file");
    certificates.reload();
    server.tls("a.example", old.clone(), rustls::ALL_VERSIONS, &[]).await.expect("the old one is kept");

    certificate(server.folder.path(), "a.example");
    let open = server.tls("a.example", old.clone(), rustls::ALL_VERSIONS, &[]).await.expect("still the old one");
    certificates.reload();
    server.tls("a.example", old, rustls::ALL_VERSIONS, &[]).await.expect_err("the old one is gone");
    let new = server.root("a.example");
    server.tls("a.example", new, rustls::ALL_VERSIONS, &[]).await.expect("the new one");
    assert_eq!(text(http1(open).await.send_request(get("/x")).await).await, "/x by HTTP/1.1");
}

#[tokio::test]
async fn a_request_in_flight_survives_the_stop() {
    let server = start(&["a.example"], |_| {}).await;
    let io = server.tls("a.example", server.root("a.example"), rustls::ALL_VERSIONS, &["h2"]).await.expect("TLS");
    let mut sender = http2(io).await;
    let slow = tokio::spawn(sender.send_request(get2("/slow")));
    server.scene.asked.notified().await;
    server.stop.cancel();
    // Who comes now finds the door closed.
    while TcpStream::connect(("127.0.0.1", server.port)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!server.ended.is_finished());
    server.scene.go_on.notify_one();
    assert_eq!(text(slow.await.expect("a task")).await, "at last");
    assert!(server.ended.await.expect("a task"), "everything was answered");
    assert!(!server.folder.path().join("sock").exists());
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_keep_the_server_from_stopping() {
    let server = start(&[], |limits| limits.stop = Duration::from_millis(1)).await;
    let mut sender = http1(server.tcp().await).await;
    let slow = tokio::spawn(sender.send_request(get("/slow")));
    server.scene.asked.notified().await;
    server.stop.cancel();
    assert!(!server.ended.await.expect("a task"));
    slow.abort();
}

#[tokio::test]
async fn who_sends_the_head_slowly_is_cut() {
    let server = start(&["a.example"], |limits| {
        limits.head = Duration::from_millis(50);
        limits.idle = Duration::from_millis(100);
        limits.handshake = Duration::from_millis(50);
    })
    .await;
    let versions = rustls::ALL_VERSIONS;
    let mut drips = server.tls("a.example", server.root("a.example"), versions, &[]).await.expect("TLS");
    drips.write_all(b"GET / HTTP/1.1\r\nHost: a.exam").await.expect("sent");
    let mut rest = vec![];
    // Either way of being left is fine, as long as it ends.
    _ = drips.read_to_end(&mut rest).await;
    assert!(!String::from_utf8_lossy(&rest).contains("200"));
    // Who says nothing at all, before or after the handshake, is left as well.
    _ = server.tcp().await.read_to_end(&mut rest).await;
    let mut mute = server.tls("a.example", server.root("a.example"), versions, &["h2"]).await.expect("TLS");
    _ = mute.read_to_end(&mut rest).await;
}

#[tokio::test]
async fn a_long_poll_outlives_the_time_for_idle_connections() {
    let server = start(&[], |limits| {
        limits.idle = Duration::from_millis(1);
        limits.stalled = Duration::from_millis(1);
        limits.head = Duration::from_millis(500);
    })
    .await;
    let mut sender = http1(server.tcp().await).await;
    let slow = tokio::spawn(sender.send_request(get("/slow")));
    server.scene.asked.notified().await;
    // Another connection comes and is found idle meanwhile.
    _ = server.tcp().await.read_to_end(&mut vec![]).await;
    server.scene.go_on.notify_one();
    assert_eq!(text(slow.await.expect("a task")).await, "at last");
}

#[tokio::test]
async fn an_upload_that_stalls_ends() {
    let server = start(&[], |limits| limits.stalled = Duration::from_millis(50)).await;
    let mut io = server.tcp().await;
    io.write_all(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await.expect("sent");
    let mut answer = vec![];
    _ = io.read_to_end(&mut answer).await;
    assert!(String::from_utf8_lossy(&answer).ends_with("\r\n\r\n4"), "it read four bytes and an error");
}

#[tokio::test]
async fn a_large_body_passes() {
    let server = start(&["a.example"], |_| {}).await;
    let (root, versions) = (server.root("a.example"), rustls::ALL_VERSIONS);
    let io = server.tls("a.example", root.clone(), versions, &["h2"]).await.expect("TLS");
    let request = Request::post("https://a.example/count").body(large()).expect("a request");
    assert_eq!(text(http2(io).await.send_request(request).await).await, "50000000");
    let request = Request::post("/count").header("host", "a.example").body(large()).expect("a request");
    let io = server.tls("a.example", root, versions, &[]).await.expect("TLS");
    assert_eq!(text(http1(io).await.send_request(request).await).await, "50000000");
}

#[tokio::test]
async fn a_panic_stays_in_its_request() {
    let server = start(&["a.example"], |_| {}).await;
    let io = server.tls("a.example", server.root("a.example"), rustls::ALL_VERSIONS, &["h2"]).await.expect("TLS");
    let mut sender = http2(io).await;
    let slow = tokio::spawn(sender.send_request(get2("/slow")));
    server.scene.asked.notified().await;
    let broken = sender.send_request(get2("/panic")).await.expect("an answer");
    assert_eq!((broken.status(), broken.version()), (StatusCode::INTERNAL_SERVER_ERROR, Version::HTTP_2));
    assert!(text(Ok(broken)).await.contains("M_UNKNOWN"));
    server.scene.go_on.notify_one();
    assert_eq!(text(slow.await.expect("a task")).await, "at last");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = start(&[], |limits| limits.head_bytes = 8192).await;
    let mut request = get("/x");
    request.headers_mut().insert("x-large", "x".repeat(20_000).parse().expect("a header"));
    let answer = http1(server.tcp().await).await.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn one_connection_too_many_waits_for_its_turn() {
    let server = start(&[], |limits| limits.connections = 1).await;
    let mut first = http1(server.tcp().await).await;
    assert_eq!(text(first.send_request(get("/x")).await).await, "/x by HTTP/1.1");
    let mut second = http1(server.tcp().await).await;
    let waits = tokio::spawn(second.send_request(get("/y")));
    drop(first);
    assert_eq!(text(waits.await.expect("a task")).await, "/y by HTTP/1.1");
}
