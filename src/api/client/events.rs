//! What clients asked for before there was `/sync`: snapshots, and a stream of events. Previews of rooms are made of
//! these.
//!
//! Spec: client-server-api#room-previews, client-server-api#syncing

use std::{sync::Arc, time::Duration};

use ruma::{EventId, OwnedRoomId, api::client::peeking::get_current_state};

use super::sync::{flag, is_there, number, reader};
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, Reply, Routes, User},
    rooms::{read, view::Viewer},
    sync::{v1, v3},
};

/// How many events of a room a snapshot shows, unless the client says otherwise.
const USUAL_LIMIT: u64 = 10;
/// How long a stream waits, unless the client says otherwise, in milliseconds.
const USUAL_WAIT: u64 = 10_000;

/// The endpoints.
pub fn routes(to: &mut Routes) {
    let get = http::Method::GET;
    to.raw(get.clone(), "/_matrix/client/v3/events", stream).also("/_matrix/client/r0/events").guests();
    to.raw(get.clone(), "/_matrix/client/v3/events/{event_id}", one).also("/_matrix/client/r0/events/{event_id}");
    to.raw(get.clone(), "/_matrix/client/v3/initialSync", all).also("/_matrix/client/r0/initialSync");
    to.raw(get, "/_matrix/client/v3/rooms/{room_id}/initialSync", room).guests();
    to.also("/_matrix/client/r0/rooms/{room_id}/initialSync");
}

/// Tells what happens after a token: in the caller's rooms, or in one room that they may look into.
async fn stream(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let from = v3::since(&raw.parameter("from").unwrap_or_default())?;
    let timeout = Duration::from_millis(number(&raw, "timeout")?.unwrap_or(USUAL_WAIT));
    let room = raw.parameter("room_id").map(OwnedRoomId::try_from).transpose();
    let room = room.map_err(|error| Error::invalid_param(error.to_string()))?;
    if user.guest && room.is_none() {
        let message = "guests may follow one room at a time; name it in room_id";
        return Err(Error::new(http::StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", message));
    }
    let ask = v1::Listen { from, timeout, room };
    let _there = is_there(&ctx, &user, None)?;
    Ok(Reply::json(v1::events(Arc::clone(&ctx.sync), reader(user), ask).await?))
}

/// Shows one event of any room.
async fn one(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let id = EventId::parse(raw.args.first().map(String::as_str).unwrap_or_default());
    let id = id.map_err(|error| Error::invalid_param(error.to_string()))?;
    let room = ctx.rooms.by_id(&id)?.map(|known| known.event.room_id.clone());
    let room = room.ok_or_else(|| Error::not_found("there is no such event, or you may not see it"))?;
    let viewer = Viewer::new(&ctx.rooms, &user.id, Some(&user.device))?;
    let known = read::event(&ctx.rooms, &viewer, &room, &id)?;
    Ok(Reply::json(viewer.event(&known, true)?))
}

/// Shows all rooms of the caller.
async fn all(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let (limit, archived) = (limit(&raw)?, flag(&raw, "archived")?);
    Ok(Reply::json(v1::all(Arc::clone(&ctx.sync), reader(user), limit, archived).await?))
}

/// Shows one room.
async fn room(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let limit = limit(&raw)?;
    let req: get_current_state::v3::Request = raw.typed().await?;
    Ok(Reply::json(v1::room(Arc::clone(&ctx.sync), reader(user), req.room_id, limit).await?))
}

fn limit(raw: &Raw) -> Result<usize> {
    let limit = number(raw, "limit")?.unwrap_or(USUAL_LIMIT);
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}
