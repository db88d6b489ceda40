//! What the person can do and see.

use std::{collections::BTreeMap, sync::Arc};

use matrix_sdk::{
    RoomMemberships, RoomState,
    room::edit::EditedContent,
    ruma::{
        EventId, OwnedEventId, RoomId, UserId,
        api::client::{
            account::register, receipt::create_receipt::v3::ReceiptType as SentReceipt, room::create_room, uiaa,
        },
        events::{
            AnyMessageLikeEventContent, InitialStateEvent,
            receipt::{ReceiptThread, ReceiptType},
            room::{
                encryption::RoomEncryptionEventContent,
                message::{RoomMessageEventContent, RoomMessageEventContentWithoutRelation},
            },
            tag::TagInfo,
        },
        serde::JsonObject,
    },
    send_queue::RoomSendQueueUpdate,
};
use matrix_sdk_ui::{
    notification_client::{NotificationClient, NotificationProcessSetup, NotificationStatus},
    timeline::{EventTimelineItem, MsgLikeKind, Timeline, TimelineEventItemId, TimelineItemContent},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::person::{App, Opened, Person, Result};

/// How many messages a screen shows.
const SCREEN: usize = 10;

/// Does what a line says.
pub async fn run(person: &Person, verb: &str, args: &[Value]) -> Result<Value> {
    let text = |at: usize| args.get(at).and_then(Value::as_str).ok_or_else(|| format!("{verb} wants another argument"));
    if verb == "pause" {
        person.pause().await;
        return Ok(Value::Null);
    }
    let app = person.app().await?;
    let value = match verb {
        "register" => {
            register(&app, text(0)?, text(1)?).await?;
            session(person, &app)?
        }
        "login" => {
            app.client.matrix_auth().login_username(text(0)?, text(1)?).initial_device_display_name("sdk").await?;
            session(person, &app)?
        }
        "logout" => {
            app.stop().await;
            app.client.logout().await.map(|()| Value::Null)?
        }
        "start" => app.start().await.map(|()| Value::Null)?,
        "stop" => {
            app.stop().await;
            Value::Null
        }
        "create_room" => create_room(&app, args.first().cloned().unwrap_or_default()).await?,
        "invite" => {
            app.room(text(0)?)?.invite_user_by_id(&UserId::parse(text(1)?)?).await?;
            Value::Null
        }
        "join" => {
            app.client.join_room_by_id(&RoomId::parse(text(0)?)?).await?;
            Value::Null
        }
        "leave" => app.room(text(0)?)?.leave().await.map(|()| Value::Null)?,
        "say" => {
            let opened = app.open(text(0)?).await?;
            let content = AnyMessageLikeEventContent::RoomMessage(RoomMessageEventContent::text_plain(text(1)?));
            json!(sent(&app, &opened, async |timeline| timeline.send(content).await.map(|_| true)).await?)
        }
        "edit" => {
            let (opened, item) = item(&app, text(0)?, text(1)?).await?;
            let content = EditedContent::RoomMessage(RoomMessageEventContentWithoutRelation::text_plain(text(2)?));
            json!(sent(&app, &opened, async |timeline| timeline.edit(&item, content).await.map(|()| true)).await?)
        }
        "react" => {
            let (opened, item) = item(&app, text(0)?, text(1)?).await?;
            let key = text(2)?;
            json!(sent(&app, &opened, async |timeline| timeline.toggle_reaction(&item, key).await).await?)
        }
        "remove" => {
            let event = EventId::parse(text(1)?)?;
            json!(app.room(text(0)?)?.redact(&event, None, None).await?.event_id)
        }
        "typing" => {
            let on = args.get(1).and_then(Value::as_bool).unwrap_or(true);
            app.room(text(0)?)?.typing_notice(on).await.map(|()| Value::Null)?
        }
        "read" => {
            let (room, event) = (app.room(text(0)?)?, EventId::parse(text(1)?)?);
            room.send_single_receipt(SentReceipt::Read, ReceiptThread::Unthreaded, event).await?;
            Value::Null
        }
        "mark_unread" => {
            app.room(text(0)?)?.set_unread_flag(true).await?;
            Value::Null
        }
        "favour" => {
            app.room(text(0)?)?.set_is_favourite(true, None::<TagInfo>.and_then(|info| info.order)).await?;
            Value::Null
        }
        "rename" => app.client.account().set_display_name(Some(text(0)?)).await.map(|()| Value::Null)?,
        "profile_name" => {
            let profile = app.client.account().fetch_user_profile_of(&UserId::parse(text(0)?)?).await?;
            profile.get("displayname").cloned().unwrap_or_default()
        }
        "scroll_up" => {
            let limit = args.get(1).and_then(Value::as_u64).and_then(|limit| u16::try_from(limit).ok()).unwrap_or(20);
            json!(!app.open(text(0)?).await?.timeline.paginate_backwards(limit).await?)
        }
        "view" => view(&app, text(0)?).await?,
        "deliveries" => deliveries(&app).await,
        "room_list" => json!(app.list.shown().await?),
        "filter_list" => app.list.filter(text(0)?, text(1).unwrap_or_default()).map(|()| Value::Null)?,
        "sync_state" => json!(app.sync_state().await),
        "notification" => notification(&app, text(0)?, text(1)?).await?,
        "make_recovery_key" => json!(app.client.encryption().recovery().enable().wait_for_backups_to_upload().await?),
        "recover" => app.client.encryption().recovery().recover(text(0)?).await.map(|()| Value::Null)?,
        "devices_of" => {
            let devices = app.client.encryption().get_user_devices(&UserId::parse(text(0)?)?).await?;
            json!(
                devices
                    .devices()
                    .map(|device| (device.device_id().to_string(), device.is_verified()))
                    .collect::<BTreeMap<_, _>>()
            )
        }
        "is_verified" => {
            let device = app.client.encryption().get_own_device().await?;
            json!(device.is_some_and(|device| device.is_cross_signed_by_owner()))
        }
        _ => return Err(format!("no verb {verb}").into()),
    };
    Ok(value)
}

fn session(person: &Person, app: &App) -> Result<Value> {
    let session = person.keep(app)?;
    let tokens = session.tokens;
    Ok(json!({
        "user_id": session.meta.user_id, "device_id": session.meta.device_id, "access_token": tokens.access_token,
    }))
}

async fn register(app: &App, name: &str, password: &str) -> Result<()> {
    let mut request = register::v3::Request::new();
    request.username = Some(name.to_owned());
    request.password = Some(password.to_owned());
    request.initial_device_display_name = Some("sdk".to_owned());
    // A first request without `auth` asks which flows there are, as every client does.
    let Err(refusal) = app.client.matrix_auth().register(request.clone()).await else {
        return Err("registered without a stage".into());
    };
    let flows = refusal.as_uiaa_response().ok_or_else(|| format!("no flows: {refusal}"))?;
    let mut dummy = uiaa::Dummy::new();
    dummy.session = flows.session.clone();
    request.auth = Some(uiaa::AuthData::Dummy(dummy));
    app.client.matrix_auth().register(request).await?;
    app.client.encryption().wait_for_e2ee_initialization_tasks().await;
    Ok(())
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NewRoom {
    name: Option<String>,
    invite: Vec<String>,
    encrypted: bool,
    direct: bool,
}

async fn create_room(app: &App, options: Value) -> Result<Value> {
    let options: NewRoom = serde_json::from_value(options)?;
    let mut request = create_room::v3::Request::new();
    request.preset = Some(create_room::v3::RoomPreset::PrivateChat);
    request.name = options.name;
    request.is_direct = options.direct;
    request.invite = options.invite.iter().map(UserId::parse).collect::<Result<_, _>>()?;
    if options.encrypted {
        let content = RoomEncryptionEventContent::with_recommended_defaults();
        request.initial_state.push(InitialStateEvent::with_empty_state_key(content).to_raw_any());
    }
    Ok(json!(app.client.create_room(request).await?.room_id()))
}

/// Sends through the queue, and waits until the server has it, unless there is nothing to send.
async fn sent<E>(
    app: &App,
    opened: &Opened,
    send: impl AsyncFnOnce(&Timeline) -> Result<bool, E>,
) -> Result<Option<OwnedEventId>>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let _one = app.sending.lock().await;
    let (_, mut updates) = opened.room.send_queue().subscribe().await?;
    if !send(&opened.timeline).await? {
        return Ok(None);
    }
    loop {
        match updates.recv().await {
            Ok(RoomSendQueueUpdate::SentEvent { event_id, .. }) => return Ok(Some(event_id)),
            // The queue stops at an error; a person would tap on "try again".
            Ok(RoomSendQueueUpdate::SendError { is_recoverable: true, .. }) => {
                opened.room.send_queue().set_enabled(true);
            }
            Ok(RoomSendQueueUpdate::SendError { error, .. }) => return Err(error.to_string().into()),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Err("the send queue ended".into()),
        }
    }
}

/// An event that the screen shows as the server has it; waits for it.
async fn item(app: &App, room: &str, event: &str) -> Result<(Arc<Opened>, TimelineEventItemId)> {
    let (opened, event) = (app.open(room).await?, EventId::parse(event)?);
    let (_, changes) = opened.timeline.subscribe().await;
    futures_util::pin_mut!(changes);
    messages(&opened.timeline).await?;
    loop {
        let item = opened.timeline.item_by_event_id(&event).await;
        if item.is_some_and(|item| item.is_remote_event()) {
            return Ok((opened, TimelineEventItemId::EventId(event)));
        }
        futures_util::StreamExt::next(&mut changes).await.ok_or("the timeline ended")?;
    }
}

async fn view(app: &App, id: &str) -> Result<Value> {
    let Ok(room) = app.room(id) else {
        return Ok(json!({
            "messages": [], "typing": [], "read": {}, "members": {}, "membership": null, "name": null, "threads": {},
        }));
    };
    let membership = match room.state() {
        RoomState::Joined => "join",
        RoomState::Invited => "invite",
        RoomState::Knocked => "knock",
        RoomState::Left => "leave",
        RoomState::Banned => "ban",
    };
    let name = room.display_name().await?.to_string();
    if room.state() != RoomState::Joined {
        return Ok(json!({
            "messages": [], "typing": [], "read": {}, "members": {}, "membership": membership, "name": name,
        }));
    }
    let opened = app.open(id).await?;
    let (mut members, mut read) = (JsonObject::new(), JsonObject::new());
    for member in room.members(RoomMemberships::JOIN).await? {
        let user = member.user_id();
        members.insert(user.to_string(), json!(member.display_name().unwrap_or(user.as_str())));
        let receipt = room.load_user_receipt(ReceiptType::Read, ReceiptThread::Unthreaded, user).await?;
        read.insert(user.to_string(), json!(receipt.map(|(event, _)| event)));
    }
    let messages = messages(&opened.timeline).await?;
    Ok(json!({
        "messages": messages, "typing": opened.typing(), "read": read, "members": members,
        "membership": membership, "name": name,
    }))
}

/// The messages on the screen, which is filled from the room's history if there are few.
async fn messages(timeline: &Timeline) -> Result<Vec<Value>> {
    loop {
        let items = timeline.items().await;
        let messages: Vec<_> = items.iter().filter_map(|item| item.as_event()).filter_map(message).collect();
        if messages.len() >= SCREEN || timeline.paginate_backwards(20).await? {
            return Ok(messages);
        }
    }
}

fn message(item: &EventTimelineItem) -> Option<Value> {
    let TimelineItemContent::MsgLike(content) = item.content() else { return None };
    let (text, edited) = match &content.kind {
        MsgLikeKind::Message(message) => (message.body(), message.is_edited()),
        MsgLikeKind::Redacted | MsgLikeKind::UnableToDecrypt(_) => ("", false),
        _ => return None,
    };
    let by_key = content.reactions.iter();
    let reactions: Vec<_> =
        by_key.flat_map(|(key, senders)| senders.keys().map(move |who| json!([who, key]))).collect();
    Some(json!({
        "id": item.event_id(), "sender": item.sender(), "text": text, "edited": edited,
        "removed": matches!(content.kind, MsgLikeKind::Redacted),
        "unreadable": matches!(content.kind, MsgLikeKind::UnableToDecrypt(_)),
        "reactions": reactions,
    }))
}

/// What a notification says that was pushed with nothing but the IDs of room and event.
async fn notification(app: &App, room: &str, event: &str) -> Result<Value> {
    let setup = NotificationProcessSetup::SingleProcess { sync_service: app.service().await? };
    let client = NotificationClient::new(app.client.clone(), setup).await?;
    let status = client.get_notification(&RoomId::parse(room)?, &EventId::parse(event)?).await?;
    let NotificationStatus::Event(item) = status else { return Ok(json!(format!("{status:?}"))) };
    Ok(json!({
        "room": item.room_computed_display_name, "sender": item.sender_display_name, "direct": item.is_direct_message_room,
        "encrypted": item.is_room_encrypted, "noisy": item.is_noisy, "members": item.joined_members_count,
    }))
}

/// The events of all timelines that were opened, as often as they are shown.
async fn deliveries(app: &App) -> Value {
    let mut events = Vec::new();
    for opened in app.opened().await {
        let items = opened.timeline.items().await;
        events.extend(items.iter().filter_map(|item| item.as_event()?.event_id().map(ToOwned::to_owned)));
    }
    json!(events)
}
