//! What goes over the wire to another server, and what answers of a hostile one cost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ingle::{
    clock::Clock,
    remote::{
        discovery::Discovery,
        https::Https,
        tls,
        transport::{Answer, Failure, Outgoing, Transport as _},
    },
};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

type Peer = TlsStream<TcpStream>;

/// Another server on loopback, which answers by hand, and the way to it.
struct Stranger {
    name: String,
    way: Https,
    /// The way of a server that keeps out of its own network.
    way_out: Https,
    connections: Arc<AtomicUsize>,
}

/// Starts a server; `answer` gets each connection.
async fn stranger<F: Future<Output = ()> + Send>(answer: impl Fn(Peer) -> F + Send + Sync + 'static) -> Stranger {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, cert.pem()).expect("a file");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into());
    let acceptor = TlsAcceptor::from(Arc::new(config.expect("a certificate")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let name = format!("localhost:{}", listener.local_addr().expect("an address").port());
    let connections = Arc::new(AtomicUsize::new(0));
    let (answer, count) = (Arc::new(answer), Arc::clone(&connections));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream).await;
                }
            });
        }
    });
    let tls = tls::client(&[roots], &[b"h2", b"http/1.1"]).expect("roots");
    let way = |private| Https::new(Discovery::new(Clock::system(), private, 1 << 20), Arc::clone(&tls));
    Stranger { name, way: way(true), way_out: way(false), connections }
}

impl Stranger {
    async fn ask(&self, uri: &str, timeout: Duration) -> Result<Answer, Failure> {
        self.way.send(request(&self.name, uri, timeout)).await
    }
}

fn request(server: &str, uri: &str, timeout: Duration) -> Outgoing {
    Outgoing {
        destination: server.try_into().expect("a server name"),
        method: http::Method::GET,
        uri: uri.to_owned(),
        headers: http::HeaderMap::new(),
        body: Bytes::new(),
        timeout,
        limit: 100_000,
    }
}

/// Reads a request, without a body; nothing when the other side has gone.
async fn head(peer: &mut Peer) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(peer.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// Long enough for whatever is to come.
const PATIENT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn many_requests_go_over_one_connection() {
    let server = stranger(|mut peer| async move {
        while let Some(head) = head(&mut peer).await {
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len());
            peer.write_all(answer.as_bytes()).await.ok();
        }
    })
    .await;
    for n in 0..5 {
        let answer = server.ask(&format!("/a%20b/%2F?c=d%26&n={n}"), PATIENT).await.expect("an answer");
        let head = String::from_utf8_lossy(&answer.body).into_owned();
        // Path and query go out as they were signed, and the name of the server is the Host.
        assert!(head.starts_with(&format!("GET /a%20b/%2F?c=d%26&n={n} HTTP/1.1\r\n")), "{head}");
        assert!(head.to_lowercase().contains(&format!("\r\nhost: {}\r\n", server.name)), "{head}");
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let server = stranger(|mut peer| async move {
        head(&mut peer).await;
        peer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.ok();
        let chunk = format!("2710\r\n{}\r\n", "x".repeat(10_000));
        while peer.write_all(chunk.as_bytes()).await.is_ok() {}
    })
    .await;
    assert!(matches!(server.ask("/", PATIENT).await, Err(Failure::TooLarge)));
}

#[tokio::test]
async fn an_answer_that_never_ends_or_never_begins_is_not_waited_for() {
    let server = stranger(|mut peer| async move {
        let silent = head(&mut peer).await.is_none_or(|head| head.starts_with("GET /silent"));
        if !silent {
            peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun").await.ok();
        }
        // Until the other side has had enough.
        peer.read_u8().await.ok();
    })
    .await;
    for uri in ["/silent", "/begun"] {
        assert!(matches!(server.ask(uri, Duration::from_millis(300)).await, Err(Failure::TimedOut)), "{uri}");
    }
}

#[tokio::test]
async fn garbage_and_endless_headers_are_no_answer() {
    let server = stranger(|mut peer| async move {
        let garbage = head(&mut peer).await.is_none_or(|head| head.starts_with("GET /garbage"));
        if garbage {
            peer.write_all(b"\x00\x01 nothing that means anything\r\n\r\n").await.ok();
            return;
        }
        peer.write_all(b"HTTP/1.1 200 OK\r\n").await.ok();
        while peer.write_all(b"x-more: and more and more and more and more\r\n").await.is_ok() {}
    })
    .await;
    for uri in ["/garbage", "/headers"] {
        let failure = server.ask(uri, PATIENT).await.expect_err("no answer");
        assert!(matches!(failure, Failure::Unreachable(_)), "{uri}: {failure}");
    }
}

#[tokio::test]
async fn a_compressed_answer_is_as_large_as_it_comes() {
    let server = stranger(|mut peer| async move {
        let asked = head(&mut peer).await.unwrap_or_default();
        assert!(!asked.contains("accept-encoding"), "nothing compressed is wanted: {asked}");
        peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00")
            .await
            .ok();
    })
    .await;
    assert_eq!(server.ask("/", PATIENT).await.expect("an answer").body, &b"\x1f\x8b\x08\x00"[..]);
}

#[tokio::test]
async fn no_name_leads_into_the_network_at_home() {
    let server = stranger(|_| async {}).await;
    let port = server.name.trim_start_matches("localhost:");
    for host in ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "0.0.0.0", "[::]"] {
        let refused = server.way_out.send(request(&format!("{host}:{port}"), "/", PATIENT)).await;
        assert!(matches!(refused, Err(Failure::Forbidden(_))), "{host}: {refused:?}");
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 0);
}
