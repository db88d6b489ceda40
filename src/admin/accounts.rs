//! Making, listing and ending other people's accounts.

use std::sync::Arc;

use ruma::{OwnedUserId, RoomId, UserId, events::room::member::MembershipState};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    error::{Error, Result},
    rooms::{Rooms, leaving, policy},
    store::schema::{
        UserNo, numbers,
        rooms::USER_ROOMS,
        users::{ACCOUNTS, AccountRow},
    },
    users::{
        Users,
        accounts::{self, NewAccount},
        profiles, resets,
    },
};

/// An account as a list shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Whose it is.
    pub id: OwnedUserId,
    /// The name that others see.
    pub display_name: Option<String>,
    /// When it was made, in milliseconds since the epoch.
    pub created: u64,
    /// Whether its owner looks after the server.
    pub admin: bool,
    /// Whether it is a guest's.
    pub guest: bool,
    /// Whether it belongs to a bridge.
    pub bridge: bool,
    /// Whether it was given up.
    pub deactivated: bool,
}

/// The user whom somebody means by `ann`, `@ann` or `@ann:example.org`.
pub fn named(users: &Users, name: &str) -> Result<OwnedUserId> {
    let name = name.trim();
    let bare = name.strip_prefix('@').unwrap_or(name);
    match bare.split_once(':') {
        Some((local, server)) if *users.server_name == *server => accounts::new_id(users, local),
        Some((_, server)) => {
            let message = format!("{server} is another server; this one is {}", users.server_name);
            Err(Error::invalid_param(message))
        }
        None => accounts::new_id(users, bare),
    }
}

/// Makes an account with a password.
pub async fn add(users: &Users, name: &str, password: String, admin: bool) -> Result<OwnedUserId> {
    let id = named(users, name)?;
    let shown = serde_json::Value::from(id.localpart());
    let new = NewAccount { password: Some(password), admin, ..Default::default() };
    accounts::create(users, &id, new, None, |write| {
        let number = numbers::user(write, &id)?;
        profiles::put(write, number, "displayname", Some(&shown))
    })
    .await?;
    Ok(id)
}

/// Every account, in the order in which they were made.
pub fn list(users: &Users) -> Result<Vec<Entry>> {
    let mut all = Vec::new();
    for row in users.store.scan(ACCOUNTS, &()) {
        let (number, account) = row?;
        let Some(id) = numbers::user_id(&users.store, number)? else { continue };
        let display_name = users.profile(&id)?.displayname;
        let AccountRow { created, admin, guest, deactivated, .. } = account;
        all.push(Entry { id, display_name, created, admin, guest, bridge: account.bridge.is_some(), deactivated });
    }
    all.sort_by_key(|entry| entry.created);
    Ok(all)
}

/// Sets somebody's password and logs all their devices out.
pub async fn set_password(users: &Users, name: &str, password: &str) -> Result<OwnedUserId> {
    let (id, number, _) = existing(users, name)?;
    accounts::set_password(users, number, password, None).await?;
    crate::users::devices::remove_all(users, number).await?;
    Ok(id)
}

/// Makes a link with which somebody sets a new password, once and within a day; gives its address.
pub async fn reset_link(users: &Users, name: &str) -> Result<String> {
    let (_, number, _) = existing(users, name)?;
    let secret = resets::issue(users, number).await?;
    Ok(format!("{}/_ingle/reset/{secret}", users.config.public_url()))
}

/// Gives somebody's account up for ever: they leave all rooms and are logged out; the name stays taken.
pub async fn deactivate(users: &Users, rooms: &Arc<Rooms>, name: &str, erase: bool) -> Result<OwnedUserId> {
    let (id, number, _) = existing(users, name)?;
    accounts::deactivate(users, number, erase).await?;
    leave_all(rooms, number, &id).await?;
    Ok(id)
}

/// Takes somebody out of every room that they are in, invited to or knocking at. A room that cannot be
/// left keeps nobody from leaving the others.
pub async fn leave_all(rooms: &Arc<Rooms>, number: UserNo, user: &UserId) -> Result<()> {
    let present = [MembershipState::Join, MembershipState::Invite, MembershipState::Knock];
    let memberships: Vec<_> = rooms.store.scan(USER_ROOMS, &(number,)).collect::<Result<_, _>>()?;
    for ((_, room), row) in memberships {
        if !present.contains(&row.membership) {
            continue;
        }
        let Some(id) = numbers::room_id(&rooms.store, room)? else { continue };
        if let Err(error) = leave(rooms, &id, user).await {
            warn!(room = %id, "{user} cannot leave a room: {error}");
        }
    }
    Ok(())
}

async fn leave(rooms: &Arc<Rooms>, room: &RoomId, user: &UserId) -> Result<()> {
    let known = rooms.find(room).ok();
    let attempt = || {
        let Some(known) = &known else { return Ok(None) };
        let mut deciding = rooms.decide(known);
        match deciding.leave(user, None)? {
            Some(_) => deciding.commit().map(Some),
            None => Ok(None),
        }
    };
    match policy::approved(rooms, attempt).await? {
        Some(ticket) => drop(ticket.published().await?),
        // Only an invite or a knock, from outside: no other server has to be waited for.
        None => leaving::leave(rooms, room, user, &[], Default::default()).await?,
    }
    Ok(())
}

pub(super) fn existing(users: &Users, name: &str) -> Result<(OwnedUserId, UserNo, AccountRow)> {
    let id = named(users, name)?;
    match accounts::by_id(users, &id)? {
        Some((_, account)) if account.deactivated => Err(Error::not_found(format!("{id} was given up for ever"))),
        Some((number, account)) => Ok((id, number, account)),
        None => Err(Error::not_found(format!("there is no account {id}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, config::Config, store::Store};

    fn users() -> Users {
        Users::for_tests(&Store::in_memory(), &Clock::by_hand(1), &Arc::new(Config::for_tests()))
    }

    #[tokio::test]
    async fn an_account_is_made_once_and_listed() {
        let users = users();
        let id = add(&users, "@ann", "the kettle sings".into(), true).await.expect("an account");
        assert_eq!(id, "@ann:localhost");
        let again = add(&users, "ann", "the kettle sings".into(), false).await.expect_err("taken");
        assert_eq!(again.errcode, "M_USER_IN_USE");
        let all = list(&users).expect("a list");
        assert_eq!((all.len(), all[0].admin, all[0].display_name.as_deref()), (1, true, Some("ann")));
    }

    #[tokio::test]
    async fn somebody_of_another_server_cannot_be_meant() {
        let error = add(&users(), "@ann:elsewhere.example", "x".into(), false).await.expect_err("elsewhere");
        assert!(error.message.contains("this one is localhost"), "{error}");
    }

    #[tokio::test]
    async fn a_password_cannot_be_set_for_who_is_not_there() {
        let error = set_password(&users(), "bob", "x").await.expect_err("nobody");
        assert_eq!(error.message, "there is no account @bob:localhost");
    }
}
