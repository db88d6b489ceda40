//! The people of this server. (For now: only what the room core asks of them.)

use std::sync::Arc;

use ruma::{OwnedMxcUri, UserId};

use crate::{clock::Clock, config::Config, error::Result, store::Store};

/// Everything that accounts work with.
#[derive(Clone, Default)]
pub struct Users;

/// What a member event says of its user.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The display name.
    pub displayname: Option<String>,
    /// The avatar.
    pub avatar_url: Option<OwnedMxcUri>,
}

impl Users {
    /// Accounts over a store, for tests.
    pub fn for_tests(_: &Store, _: &Clock, _: &Arc<Config>) -> Self {
        Self
    }

    /// Display name and avatar of a local user.
    pub fn profile(&self, _: &UserId) -> Result<Profile> {
        Ok(Profile::default())
    }
}
