//! How far somebody has read.

use ruma::{EventId, OwnedEventId, OwnedRoomId, api::client::read_marker::set_read_marker};
use serde_json::Value;

use super::done;
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, Reply, User},
    rooms::{Room, presence, receipts},
};

/// Moves a receipt of the caller. Read by hand, because a wrong `thread_id` has an errcode of its own.
pub async fn receive(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let [room, kind, event] = &raw.args[..] else { return Err(Error::unrecognized()) };
    let room = OwnedRoomId::try_from(room.as_str()).map_err(|error| Error::invalid_param(error.to_string()))?;
    let event = OwnedEventId::try_from(event.as_str()).map_err(|error| Error::invalid_param(error.to_string()))?;
    let kind = kind.clone();
    let body: Value = raw.json().await?;
    let thread = match &body["thread_id"] {
        Value::Null => None,
        Value::String(thread) if !thread.is_empty() => Some(thread.as_str()),
        _ => return Err(Error::invalid_param("thread_id must be a text that is not empty")),
    };
    let room = ctx.rooms.joined(&room, &user.id)?;
    match kind.as_str() {
        "m.read" | "m.read.private" => mark(&ctx, &user, &room, &kind, thread, &event).await?,
        "m.fully_read" if thread.is_some() => {
            return Err(Error::invalid_param("m.fully_read is for the whole room and takes no thread_id"));
        }
        "m.fully_read" => receipts::fully_read(&ctx.rooms, user.number, &room, &event).await?,
        other => return Err(Error::invalid_param(format!("there are no receipts of the type {other:?}"))),
    }
    Ok(Reply::empty())
}

/// Moves several receipts of the caller at once.
pub async fn read_markers(
    ctx: Ctx,
    user: User,
    req: set_read_marker::v3::Request,
) -> Result<set_read_marker::v3::Response> {
    let room = ctx.rooms.joined(&req.room_id, &user.id)?;
    if let Some(event) = &req.fully_read {
        receipts::fully_read(&ctx.rooms, user.number, &room, event).await?;
    }
    if let Some(event) = &req.read_receipt {
        mark(&ctx, &user, &room, "m.read", None, event).await?;
    }
    if let Some(event) = &req.private_read_receipt {
        mark(&ctx, &user, &room, "m.read.private", None, event).await?;
    }
    Ok(set_read_marker::v3::Response::new())
}

async fn mark(ctx: &Ctx, user: &User, room: &Room, kind: &str, thread: Option<&str>, event: &EventId) -> Result<()> {
    presence::acts(&ctx.rooms, user.number, &user.device)?;
    done(receipts::mark(&ctx.rooms, &user.id, room, kind, thread, event)?).await
}
