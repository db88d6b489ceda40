//! Typing.

use ruma::OwnedRoomId;
use serde::Deserialize;

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, Reply, User},
    rooms::{ephemeral, presence},
};

/// For how long somebody types who does not say it, in milliseconds.
const USUAL: u64 = 30_000;

#[derive(Deserialize)]
struct Typing {
    typing: bool,
    timeout: Option<u64>,
}

/// Tells the room that the caller is typing, or has stopped. Read by hand, because the specification lets the timeout
/// be left out.
pub async fn set(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let [room, who] = &raw.args[..] else { return Err(Error::unrecognized()) };
    if user.id != *who {
        return Err(Error::forbidden("you can only type as yourself"));
    }
    user.may_act()?;
    let room = OwnedRoomId::try_from(room.as_str()).map_err(|error| Error::invalid_param(error.to_string()))?;
    let room = ctx.rooms.joined(&room, &user.id)?;
    let Typing { typing, timeout } = raw.json().await?;
    let timeout = typing.then(|| timeout.unwrap_or(USUAL));
    presence::acts(&ctx.rooms, user.number, &user.device)?;
    ephemeral::typing(&ctx.rooms, room.number, &user.id, timeout)?;
    Ok(Reply::empty())
}
