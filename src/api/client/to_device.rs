//! Messages from device to device.
//!
//! Spec: client-server-api#send-to-device-messaging

use ruma::api::client::to_device::send_event_to_device;

use super::keys::device;
use crate::{
    app::Ctx,
    e2ee::inbox,
    error::{Error, Result},
    http::User,
};

/// Puts messages into the inboxes of devices.
pub async fn send(
    ctx: Ctx,
    user: User,
    req: send_event_to_device::v3::Request,
) -> Result<send_event_to_device::v3::Response> {
    let mut messages = inbox::Messages::new();
    for (user, devices) in req.messages {
        let devices = devices.into_iter().map(|(device, content)| (device, content.into_json()));
        messages.insert(user, devices.collect());
    }
    if messages.values().flat_map(|devices| devices.values()).any(|content| !content.get().starts_with('{')) {
        return Err(Error::bad_json("the content of a message must be an object"));
    }
    let kind = req.event_type.to_string();
    inbox::send(&ctx.e2ee, device(&user), &kind, req.txn_id.as_str(), &messages).await?;
    Ok(send_event_to_device::v3::Response::new())
}
