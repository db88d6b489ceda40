//! A transaction from another server: events and ephemeral events.
//!
//! Events of one room are taken in one after the other, rooms beside each other. A repeated transaction does no
//! harm: what is known already is passed over.
//!
//! Spec: server-server-api#transactions

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use ruma::{
    OwnedEventId, OwnedRoomId, ServerName,
    api::federation::transactions::send_transaction_message::v1::{Request, Response},
};
use serde_json::value::RawValue;

use super::{edu, room};
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::Origin,
    protocol::{canonical::Object, event::Event},
    rooms::{admit, intake},
};

/// How many events a transaction may hold. Spec: server-server-api#put_matrixfederationv1sendtxnid
const MOST_PDUS: usize = 50;
/// How many ephemeral events a transaction may hold.
const MOST_EDUS: usize = 100;
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
    let mut by_room: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>> = BTreeMap::new();
    for pdu in request.pdus {
        match room_of(&pdu) {
            Some(room) => by_room.entry(room).or_default().push(pdu),
            None => tracing::debug!(server = %origin.server, "a PDU that names no room is dropped"),
        }
    }
    let server = &*origin.server;
    let rooms = by_room.into_iter().map(|(id, pdus)| in_room(&ctx, server, id, pdus));
    let results: Vec<_> = stream::iter(rooms).buffer_unordered(ROOMS_AT_ONCE).collect().await;
    for edu in &request.edus {
        if let Err(error) = edu::receive(&ctx, server, edu).await {
            tracing::debug!(%server, %error, "an EDU is dropped");
        }
    }
    let pdus = results.into_iter().flatten().map(|(id, result)| (id, result.map_err(|error| error.to_string())));
    Ok(Response::new(pdus.collect()))
}

fn room_of(pdu: &RawValue) -> Option<OwnedRoomId> {
    #[derive(serde::Deserialize)]
    struct Room {
        room_id: OwnedRoomId,
    }
    serde_json::from_str::<Room>(pdu.get()).ok().map(|room| room.room_id)
}

async fn in_room(
    ctx: &Ctx,
    origin: &ServerName,
    id: OwnedRoomId,
    pdus: Vec<Box<RawValue>>,
) -> Vec<(OwnedEventId, Result<()>)> {
    let room = match room(ctx, &id, origin) {
        Ok(room) => room,
        Err(error) => {
            tracing::debug!(room = %id, server = %origin, %error, "events of a room are dropped");
            return Vec::new();
        }
    };
    let mut results = Vec::new();
    for pdu in pdus {
        let Ok(object) = admit::object(&pdu, room.rules) else { continue };
        let Ok(event_id) = event_id(&object, room.rules) else { continue };
        results.push((event_id, intake::receive(&ctx.rooms, &room, origin, object).await));
    }
    results
}

fn event_id(pdu: &Object, rules: &crate::protocol::version::Rules) -> Result<OwnedEventId> {
    let event = Event::from_object(pdu.clone(), rules).map_err(|error| Error::bad_json(error.to_string()))?;
    Ok(event.event_id)
}
