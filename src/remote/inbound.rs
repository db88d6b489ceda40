//! Who another server's request comes from.
//!
//! Spec: server-server-api#request-authentication

use http::{HeaderMap, Method, StatusCode, Uri, header};
use ruma::OwnedServerName;

use super::{
    Remote,
    keys::Purpose,
    x_matrix::{self, Signed},
};
use crate::{
    error::{Error, Result},
    protocol::canonical::{self, Numbers},
};

fn unauthorized(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", message)
}

/// The server that has signed a request to this one.
///
/// Errors: 401 `M_UNAUTHORIZED`; 403 `M_FORBIDDEN` where federation is switched off.
pub async fn origin(
    remote: &Remote,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<OwnedServerName> {
    if !remote.config.federation.enabled {
        return Err(Error::forbidden("this server does not federate"));
    }
    let header = headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .find_map(x_matrix::parse)
        .ok_or_else(|| unauthorized("the request needs an Authorization header of the scheme X-Matrix"))?;
    let own = &remote.config.server_name;
    if header.destination.as_ref().is_some_and(|destination| destination != own) {
        return Err(unauthorized(format!("the request is meant for another server; this is {own}")));
    }
    if header.origin == *own {
        return Err(unauthorized("the request claims to come from this very server"));
    }
    if !remote.permitted.is(&header.origin) {
        return Err(Error::forbidden(format!("this server does not talk to {}", header.origin)));
    }
    let content = match body.is_empty() {
        true => None,
        false => Some(canonical::parse(body, Numbers::Lax).map_err(|error| Error::not_json(error.to_string()))?),
    };
    let signed = Signed {
        origin: &header.origin,
        destination: own,
        method: method.as_str(),
        uri: uri.path_and_query().map_or("/", |path| path.as_str()),
        content: content.as_ref(),
    };
    let key = remote.key_of(&header.origin, header.key.as_str(), Purpose::Now(remote.clock.now())).await;
    let key = key.ok_or_else(|| unauthorized(format!("the key {} of {} cannot be had", header.key, header.origin)))?;
    if !signed.verifies(&header, &key) {
        return Err(unauthorized("the signature of the request is wrong"));
    }
    // Whoever asks is there: what waits for that server may be sent again.
    remote.back_off.answered(&header.origin)?;
    Ok(header.origin)
}
