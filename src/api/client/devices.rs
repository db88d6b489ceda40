//! One's own devices.
//!
//! Spec: client-server-api#device-management

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::device::{Device, delete_device, delete_devices, get_device, get_devices, update_device},
};

use super::{account::confirm, uia::Guarded};
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::User,
    users::devices,
};

/// Lists them.
pub async fn list(ctx: Ctx, user: User, _: get_devices::v3::Request) -> Result<get_devices::v3::Response> {
    let devices = devices::of_user(&ctx.users, user.number)?;
    Ok(get_devices::v3::Response::new(devices.into_iter().map(shown).collect()))
}

/// Shows one.
pub async fn get(ctx: Ctx, user: User, req: get_device::v3::Request) -> Result<get_device::v3::Response> {
    let device = devices::find(&ctx.users, user.number, &req.device_id)?;
    let device = device.ok_or_else(|| Error::not_found("you have no such device"))?;
    Ok(get_device::v3::Response::new(shown(device)))
}

/// Calls one by another name.
pub async fn rename(ctx: Ctx, user: User, req: update_device::v3::Request) -> Result<update_device::v3::Response> {
    match req.display_name {
        Some(name) => devices::rename(&ctx.users, user.number, &req.device_id, Some(name)).await?,
        // Nothing changes, but a device that is not there is still an error.
        None => drop(
            devices::find(&ctx.users, user.number, &req.device_id)?
                .ok_or_else(|| Error::not_found("you have no such device"))?,
        ),
    }
    Ok(update_device::v3::Response::new())
}

/// Logs one out and forgets it.
pub async fn delete(
    ctx: Ctx,
    user: User,
    asked: Guarded<delete_device::v3::Request>,
) -> Result<delete_device::v3::Response> {
    confirm(&ctx, "devices", &user, asked.subject, asked.proof).await?;
    devices::remove(&ctx.users, user.number, &[asked.request.device_id]).await?;
    Ok(delete_device::v3::Response::new())
}

/// Logs several out and forgets them.
pub async fn delete_many(
    ctx: Ctx,
    user: User,
    asked: Guarded<delete_devices::v3::Request>,
) -> Result<delete_devices::v3::Response> {
    confirm(&ctx, "delete_devices", &user, asked.subject, asked.proof).await?;
    devices::remove(&ctx.users, user.number, &asked.request.devices).await?;
    Ok(delete_devices::v3::Response::new())
}

fn shown(device: devices::Device) -> Device {
    let mut shown = Device::new(device.id);
    shown.display_name = device.name;
    shown.last_seen_ip = device.seen_from;
    shown.last_seen_ts = device.seen_at.map(|at| MilliSecondsSinceUnixEpoch(UInt::new_saturating(at)));
    shown
}
