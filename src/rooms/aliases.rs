//! Names of rooms on this server, such as `#kitchen:example.org`.
//!
//! Whoever changes an alias holds `Rooms::aliases`, so that a name is given once.
//!
//! Spec: client-server-api#room-aliases

use ruma::{RoomAliasId, UserId};

use super::Rooms;
use crate::{
    error::{Error, Result},
    store::{
        Store, Write,
        schema::{
            RoomNo, numbers,
            rooms::{ALIASES, AliasRow, ROOM_ALIASES},
        },
    },
};

/// What a local alias points to.
pub fn find(store: &Store, alias: &RoomAliasId) -> Result<Option<AliasRow>> {
    Ok(store.get(ALIASES, &alias.as_str().to_owned())?)
}

/// Fails with 400 `M_ROOM_IN_USE` if the alias is taken, and 400 `M_INVALID_PARAM` if it is not of this server.
pub fn check_free(rooms: &Rooms, alias: &RoomAliasId) -> Result<()> {
    if alias.server_name() != rooms.config.server_name {
        return Err(Error::invalid_param(format!("{alias} is an alias of another server")));
    }
    match rooms.store.write().get(ALIASES, &alias.as_str().to_owned())? {
        Some(_) => Err(Error::bad_request("M_ROOM_IN_USE", format!("{alias} is the name of another room"))),
        None => Ok(()),
    }
}

/// Points an alias that is free at a room.
pub fn put(write: &mut Write, alias: &RoomAliasId, room: RoomNo, creator: &UserId) -> Result<()> {
    let creator = numbers::user(write, creator)?;
    let alias = alias.as_str().to_owned();
    write.put(ALIASES, &alias, &AliasRow { room, creator });
    write.put(ROOM_ALIASES, &(room, alias), &());
    Ok(())
}
