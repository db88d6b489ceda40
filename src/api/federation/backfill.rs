//! The past of a room, and the events in a gap, for servers that are in the room, or were when it happened.
//!
//! Spec: server-server-api#backfilling-and-retrieving-missing-events

use std::{collections::HashSet, sync::Arc};

use ruma::{
    EventId, OwnedEventId,
    api::federation::{backfill::get_backfill, event::get_missing_events},
};
use serde_json::value::RawValue;

use super::room;
use crate::{
    app::Ctx,
    error::Result,
    http::Origin,
    protocol::{event::Event, graph},
    rooms::{Room, onlooker::Onlooker},
    store::schema::events::Standing,
};

/// How many events one answer holds.
const MOST_EVENTS: usize = 100;
/// From how many events on one walk begins.
const MOST_STARTS: usize = 100;

/// Events before some events, and these themselves.
pub async fn backfill(
    ctx: Ctx,
    origin: Origin,
    request: get_backfill::v1::Request,
) -> Result<get_backfill::v1::Response> {
    let room = room(&ctx, &request.room_id, &origin.server)?;
    let onlooker = Onlooker::new(&ctx.rooms, &room, &origin.server)?;
    onlooker.check_was_in_room(&request.v)?;
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(MOST_EVENTS).min(MOST_EVENTS);
    let events = walk(&ctx, &room, &request.v, true, limit, |_| false);
    let pdus = shown(&ctx, &onlooker, events)?;
    Ok(get_backfill::v1::Response::new(ctx.config.server_name.clone(), ctx.clock.timestamp(), pdus))
}

/// The events between some that the asking server has and some that it has heard of.
pub async fn missing_events(
    ctx: Ctx,
    origin: Origin,
    request: get_missing_events::v1::Request,
) -> Result<get_missing_events::v1::Response> {
    let room = room(&ctx, &request.room_id, &origin.server)?;
    let onlooker = Onlooker::new(&ctx.rooms, &room, &origin.server)?;
    onlooker.check_was_in_room(&request.latest_events)?;
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(MOST_EVENTS).min(MOST_EVENTS);
    let earliest: HashSet<&EventId> = request.earliest_events.iter().map(|id| &**id).collect();
    let min_depth = u64::from(request.min_depth);
    let mut events = walk(&ctx, &room, &request.latest_events, false, limit, |id| earliest.contains(id));
    events.retain(|event| event.depth >= min_depth);
    events.reverse();
    Ok(get_missing_events::v1::Response::new(shown(&ctx, &onlooker, events)?))
}

fn walk(
    ctx: &Ctx,
    room: &Room,
    from: &[OwnedEventId],
    include_start: bool,
    limit: usize,
    stop: impl Fn(&EventId) -> bool,
) -> Vec<Arc<Event>> {
    let find = |id: &EventId| {
        let known = ctx.rooms.by_id(id).ok().flatten()?;
        // The way goes on behind what is rejected, too.
        let here = known.room == room.number && known.standing != Standing::Outlier;
        here.then(|| Arc::clone(&known.event))
    };
    graph::walk_back(from.iter().take(MOST_STARTS).cloned(), include_start, limit, stop, find)
}

/// The events as the asking server gets them. What is soft-failed is there: it was asked for, or something that comes
/// after it.  Spec: server-server-api#soft-failure
fn shown(ctx: &Ctx, onlooker: &Onlooker<'_>, events: Vec<Arc<Event>>) -> Result<Vec<Box<RawValue>>> {
    let mut pdus = Vec::with_capacity(events.len());
    for event in events {
        if let Some(known) = ctx.rooms.by_id(&event.event_id)?
            && known.standing != Standing::Rejected
            && onlooker.is_told_of(&known)?
        {
            pdus.push(onlooker.pdu(&known)?);
        }
    }
    Ok(pdus)
}
