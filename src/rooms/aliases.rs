//! Names of rooms on this server, such as `#kitchen:example.org`.
//!
//! Whoever changes an alias holds `Rooms::aliases`, so that a name is given once. A room's canonical alias is
//! an event like others, which points at one of these.
//!
//! Spec: client-server-api#room-aliases

use http::StatusCode;
use ruma::{OwnedRoomAliasId, RoomAliasId, RoomId, UserId};

use super::{Room, Rooms, access, append::NewEvent, policy};
use crate::{
    error::{Error, Result},
    protocol::canonical::Value,
    store::{
        Store, Ticket, Write,
        schema::{
            RoomNo, numbers,
            rooms::{ALIASES, AliasRow, ROOM_ALIASES},
        },
    },
};

/// The longest alias, in bytes.  Spec: appendices#room-aliases
const LONGEST: usize = 255;

/// What a local alias points to.
pub fn find(store: &Store, alias: &RoomAliasId) -> Result<Option<AliasRow>> {
    Ok(store.get(ALIASES, &alias.as_str().to_owned())?)
}

/// The room behind a local alias; 404 `M_NOT_FOUND` if there is none.
pub fn room(rooms: &Rooms, alias: &RoomAliasId) -> Result<std::sync::Arc<Room>> {
    let row = find(&rooms.store, alias)?;
    let room = row.map(|row| rooms.open(row.room)).transpose()?.flatten();
    room.ok_or_else(|| Error::not_found(format!("there is no room called {alias}")))
}

/// Fails with 400 `M_ROOM_IN_USE` if the alias is taken, and 400 `M_INVALID_PARAM` if it is not of this server.
pub fn check_free(rooms: &Rooms, alias: &RoomAliasId) -> Result<()> {
    check(rooms, alias)?;
    match rooms.store.write().get(ALIASES, &alias.as_str().to_owned())? {
        Some(_) => Err(Error::bad_request("M_ROOM_IN_USE", format!("{alias} is the name of another room"))),
        None => Ok(()),
    }
}

fn check(rooms: &Rooms, alias: &RoomAliasId) -> Result<()> {
    if alias.server_name() != rooms.config.server_name {
        return Err(Error::invalid_param(format!("{alias} is an alias of another server")));
    }
    if alias.as_str().len() > LONGEST {
        return Err(Error::invalid_param(format!("an alias has at most {LONGEST} bytes")));
    }
    if alias.alias().is_empty() || alias.as_str().contains('\0') {
        return Err(Error::invalid_param(format!("{alias:?} is not a room alias")));
    }
    Ok(())
}

/// Points an alias that is free at a room.
pub fn put(write: &mut Write, alias: &RoomAliasId, room: RoomNo, creator: &UserId) -> Result<()> {
    let creator = numbers::user(write, creator)?;
    let alias = alias.as_str().to_owned();
    write.put(ALIASES, &alias, &AliasRow { room, creator });
    write.put(ROOM_ALIASES, &(room, alias), &());
    Ok(())
}

/// Gives a room one more name; only its members may. 409 `M_UNKNOWN` if the name is taken.
///
/// Spec: client-server-api#put_matrixclientv3directoryroomroomalias
pub fn add(rooms: &Rooms, creator: &UserId, alias: &RoomAliasId, room: &RoomId) -> Result<Ticket> {
    check(rooms, alias)?;
    let room = rooms.joined(room, creator)?;
    let _one_at_a_time = rooms.aliases.lock();
    let mut write = rooms.store.write();
    if write.get(ALIASES, &alias.as_str().to_owned())?.is_some() {
        let message = format!("{alias} is the name of a room already");
        return Err(Error::new(StatusCode::CONFLICT, "M_UNKNOWN", message));
    }
    put(&mut write, alias, room.number, creator)?;
    Ok(write.commit()?)
}

/// Takes a name from its room, and out of the room's canonical alias if the user may change that. Whoever gave
/// the name may do this, whoever may change the canonical alias, and admins.
///
/// Spec: client-server-api#delete_matrixclientv3directoryroomroomalias
pub async fn remove(rooms: &Rooms, user: &UserId, is_admin: bool, alias: &RoomAliasId) -> Result<Ticket> {
    check(rooms, alias)?;
    let (room, ticket) = {
        let _one_at_a_time = rooms.aliases.lock();
        let mut write = rooms.store.write();
        let name = alias.as_str().to_owned();
        let Some(row) = write.get(ALIASES, &name)? else {
            return Err(Error::not_found(format!("there is no room called {alias}")));
        };
        let own = numbers::find_user(&rooms.store, user)? == Some(row.creator);
        if !own && !is_admin && !may_name(rooms, row.room, user)? {
            return Err(Error::forbidden("only who gave this name, or who may name the room, can take it away"));
        }
        write.delete(ALIASES, &name);
        write.delete(ROOM_ALIASES, &(row.room, name));
        (row.room, write.commit()?)
    };
    // The name is gone, also if the room goes on calling itself so.
    let Some(room) = rooms.open(room)? else { return Ok(ticket) };
    match policy::approved(rooms, || unname(rooms, &room, user, alias)).await {
        Ok(Some(later)) => Ok(later),
        _ => Ok(ticket),
    }
}

/// Whether a user may change a room's canonical alias.
pub fn may_name(rooms: &Rooms, room: RoomNo, user: &UserId) -> Result<bool> {
    let Some(room) = rooms.open(room)? else { return Ok(false) };
    let state = rooms.current(room.number)?;
    let member = rooms.in_state(&state, "m.room.member", user.as_str())?;
    let joined = member.and_then(|known| known.event.membership());
    Ok(joined == Some(ruma::events::room::member::MembershipState::Join)
        && rooms.power_levels(&room, &state)?.can_send(user, "m.room.canonical_alias", true))
}

/// Takes an alias out of the canonical alias event, if it is in it.
fn unname(rooms: &Rooms, room: &Room, user: &UserId, alias: &RoomAliasId) -> Result<Option<Ticket>> {
    let mut deciding = rooms.decide(room);
    let Some(known) = deciding.state("m.room.canonical_alias", "")? else { return Ok(None) };
    let Some(mut content) = known.event.to_object().get("content").and_then(Value::as_object).cloned() else {
        return Ok(None);
    };
    let is_it = |value: &Value| value.as_str() == Some(alias.as_str());
    let mut changed = false;
    if content.get("alias").is_some_and(is_it) {
        content.remove("alias");
        changed = true;
    }
    if let Some(Value::Array(others)) = content.get_mut("alt_aliases") {
        let before = others.len();
        others.retain(|other| !is_it(other));
        changed |= others.len() < before;
    }
    if !changed {
        return Ok(None);
    }
    deciding.send(NewEvent::state(user, "m.room.canonical_alias", "", content))?;
    Ok(Some(deciding.commit()?))
}

/// The names that a room has on this server, for those who may look into it.
///
/// Spec: client-server-api#get_matrixclientv3roomsroomidaliases
pub fn of_room(rooms: &Rooms, user: &UserId, room: &RoomId) -> Result<Vec<OwnedRoomAliasId>> {
    let (room, access) = access::look(rooms, room, user)?;
    if matches!(access, access::Access::Departed(_)) && !access::is_world_readable(rooms, room.number)? {
        return Err(Error::forbidden("you are not in this room any more"));
    }
    let mut aliases = Vec::new();
    for row in rooms.store.scan(ROOM_ALIASES, &(room.number,)) {
        let ((_, alias), ()) = row?;
        aliases.extend(RoomAliasId::parse(alias).ok());
    }
    Ok(aliases)
}
