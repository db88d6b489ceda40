//! Ephemeral events from other servers: one line per type, and the rules that hold for each.
//!
//! Spec: server-server-api#edus

use ruma::{
    ServerName, UserId,
    api::federation::transactions::edu::{Edu, ReceiptContent, TypingContent},
    serde::Raw,
};

use super::room;
use crate::{
    app::Ctx,
    error::{Error, Result},
    rooms::ephemeral::{self, NewReceipt},
};

/// How long a typing notice of another server lasts, in milliseconds: they send no end of it.
const TYPING: u64 = 30_000;

/// Takes in one ephemeral event; what is not known is passed over.
pub async fn receive(ctx: &Ctx, origin: &ServerName, edu: &Raw<Edu>) -> Result<()> {
    let edu = edu.deserialize().map_err(|error| Error::bad_json(error.to_string()))?;
    match edu {
        Edu::Typing(content) => typing(ctx, origin, &content),
        Edu::Receipt(content) => receipts(ctx, origin, content).await,
        _ => Ok(()),
    }
}

/// Users speak through their own server only.
fn check_user(origin: &ServerName, user: &UserId) -> Result<()> {
    match user.server_name() == origin {
        true => Ok(()),
        false => Err(Error::forbidden(format!("{user} is not a user of {origin}"))),
    }
}

/// Spec: server-server-api#typing-notifications
fn typing(ctx: &Ctx, origin: &ServerName, content: &TypingContent) -> Result<()> {
    check_user(origin, &content.user_id)?;
    let room = room(ctx, &content.room_id, origin)?;
    ephemeral::typing(&ctx.rooms, room.number, &content.user_id, content.typing.then_some(TYPING))
}

/// Spec: server-server-api#receipts
async fn receipts(ctx: &Ctx, origin: &ServerName, content: ReceiptContent) -> Result<()> {
    for (room_id, map) in content.receipts {
        let Ok(room) = room(ctx, &room_id, origin) else { continue };
        for (user, data) in map.read {
            if check_user(origin, &user).is_err() {
                continue;
            }
            let Some(event) = data.event_ids.first() else { continue };
            let thread = serde_json::to_value(&data.data.thread).ok();
            let receipt = NewReceipt {
                user: &user,
                kind: "m.read",
                thread: thread.as_ref().and_then(|thread| thread.as_str()),
                event,
                ts: data.data.ts.map_or_else(|| ctx.clock.now(), |ts| ts.get().into()),
            };
            // An event that is not here yet is no fault of the others in the list.
            if let Ok(Some(ticket)) = ephemeral::receipt(&ctx.rooms, &room, &receipt) {
                ticket.published().await?;
            }
        }
    }
    Ok(())
}
