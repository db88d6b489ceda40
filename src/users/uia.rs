//! Sessions of user-interactive authentication: what somebody has proved, and for which request.
//!
//! How a stage is proved is for `api::client::uia`; this only remembers.

use std::time::Duration;

use super::{Users, tickets::Tickets};
use crate::store::schema::UserNo;

/// How long somebody may take from the first question to the last proof.
const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// How many may be at it at once.
const MOST: usize = 2000;

/// What a stage of authentication proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing.
    Dummy,
    /// That one knows the password of the account.
    Password,
    /// That one knows a registration token.
    RegistrationToken,
}

impl Stage {
    /// All there are.
    pub const ALL: &[Self] = &[Self::Dummy, Self::Password, Self::RegistrationToken];

    /// Its name in requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dummy => "m.login.dummy",
            Self::Password => "m.login.password",
            Self::RegistrationToken => "m.login.registration_token",
        }
    }

    /// The stage of this name; the token has a name from before it was stable.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "org.matrix.msc3231.login.registration_token" => Some(Self::RegistrationToken),
            name => Self::ALL.iter().copied().find(|stage| stage.name() == name),
        }
    }
}

/// What a session is for. It is good for nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// The endpoint.
    pub endpoint: &'static str,
    /// What is asked of it.
    pub subject: String,
    /// Who asks.
    pub user: Option<UserNo>,
}

/// A session.
#[derive(Debug, Clone)]
pub struct Session {
    /// What it is for.
    pub purpose: Purpose,
    /// What was proved.
    pub completed: Vec<Stage>,
    /// The registration token that was shown.
    pub token: Option<String>,
}

/// All sessions.
pub(super) struct Sessions(Tickets<Session>);

impl Sessions {
    pub fn new() -> Self {
        Self(Tickets::new(LIFETIME, MOST))
    }
}

/// Begins a session; gives its ID.
pub fn begin(users: &Users, purpose: Purpose) -> String {
    let session = Session { purpose, completed: vec![], token: None };
    users.inner.uia.0.issue(&users.chance, users.clock.now(), session)
}

/// A session that is under way.
pub fn find(users: &Users, id: &str) -> Option<Session> {
    users.inner.uia.0.find(users.clock.now(), id)
}

/// Notes that a stage is proved.
pub fn complete(users: &Users, id: &str, stage: Stage, token: Option<String>) {
    users.inner.uia.0.change(id, |session| {
        if !session.completed.contains(&stage) {
            session.completed.push(stage);
        }
        session.token = token.or(session.token.take());
    });
}

/// Ends a session: what was proved is used. Only one request gets it.
pub fn end(users: &Users, id: &str) -> Option<Session> {
    users.inner.uia.0.take(users.clock.now(), id)
}
