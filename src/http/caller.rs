//! Who calls: each authentication scheme of ruma's request types has one type of caller.
//!
//! A handler's second argument must be the caller of its request's scheme, so "the caller is missing"
//! cannot be written. Raw routes choose their scheme by the caller that the handler takes.

use std::{future::Future, net::IpAddr};

use http::{
    HeaderMap, StatusCode, Uri,
    header::{AUTHORIZATION, USER_AGENT},
};
use ruma::{
    OwnedServerName,
    api::{
        auth_scheme::{
            AccessToken, AccessTokenOptional, AppserviceToken, AppserviceTokenOptional, AuthScheme, NoAccessToken,
            NoAuthentication,
        },
        federation::authentication::ServerSignatures,
    },
};

use super::{Peer, request::parameter};
use crate::{
    app::Ctx,
    error::{Error, Result},
    remote::inbound,
    store::schema::UserNo,
};

/// A local user with an access token: `id`, `number`, `device` and what the account may do.
pub use crate::users::User;

/// What says who calls: everything of a request but its body.
pub struct Evidence<'a> {
    /// The method.
    pub method: &'a http::Method,
    /// The path and query, as they were sent.
    pub uri: &'a Uri,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Who is at the other end of the connection.
    pub peer: Option<Peer>,
}

impl Evidence<'_> {
    /// The address of the client. A proxy on this machine is believed what it says about it.
    pub fn address(&self) -> Option<IpAddr> {
        let near = self.peer?.address;
        if near.is_some_and(|address| !address.is_loopback()) {
            return near;
        }
        let forwarded = self.headers.get("x-forwarded-for").and_then(|header| header.to_str().ok());
        forwarded.and_then(|list| list.rsplit(',').next()?.trim().parse().ok()).or(near)
    }
}

/// An authentication scheme and the caller that it identifies.
pub trait Scheme: AuthScheme {
    /// The second argument of handlers for requests of this scheme.
    type Caller: Caller;
}

impl Scheme for AccessToken {
    type Caller = User;
}

impl Scheme for AccessTokenOptional {
    type Caller = Option<User>;
}

impl Scheme for NoAccessToken {
    type Caller = ();
}

impl Scheme for NoAuthentication {
    type Caller = ();
}

impl Scheme for ServerSignatures {
    type Caller = Origin;
}

impl Scheme for AppserviceToken {
    type Caller = Bridge;
}

impl Scheme for AppserviceTokenOptional {
    type Caller = Option<Bridge>;
}

/// Somebody who may call.
pub trait Caller: Sized + Send + 'static {
    /// Whether the body is part of the evidence, and therefore read first.
    const SIGNS_BODY: bool = false;

    /// Finds out who calls, or refuses.
    fn identify(ctx: &Ctx, evidence: &Evidence<'_>, body: &[u8]) -> impl Future<Output = Result<Self>> + Send;

    /// The local user, whose rate is then limited instead of the address's.
    fn user(&self) -> Option<&User> {
        None
    }

    /// Whether the rate of this caller is limited at all.
    fn limited(&self) -> bool {
        true
    }
}

impl Caller for () {
    async fn identify(_: &Ctx, _: &Evidence<'_>, _: &[u8]) -> Result<Self> {
        Ok(())
    }
}

impl Caller for User {
    async fn identify(ctx: &Ctx, evidence: &Evidence<'_>, _: &[u8]) -> Result<Self> {
        let token = token(evidence).ok_or_else(Error::missing_token)?;
        let user = ctx.users.identify(&token)?;
        let agent = evidence.headers.get(USER_AGENT).and_then(|header| header.to_str().ok());
        ctx.users.saw(&user, evidence.address(), agent);
        Ok(user)
    }

    fn user(&self) -> Option<&User> {
        Some(self)
    }
}

impl Caller for Option<User> {
    /// A token that is not valid (any more) makes an anonymous caller: what such endpoints answer
    /// without a token they answer to everybody.
    async fn identify(ctx: &Ctx, evidence: &Evidence<'_>, _: &[u8]) -> Result<Self> {
        let Some(token) = token(evidence) else { return Ok(None) };
        match ctx.users.identify(&token) {
            Ok(user) => Ok(Some(user)),
            Err(error) if error.status == StatusCode::UNAUTHORIZED => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn user(&self) -> Option<&User> {
        self.as_ref()
    }
}

/// Anybody, with the address of the client: for raw routes that must know whom to slow down.
#[derive(Debug, Clone, Copy)]
pub struct Anyone {
    /// The address, if it is known.
    pub address: Option<IpAddr>,
}

impl Caller for Anyone {
    async fn identify(_: &Ctx, evidence: &Evidence<'_>, _: &[u8]) -> Result<Self> {
        Ok(Self { address: evidence.address() })
    }
}

/// Another server, known by the signature of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its name.
    pub server: OwnedServerName,
}

impl Caller for Origin {
    const SIGNS_BODY: bool = true;

    async fn identify(ctx: &Ctx, evidence: &Evidence<'_>, body: &[u8]) -> Result<Self> {
        let Evidence { method, uri, headers, .. } = evidence;
        let server = inbound::origin(&ctx.remote, method, uri, headers, body).await?;
        Ok(Self { server })
    }

    fn limited(&self) -> bool {
        false
    }
}

/// An application service, known by its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The ID of its registration.
    pub id: String,
    /// The number of the user who speaks for it.
    pub sender: UserNo,
}

impl Caller for Bridge {
    /// No application service is registered before `appservice` reads registrations.
    async fn identify(_: &Ctx, evidence: &Evidence<'_>, _: &[u8]) -> Result<Self> {
        token(evidence).ok_or_else(Error::missing_token)?;
        Err(Error::unknown_token(false))
    }

    fn limited(&self) -> bool {
        false
    }
}

impl Caller for Option<Bridge> {
    async fn identify(ctx: &Ctx, evidence: &Evidence<'_>, body: &[u8]) -> Result<Self> {
        // The same endpoints are open to people, whose tokens (and slips) do not matter here.
        Ok(Bridge::identify(ctx, evidence, body).await.ok())
    }

    fn limited(&self) -> bool {
        self.is_none()
    }
}

/// The access token of the header, or of the query as old clients send it.
///
/// Spec: client-server-api#using-access-tokens
fn token(evidence: &Evidence<'_>) -> Option<String> {
    if let Some(header) = evidence.headers.get(AUTHORIZATION) {
        let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned());
    }
    parameter(evidence.uri.query()?, "access_token")
}
