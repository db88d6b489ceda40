//! Users of this server are invited by those of others.
//!
//! Spec: server-server-api#inviting-to-a-room

use http::Method;
use ruma::{EventId, RoomId, RoomVersionId, api::federation::membership::create_invite::v2};
use serde_json::{Value, value::RawValue};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Origin, Raw, Reply, Routes},
    rooms::inviting,
};

/// Signs an invite and shows it to the invited user.
pub async fn invite(ctx: Ctx, origin: Origin, request: v2::Request) -> Result<v2::Response> {
    if let Ok(room) = ctx.rooms.find(&request.room_id) {
        crate::rooms::resident::check_acl(&ctx.rooms, &room, &origin.server)?;
    }
    let event = inviting::incoming(
        &ctx.rooms,
        &origin.server,
        &request.room_id,
        &request.event_id,
        &request.room_version,
        &request.event,
        &request.invite_room_state,
    )
    .await?;
    Ok(v2::Response::new(event))
}

/// The first version of the endpoint: the body is the event, of a room of version 1 or 2.
pub fn old(to: &mut Routes) {
    to.raw(Method::PUT, "/_matrix/federation/v1/invite/{room}/{event}", old_invite);
}

async fn old_invite(ctx: Ctx, origin: Origin, request: Raw) -> Result<Reply> {
    let bad = |_| Error::invalid_param("the path must name a room and an event");
    let room_id = RoomId::parse(request.args.first().map_or("", String::as_str)).map_err(bad)?;
    let event_id = EventId::parse(request.args.get(1).map_or("", String::as_str)).map_err(bad)?;
    let event: Box<RawValue> = request.json().await?;
    let unsigned: Value = serde_json::from_str(event.get()).unwrap_or_default();
    let shown = unsigned.pointer("/unsigned/invite_room_state").cloned().unwrap_or_else(|| Value::Array(Vec::new()));
    let shown = serde_json::from_value::<Vec<_>>(shown).map_err(|error| Error::bad_json(error.to_string()))?;
    let version = RoomVersionId::V1;
    let signed = inviting::incoming(&ctx.rooms, &origin.server, &room_id, &event_id, &version, &event, &shown).await?;
    Reply::value(&(200, serde_json::json!({ "event": signed })))
}
