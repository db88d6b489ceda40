//! The past of a room, and the events in a gap, for servers that are in the room.
//!
//! Spec: server-server-api#backfilling-and-retrieving-missing-events

use std::{collections::HashSet, sync::Arc};

use ruma::{
    EventId, OwnedEventId, ServerName,
    api::federation::{backfill::get_backfill, event::get_missing_events},
};
use serde_json::value::RawValue;

use super::shared_room;
use crate::{
    app::Ctx,
    error::Result,
    http::Origin,
    protocol::{event::Event, graph},
    rooms::{Room, resident},
    store::schema::events::Standing,
};

/// How many events one answer holds.
const MOST_EVENTS: usize = 100;

/// Events before some events, and these themselves.
pub async fn backfill(
    ctx: Ctx,
    origin: Origin,
    request: get_backfill::v1::Request,
) -> Result<get_backfill::v1::Response> {
    let room = shared_room(&ctx, &request.room_id, &origin.server)?;
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(MOST_EVENTS).min(MOST_EVENTS);
    let events = walk(&ctx, &room, &request.v, true, limit, |_| false);
    let pdus = shown(&ctx, &room, &origin.server, events)?;
    Ok(get_backfill::v1::Response::new(ctx.config.server_name.clone(), ctx.clock.timestamp(), pdus))
}

/// The events between some that the asking server has and some that it has heard of.
pub async fn missing_events(
    ctx: Ctx,
    origin: Origin,
    request: get_missing_events::v1::Request,
) -> Result<get_missing_events::v1::Response> {
    let room = shared_room(&ctx, &request.room_id, &origin.server)?;
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(MOST_EVENTS).min(MOST_EVENTS);
    let earliest: HashSet<&OwnedEventId> = request.earliest_events.iter().collect();
    let stop = |id: &EventId| earliest.iter().any(|earliest| **earliest == id);
    let min_depth = u64::from(request.min_depth);
    let mut events = walk(&ctx, &room, &request.latest_events, false, limit, stop);
    events.retain(|event| event.depth >= min_depth);
    events.reverse();
    Ok(get_missing_events::v1::Response::new(shown(&ctx, &room, &origin.server, events)?))
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
        // What is soft-failed is served to those who have heard of it.  Spec: server-server-api#soft-failure
        let served = matches!(known.standing, Standing::Accepted | Standing::SoftFailed);
        let here = known.room == room.number && served;
        here.then(|| Arc::clone(&known.event))
    };
    graph::walk_back(from.iter().cloned(), include_start, limit, stop, find)
}

/// The events as the asking server may see them: without content where it may not.
fn shown(ctx: &Ctx, room: &Room, server: &ServerName, events: Vec<Arc<Event>>) -> Result<Vec<Box<RawValue>>> {
    let mut pdus = Vec::with_capacity(events.len());
    for event in events {
        let Some(known) = ctx.rooms.by_id(&event.event_id)? else { continue };
        pdus.push(match resident::may_see(&ctx.rooms, server, &known)? {
            true => event.to_pdu(),
            false => event.redacted(room.rules).to_pdu(),
        });
    }
    Ok(pdus)
}
