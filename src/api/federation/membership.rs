//! Users of other servers join, leave and knock.
//!
//! Spec: server-server-api#joining-rooms, #leaving-rooms-rejecting-invites, #knocking-upon-a-room

use std::sync::Arc;

use http::Method;
use ruma::{
    EventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId,
    api::federation::membership::{
        RawStrippedState, create_join_event, create_knock_event, create_leave_event, prepare_join_event,
        prepare_knock_event, prepare_leave_event,
    },
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;

use super::room;
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Origin, Raw, Reply, Routes},
    protocol::canonical,
    rooms::{Room, admit, cache::Known, inviting, resident},
};

fn template(
    ctx: &Ctx,
    origin: &Origin,
    room: &Room,
    user: &OwnedUserId,
    membership: MembershipState,
    versions: Option<&[RoomVersionId]>,
) -> Result<Box<RawValue>> {
    if user.server_name() != origin.server {
        return Err(Error::forbidden(format!("{user} is not a user of {}", origin.server)));
    }
    let template = resident::template(&ctx.rooms, room, user, membership, versions)?;
    RawValue::from_string(canonical::write_object(&template)).map_err(Error::internal)
}

/// A join to be signed.
pub async fn make_join(
    ctx: Ctx,
    origin: Origin,
    request: prepare_join_event::v1::Request,
) -> Result<prepare_join_event::v1::Response> {
    let room = room(&ctx, &request.room_id, &origin.server)?;
    let event = template(&ctx, &origin, &room, &request.user_id, MembershipState::Join, Some(&request.ver))?;
    let mut response = prepare_join_event::v1::Response::new(event);
    response.room_version = Some(room.version.clone());
    Ok(response)
}

/// A leave to be signed.
pub async fn make_leave(
    ctx: Ctx,
    origin: Origin,
    request: prepare_leave_event::v1::Request,
) -> Result<prepare_leave_event::v1::Response> {
    let room = room(&ctx, &request.room_id, &origin.server)?;
    let event = template(&ctx, &origin, &room, &request.user_id, MembershipState::Leave, None)?;
    Ok(prepare_leave_event::v1::Response::new(Some(room.version.clone()), event))
}

/// A knock to be signed.
pub async fn make_knock(
    ctx: Ctx,
    origin: Origin,
    request: prepare_knock_event::v1::Request,
) -> Result<prepare_knock_event::v1::Response> {
    let room = room(&ctx, &request.room_id, &origin.server)?;
    let event = template(&ctx, &origin, &room, &request.user_id, MembershipState::Knock, Some(&request.ver))?;
    Ok(prepare_knock_event::v1::Response::new(room.version.clone(), event))
}

async fn receive(
    ctx: &Ctx,
    origin: &Origin,
    room_id: &RoomId,
    event_id: &EventId,
    membership: MembershipState,
    pdu: &RawValue,
) -> Result<(Arc<Room>, Arc<Known>)> {
    let room = room(ctx, room_id, &origin.server)?;
    let pdu = admit::object(pdu, room.rules)?;
    let known = resident::receive(&ctx.rooms, &room, &origin.server, event_id, membership, pdu).await?;
    Ok((room, known))
}

/// A signed join; answered with the state before it.
pub async fn send_join(
    ctx: Ctx,
    origin: Origin,
    request: create_join_event::v2::Request,
) -> Result<create_join_event::v2::Response> {
    let (room_id, event_id) = (&request.room_id, &request.event_id);
    let (room, known) = receive(&ctx, &origin, room_id, event_id, MembershipState::Join, &request.pdu).await?;
    let answer = resident::joined(&ctx.rooms, &room, &known, request.omit_members)?;
    Ok(create_join_event::v2::Response::new(answer))
}

/// A signed leave.
pub async fn send_leave(
    ctx: Ctx,
    origin: Origin,
    request: create_leave_event::v2::Request,
) -> Result<create_leave_event::v2::Response> {
    let (room_id, event_id) = (&request.room_id, &request.event_id);
    receive(&ctx, &origin, room_id, event_id, MembershipState::Leave, &request.pdu).await?;
    Ok(create_leave_event::v2::Response::new())
}

/// A signed knock; answered with what the knocking user is shown of the room.
pub async fn send_knock(
    ctx: Ctx,
    origin: Origin,
    request: create_knock_event::v1::Request,
) -> Result<create_knock_event::v1::Response> {
    let (room_id, event_id) = (&request.room_id, &request.event_id);
    let (room, known) = receive(&ctx, &origin, room_id, event_id, MembershipState::Knock, &request.pdu).await?;
    let shown = inviting::shown(&ctx.rooms, &room, &known)?;
    let shown = shown.iter().map(|known| RawStrippedState::Pdu(known.event.to_pdu())).collect();
    Ok(create_knock_event::v1::Response::new(shown))
}

/// The first versions of two endpoints, which old servers still use: `[200, answer]`.
pub fn old(to: &mut Routes) {
    to.raw(Method::PUT, "/_matrix/federation/v1/send_join/{room}/{event}", old_join).raw(
        Method::PUT,
        "/_matrix/federation/v1/send_leave/{room}/{event}",
        old_leave,
    );
}

async fn old_join(ctx: Ctx, origin: Origin, request: Raw) -> Result<Reply> {
    let (room_id, event_id, pdu) = old_request(request).await?;
    let (room, known) = receive(&ctx, &origin, &room_id, &event_id, MembershipState::Join, &pdu).await?;
    Reply::value(&(200, resident::joined(&ctx.rooms, &room, &known, false)?))
}

async fn old_leave(ctx: Ctx, origin: Origin, request: Raw) -> Result<Reply> {
    let (room_id, event_id, pdu) = old_request(request).await?;
    receive(&ctx, &origin, &room_id, &event_id, MembershipState::Leave, &pdu).await?;
    Ok(Reply::json("[200,{}]"))
}

async fn old_request(request: Raw) -> Result<(OwnedRoomId, ruma::OwnedEventId, Box<RawValue>)> {
    let bad = |_| Error::invalid_param("the path must name a room and an event");
    let room_id = RoomId::parse(request.args.first().map_or("", String::as_str)).map_err(bad)?;
    let event_id = EventId::parse(request.args.get(1).map_or("", String::as_str)).map_err(bad)?;
    Ok((room_id, event_id, request.json().await?))
}
