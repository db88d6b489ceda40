//! The one error that the network sees: a status, an errcode and a sentence that helps.
//!
//! Constructors are named for what the reader will see. Whatever goes wrong inside (the disk, a
//! row that does not decode) becomes [`Error::internal`] by `?`: the cause is logged when the answer
//! is written, and the client reads one harmless sentence.
//!
//! Spec: client-server-api#standard-error-response

use std::{borrow::Cow, fmt, time::Duration};

use http::StatusCode;
use serde_json::{Map, Value, json};

/// The result of everything that may end in an answer to the network.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as the network sees it.
pub struct Error {
    /// The HTTP status of the answer.
    pub status: StatusCode,
    /// The errcode, such as `M_FORBIDDEN`. Empty where the answer is no failure, but the next question of
    /// user-interactive authentication: its body then has only the fields.
    pub errcode: Cow<'static, str>,
    /// One sentence for the person who reads it.
    pub message: Cow<'static, str>,
    /// More fields of the JSON body, such as `retry_after_ms` or the flows of user-interactive auth.
    pub fields: Map<String, Value>,
    /// What is logged beside it, and never sent.
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with any status and errcode.
    pub fn new(
        status: StatusCode,
        errcode: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, errcode: errcode.into(), message: message.into(), fields: Map::new(), cause: None }
    }

    /// 403 `M_FORBIDDEN`: the caller may not do this.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "M_FORBIDDEN", message)
    }

    /// 404 `M_NOT_FOUND`: there is no such thing, or the caller may not know of it.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_NOT_FOUND", message)
    }

    /// 404 `M_UNRECOGNIZED`: no such endpoint.
    pub fn unrecognized() -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "this server has no such endpoint")
    }

    /// 400 `M_BAD_JSON`: JSON, but not of the shape that the endpoint takes.
    pub fn bad_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_BAD_JSON", message)
    }

    /// 400 `M_NOT_JSON`: the body is no JSON at all.
    pub fn not_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_NOT_JSON", message)
    }

    /// 400 `M_INVALID_PARAM`: a parameter has a value that cannot be.
    pub fn invalid_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_INVALID_PARAM", message)
    }

    /// 400 `M_MISSING_PARAM`: a required parameter is missing.
    pub fn missing_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_MISSING_PARAM", message)
    }

    /// 400 with an errcode for which the specification has no status of its own.
    pub fn bad_request(errcode: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, errcode, message)
    }

    /// 413 `M_TOO_LARGE`: the body or the event is bigger than the limit.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", message)
    }

    /// 401 `M_MISSING_TOKEN`: the endpoint needs an access token.
    pub fn missing_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN", "log in first: this needs an access token")
    }

    /// 401 `M_UNKNOWN_TOKEN`: the access token is not, or no longer, valid.
    pub fn unknown_token(soft_logout: bool) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", "this access token is not valid; log in again")
            .with("soft_logout", soft_logout)
    }

    /// 429 `M_LIMIT_EXCEEDED`, with the time to wait.
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        let wait = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        Self::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", "too many requests; wait a little and try again")
            .with("retry_after_ms", wait)
    }

    /// 500 `M_UNKNOWN`: a fault of ours. The cause is logged, not sent.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let mut error = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "M_UNKNOWN",
            "something went wrong on this server; its log says what",
        );
        error.cause = Some(cause.into());
        error
    }

    /// The same error with one more field in its JSON body.
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(field.to_owned(), value.into());
        self
    }

    /// The JSON body.
    pub fn body(&self) -> Value {
        let mut body = self.fields.clone();
        if self.errcode.is_empty() {
            return Value::Object(body);
        }
        body.insert("errcode".to_owned(), json!(self.errcode));
        body.insert("error".to_owned(), json!(self.message));
        Value::Object(body)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status.as_u16(), self.errcode, self.message)?;
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, " ({cause})"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_errcode_the_sentence_and_the_fields() {
        let body = Error::unknown_token(true).body();
        assert_eq!(body["errcode"], "M_UNKNOWN_TOKEN");
        assert_eq!(body["soft_logout"], true);
        assert!(body["error"].as_str().is_some_and(|text| text.contains("log in")));
    }

    #[test]
    fn an_internal_cause_is_not_sent() {
        let error = Error::internal("the disk is on fire");
        assert!(!error.body().to_string().contains("fire"));
        assert!(format!("{error:?}").contains("fire"));
    }
}
