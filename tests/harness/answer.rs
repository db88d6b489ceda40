//! What the server answered, and short ways to say what is expected of it.

use std::ops::Index;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use serde_json::Value;

/// An answer of the server.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
    /// The body as JSON; null if it is none.
    pub json: Value,
}

impl Answer {
    pub fn new(response: Response<Bytes>) -> Self {
        let (parts, bytes) = response.into_parts();
        let json = serde_json::from_slice(&bytes).unwrap_or_default();
        Self { status: parts.status, headers: parts.headers, bytes, json }
    }

    /// The status, and the errcode if there is one: `200`, `403 M_FORBIDDEN`.
    pub fn summary(&self) -> String {
        match self.json["errcode"].as_str() {
            Some(errcode) => format!("{} {errcode}", self.status.as_u16()),
            None => self.status.as_u16().to_string(),
        }
    }

    /// Expects this [`Answer::summary`]; gives the body.
    #[track_caller]
    pub fn is(self, expected: &str) -> Value {
        assert_eq!(self.summary(), expected, "{}", self.json);
        self.json
    }

    /// Expects success; gives the body.
    #[track_caller]
    pub fn ok(self) -> Value {
        self.is("200")
    }

    /// A header as text; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Index<&str> for Answer {
    type Output = Value;

    fn index(&self, name: &str) -> &Value {
        &self.json[name]
    }
}
