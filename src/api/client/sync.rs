//! `/sync`, and sliding sync.
//!
//! The query is read here and not by ruma, which knows neither the older name of `use_state_after` nor some
//! fields of filters.
//!
//! Spec: client-server-api#syncing, MSC4186

use std::{sync::Arc, time::Duration};

use serde_json::value::RawValue;

use crate::{
    app::Ctx,
    e2ee::inbox,
    error::{Error, Result},
    http::{Raw, Reply, User},
    protocol::presence::State,
    rooms::presence,
    sync::{
        Reader,
        filter::Filter,
        sliding,
        v3::{self, Request, StateForm},
    },
    users::filters,
};

/// Tells what is new since a token, waiting for it if there is nothing.
pub async fn v3(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let since = v3::since(&raw.parameter("since").unwrap_or_default())?;
    let timeout = timeout(&raw)?;
    let form = match (flag(&raw, "use_state_after")?, flag(&raw, "org.matrix.msc4222.use_state_after")?) {
        (true, _) => StateForm::After,
        (false, true) => StateForm::UnstableAfter,
        (false, false) => StateForm::Before,
    };
    if let Some(since) = since.filter(|since| since.is_of(&ctx.store)) {
        // With this token the device got them.
        inbox::acknowledge(&ctx.store, user.number, user.device.as_str(), since.inbox.min(since.position))?;
    }
    let full_state = flag(&raw, "full_state")?;
    let filter = filter(&ctx, &user, raw.parameter("filter").unwrap_or_default())?;
    let request = Request { since, filter, full_state, form, timeout: Duration::from_millis(timeout) };
    let _there = is_there(&ctx, &user, raw.parameter("set_presence").as_deref())?;
    Ok(Reply::json(v3::answer(Arc::clone(&ctx.sync), reader(user), request).await?))
}

/// Shows the device as being there, for as long as what this returns is held.
pub(super) fn is_there(ctx: &Ctx, user: &User, claim: Option<&str>) -> Result<Option<presence::Waiting>> {
    let unknown = || Error::invalid_param("set_presence is online, unavailable or offline");
    let claim = claim.map(|claim| State::parse(claim).ok_or_else(unknown)).transpose()?;
    presence::asks(&ctx.rooms, user.number, &user.device, claim)
}

pub(super) fn reader(user: User) -> Reader {
    Reader { user: user.id, number: user.number, device: user.device }
}

/// How long to wait, in milliseconds.
fn timeout(raw: &Raw) -> Result<u64> {
    Ok(number(raw, "timeout")?.unwrap_or(0))
}

/// A number in the query.
pub(super) fn number(raw: &Raw, name: &str) -> Result<Option<u64>> {
    let number = raw.parameter(name).map(|number| number.parse()).transpose();
    number.map_err(|_| Error::invalid_param(format!("{name} is a whole number")))
}

/// A filter in the query: its JSON, or the ID of one that was stored.
fn filter(ctx: &Ctx, user: &User, text: String) -> Result<Filter> {
    if text.is_empty() {
        return Ok(Filter::default());
    }
    if text.starts_with('{') {
        return Filter::parse(&text);
    }
    match filters::find(&ctx.users, user.number, &text)? {
        Some(json) => Filter::parse(&json),
        None => Err(Error::invalid_param("you have stored no such filter; store it again")),
    }
}

pub(super) fn flag(raw: &Raw, name: &str) -> Result<bool> {
    match raw.parameter(name).as_deref() {
        None | Some("false" | "") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Error::invalid_param(format!("{name} is true or false"))),
    }
}

/// Sliding sync as deployed clients ask for it.
pub async fn sliding(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let timeout = timeout(&raw)?;
    let pos = raw.parameter("pos").filter(|pos| !pos.is_empty());
    let claim = raw.parameter("set_presence");
    let body: Box<RawValue> = raw.json().await?;
    let request = sliding::Request::unstable(body.get().as_bytes(), pos, timeout)?;
    let _there = is_there(&ctx, &user, claim.as_deref())?;
    Ok(Reply::json(sliding::answer(Arc::clone(&ctx.sync), reader(user), request).await?))
}

/// Sliding sync in the shape that was accepted.  Spec: MSC4186
pub async fn v4(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let body: Box<RawValue> = raw.json().await?;
    let request = sliding::Request::v4(body.get().as_bytes())?;
    let _there = is_there(&ctx, &user, request.set_presence.as_deref())?;
    Ok(Reply::json(sliding::answer(Arc::clone(&ctx.sync), reader(user), request).await?))
}
