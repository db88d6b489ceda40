//! What the caller was notified of.
//!
//! Spec: client-server-api#get_matrixclientv3notifications

use ruma::api::client::push::get_notifications::v3::Request;
use serde_json::{Value, json};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, Reply, User},
    rooms::view::Viewer,
    store::{
        Position,
        schema::{
            events::EVENTS,
            push::{NOTIFICATIONS, NotificationRow},
            rooms::{self, UNREAD},
        },
    },
};

/// How many are shown when the request does not say.
const USUAL: u64 = 20;
/// How many are shown at most.
const MOST: u64 = 100;

/// Lists them, the newest first.
pub async fn list(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let request: Request = raw.typed().await?;
    let unknown = || Error::invalid_param("from is not a token of this server; leave it out to begin again");
    let until = match &request.from {
        Some(from) => Position(from.parse().map_err(|_| unknown())?),
        None => Position(u64::MAX),
    };
    let limit = request.limit.map_or(USUAL, u64::from).clamp(1, MOST);
    let highlights = request.only.as_deref() == Some("highlight");
    let viewer = Viewer::new(&ctx.rooms, &user.id, Some(&user.device))?;
    let rows = ctx.store.range(NOTIFICATIONS, &(user.number,), &(user.number, until)).rev();
    let (mut shown, mut last, mut more) = (Vec::new(), until, false);
    for row in rows {
        let ((_, at), row) = row?;
        if highlights && !row.highlight {
            continue;
        }
        if shown.len() as u64 == limit {
            more = true;
            break;
        }
        last = at;
        shown.extend(notification(&ctx, &user, &viewer, at, &row)?);
    }
    let mut answer = json!({ "notifications": shown });
    if more {
        answer["next_token"] = last.0.to_string().into();
    }
    Reply::value(&answer)
}

fn notification(
    ctx: &Ctx,
    user: &User,
    viewer: &Viewer<'_>,
    at: Position,
    row: &NotificationRow,
) -> Result<Option<Value>> {
    // A room may have been emptied meanwhile.
    let Some(room) = rooms::find(&ctx.store, row.room)? else { return Ok(None) };
    if !ctx.store.contains(EVENTS, &row.event)? {
        return Ok(None);
    }
    let event = viewer.event(&*ctx.rooms.known(row.event)?, false)?;
    let actions: Value = match &row.actions {
        Some(actions) => serde_json::from_str(actions).map_err(Error::internal)?,
        None => json!(["notify"]),
    };
    Ok(Some(json!({
        "room_id": room.id,
        "event": serde_json::from_str::<Value>(&event).map_err(Error::internal)?,
        "actions": actions,
        "read": !ctx.store.contains(UNREAD, &(user.number, row.room, at))?,
        "ts": row.ts,
    })))
}
