//! Single events and whole states, for servers that are in the room, or were when it happened.
//!
//! What may be large is looked up on a thread that may block, and sent as it is read: a room of many members is
//! never in memory as a whole.
//!
//! Spec: server-server-api#retrieving-events

use std::{slice, sync::Arc};

use ruma::{
    OwnedEventId, RoomId,
    api::{
        Direction,
        federation::{
            authorization::get_event_authorization,
            event::{get_event, get_event_by_timestamp, get_room_state, get_room_state_ids},
        },
    },
};

use super::{lists, no_such_event, remembered_room, room};
use crate::{
    app::Ctx,
    error::{Error, Result},
    heavy,
    http::{Origin, Reply},
    rooms::{
        history::{self, Direction as Walk},
        onlooker::Onlooker,
        resident,
    },
    store::schema::EventNo,
};

/// An event, if the asking server is told of it; its content is taken out if none of its users may see it.
pub async fn event(ctx: Ctx, origin: Origin, request: get_event::v1::Request) -> Result<get_event::v1::Response> {
    let known = ctx.rooms.by_id(&request.event_id)?.ok_or_else(no_such_event)?;
    let room = remembered_room(&ctx, &known.event.room_id, &origin.server).map_err(|_| no_such_event())?;
    let onlooker = Onlooker::new(&ctx.rooms, &room, &origin.server)?;
    if !onlooker.is_told_of(&known)? {
        return Err(no_such_event());
    }
    let pdu = onlooker.pdu(&known)?;
    Ok(get_event::v1::Response::new(ctx.config.server_name.clone(), ctx.clock.timestamp(), pdu))
}

/// What an event rests on.
pub async fn event_auth(ctx: Ctx, origin: Origin, request: get_event_authorization::v1::Request) -> Result<Reply> {
    let room = room(&ctx, &request.room_id, &origin.server)?;
    Onlooker::new(&ctx.rooms, &room, &origin.server)?.check_was_in_room(slice::from_ref(&request.event_id))?;
    let known = ctx.rooms.by_id(&request.event_id)?.filter(|known| known.room == room.number);
    let id = known.ok_or_else(no_such_event)?.event.event_id.clone();
    let rooms = Arc::clone(&ctx.rooms);
    let chain = heavy::run(move || resident::auth_chain_numbers(&rooms, [id])).await??;
    Ok(lists::object(&ctx.rooms, [("auth_chain", chain)]))
}

/// The state before an event.
pub async fn state(ctx: Ctx, origin: Origin, request: get_room_state::v1::Request) -> Result<Reply> {
    let (state, auth_chain) = numbers_before(&ctx, &origin, &request.room_id, request.event_id).await?;
    Ok(lists::object(&ctx.rooms, [("auth_chain", auth_chain), ("pdus", state)]))
}

/// The IDs of the state before an event.
pub async fn state_ids(
    ctx: Ctx,
    origin: Origin,
    request: get_room_state_ids::v1::Request,
) -> Result<get_room_state_ids::v1::Response> {
    let (state, auth_chain) = numbers_before(&ctx, &origin, &request.room_id, request.event_id).await?;
    let rooms = Arc::clone(&ctx.rooms);
    let ids = move |numbers: Vec<EventNo>| -> Result<Vec<OwnedEventId>> {
        numbers.into_iter().map(|number| Ok(rooms.known(number)?.event.event_id.clone())).collect()
    };
    let (auth_chain, state) = heavy::run(move || (ids(auth_chain), ids(state))).await?;
    Ok(get_room_state_ids::v1::Response::new(auth_chain?, state?))
}

/// The numbers of the events of the state before an event, and of their auth chain.
async fn numbers_before(
    ctx: &Ctx,
    origin: &Origin,
    room: &RoomId,
    event: OwnedEventId,
) -> Result<(Vec<EventNo>, Vec<EventNo>)> {
    let room = remembered_room(ctx, room, &origin.server)?;
    Onlooker::new(&ctx.rooms, &room, &origin.server)?.check_was_in_room(slice::from_ref(&event))?;
    let rooms = Arc::clone(&ctx.rooms);
    let look = move || resident::snapshot_numbers(&rooms, &resident::state_before(&rooms, &room, &event)?);
    heavy::run(look).await?
}

/// The event closest to a moment.
pub async fn by_timestamp(
    ctx: Ctx,
    origin: Origin,
    request: get_event_by_timestamp::v1::Request,
) -> Result<get_event_by_timestamp::v1::Response> {
    let room = room(&ctx, &request.room_id, &origin.server)?;
    let onlooker = Onlooker::new(&ctx.rooms, &room, &origin.server)?;
    onlooker.check_in_room()?;
    let direction = match request.dir {
        Direction::Backward => Walk::Backward,
        Direction::Forward => Walk::Forward,
    };
    let moment = request.ts.get().into();
    let found = history::closest(&ctx.rooms, room.number, moment, direction, |known| onlooker.may_see(known))?;
    let known = found.ok_or_else(|| Error::not_found("there is no event at that time"))?;
    let when = ruma::MilliSecondsSinceUnixEpoch(ruma::UInt::new_saturating(known.event.origin_server_ts));
    Ok(get_event_by_timestamp::v1::Response::new(known.event.event_id.clone(), when))
}
