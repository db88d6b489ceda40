//! What the caller was notified of.
//!
//! Spec: client-server-api#get_matrixclientv3notifications

use ruma::api::client::push::get_notifications::v3::Request;
use serde_json::{Value, json};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, Reply, User},
    rooms::{
        unread::{self, News, Read},
        view::Viewer,
    },
    store::{
        Position,
        schema::{events::EVENTS, push::Told, rooms},
    },
};

/// How many are shown when the request does not say.
const USUAL: u64 = 20;
/// How many are shown at most.
const MOST: u64 = 100;
/// How many are looked at for one page.
const MOST_LOOKED_AT: usize = 5_000;

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
    let before = Position(until.0.saturating_sub(1));
    let (mut shown, mut last, mut more) = (Vec::new(), until, false);
    let past = unread::told(&ctx.store, user.number, (Position(0), before), |_| true)?;
    for (looked_at, news) in past.enumerate() {
        let news = news?;
        if looked_at == MOST_LOOKED_AT {
            (last, more) = (Position(news.at.0 + 1), true);
            break;
        }
        let Some(told) = news.row.to(user.number).filter(|told| told.highlight || !highlights) else { continue };
        if shown.len() as u64 == limit {
            more = true;
            break;
        }
        last = news.at;
        shown.extend(notification(&ctx, &user, &viewer, &news, told)?);
    }
    let mut answer = json!({ "notifications": shown });
    if more {
        answer["next_token"] = last.0.to_string().into();
    }
    Reply::value(&answer)
}

fn notification(ctx: &Ctx, user: &User, viewer: &Viewer<'_>, news: &News, told: &Told) -> Result<Option<Value>> {
    // A room may have been emptied meanwhile.
    let Some(room) = rooms::find(&ctx.store, news.room)? else { return Ok(None) };
    if !ctx.store.contains(EVENTS, &news.row.event)? {
        return Ok(None);
    }
    let event = viewer.event(&*ctx.rooms.known(news.row.event)?, false)?;
    let actions: Value = match &told.actions {
        Some(actions) => serde_json::from_str(actions).map_err(Error::internal)?,
        None => json!(["notify"]),
    };
    Ok(Some(json!({
        "room_id": room.id,
        "event": serde_json::from_str::<Value>(&event).map_err(Error::internal)?,
        "actions": actions,
        "read": Read::of(&ctx.store, user.number, news.room)?.covers(news.row.thread, news.at),
        "ts": news.row.ts,
    })))
}
