//! A transaction from another server: events and ephemeral events.
//!
//! Events of one room are taken in one after the other, rooms beside each other ([`inbox`]). A repeated
//! transaction is answered as before; one that was forgotten does no harm, because what is known is passed over.
//!
//! Spec: server-server-api#transactions

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ruma::{
    OwnedEventId, OwnedRoomId, RoomId, ServerName,
    api::federation::transactions::send_transaction_message::v1::{Request, Response},
};
use serde_json::value::RawValue;

use super::{edu, room};
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::Origin,
    rooms::{admit, early, inbox, inviting, resident},
};

/// How many events a transaction may hold. Spec: server-server-api#put_matrixfederationv1sendtxnid
const MOST_PDUS: usize = 50;
/// How many ephemeral events a transaction may hold.
const MOST_EDUS: usize = 100;
/// How many bytes a transaction may have: as many as its events can, and then some.
pub const LARGEST: usize = (MOST_PDUS + MOST_EDUS) * 64 * 1024;
/// How many rooms are worked on at the same time.
const ROOMS_AT_ONCE: usize = 8;

/// Takes in a transaction and says of each event what became of it.
pub async fn transaction(ctx: Ctx, origin: Origin, request: Request) -> Result<Response> {
    if request.origin != origin.server {
        return Err(Error::forbidden("the transaction names another origin than its signature"));
    }
    if request.pdus.len() > MOST_PDUS || request.edus.len() > MOST_EDUS {
        return Err(Error::invalid_param(format!("a transaction holds at most {MOST_PDUS} PDUs and {MOST_EDUS} EDUs")));
    }
    let server = &*origin.server;
    let turn = ctx.rooms.inbox.turn(server);
    let mut transactions = turn.lock().await;
    if let Some(results) = transactions.answered(request.transaction_id.as_str()) {
        return Ok(Response::new(results));
    }
    let mut by_room: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>> = BTreeMap::new();
    for pdu in request.pdus {
        match room_of(&pdu) {
            Some(room) => by_room.entry(room).or_default().push(pdu),
            None => tracing::debug!(%server, "a PDU that names no room is dropped"),
        }
    }
    let rooms = by_room.into_iter().map(|(id, pdus)| in_room(&ctx, server, id, pdus));
    let results: Vec<_> = stream::iter(rooms).buffer_unordered(ROOMS_AT_ONCE).try_collect().await?;
    for edu in &request.edus {
        if let Err(error) = edu::receive(&ctx, server, edu).await {
            tracing::debug!(%server, %error, "an EDU is dropped");
        }
    }
    let results: inbox::Results = results.into_iter().flatten().collect();
    transactions.remember(request.transaction_id.as_str(), results.clone());
    Ok(Response::new(results))
}

fn room_of(pdu: &RawValue) -> Option<OwnedRoomId> {
    #[derive(serde::Deserialize)]
    struct Room {
        room_id: OwnedRoomId,
    }
    serde_json::from_str::<Room>(pdu.get()).ok().map(|room| room.room_id)
}

/// Takes in the events of one room. Those of a room that this server is just entering wait until it is in. Those of a
/// room that this server is not in, or of which the other server is kept out, are refused one by one; the transaction
/// goes on.
async fn in_room(
    ctx: &Ctx,
    origin: &ServerName,
    id: OwnedRoomId,
    pdus: Vec<Box<RawValue>>,
) -> Result<Vec<(OwnedEventId, Result<(), String>)>> {
    let is_inside = || ctx.rooms.find(&id).is_ok_and(|room| resident::check_in_room(&ctx.rooms, &room).is_ok());
    if !is_inside()
        && let Some(kept) = early::keep(&ctx.rooms, &id, origin, &pdus)?
    {
        kept.published().await?;
        return Ok(Vec::new());
    }
    let Ok(known) = ctx.rooms.find(&id) else {
        withdrawn(ctx, origin, &id, &pdus).await;
        return Ok(Vec::new());
    };
    let raw = pdus;
    let pdus: Vec<_> = raw.iter().filter_map(|pdu| admit::object(pdu, known.rules).ok()).collect();
    match room(ctx, &id, origin) {
        Ok(room) => inbox::receive(&ctx.rooms, &room, origin, pdus).await,
        Err(error) => {
            withdrawn(ctx, origin, &id, &raw).await;
            tracing::debug!(room = %id, server = %origin, %error, "events of a room are refused");
            let ids = pdus.iter().filter_map(|pdu| admit::event_id(pdu, known.rules));
            Ok(ids.map(|id| (id, Err(error.to_string()))).collect())
        }
    }
}

/// In a room that this server is not in, events only matter if they take back an invite.
async fn withdrawn(ctx: &Ctx, origin: &ServerName, room: &RoomId, pdus: &[Box<RawValue>]) {
    for pdu in pdus {
        if let Err(error) = inviting::withdrawn(&ctx.rooms, origin, room, pdu).await {
            tracing::debug!(%room, server = %origin, %error, "an event of a room elsewhere is dropped");
        }
    }
}
