//! Sending messages, and taking them back.

use ruma::api::client::{message::send_message_event, redact::redact_event};
use serde_json::json;

use crate::{
    app::Ctx,
    error::Result,
    http::User,
    rooms::{
        policy, presence,
        send::{self, NewMessage, Sender},
    },
};

/// Sends an event without a state key.
pub async fn message(
    ctx: Ctx,
    user: User,
    req: send_message_event::v3::Request,
) -> Result<send_message_event::v3::Response> {
    user.may_act()?;
    let kind = req.event_type.to_string();
    let new = NewMessage {
        kind: &kind,
        content: req.body.json().get(),
        redacts: None,
        transaction: req.txn_id.as_str(),
        timestamp: None,
    };
    let attempt = || send::message(&ctx.rooms, sender(&user), &req.room_id, &new);
    let (id, ticket) = policy::approved(&ctx.rooms, attempt).await?;
    presence::acts(&ctx.rooms, user.number, &user.device)?;
    ticket.published().await?;
    Ok(send_message_event::v3::Response::new(id))
}

/// Takes away what an event says.
pub async fn redact(ctx: Ctx, user: User, req: redact_event::v3::Request) -> Result<redact_event::v3::Response> {
    let own = ctx.rooms.by_id(&req.event_id)?.is_some_and(|known| known.event.sender == user.id);
    if !own {
        user.may_act()?;
    }
    let content = match &req.reason {
        Some(reason) => json!({ "reason": reason }),
        None => json!({}),
    };
    let new = NewMessage {
        kind: "m.room.redaction",
        content: &content.to_string(),
        redacts: Some(&req.event_id),
        transaction: req.txn_id.as_str(),
        timestamp: None,
    };
    let attempt = || send::message(&ctx.rooms, sender(&user), &req.room_id, &new);
    let (id, ticket) = policy::approved(&ctx.rooms, attempt).await?;
    ticket.published().await?;
    Ok(redact_event::v3::Response::new(id))
}

fn sender(user: &User) -> Sender<'_> {
    Sender { user: &user.id, number: user.number, device: &user.device }
}
