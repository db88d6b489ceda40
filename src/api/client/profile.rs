//! Profiles: what people say of themselves.
//!
//! Requests are read by hand, because a field may have any name and any value.
//!
//! Spec: client-server-api#profiles

use std::time::Duration;

use ruma::{OwnedUserId, UserId, api::federation::query::get_profile_information};
use serde_json::{Map, Value, json};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, Reply, User},
    remote::Patience,
    rooms::profile,
    store::schema::UserNo,
    users::{accounts, profiles},
};

/// How patient a look at a profile elsewhere is. A profile has at most 64 KiB.
const ASK: Patience = Patience { timeout: Duration::from_secs(15), limit: 128 * 1024, insist: false };

/// Shows a whole profile.
pub async fn all(ctx: Ctx, (): (), raw: Raw) -> Result<Reply> {
    Reply::value(&shown(&ctx, &user(&raw)?).await?)
}

/// Shows a field of a profile.
pub async fn field(ctx: Ctx, (): (), raw: Raw) -> Result<Reply> {
    let (user, name) = (user(&raw)?, name(&raw)?);
    let value = shown(&ctx, &user).await?.remove(name);
    let value = value.ok_or_else(|| Error::not_found("this profile has no such field"))?;
    Reply::value(&json!({ name: value }))
}

/// The profile of anybody; that of another server's user is asked for there.
async fn shown(ctx: &Ctx, user: &UserId) -> Result<Map<String, Value>> {
    if ctx.users.is_local(user) {
        return Ok(profiles::all(&ctx.users, known(ctx, user)?)?.into_iter().collect());
    }
    let server = user.server_name();
    let request = get_profile_information::v1::Request::new(user.to_owned());
    let answer = ctx.remote.exchange(server, request, ASK, true).await;
    let answer = answer.map_err(|error| error.for_client(server))?;
    let not_found = || Error::not_found(format!("{server} shows no profile of {user}"));
    match answer.status().is_success() {
        true => serde_json::from_slice(answer.body()).map_err(|_| not_found()),
        false => Err(not_found()),
    }
}

/// Sets a field of one's own profile.
pub async fn set(ctx: Ctx, caller: User, raw: Raw) -> Result<Reply> {
    let name = own(&caller, &raw)?;
    let mut body: Map<String, Value> = raw.json().await?;
    let value = match (name.as_str(), body.remove(&name)) {
        // Nothing, or an empty text, has always removed these two.
        ("displayname" | "avatar_url", None | Some(Value::Null)) => None,
        ("displayname" | "avatar_url", Some(Value::String(text))) if text.is_empty() => None,
        (_, None) => return Err(Error::missing_param(format!("the body does not have the field {name}"))),
        (_, value) => value,
    };
    profile::set(&ctx.rooms, caller.number, &name, value.as_ref()).await?;
    Ok(Reply::empty())
}

/// Removes a field of one's own profile.
pub async fn remove(ctx: Ctx, caller: User, raw: Raw) -> Result<Reply> {
    let name = own(&caller, &raw)?;
    profile::set(&ctx.rooms, caller.number, &name, None).await?;
    Ok(Reply::empty())
}

/// The field of the caller's own profile that is to be changed.
fn own(caller: &User, raw: &Raw) -> Result<String> {
    if user(raw)? != caller.id {
        return Err(Error::forbidden("you can change your own profile only"));
    }
    caller.may_act()?;
    let name = name(raw)?;
    if caller.guest && name != "displayname" {
        let message = "a guest has a display name and nothing else";
        return Err(Error::new(http::StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", message));
    }
    Ok(name.to_owned())
}

fn user(raw: &Raw) -> Result<OwnedUserId> {
    let id = raw.args.first().map(String::as_str).unwrap_or_default();
    let id = UserId::parse(id).map_err(|_| Error::invalid_param(format!("{id} is no user ID")))?;
    Ok(id.to_owned())
}

/// Spec: appendices#common-namespaced-identifier-grammar
fn name(raw: &Raw) -> Result<&str> {
    let name = raw.args.get(1).map(String::as_str).unwrap_or_default();
    if name.len() > 255 {
        return Err(Error::bad_request("M_KEY_TOO_LARGE", "the name of a field has at most 255 bytes"));
    }
    let fits = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
    let custom =
        name.starts_with(|first: char| first.is_ascii_lowercase()) && name.contains('.') && name.bytes().all(fits);
    match custom || matches!(name, "displayname" | "avatar_url") {
        true => Ok(name),
        false => Err(Error::invalid_param("a field is called displayname, avatar_url, m.tz or like org.example.field")),
    }
}

/// The number of a local user who can be looked up.
fn known(ctx: &Ctx, id: &UserId) -> Result<UserNo> {
    let account = accounts::by_id(&ctx.users, id)?.filter(|(_, account)| !account.erased);
    Ok(account.ok_or_else(|| Error::not_found("this server knows nobody of this name"))?.0)
}
