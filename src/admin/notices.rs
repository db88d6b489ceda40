//! Telling people something in the name of the server.

use std::sync::Arc;

use ruma::OwnedUserId;

use super::accounts::{existing, list};
use crate::{
    error::{Error, Result},
    rooms::{Rooms, notices},
    users::accounts,
};

/// Tells something to the people of these names, or to everybody. Returns who was told.
///
/// Errors: 404 `M_NOT_FOUND` if one of them has no account: then nobody is told.
pub async fn send(rooms: &Arc<Rooms>, names: &[String], everyone: bool, text: &str) -> Result<Vec<OwnedUserId>> {
    if text.trim().is_empty() {
        return Err(Error::invalid_param("a notice says something"));
    }
    let users = &rooms.users;
    let mut to = Vec::new();
    for name in names {
        let (id, number, _) = existing(users, name)?;
        to.push((id, number));
    }
    for entry in if everyone { list(users)? } else { Vec::new() } {
        let hears = !entry.deactivated && !entry.guest && !entry.bridge && !notices::is_sender(rooms, &entry.id);
        if let Some((number, _)) = accounts::by_id(users, &entry.id)?.filter(|_| hears) {
            to.push((entry.id, number));
        }
    }
    to.sort();
    to.dedup();
    for (id, number) in &to {
        notices::send(rooms, *number, id, text).await?;
    }
    Ok(to.into_iter().map(|(id, _)| id).collect())
}
