//! The first account: whoever starts a new server gets a secret with which they make it, once.

use parking_lot::Mutex;
use ruma::OwnedUserId;
use subtle::ConstantTimeEq;

use super::accounts;
use crate::{
    chance::Chance,
    error::{Error, Result},
    store::schema::users::ACCOUNTS,
    users::Users,
};

/// The secret, as long as there is nobody and the server runs. A restart makes another.
#[derive(Default)]
pub struct Invitation(Mutex<Option<String>>);

/// Whether somebody has an account. Guests and what belongs to bridges do not count.
pub fn anybody(users: &Users) -> Result<bool> {
    for row in users.store.scan(ACCOUNTS, &()) {
        let (_, account) = row?;
        if !account.guest && account.bridge.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Invitation {
    /// The secret for a server that has nobody yet; `None` when it has.
    pub fn issue(&self, users: &Users, chance: &Chance) -> Result<Option<String>> {
        let secret = if anybody(users)? { None } else { Some(chance.secret()) };
        self.0.lock().clone_from(&secret);
        Ok(secret)
    }

    /// Whether this is the secret, and there is still nobody.
    pub fn is_open(&self, users: &Users, secret: &str) -> Result<bool> {
        let known = self.0.lock().clone();
        Ok(known.is_some_and(|known| equal(&known, secret)) && !anybody(users)?)
    }

    /// Makes the first account, whose owner looks after the server. The secret ends with it; when it
    /// does not work (a name that cannot be, say), the secret holds on.
    pub async fn accept(&self, users: &Users, secret: &str, name: &str, password: String) -> Result<OwnedUserId> {
        if !self.is_open(users, secret)? {
            return Err(gone());
        }
        // Taken while the account is made, so that two at the same time do not both become the first.
        let Some(taken) = self.0.lock().take() else { return Err(gone()) };
        let made = accounts::add(users, name, password, true).await;
        if made.is_err() {
            *self.0.lock() = Some(taken);
        }
        made
    }
}

fn gone() -> Error {
    Error::not_found("this link was used already, or the server was restarted since it was shown")
}

fn equal(known: &str, shown: &str) -> bool {
    known.as_bytes().ct_eq(shown.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{clock::Clock, config::Config, store::Store};

    fn users() -> Users {
        Users::for_tests(&Store::in_memory(), &Clock::by_hand(1), &Arc::new(Config::for_tests()))
    }

    #[tokio::test]
    async fn the_secret_works_once() {
        let (users, invitation) = (users(), Invitation::default());
        let secret = invitation.issue(&users, &users.chance).expect("a store").expect("nobody is there");
        assert!(invitation.accept(&users, "guessed", "eve", "x".into()).await.is_err());
        invitation.accept(&users, &secret, "not a name", "x".into()).await.expect_err("a bad name");
        let id = invitation.accept(&users, &secret, "ann", "x".into()).await.expect("the first");
        assert_eq!(id, "@ann:localhost");
        assert!(accounts::list(&users).expect("a list")[0].admin);
        assert!(invitation.accept(&users, &secret, "bob", "x".into()).await.is_err());
    }

    #[tokio::test]
    async fn the_secret_ends_when_somebody_comes_another_way() {
        let (users, invitation) = (users(), Invitation::default());
        let secret = invitation.issue(&users, &users.chance).expect("a store").expect("nobody is there");
        accounts::add(&users, "ann", "x".into(), false).await.expect("an account");
        assert!(!invitation.is_open(&users, &secret).expect("a store"));
        assert_eq!(invitation.issue(&users, &users.chance).expect("a store"), None);
    }
}
