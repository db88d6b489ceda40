//! Single events and whole states, for servers that are in the room.
//!
//! Spec: server-server-api#retrieving-events

use ruma::api::{
    Direction,
    federation::{
        authorization::get_event_authorization,
        event::{get_event, get_event_by_timestamp, get_room_state, get_room_state_ids},
    },
};

use super::{no_such_event, remembered_room, room, shared_room};
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::Origin,
    rooms::{
        history::{self, Direction as Walk},
        resident,
    },
};

/// An event, if a user of the asking server may see it; its content is taken out otherwise.
pub async fn event(ctx: Ctx, origin: Origin, request: get_event::v1::Request) -> Result<get_event::v1::Response> {
    let known = ctx.rooms.by_id(&request.event_id)?.ok_or_else(no_such_event)?;
    let room = remembered_room(&ctx, &known.event.room_id, &origin.server).map_err(|_| no_such_event())?;
    let pdu = match resident::may_see(&ctx.rooms, &origin.server, &known)? {
        true => known.event.to_pdu(),
        false => known.event.redacted(room.rules).to_pdu(),
    };
    Ok(get_event::v1::Response::new(ctx.config.server_name.clone(), ctx.clock.timestamp(), pdu))
}

/// What an event rests on.
pub async fn event_auth(
    ctx: Ctx,
    origin: Origin,
    request: get_event_authorization::v1::Request,
) -> Result<get_event_authorization::v1::Response> {
    let room = shared_room(&ctx, &request.room_id, &origin.server)?;
    let known = ctx.rooms.by_id(&request.event_id)?.filter(|known| known.room == room.number);
    let known = known.ok_or_else(no_such_event)?;
    let chain = resident::auth_chain(&ctx.rooms, [known.event.event_id.clone()])?;
    let chain = chain.iter().map(|known| known.event.to_pdu()).collect();
    Ok(get_event_authorization::v1::Response::new(chain))
}

/// The state before an event.
pub async fn state(
    ctx: Ctx,
    origin: Origin,
    request: get_room_state::v1::Request,
) -> Result<get_room_state::v1::Response> {
    let room = remembered_room(&ctx, &request.room_id, &origin.server)?;
    let snapshot = resident::state_before(&ctx.rooms, &room, &request.event_id)?;
    let pdus = |events: &[std::sync::Arc<crate::rooms::cache::Known>]| {
        events.iter().map(|known| known.event.to_pdu()).collect()
    };
    Ok(get_room_state::v1::Response::new(pdus(&snapshot.auth_chain), pdus(&snapshot.state)))
}

/// The IDs of the state before an event.
pub async fn state_ids(
    ctx: Ctx,
    origin: Origin,
    request: get_room_state_ids::v1::Request,
) -> Result<get_room_state_ids::v1::Response> {
    let room = remembered_room(&ctx, &request.room_id, &origin.server)?;
    let snapshot = resident::state_before(&ctx.rooms, &room, &request.event_id)?;
    let ids = |events: &[std::sync::Arc<crate::rooms::cache::Known>]| {
        events.iter().map(|known| known.event.event_id.clone()).collect()
    };
    Ok(get_room_state_ids::v1::Response::new(ids(&snapshot.auth_chain), ids(&snapshot.state)))
}

/// The event closest to a moment.
pub async fn by_timestamp(
    ctx: Ctx,
    origin: Origin,
    request: get_event_by_timestamp::v1::Request,
) -> Result<get_event_by_timestamp::v1::Response> {
    let room = room(&ctx, &request.room_id, &origin.server)?;
    resident::check_server_in_room(&ctx.rooms, &room, &origin.server)?;
    let direction = match request.dir {
        Direction::Backward => Walk::Backward,
        Direction::Forward => Walk::Forward,
    };
    let found = history::closest(&ctx.rooms, room.number, request.ts.get().into(), direction, |known| {
        resident::may_see(&ctx.rooms, &origin.server, known)
    })?;
    let known = found.ok_or_else(|| Error::not_found("there is no event at that time"))?;
    let when = ruma::MilliSecondsSinceUnixEpoch(ruma::UInt::new_saturating(known.event.origin_server_ts));
    Ok(get_event_by_timestamp::v1::Response::new(known.event.event_id.clone(), when))
}
