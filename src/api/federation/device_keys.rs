//! The devices and keys of this server's users, for other servers.
//!
//! Spec: server-server-api#device-management, #end-to-end-encryption

use std::collections::BTreeMap;

use ruma::{
    OwnedDeviceId, OwnedUserId, UInt,
    api::federation::{
        device::get_devices::v1::{Request as DevicesRequest, Response as Devices, UserDevice},
        keys::{claim_keys, get_keys},
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{
    app::Ctx,
    e2ee::{device_lists, one_time_keys, query},
    error::{Error, Result},
    http::Origin,
    store::schema::devices,
    users::accounts,
};

fn raw<T>(json: String) -> Result<Raw<T>> {
    Ok(Raw::from_json(RawValue::from_string(json).map_err(Error::internal)?))
}

fn by_user<T>(keys: BTreeMap<OwnedUserId, String>) -> Result<BTreeMap<OwnedUserId, Raw<T>>> {
    keys.into_iter().map(|(user, json)| Ok((user, raw(json)?))).collect()
}

/// Keys of users and their devices.
pub async fn query(ctx: Ctx, _: Origin, request: get_keys::v1::Request) -> Result<get_keys::v1::Response> {
    let keys = query::query(&ctx.e2ee, None, request.device_keys)?;
    let devices = keys.devices.into_iter().map(|(user, devices)| Ok((user, devices_of(devices)?)));
    let mut response = get_keys::v1::Response::new(devices.collect::<Result<_>>()?);
    response.master_keys = by_user(keys.master)?;
    response.self_signing_keys = by_user(keys.self_signing)?;
    Ok(response)
}

fn devices_of<T>(devices: BTreeMap<OwnedDeviceId, String>) -> Result<BTreeMap<OwnedDeviceId, Raw<T>>> {
    devices.into_iter().map(|(device, json)| Ok((device, raw(json)?))).collect()
}

/// One-time keys of devices; each is given out once.
pub async fn claim(ctx: Ctx, _: Origin, request: claim_keys::v1::Request) -> Result<claim_keys::v1::Response> {
    let claimed = one_time_keys::claim(&ctx.e2ee, request.one_time_keys).await?;
    let mut keys = BTreeMap::new();
    for (user, devices) in claimed.keys {
        let mut of_user = BTreeMap::new();
        for (device, (name, json)) in devices {
            let name = name.try_into().map_err(Error::internal)?;
            of_user.insert(device, BTreeMap::from([(name, raw(json)?)]));
        }
        keys.insert(user, of_user);
    }
    Ok(claim_keys::v1::Response::new(keys))
}

/// All devices of a user.
pub async fn devices(ctx: Ctx, _: Origin, request: DevicesRequest) -> Result<Devices> {
    let user = request.user_id;
    let account = accounts::by_id(&ctx.users, &user)?.filter(|_| ctx.rooms.is_local(&user));
    let (number, _) = account.ok_or_else(|| Error::not_found("this server has no such user"))?;
    // Looked at first: whatever changes from now on has a later number.
    let stream = UInt::new_saturating(device_lists::stream(&ctx.store, number)?);
    let mut keys = query::query(&ctx.e2ee, None, BTreeMap::from([(user.clone(), Vec::new())]))?;
    let mut response = Devices::new(user.clone(), stream);
    for (device, json) in keys.devices.remove(&user).unwrap_or_default() {
        let mut shown = UserDevice::new(device, raw(json)?);
        shown.device_display_name =
            devices::find(&ctx.store, number, shown.device_id.as_str())?.and_then(|row| row.name);
        response.devices.push(shown);
    }
    response.master_key = keys.master.remove(&user).map(raw).transpose()?;
    response.self_signing_key = keys.self_signing.remove(&user).map(raw).transpose()?;
    Ok(response)
}
