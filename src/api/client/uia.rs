//! User-interactive authentication: an endpoint that wants proof takes [`Guarded`] requests and calls
//! [`require`].
//!
//! Without enough proof the client gets a 401 that says what can be proved; it proves one stage at a
//! time. A session is good for the very request with which it began, and ends after 15 minutes.
//! A new kind of proof is a [`Stage`], and a branch in `prove`.
//!
//! Spec: client-server-api#user-interactive-authentication-api

use http::StatusCode;
use ruma::api::{IncomingRequest, Metadata, error::DeserializationError};
use serde::{Deserialize, de::Error as _};
use serde_json::{Map, Value, json};

use super::login::Identifier;
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::User,
    users::{
        passwords, registration,
        uia::{self, Purpose, Session, Stage},
    },
};

/// A request with the proof that came with it. ruma's own type for proofs does not read what clients
/// sent before they were given shape, so the proof is taken off before ruma reads the request.
pub struct Guarded<R> {
    /// The request.
    pub request: R,
    /// The proof, if any came.
    pub proof: Option<Proof>,
    /// What is asked for: the arguments of the path and the body without the proof.
    pub subject: String,
}

/// What a client shows to prove a stage.
#[derive(Debug, Clone, Deserialize)]
pub struct Proof {
    /// The stage; without it, the client asks whether it was proved elsewhere.
    #[serde(rename = "type")]
    stage: Option<String>,
    session: Option<String>,
    identifier: Option<Identifier>,
    /// Where clients of before 2018 name the user.
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
}

impl<R: IncomingRequest> Metadata for Guarded<R> {
    const METHOD: http::Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest> IncomingRequest for Guarded<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, args: &[&str]) -> Result<Self, DeserializationError> {
        let (parts, body) = request.into_parts();
        let mut body: Map<String, Value> = serde_json::from_slice(body)?;
        let proof = match body.remove("auth") {
            None | Some(Value::Null) => None,
            Some(proof @ Value::Object(_)) => Some(serde_json::from_value(proof)?),
            Some(_) => return Err(serde_json::Error::custom("`auth` must be an object").into()),
        };
        let body = Value::Object(body).to_string();
        let subject = format!("{args:?} {body}");
        let request = R::try_from_http_request_inner(http::Request::from_parts(parts, body.as_bytes()), args)?;
        Ok(Self { request, proof, subject })
    }
}

/// Somebody who must prove something.
pub struct Asked<'a> {
    /// The endpoint.
    pub endpoint: &'static str,
    /// What is asked of it; empty where the request may change between the stages.
    pub subject: String,
    /// Who asks.
    pub user: Option<&'a User>,
    /// Each a list of stages that are proof enough.
    pub flows: &'a [&'a [Stage]],
}

/// Goes on only with proof; gives the session, which has ended.
pub async fn require(ctx: &Ctx, asked: Asked<'_>, proof: Option<Proof>) -> Result<Session> {
    let users = &ctx.users;
    let Asked { endpoint, subject, user, flows } = asked;
    let purpose = Purpose { endpoint, subject, user: user.map(|user| user.number) };
    let Some(proof) = proof else {
        let id = uia::begin(users, purpose);
        return Err(question(flows, &id, &[], None));
    };
    let id = match &proof.session {
        None => uia::begin(users, purpose),
        Some(id) => match uia::find(users, id) {
            Some(session) if session.purpose == purpose => id.clone(),
            Some(_) => return Err(Error::forbidden("this authentication session is for another request")),
            None => {
                let id = uia::begin(users, purpose);
                let why = ("M_UNKNOWN", "this authentication session has ended; here is a new one".into());
                return Err(question(flows, &id, &[], Some(why)));
            }
        },
    };
    let failure = match prove(ctx, user, flows, &id, &proof).await {
        Ok(()) => None,
        Err(error) if error.status == StatusCode::UNAUTHORIZED => Some(("M_FORBIDDEN", error.message)),
        Err(error) => return Err(error),
    };
    let completed = uia::find(users, &id).map(|session| session.completed).unwrap_or_default();
    let enough = flows.iter().any(|flow| flow.iter().all(|stage| completed.contains(stage)));
    match failure {
        // Of two requests with the same proof one goes on.
        None if enough => uia::end(users, &id).ok_or_else(|| Error::forbidden("this proof was used already")),
        failure => Err(question(flows, &id, &completed, failure)),
    }
}

/// Checks one stage; a 401 means that it is not proved.
async fn prove(ctx: &Ctx, user: Option<&User>, flows: &[&[Stage]], id: &str, proof: &Proof) -> Result<()> {
    let refuse = |message: &'static str| Err(Error::new(StatusCode::UNAUTHORIZED, "M_FORBIDDEN", message));
    let Some(name) = &proof.stage else { return Ok(()) };
    let stage = Stage::by_name(name).filter(|stage| flows.iter().any(|flow| flow.contains(stage)));
    let Some(stage) = stage else { return refuse("this is not proved in this way") };
    let mut token = None;
    match stage {
        Stage::Dummy => {}
        Stage::Password => {
            let Some(user) = user else { return refuse("log in first") };
            let password = proof.password.as_deref().ok_or_else(|| Error::missing_param("the password is missing"))?;
            let named = match (&proof.identifier, &proof.user) {
                (Some(identifier), _) => identifier.local_user(&ctx.users),
                (None, Some(name)) => Identifier::user(name).local_user(&ctx.users),
                (None, None) => Some(user.id.clone()),
            };
            if named.as_ref() != Some(&user.id)
                || !passwords::check(&ctx.users, Some(user.number), None, password).await?
            {
                return refuse("this is not your password");
            }
        }
        Stage::RegistrationToken => {
            let shown = proof.token.as_deref().ok_or_else(|| Error::missing_param("the token is missing"))?;
            if !registration::is_valid(&ctx.users, shown)? {
                return refuse("this registration token does not hold");
            }
            token = Some(shown.to_owned());
        }
    }
    uia::complete(&ctx.users, id, stage, token);
    Ok(())
}

/// 401: what can be proved, what was, and what was wrong with the last proof.
fn question(
    flows: &[&[Stage]],
    id: &str,
    completed: &[Stage],
    failure: Option<(&'static str, std::borrow::Cow<'static, str>)>,
) -> Error {
    let names = |stages: &[Stage]| stages.iter().map(|stage| stage.name()).collect::<Vec<_>>();
    let flows: Vec<Value> = flows.iter().map(|flow| json!({ "stages": names(flow) })).collect();
    // The first question is no failure and has no errcode.
    let (errcode, message) = failure.unwrap_or_default();
    let mut error = Error::new(StatusCode::UNAUTHORIZED, errcode, message)
        .with("flows", flows)
        .with("params", json!({}))
        .with("session", id);
    if !completed.is_empty() || !errcode.is_empty() {
        error = error.with("completed", names(completed));
    }
    error
}
