//! Ephemeral events from other servers: one line per type, and the rules that hold for each.
//!
//! Spec: server-server-api#edus

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId, OwnedUserId, RoomId, ServerName, UserId,
    api::federation::transactions::edu::{
        DeviceListUpdateContent, DirectDeviceContent, Edu, SigningKeyUpdateContent, TypingContent,
    },
    events::room::member::MembershipState,
    serde::Raw,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

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

/// How long a typing notice of another server lasts, in milliseconds: some repeat it every 40 seconds.
const TYPING: u64 = 60_000;

/// Of how many people one event may say where they are.
const MOST_PEOPLE: usize = 500;
/// How many receipts one event may hold.
const MOST_RECEIPTS: usize = 1_000;

/// Takes in one ephemeral event; what is not known is passed over.
pub async fn receive(ctx: &Ctx, origin: &ServerName, edu: &Raw<Edu>) -> Result<()> {
    match field::<String>(edu, "edu_type")?.as_str() {
        "m.typing" => typing(ctx, origin, &field(edu, "content")?),
        "m.receipt" => read(ctx, origin, field(edu, "content")?).await,
        "m.presence" => presence(ctx, origin, field(edu, "content")?),
        "m.direct_to_device" => to_device(ctx, origin, field(edu, "content")?).await,
        "m.device_list_update" => device(ctx, origin, field(edu, "content")?).await,
        "m.signing_key_update" => signing_keys(ctx, origin, field(edu, "content")?).await,
        _ => Ok(()),
    }
}

fn field<T: DeserializeOwned>(edu: &Raw<Edu>, name: &str) -> Result<T> {
    let found = edu.get_field(name).map_err(|error| Error::bad_json(error.to_string()))?;
    found.ok_or_else(|| Error::bad_json(format!("an ephemeral event has the field {name}")))
}

/// One entry of many: what makes no sense is passed over, and the others are read.
fn entry<T: DeserializeOwned>(json: &RawValue) -> Option<T> {
    serde_json::from_str(json.get()).ok()
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
    // That somebody has stopped is heard also of who has left.
    if content.typing && ctx.rooms.membership(room.number, &content.user_id)? != MembershipState::Join {
        return Err(Error::forbidden(format!("{} is not in the room", content.user_id)));
    }
    ephemeral::typing(&ctx.rooms, room.number, &content.user_id, content.typing.then_some(TYPING))
}

#[derive(Deserialize)]
struct People {
    push: Vec<Box<RawValue>>,
}

/// Where somebody is. Some servers leave out what they do not know.
#[derive(Deserialize)]
struct Person {
    user_id: OwnedUserId,
    presence: String,
    status_msg: Option<String>,
    last_active_ago: Option<i64>,
    currently_active: Option<bool>,
}

/// Spec: server-server-api#presence
fn presence(ctx: &Ctx, origin: &ServerName, content: People) -> Result<()> {
    if !presence::over_federation(&ctx.rooms) {
        return Ok(());
    }
    for person in content.push.iter().take(MOST_PEOPLE).filter_map(|person| entry::<Person>(person)) {
        let state = State::parse(&person.presence).filter(|_| check_user(origin, &person.user_id).is_ok());
        let Some(state) = state else { continue };
        let ago = person.last_active_ago.map(|ago| u64::try_from(ago).unwrap_or(0));
        let said = Presence {
            state,
            active_at: ago.map_or(0, |ago| ctx.clock.now().saturating_sub(ago)),
            is_active: state == State::Online && person.currently_active == Some(true),
            status: person.status_msg,
        };
        presence::hear(&ctx.rooms, &person.user_id, said)?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct RoomReceipts {
    #[serde(rename = "m.read", default)]
    read: BTreeMap<String, Box<RawValue>>,
}

#[derive(Deserialize)]
struct Receipt {
    event_ids: Vec<OwnedEventId>,
    #[serde(default)]
    data: Value,
}

/// Spec: server-server-api#receipts
async fn read(ctx: &Ctx, origin: &ServerName, content: BTreeMap<String, Box<RawValue>>) -> Result<()> {
    let (mut last, mut count) = (None, 0);
    for (room_id, receipts) in &content {
        let room = <&RoomId>::try_from(room_id.as_str()).ok().and_then(|id| room(ctx, id, origin).ok());
        let (Some(room), Some(receipts)) = (room, entry::<RoomReceipts>(receipts)) else { continue };
        for (user, receipt) in receipts.read.iter().take(MOST_RECEIPTS - count) {
            count += 1;
            let user = <&UserId>::try_from(user.as_str()).ok().filter(|user| check_user(origin, user).is_ok());
            let (Some(user), Some(Receipt { event_ids, data })) = (user, entry(receipt)) else { continue };
            let Some(event) = event_ids.first() else { continue };
            let thread = data.get("thread_id").and_then(Value::as_str);
            let ts = data.get("ts").and_then(Value::as_u64).unwrap_or_else(|| ctx.clock.now());
            let receipt = NewReceipt { user, kind: "m.read", thread, event, ts };
            // An event that is not here yet is no fault of the others in the list.
            if let Ok(Some(ticket)) = receipts::hear(&ctx.rooms, &room, &receipt) {
                last = Some(ticket);
            }
        }
    }
    // What was written before is on the disk before.
    match last {
        Some(ticket) => ticket.published().await.map(drop).map_err(Error::from),
        None => Ok(()),
    }
}

/// Spec: server-server-api#send-to-device-messaging
async fn to_device(ctx: &Ctx, origin: &ServerName, content: DirectDeviceContent) -> Result<()> {
    check_user(origin, &content.sender)?;
    let mut messages = inbox::Messages::new();
    for (user, devices) in content.messages.into_iter().filter(|(user, _)| ctx.rooms.is_local(user)) {
        let devices = devices.into_iter().map(|(device, content)| (device, content.into_json()));
        // A client expects an object.
        messages.insert(user, devices.filter(|(_, content)| content.get().starts_with('{')).collect());
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
