//! Users of this server are invited by those of others.
//!
//! Spec: server-server-api#inviting-to-a-room

use http::Method;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Origin, Raw, Reply, Routes},
    rooms::{inviting, resident},
};

/// An invite to be signed, with what the invited user is shown of the room. Old servers show nothing.
#[derive(Deserialize)]
struct Invite {
    room_version: Option<RoomVersionId>,
    event: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "or_none")]
    invite_room_state: Vec<Box<RawValue>>,
}

/// The invite with the signature of this server.
#[derive(Serialize)]
struct Signed {
    event: Box<RawValue>,
}

fn or_none<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<Box<RawValue>>, D::Error> {
    Ok(Option::deserialize(list)?.unwrap_or_default())
}

/// Both versions of the endpoint: the first one has no room version, and its body is the event, of a room of version
/// 1 or 2.
pub fn routes(to: &mut Routes) {
    to.raw(Method::PUT, "/_matrix/federation/v2/invite/{room}/{event}", invite).raw(
        Method::PUT,
        "/_matrix/federation/v1/invite/{room}/{event}",
        old_invite,
    );
}

async fn invite(ctx: Ctx, origin: Origin, request: Raw) -> Result<Reply> {
    let place = place(&request)?;
    let invite: Invite = request.json().await?;
    let version = invite.room_version.ok_or_else(|| Error::missing_param("room_version is missing"))?;
    let event = invite.event.ok_or_else(|| Error::missing_param("event is missing"))?;
    let signed = sign(&ctx, &origin, place, &version, &event, &invite.invite_room_state).await?;
    Reply::value(&signed)
}

async fn old_invite(ctx: Ctx, origin: Origin, request: Raw) -> Result<Reply> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(default)]
        unsigned: Option<Unsigned>,
    }
    #[derive(Deserialize)]
    struct Unsigned {
        #[serde(default, deserialize_with = "or_none")]
        invite_room_state: Vec<Box<RawValue>>,
    }
    let place = place(&request)?;
    let event: Box<RawValue> = request.json().await?;
    let Event { unsigned } = serde_json::from_str(event.get()).map_err(|error| Error::bad_json(error.to_string()))?;
    let shown = unsigned.map(|unsigned| unsigned.invite_room_state).unwrap_or_default();
    let signed = sign(&ctx, &origin, place, &RoomVersionId::V1, &event, &shown).await?;
    Reply::value(&(200, signed))
}

fn place(request: &Raw) -> Result<(OwnedRoomId, OwnedEventId)> {
    let bad = |_| Error::invalid_param("the path must name a room and an event");
    let room = RoomId::parse(request.args.first().map_or("", String::as_str)).map_err(bad)?;
    Ok((room, EventId::parse(request.args.get(1).map_or("", String::as_str)).map_err(bad)?))
}

async fn sign(
    ctx: &Ctx,
    origin: &Origin,
    (room_id, event_id): (OwnedRoomId, OwnedEventId),
    version: &RoomVersionId,
    event: &RawValue,
    shown: &[Box<RawValue>],
) -> Result<Signed> {
    if let Ok(room) = ctx.rooms.find(&room_id) {
        resident::check_acl(&ctx.rooms, &room, &origin.server)?;
    }
    let event = inviting::incoming(&ctx.rooms, &origin.server, &room_id, &event_id, version, event, shown).await?;
    Ok(Signed { event })
}
