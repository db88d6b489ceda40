//! Ephemeral events from other servers: one line per type, and the rules that hold for each.
//!
//! Spec: server-server-api#edus

use ruma::{
    ServerName, UserId,
    api::federation::transactions::edu::{
        DeviceListUpdateContent, DirectDeviceContent, Edu, PresenceContent, ReceiptContent, SigningKeyUpdateContent,
        TypingContent,
    },
    serde::Raw,
};

use super::room;
use crate::{
    app::Ctx,
    e2ee::{elsewhere, inbox},
    error::{Error, Result},
    protocol::presence::State,
    rooms::{
        ephemeral::{self, NewReceipt},
        presence, receipts,
    },
    store::live::Presence,
};

/// How long a typing notice of another server lasts, in milliseconds: they send no end of it.
const TYPING: u64 = 30_000;

/// Of how many people one event may say where they are.
const MOST_PEOPLE: usize = 500;

/// Takes in one ephemeral event; what is not known is passed over.
pub async fn receive(ctx: &Ctx, origin: &ServerName, edu: &Raw<Edu>) -> Result<()> {
    let edu = edu.deserialize().map_err(|error| Error::bad_json(error.to_string()))?;
    match edu {
        Edu::Typing(content) => typing(ctx, origin, &content),
        Edu::Receipt(content) => read(ctx, origin, content).await,
        Edu::Presence(content) => presence(ctx, origin, content),
        Edu::DirectToDevice(content) => to_device(ctx, origin, content).await,
        Edu::DeviceListUpdate(content) => device(ctx, origin, content).await,
        Edu::SigningKeyUpdate(content) => signing_keys(ctx, origin, content).await,
        _ => Ok(()),
    }
}

/// Users speak through their own server only.
fn check_user(origin: &ServerName, user: &UserId) -> Result<()> {
    match user.server_name() == origin {
        true => Ok(()),
        false => Err(Error::forbidden(format!("{user} is not a user of {origin}"))),
    }
}

/// Spec: server-server-api#typing-notifications
fn typing(ctx: &Ctx, origin: &ServerName, content: &TypingContent) -> Result<()> {
    check_user(origin, &content.user_id)?;
    let room = room(ctx, &content.room_id, origin)?;
    ephemeral::typing(&ctx.rooms, room.number, &content.user_id, content.typing.then_some(TYPING))
}

/// Spec: server-server-api#presence
fn presence(ctx: &Ctx, origin: &ServerName, content: PresenceContent) -> Result<()> {
    if !presence::over_federation(&ctx.rooms) {
        return Ok(());
    }
    for update in content.push.into_iter().take(MOST_PEOPLE) {
        check_user(origin, &update.user_id)?;
        let Some(state) = State::parse(update.presence.as_str()) else { continue };
        let said = Presence {
            state,
            active_at: ctx.clock.now().saturating_sub(update.last_active_ago.into()),
            is_active: state == State::Online && update.currently_active,
            status: update.status_msg,
        };
        presence::hear(&ctx.rooms, &update.user_id, said)?;
    }
    Ok(())
}

/// Spec: server-server-api#receipts
async fn read(ctx: &Ctx, origin: &ServerName, content: ReceiptContent) -> Result<()> {
    for (room_id, map) in content.receipts {
        let Ok(room) = room(ctx, &room_id, origin) else { continue };
        for (user, data) in map.read {
            if check_user(origin, &user).is_err() {
                continue;
            }
            let Some(event) = data.event_ids.first() else { continue };
            let thread = serde_json::to_value(&data.data.thread).ok();
            let receipt = NewReceipt {
                user: &user,
                kind: "m.read",
                thread: thread.as_ref().and_then(|thread| thread.as_str()),
                event,
                ts: data.data.ts.map_or_else(|| ctx.clock.now(), |ts| ts.get().into()),
            };
            // An event that is not here yet is no fault of the others in the list.
            if let Ok(Some(ticket)) = receipts::hear(&ctx.rooms, &room, &receipt) {
                ticket.published().await?;
            }
        }
    }
    Ok(())
}

/// Spec: server-server-api#send-to-device-messaging
async fn to_device(ctx: &Ctx, origin: &ServerName, content: DirectDeviceContent) -> Result<()> {
    check_user(origin, &content.sender)?;
    let mut messages = inbox::Messages::new();
    for (user, devices) in content.messages.into_iter().filter(|(user, _)| ctx.rooms.is_local(user)) {
        let devices = devices.into_iter().map(|(device, content)| (device, content.into_json()));
        messages.insert(user, devices.collect());
    }
    if messages.is_empty() {
        return Ok(());
    }
    let kind = content.ev_type.to_string();
    inbox::receive(&ctx.e2ee, &content.sender, &kind, content.message_id.as_str(), &messages).await
}

/// How many changes before it an update may name.
const MOST_BEFORE: usize = 100;

/// Spec: server-server-api#device-management
async fn device(ctx: &Ctx, origin: &ServerName, content: DeviceListUpdateContent) -> Result<()> {
    check_user(origin, &content.user_id)?;
    let update = elsewhere::Update {
        device: content.device_id.as_str(),
        stream: content.stream_id.into(),
        prev: content.prev_id.into_iter().take(MOST_BEFORE).map(Into::into).collect(),
        deleted: content.deleted == Some(true),
        name: content.device_display_name.as_deref(),
        keys: content.keys.as_ref().map(|keys| keys.json().get()),
    };
    elsewhere::update(&ctx.e2ee, &content.user_id, &update).await
}

/// Spec: server-server-api#definition-msigning_key_update
async fn signing_keys(ctx: &Ctx, origin: &ServerName, content: SigningKeyUpdateContent) -> Result<()> {
    check_user(origin, &content.user_id)?;
    let text = |key: &Option<Raw<_>>| key.as_ref().map(|key| key.json().get().to_owned());
    let (master, self_signing) = (text(&content.master_key), text(&content.self_signing_key));
    elsewhere::identity(&ctx.e2ee, &content.user_id, master.as_deref(), self_signing.as_deref()).await
}
