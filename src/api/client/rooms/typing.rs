//! Typing.

use ruma::api::client::typing::create_typing_event::{
    self,
    v3::Typing::{No, Yes},
};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::User,
    rooms::{ephemeral, presence},
};

/// Tells the room that the caller is typing, or has stopped.
pub async fn set(
    ctx: Ctx,
    user: User,
    req: create_typing_event::v3::Request,
) -> Result<create_typing_event::v3::Response> {
    if user.id != req.user_id {
        return Err(Error::forbidden("you can only type as yourself"));
    }
    user.may_act()?;
    let room = ctx.rooms.joined(&req.room_id, &user.id)?;
    let timeout = match req.state {
        Yes(info) => Some(u64::try_from(info.timeout.as_millis()).unwrap_or(u64::MAX)),
        No => None,
    };
    presence::acts(&ctx.rooms, user.number, &user.device)?;
    ephemeral::typing(&ctx.rooms, room.number, &user.id, timeout)?;
    Ok(create_typing_event::v3::Response::new())
}
