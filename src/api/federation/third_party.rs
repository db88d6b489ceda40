//! Invites by address become ordinary ones.
//!
//! Spec: server-server-api#third-party-invites

use ruma::{
    api::federation::thirdparty::{bind_callback, exchange_invite},
    events::StateEventType,
};

use super::room;
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::Origin,
    protocol::canonical::{self, Numbers, Object, Value},
    rooms::third_party::{self, Kept},
};

fn object(json: &str) -> Result<Object> {
    canonical::parse_object(json.as_bytes(), Numbers::Strict).map_err(|error| Error::bad_json(error.to_string()))
}

/// An identity server says that an address is a user's of this server. Anybody may: what counts is what it has
/// signed, with the keys that the room knows.
pub async fn bound(ctx: Ctx, _: (), request: bind_callback::v1::Request) -> Result<bind_callback::v1::Response> {
    let mut invites = Vec::with_capacity(request.invites.len());
    for invite in &request.invites {
        if invite.mxid == request.mxid {
            let signed = object(invite.signed.json().get())?;
            invites.push(Kept { room: &invite.room_id, sender: &invite.sender, signed });
        }
    }
    third_party::bound(&ctx.rooms, &request.mxid, &invites).await?;
    Ok(bind_callback::v1::Response::new())
}

/// The server of an invited user asks one that is in the room to let the invite in.
pub async fn exchange(
    ctx: Ctx,
    origin: Origin,
    request: exchange_invite::v1::Request,
) -> Result<exchange_invite::v1::Response> {
    let room = room(&ctx, &request.room_id, &origin.server)?;
    if request.kind != StateEventType::RoomMember {
        return Err(Error::invalid_param("the event must be a member event"));
    }
    if request.state_key.server_name() != origin.server {
        return Err(Error::forbidden(format!("{} is not a user of {}", request.state_key, origin.server)));
    }
    let content = object(request.content.json().get())?;
    let signed = content.get("third_party_invite").and_then(|invite| invite.get("signed")).and_then(Value::as_object);
    let signed = signed.filter(|_| content.get("membership").and_then(Value::as_str) == Some("invite"));
    let signed = signed.ok_or_else(|| Error::invalid_param("the event must be an invite with third_party_invite"))?;
    third_party::exchange(&ctx.rooms, &room, &request.sender, &request.state_key, signed).await?;
    Ok(exchange_invite::v1::Response::new())
}
