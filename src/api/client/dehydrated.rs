//! Dehydrated devices: devices that wait for messages while nobody is logged in on them.
//!
//! Spec: MSC3814

use ruma::{
    api::client::dehydrated_device::{
        delete_dehydrated_device, get_dehydrated_device, get_events, put_dehydrated_device,
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use super::keys::one_time;
use crate::{
    app::Ctx,
    e2ee::{self, Device, dehydrated, inbox, keys},
    error::{Error, Result},
    http::User,
    store::Position,
    users::devices,
};

/// Keeps a dehydrated device instead of the one before.
pub async fn put(
    ctx: Ctx,
    user: User,
    req: put_dehydrated_device::unstable::Request,
) -> Result<put_dehydrated_device::unstable::Response> {
    req.device_data.deserialize().map_err(|error| Error::bad_json(format!("`device_data` is not right: {error}")))?;
    let id = req.device_id;
    let upload = keys::Upload {
        identity: Some(e2ee::object(req.device_keys.json().get())?),
        one_time: one_time(req.one_time_keys)?,
        fallback: one_time(req.fallback_keys)?,
    };
    let device = Device { user: &user.id, number: user.number, id: id.as_str() };
    let new = dehydrated::check(device, req.device_data.json().get().to_owned(), upload)?;
    devices::dehydrate(&ctx.users, device, req.initial_device_display_name, new).await?;
    Ok(put_dehydrated_device::unstable::Response::new(id))
}

/// Gives the dehydrated device to be woken up.
pub async fn get(
    ctx: Ctx,
    user: User,
    _: get_dehydrated_device::unstable::Request,
) -> Result<get_dehydrated_device::unstable::Response> {
    let row = find(&ctx, &user)?;
    let data = Raw::from_json_string(row.data).map_err(Error::internal)?;
    Ok(get_dehydrated_device::unstable::Response::new(row.device.into(), data))
}

/// Deletes the dehydrated device.
pub async fn delete(
    ctx: Ctx,
    user: User,
    _: delete_dehydrated_device::unstable::Request,
) -> Result<delete_dehydrated_device::unstable::Response> {
    let id = ruma::OwnedDeviceId::from(find(&ctx, &user)?.device);
    devices::remove(&ctx.users, user.number, std::slice::from_ref(&id)).await?;
    Ok(delete_dehydrated_device::unstable::Response::new(id))
}

/// Reads what was sent to the dehydrated device. Messages go when the next batch is asked for.
pub async fn events(
    ctx: Ctx,
    user: User,
    req: get_events::unstable::Request,
) -> Result<get_events::unstable::Response> {
    if find(&ctx, &user)?.device != req.device_id.as_str() {
        return Err(Error::not_found("this is not your dehydrated device"));
    }
    let device = req.device_id.as_str();
    let since = match &req.next_batch {
        Some(token) => position(&ctx, token)?,
        None => Position(0),
    };
    inbox::acknowledge(&ctx.store, user.number, device, since)?;
    let batch = inbox::read(&ctx.store, user.number, device, since, ctx.store.position(), inbox::LIMIT)?;
    let events = batch.events.into_iter().map(|event| RawValue::from_string(event).map(Raw::from_json));
    let mut answer = get_events::unstable::Response::new(events.collect::<Result<_, _>>().map_err(Error::internal)?);
    // Also at the end: clients go on until a batch is empty.
    answer.next_batch = Some(format!("d{}.{}", ctx.store.epoch(), batch.through));
    Ok(answer)
}

/// Reads a token of [`events`]. One of another epoch begins anew.
fn position(ctx: &Ctx, token: &str) -> Result<Position> {
    let parts = token.strip_prefix('d').and_then(|token| token.split_once('.'));
    match parts.and_then(|(epoch, position)| Some((epoch.parse::<u64>().ok()?, position.parse().ok()?))) {
        Some((epoch, position)) if epoch == ctx.store.epoch() => Ok(Position(position)),
        Some(_) => Ok(Position(0)),
        None => Err(Error::invalid_param("`next_batch` is not what this endpoint gave")),
    }
}

fn find(ctx: &Ctx, user: &User) -> Result<crate::store::schema::e2ee::DehydratedRow> {
    dehydrated::find(&ctx.store, user.number)?.ok_or_else(|| Error::not_found("you have no dehydrated device"))
}
