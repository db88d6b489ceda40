//! A small HTTP/1.1 client: one connection, one request at a time, over plain TCP.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::Result;

/// Where the homeserver listens.
#[derive(Clone)]
pub struct Server {
    address: String,
}

impl Server {
    pub fn at(url: &str) -> Result<Self> {
        let uri: Uri = url.parse()?;
        if uri.scheme_str() != Some("http") {
            return Err(format!("{url}: only http:// is spoken here").into());
        }
        let host = uri.host().ok_or("the URL names no host")?;
        Ok(Self { address: format!("{host}:{}", uri.port_u16().unwrap_or(80)) })
    }

    /// A connection for the user with this access token; it is opened by its first request.
    pub fn connection(&self, token: &str) -> Connection {
        Connection { server: self.clone(), token: token.to_owned(), sender: None }
    }
}

/// One connection, opened again when the server has closed it.
pub struct Connection {
    server: Server,
    token: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub async fn get(&mut self, path: &str) -> Result<Bytes> {
        good(path, self.ask(Method::GET, path, Bytes::new()).await?)
    }

    pub async fn post(&mut self, path: &str, body: &Value) -> Result<Value> {
        let body = Bytes::from(serde_json::to_vec(body)?);
        Ok(serde_json::from_slice(&good(path, self.ask(Method::POST, path, body).await?)?)?)
    }

    pub async fn put(&mut self, path: &str, body: String) -> Result<Bytes> {
        good(path, self.ask(Method::PUT, path, Bytes::from(body)).await?)
    }

    /// Sends one request and reads the whole answer.
    pub async fn ask(&mut self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.server.address)
            .header(header::CONTENT_TYPE, "application/json");
        // Some servers refuse to register somebody who shows a token.
        if !self.token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        }
        let request = request.body(Full::new(body))?;
        let sender = self.open().await?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    async fn open(&mut self) -> Result<&mut SendRequest<Full<Bytes>>> {
        let open = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !open {
            let stream = TcpStream::connect(&self.server.address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // Its end shows as an error of the request that was on it.
            tokio::task::spawn_local(connection);
            self.sender = Some(sender);
        }
        self.sender.as_mut().ok_or_else(|| "no connection".into())
    }
}

fn good(path: &str, (status, body): (StatusCode, Bytes)) -> Result<Bytes> {
    if status.is_success() {
        return Ok(body);
    }
    Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&body)).into())
}

/// Percent-encodes what stands between two slashes.
pub fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// How long a waiting sync may take before it answers with nothing.
pub const LONG_POLL: Duration = Duration::from_secs(5);
