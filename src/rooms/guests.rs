//! Guests in rooms: where they may go, and that they go when a room no longer welcomes them.
//!
//! Who is a guest only their own server knows, so each server sees its own guests out. The change that says so may
//! come from anywhere; it leaves a row ([`crate::rooms::projections::guests`]), and [`see_out`] does what the row asks.
//!
//! Spec: client-server-api#guest-access

use super::{Room, Rooms, cache::Known, ephemeral, policy};
use crate::{
    error::{Error, Result},
    store::{
        Ticket,
        schema::{UserNo, numbers, rooms::GUESTS_TO_GO, users::ACCOUNTS},
    },
};
use http::StatusCode;

/// What a guest reads who may not do something.
pub fn forbidden(message: &'static str) -> Error {
    Error::new(StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", message)
}

/// Refuses guests where the room does not welcome them.
pub fn check_may_join(rooms: &Rooms, room: &Room) -> Result<()> {
    let setting = rooms.in_state(&rooms.current(room.number)?, "m.room.guest_access", "")?;
    match welcome(setting.as_deref()) {
        true => Ok(()),
        false => Err(forbidden("guests may not join this room; make an account first")),
    }
}

/// Whether guests may be in a room with this setting.
pub fn welcome(setting: Option<&Known>) -> bool {
    let setting = setting.and_then(|known| known.event.content_field::<String>("guest_access"));
    setting.as_deref() == Some("can_join")
}

/// Takes the guests of this server out of all rooms that no longer welcome them. When it returns, they are gone.
pub async fn see_out(rooms: &Rooms) -> Result<()> {
    let waiting: Vec<_> = rooms.store.scan(GUESTS_TO_GO, &()).collect::<Result<_, _>>()?;
    for (room, ()) in waiting {
        let Some(open) = rooms.open(room)? else { continue };
        for user in ephemeral::locals(rooms, room)? {
            if let Some(ticket) = policy::approved(rooms, || see_one_out(rooms, &open, user)).await? {
                ticket.published().await?;
            }
        }
        let ticket = {
            // Under the lock of the room: a row that comes meanwhile is for a later change.
            let _deciding = rooms.decide(&open);
            let mut write = rooms.store.write();
            write.delete(GUESTS_TO_GO, &room);
            write.commit()?
        };
        ticket.published().await?;
    }
    Ok(())
}

fn guest(rooms: &Rooms, user: UserNo) -> Result<Option<ruma::OwnedUserId>> {
    match rooms.store.get(ACCOUNTS, &user)? {
        Some(account) if account.guest => Ok(numbers::user_id(&rooms.store, user)?),
        _ => Ok(None),
    }
}

fn see_one_out(rooms: &Rooms, room: &Room, user: UserNo) -> Result<Option<Ticket>> {
    let Some(id) = guest(rooms, user)? else { return Ok(None) };
    let mut deciding = rooms.decide(room);
    // They may be welcome again by now.
    if welcome(deciding.state("m.room.guest_access", "")?.as_deref()) {
        return Ok(None);
    }
    match deciding.leave(&id, None)? {
        Some(_) => deciding.commit().map(Some),
        None => Ok(None),
    }
}
