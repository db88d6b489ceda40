//! Events that are sent later.
//!
//! The accepted endpoints, the same under their unstable names, and two that came before them: a delay in the
//! query of `send` and `state`, and an action in the body. Whoever knows the ID of a delayed event may act on
//! it under the unstable name, without an access token: that is how a relay for calls hangs up for its guests.
//!
//! Spec: MSC4140

use std::time::Duration;

use ruma::OwnedRoomId;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, Reply, Routes, User},
    rooms::{
        delayed::{self, Action, NewDelayed},
        policy,
        send::Sender,
    },
    store::schema::delayed::{DelayedRow, End},
};

const DELAY: &str = "org.matrix.msc4140.delay";
const UNSTABLE: &str = "/_matrix/client/unstable/org.matrix.msc4140";

/// The endpoints.
pub fn routes(to: &mut Routes) {
    let at = |rest: &str| format!("{UNSTABLE}/{rest}");
    let put = http::Method::PUT;
    to.raw(put.clone(), "/_matrix/client/v3/rooms/{room_id}/delayed_event/{event_type}/{txn_id}", schedule);
    to.also(&at("rooms/{room_id}/delayed_event/{event_type}/{txn_id}")).guests().rate_limited();
    to.raw(put.clone(), "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}", message).when(delays);
    to.also("/_matrix/client/r0/rooms/{room_id}/send/{event_type}/{txn_id}").guests().rate_limited();
    to.raw(put, "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}", state).when(delays);
    to.also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}").guests().rate_limited();
    to.also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}/{state_key}");
    to.also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}");
    let (get, post) = (http::Method::GET, http::Method::POST);
    to.raw(get.clone(), "/_matrix/client/v1/delayed_events", list).guests().rate_limited();
    to.raw(get.clone(), &at("delayed_events"), list_unstable).guests().rate_limited();
    to.raw(get.clone(), "/_matrix/client/v1/delayed_events/{delay_id}", find).guests().rate_limited();
    to.raw(get, &at("delayed_events/{delay_id}"), find_unstable).guests().rate_limited();
    to.raw(post.clone(), "/_matrix/client/v1/delayed_events/{delay_id}/{action}", act).guests().rate_limited();
    to.raw(post.clone(), &at("delayed_events/{delay_id}/{action}"), act_by_id).guests().rate_limited();
    to.raw(post, &at("delayed_events/{delay_id}"), act_in_body).guests().rate_limited();
}

/// Whether a query asks for a delay.
fn delays(query: &str) -> bool {
    query.split('&').any(|pair| pair.split('=').next() == Some(DELAY))
}

/// What is to be sent, and when.
#[derive(Deserialize)]
struct Scheduled {
    #[serde(alias = "delay")]
    delay_ms: u64,
    state_key: Option<String>,
    content: Box<RawValue>,
}

/// Keeps an event to be sent later.
async fn schedule(ctx: Ctx, user: User, mut raw: Raw) -> Result<Reply> {
    let [room, kind, transaction] = arguments(&mut raw)?;
    let room = room_id(room)?;
    let Scheduled { delay_ms, state_key, content } = raw.json().await?;
    let delay = Duration::from_millis(delay_ms);
    if delay > ctx.config.rooms.max_event_delay {
        return Err(Error::forbidden(format!("this server delays events by at most {} ms", longest(&ctx))));
    }
    let by = Sender { user: &user.id, number: user.number, device: &user.device };
    let transaction = Some(transaction.as_str());
    keep(&ctx, &user, NewDelayed { by, room, kind: &kind, state_key, content: content.get(), delay, transaction }).await
}

/// The longest delay, in milliseconds.
pub fn longest(ctx: &Ctx) -> u64 {
    u64::try_from(ctx.config.rooms.max_event_delay.as_millis()).unwrap_or(u64::MAX)
}

async fn keep(ctx: &Ctx, user: &User, new: NewDelayed<'_>) -> Result<Reply> {
    user.may_act()?;
    if new.delay.is_zero() {
        return Err(Error::invalid_param("the delay is a number of milliseconds greater than 0"));
    }
    let (id, ticket) = delayed::schedule(&ctx.rooms, &new)?;
    ticket.published().await?;
    ctx.rooms.delayed.news.notify_one();
    Reply::value(&json!({ "delay_id": id }))
}

/// Keeps a message whose delay stands in the query.
async fn message(ctx: Ctx, user: User, mut raw: Raw) -> Result<Reply> {
    let delay = in_query(&ctx, &raw)?;
    let [room, kind, transaction] = arguments(&mut raw)?;
    let content: Box<RawValue> = raw.json().await?;
    let by = Sender { user: &user.id, number: user.number, device: &user.device };
    let (room, transaction) = (room_id(room)?, Some(transaction.as_str()));
    let new = NewDelayed { by, room, kind: &kind, state_key: None, content: content.get(), delay, transaction };
    keep(&ctx, &user, new).await
}

