//! The whole Server-Server API as one list, in the order of the specification.

mod backfill;
mod device_keys;
mod edu;
mod events;
mod invite;
mod keys;
mod lists;
mod membership;
mod openid;
mod public;
mod query;
mod send;
mod third_party;
mod version;

use std::sync::Arc;

use ruma::{RoomId, ServerName};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::Routes,
    rooms::{Room, resident},
};

/// All endpoints of the Server-Server API.
pub fn routes(to: &mut Routes) {
    to.add(version::version)
        .add(keys::own)
        // What old servers ask for; whichever key they name, they get all.
        .also("/_matrix/key/v2/server/{key_id}")
        .add(keys::notary_one)
        .add(keys::notary_many)
        .add(send::transaction)
        .body_limit(send::LARGEST)
        .add(events::event_auth)
        .add(backfill::backfill)
        .add(backfill::missing_events)
        .add(events::event)
        .add(events::state)
        .add(events::state_ids)
        .add(events::by_timestamp)
        .add(membership::make_join)
        .add(membership::send_join)
        .add(membership::make_leave)
        .add(membership::send_leave)
        .add(membership::make_knock)
        .add(membership::send_knock)
        .add(third_party::bound)
        .add(third_party::exchange)
        .add(public::rooms)
        .add(public::search)
        .add(public::hierarchy)
        .add(query::directory)
        .add(query::profile)
        .add(device_keys::devices)
        .add(device_keys::query)
        .add(device_keys::claim)
        .add(openid::user_info);
    invite::routes(to);
    membership::old(to);
}

/// A room that this server is in and that `origin` may ask about at all.
///
/// Errors: 404 `M_NOT_FOUND`, 403 `M_FORBIDDEN` for a server that the room's ACL keeps out.
fn room(ctx: &Ctx, id: &RoomId, origin: &ServerName) -> Result<Arc<Room>> {
    let room = ctx.rooms.find(id)?;
    resident::check_in_room(&ctx.rooms, &room)?;
    resident::check_acl(&ctx.rooms, &room, origin)?;
    Ok(room)
}

/// The same, also if this server has been in the room and is no more: whoever has come in just before its last user
/// has left would never learn who else is there.
///
/// Errors: 404 `M_NOT_FOUND`, 403 `M_FORBIDDEN`.
fn remembered_room(ctx: &Ctx, id: &RoomId, origin: &ServerName) -> Result<Arc<Room>> {
    let room = ctx.rooms.find(id)?;
    resident::check_acl(&ctx.rooms, &room, origin)?;
    Ok(room)
}

/// The error for an event that is not here, or that the asking server may not see.
fn no_such_event() -> Error {
    Error::not_found("this server has no such event for yours")
}
