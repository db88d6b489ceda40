//! Keys of devices: upload, query, claim, and whose have changed.
//!
//! Answers are written by hand where ruma leaves out empty maps that some clients insist on.
//!
//! Spec: client-server-api#key-management-api

use std::collections::BTreeMap;

use ruma::{
    DeviceId, OwnedServerName, OwnedUserId, UInt, UserId,
    api::client::keys::{claim_keys, get_key_changes, get_keys, upload_keys},
    encryption::OneTimeKey,
    serde::Raw,
};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::keys_elsewhere as elsewhere;
use crate::{
    app::Ctx,
    e2ee::{self, Device, device_lists, keys, one_time_keys, query},
    error::{Error, Result},
    heavy,
    http::{Reply, User},
    protocol::canonical::Object,
    rooms::token::SyncToken,
    store::Position,
};

/// How many users' keys are looked up at once without leaving the async threads.
const FEW: usize = 20;

/// The device with which somebody calls.
pub(super) fn device(user: &User) -> Device<'_> {
    Device { user: &user.id, number: user.number, id: user.device.as_str() }
}

/// Keeps the keys of the caller's device.
pub async fn upload(ctx: Ctx, user: User, req: upload_keys::v3::Request) -> Result<upload_keys::v3::Response> {
    let upload = keys::Upload {
        identity: req.device_keys.map(|keys| e2ee::object(keys.json().get())).transpose()?,
        one_time: one_time(req.one_time_keys)?,
        fallback: one_time(req.fallback_keys)?,
    };
    let counts = keys::upload(&ctx.e2ee, device(&user), upload).await?;
    let counts = counts.into_iter().map(|(algorithm, count)| (algorithm.into(), UInt::new_saturating(count)));
    Ok(upload_keys::v3::Response::new(counts.collect()))
}

/// One-time or fallback keys with their names.
pub(super) fn one_time<K: AsRef<str>>(keys: BTreeMap<K, Raw<OneTimeKey>>) -> Result<Vec<(String, Object)>> {
    keys.into_iter().map(|(id, key)| Ok((id.as_ref().to_owned(), e2ee::object(key.json().get())?))).collect()
}

#[derive(Serialize)]
struct Queried<'a> {
    failures: BTreeMap<OwnedServerName, Value>,
    device_keys: BTreeMap<&'a UserId, BTreeMap<&'a DeviceId, &'a RawValue>>,
    master_keys: BTreeMap<&'a UserId, &'a RawValue>,
    self_signing_keys: BTreeMap<&'a UserId, &'a RawValue>,
    user_signing_keys: BTreeMap<&'a UserId, &'a RawValue>,
}

/// Tells the keys of users of any server.
pub async fn query(ctx: Ctx, user: User, req: get_keys::v3::Request) -> Result<Reply> {
    let timeout = req.timeout.unwrap_or(elsewhere::PATIENCE);
    let asker = (user.id.clone(), user.number);
    let mut keys = if req.device_keys.len() <= FEW {
        find(&ctx, &user, req.device_keys)?
    } else {
        let ctx = ctx.clone();
        let found = heavy::run(move || find(&ctx, &user, req.device_keys));
        found.await??
    };
    let failed = elsewhere::query(&ctx, (&asker.0, asker.1), &mut keys, timeout).await?;
    show(&keys, failed)
}

fn find(ctx: &Ctx, user: &User, wanted: query::Wanted) -> Result<query::Keys> {
    query::query(&ctx.e2ee, Some((&user.id, user.number)), wanted)
}

fn show(keys: &query::Keys, failed: Vec<OwnedServerName>) -> Result<Reply> {
    let mut device_keys = BTreeMap::new();
    for (user, keys) in &keys.devices {
        let keys = keys.iter().map(|(device, json)| Ok((&**device, raw(json)?)));
        device_keys.insert(&**user, keys.collect::<Result<_>>()?);
    }
    Reply::value(&Queried {
        failures: failures(failed),
        device_keys,
        master_keys: by_user(&keys.master)?,
        self_signing_keys: by_user(&keys.self_signing)?,
        user_signing_keys: by_user(&keys.user_signing)?,
    })
}

fn by_user(keys: &BTreeMap<OwnedUserId, String>) -> Result<BTreeMap<&UserId, &RawValue>> {
    keys.iter().map(|(user, json)| Ok((&**user, raw(json)?))).collect()
}

fn raw(json: &str) -> Result<&RawValue> {
    serde_json::from_str(json).map_err(Error::internal)
}

/// The servers that could not be asked.
fn failures(servers: Vec<OwnedServerName>) -> BTreeMap<OwnedServerName, Value> {
    let error = || json!({ "errcode": "M_UNKNOWN", "error": "this server could not be asked" });
    servers.into_iter().map(|server| (server, error())).collect()
}

#[derive(Serialize)]
struct Claimed<'a> {
    failures: BTreeMap<OwnedServerName, Value>,
    one_time_keys: BTreeMap<&'a UserId, BTreeMap<&'a DeviceId, BTreeMap<&'a str, &'a RawValue>>>,
}

/// Hands out one-time keys.
pub async fn claim(ctx: Ctx, _: User, req: claim_keys::v3::Request) -> Result<Reply> {
    let timeout = req.timeout.unwrap_or(elsewhere::PATIENCE);
    let mut claimed = one_time_keys::claim(&ctx.e2ee, req.one_time_keys).await?;
    let failed = elsewhere::claim(&ctx, &mut claimed, timeout).await;
    let mut keys = BTreeMap::new();
    for (user, devices) in &claimed.keys {
        let devices =
            devices.iter().map(|(device, (name, json))| Ok((&**device, BTreeMap::from([(name.as_str(), raw(json)?)]))));
        keys.insert(&**user, devices.collect::<Result<_>>()?);
    }
    Reply::value(&Claimed { failures: failures(failed), one_time_keys: keys })
}

/// Tells whose keys changed between two syncs.
pub async fn changes(ctx: Ctx, user: User, req: get_key_changes::v3::Request) -> Result<get_key_changes::v3::Response> {
    let read = |token: &str| {
        let token = SyncToken::parse(token);
        token.ok_or_else(|| Error::invalid_param("`from` and `to` are tokens that `/sync` gave"))
    };
    let (from, to) = (read(&req.from)?, read(&req.to)?);
    // Positions of another epoch say nothing: then everybody's keys may have changed.
    let here = |token: &SyncToken| token.epoch == ctx.store.epoch();
    let since = if here(&from) { from.position } else { Position(0) };
    let now = ctx.store.position();
    let upto = if here(&to) { to.position.min(now) } else { now };
    let look = move || device_lists::between(&ctx.store, user.number, since, upto);
    let changes = heavy::run(look).await??;
    Ok(get_key_changes::v3::Response::new(changes.changed, changes.left))
}