/// Keeps a state event whose delay stands in the query.
async fn state(ctx: Ctx, user: User, mut raw: Raw) -> Result<Reply> {
    let delay = in_query(&ctx, &raw)?;
    // A path may leave an empty state key out.
    raw.args.resize(3, String::new());
    let [room, kind, state_key] = arguments(&mut raw)?;
    let content: Box<RawValue> = raw.json().await?;
    let by = Sender { user: &user.id, number: user.number, device: &user.device };
    let (room, state_key) = (room_id(room)?, Some(state_key));
    let new = NewDelayed { by, room, kind: &kind, state_key, content: content.get(), delay, transaction: None };
    keep(&ctx, &user, new).await
}

/// The delay in the query, if it is not too long. Clients of this form look for these fields of the error.
fn in_query(ctx: &Ctx, raw: &Raw) -> Result<Duration> {
    let delay = raw.parameter(DELAY).and_then(|delay| delay.parse().ok());
    let delay = delay.ok_or_else(|| Error::invalid_param(format!("{DELAY} is a number of milliseconds")))?;
    let delay = Duration::from_millis(delay);
    match delay > ctx.config.rooms.max_event_delay {
        false => Ok(delay),
        true => Err(Error::bad_request("M_UNKNOWN", "the delay is longer than this server allows")
            .with("org.matrix.msc4140.errcode", "M_MAX_DELAY_EXCEEDED")
            .with("org.matrix.msc4140.max_delay", longest(ctx))),
    }
}

fn arguments(raw: &mut Raw) -> Result<[String; 3]> {
    std::mem::take(&mut raw.args).try_into().map_err(|_| Error::internal("a path of another shape"))
}

fn room_id(text: String) -> Result<OwnedRoomId> {
    text.try_into().map_err(|_| Error::invalid_param("this is not a room ID"))
}

/// Lists what waits.
async fn list(ctx: Ctx, user: User, _: Raw) -> Result<Reply> {
    let all = delayed::waiting(&ctx.rooms, user.number)?;
    let all = all.iter().map(|(id, row)| shown(id, row, false)).collect::<Result<Vec<_>>>()?;
    Reply::value(&json!({ "delayed_events": all }))
}

async fn list_unstable(ctx: Ctx, user: User, _: Raw) -> Result<Reply> {
    let all = delayed::waiting(&ctx.rooms, user.number)?;
    let all = all.iter().map(|(id, row)| shown(id, row, true)).collect::<Result<Vec<_>>>()?;
    Reply::value(&json!({ "delayed_events": all }))
}

/// Shows one that waits or has ended.
async fn find(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    show(&ctx, &user, &raw, false)
}

async fn find_unstable(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    show(&ctx, &user, &raw, true)
}

fn show(ctx: &Ctx, user: &User, raw: &Raw, unstable: bool) -> Result<Reply> {
    let id = raw.args.first().map_or("", String::as_str);
    Reply::value(&shown(id, &delayed::find(&ctx.rooms, user.number, id)?, unstable)?)
}

/// A delayed event as its sender sees it. Clients of the unstable form know two fields by other names.
fn shown(id: &str, row: &DelayedRow, unstable: bool) -> Result<Value> {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
    put("delay_id", json!(id));
    put("room_id", json!(row.room));
    put("type", json!(row.kind));
    row.state_key.iter().for_each(|key| put("state_key", json!(key)));
    put("delay_ms", json!(row.delay));
    put("scheduled_at", json!(row.since));
    if unstable {
        put("delay", json!(row.delay));
        put("running_since", json!(row.since));
    }
    put("content", serde_json::from_str(&row.content).map_err(Error::internal)?);
    if let Some(end) = &row.ended {
        put("finalised_ts", json!(end.at));
        match &end.how {
            End::Sent(event) => put("event_id", json!(event)),
            End::Cancelled => {}
            End::Failed(error) => put("error", serde_json::from_str(error).map_err(Error::internal)?),
        }
    }
    Ok(Value::Object(out))
}

/// Sends a delayed event of the caller now, calls it off, or lets its time begin anew.
async fn act(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let [id, action] = [0, 1].map(|at| raw.args.get(at).map_or("", String::as_str));
    done(&ctx, Some(&user), id, action).await
}

/// The same for whoever knows its ID.
async fn act_by_id(ctx: Ctx, _: Option<User>, raw: Raw) -> Result<Reply> {
    let [id, action] = [0, 1].map(|at| raw.args.get(at).map_or("", String::as_str));
    done(&ctx, None, id, action).await
}

#[derive(Deserialize)]
struct Asked {
    action: String,
}

/// The same with the action in the body.
async fn act_in_body(ctx: Ctx, _: Option<User>, mut raw: Raw) -> Result<Reply> {
    let id = std::mem::take(&mut raw.args).into_iter().next().unwrap_or_default();
    let Asked { action } = raw.json().await?;
    done(&ctx, None, &id, &action).await
}

async fn done(ctx: &Ctx, by: Option<&User>, id: &str, action: &str) -> Result<Reply> {
    let action = Action::parse(action).ok_or_else(|| match by {
        Some(_) => Error::unrecognized(),
        None => Error::invalid_param("the action is send, cancel or restart"),
    })?;
    let attempt = || delayed::act(&ctx.rooms, by.map(|by| by.number), id, action);
    if let Some(ticket) = policy::approved(&ctx.rooms, attempt).await? {
        ticket.published().await?;
    }
    ctx.rooms.delayed.news.notify_one();
    Reply::value(&json!({}))
}
