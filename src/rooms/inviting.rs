//! Invites that cross servers, and what a local user knows of a room that this server is not in.
//!
//! Such a room has no state here: an invited or knocking user sees the stripped state that came along.
//!
//! Spec: server-server-api#inviting-to-a-room

use std::sync::Arc;

use http::{Method, StatusCode};
use ruma::{
    EventId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{RawStrippedState, create_invite},
    events::room::member::MembershipState,
};
use serde::Deserialize;
use serde_json::{Value as Json, json, value::RawValue};

use super::{Room, Rooms, admit, append::NewEvent, cache::Known, handshake, policy, projections::unread, state::State};
use crate::{
    error::{Error, Result},
    heavy,
    protocol::{
        canonical::{Object, Value},
        event::{Event, stripped_format},
        sign,
        version::{self, EventIds, Rules},
    },
    remote::{Patience, RemoteError},
    store::{
        Ticket,
        schema::{
            EventNo,
            events::{EVENTS, EventRow, Standing},
            numbers,
            rooms::{ROOMS, RoomRow, STRIPPED_STATE, USER_ROOMS, UserRoomRow},
        },
    },
};

/// How many events of stripped state are kept.
const MOST_STRIPPED: usize = 100;
/// What an invited user is shown of a room besides the invite.
const SHOWN: &[&str] = &[
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
];

/// An event of stripped state as text, made from such an event or from a whole PDU.
pub fn stripped(event: &Json) -> Option<String> {
    let text = |field: &str| event.get(field).and_then(Json::as_str);
    let content = event.get("content").filter(|content| content.is_object())?;
    let event = json!({
        "type": text("type")?,
        "state_key": text("state_key")?,
        "sender": text("sender")?,
        "content": content,
    });
    Some(event.to_string())
}

/// Notes that a local user is invited to, or knocks at, a room that this server is not in.
pub fn note_outside(
    rooms: &Rooms,
    room_id: &RoomId,
    rules: &Rules,
    event: &Arc<Event>,
    mut stripped: Vec<String>,
) -> Result<Ticket> {
    let user = event.state_key.as_deref().and_then(|user| <&UserId>::try_from(user).ok());
    let user = user.ok_or_else(|| Error::bad_json("the event is about nobody"))?;
    let membership = event.membership().unwrap_or(MembershipState::Leave);
    let mut write = rooms.store.write();
    let room = numbers::room(&mut write, room_id)?;
    if write.get(ROOMS, &room)?.is_none() {
        let row = RoomRow { id: room_id.to_owned(), version: rules.id(), create: EventNo(0) };
        write.put(ROOMS, &room, &row);
    }
    let user = numbers::user(&mut write, user)?;
    let number = numbers::event(&mut write, &event.event_id)?;
    let row = EventRow {
        id: event.event_id.clone(),
        room,
        json: event.json().to_owned(),
        standing: Standing::Outlier,
        before: None,
        replaces: None,
        redacted_by: None,
    };
    write.put(EVENTS, &number, &row);
    stripped.truncate(MOST_STRIPPED);
    stripped.push(stripped_format(event));
    write.put(STRIPPED_STATE, &(user, room), &stripped);
    let before = write.get(USER_ROOMS, &(user, room))?.map(|row| row.membership);
    let slot = write.slot();
    write.put_at(USER_ROOMS, slot, move |since| {
        ((user, room), UserRoomRow { membership, event: number, since, before, forgotten: false })
    });
    unread::invited(&mut write, rooms, user, (room, number, event), slot)?;
    write.touch(room);
    write.wake(user);
    Ok(write.commit()?)
}

/// The servers of those whose events an invited or knocking local user was shown: they are, or were, in the room.
pub fn shown_by(rooms: &Rooms, room_id: &RoomId, user: &UserId) -> Result<Vec<OwnedServerName>> {
    #[derive(serde::Deserialize)]
    struct Shown {
        sender: OwnedUserId,
    }
    let (room, user) = (numbers::find_room(&rooms.store, room_id)?, numbers::find_user(&rooms.store, user)?);
    let (Some(room), Some(user)) = (room, user) else { return Ok(Vec::new()) };
    let shown = rooms.store.get(STRIPPED_STATE, &(user, room))?.unwrap_or_default();
    let shown = shown.iter().filter_map(|event| serde_json::from_str::<Shown>(event).ok());
    Ok(shown.map(|event| event.sender.server_name().to_owned()).collect())
}

/// Takes in that another server has withdrawn the invite of a local user, or turned their knock away, in a room
/// that this server is not in. Nobody can say here who may do that in the room: it is believed of the servers
/// through which the user knows of the room.
///
/// Errors: 403 `M_FORBIDDEN`, 400 `M_BAD_JSON`.
pub async fn withdrawn(rooms: &Rooms, origin: &ServerName, room_id: &RoomId, pdu: &RawValue) -> Result<()> {
    let not_in_room = || Error::forbidden("this server is not in the room");
    let number = numbers::find_room(&rooms.store, room_id)?.ok_or_else(not_in_room)?;
    let row = rooms.store.get(ROOMS, &number)?.ok_or_else(not_in_room)?;
    let rules = version::rules(&row.version).ok_or_else(not_in_room)?;
    let event = admit::one(rooms, admit::object(pdu, rules)?, rules).await?;
    let user = event.state_key.as_deref().and_then(|user| <&UserId>::try_from(user).ok());
    let user = user.filter(|user| rooms.is_local(user) && event.kind == "m.room.member").ok_or_else(not_in_room)?;
    if !super::ephemeral::locals(rooms, number)?.is_empty() {
        return Err(Error::forbidden("this server is in the room and hears of it there"));
    }
    let gone = matches!(event.membership(), Some(MembershipState::Leave | MembershipState::Ban));
    let user_number = numbers::find_user(&rooms.store, user)?.ok_or_else(not_in_room)?;
    let standing = rooms.store.get(USER_ROOMS, &(user_number, number))?.ok_or_else(not_in_room)?;
    let waits = matches!(standing.membership, MembershipState::Invite | MembershipState::Knock);
    if !gone || !waits || event.room_id != room_id || event.sender.server_name() != origin {
        return Err(not_in_room());
    }
    let known = rooms.known(standing.event)?.event.sender.server_name() == origin
        || room_id.server_name() == Some(origin)
        || shown_by(rooms, room_id, user)?.iter().any(|server| server == origin);
    if !known {
        return Err(not_in_room());
    }
    forget_outside(rooms, room_id, user)?.published().await?;
    Ok(())
}

/// Notes that a local user has left a room that this server is not in.
pub fn forget_outside(rooms: &Rooms, room_id: &RoomId, user: &UserId) -> Result<Ticket> {
    let mut write = rooms.store.write();
    let room = numbers::room(&mut write, room_id)?;
    let user = numbers::user(&mut write, user)?;
    write.delete(STRIPPED_STATE, &(user, room));
    let slot = write.slot();
    unread::clear(&mut write, user, room, slot)?;
    if let Some(row) = write.get(USER_ROOMS, &(user, room))? {
        let before = Some(row.membership);
        write.put_at(USER_ROOMS, slot, move |since| {
            let membership = MembershipState::Leave;
            ((user, room), UserRoomRow { membership, event: row.event, since, before, forgotten: row.forgotten })
        });
    }
    write.touch(room);
    write.wake(user);
    Ok(write.commit()?)
}

/// Takes in an invite that another server has sent for a local user, signs it, and returns it.
///
/// Errors: 400 `M_INCOMPATIBLE_ROOM_VERSION`, `M_BAD_JSON` or `M_INVALID_PARAM`; 403 `M_FORBIDDEN`.
/// Spec: server-server-api#put_matrixfederationv2inviteroomideventid
pub async fn incoming(
    rooms: &Arc<Rooms>,
    origin: &ServerName,
    room_id: &RoomId,
    event_id: &EventId,
    version: &RoomVersionId,
    pdu: &RawValue,
    shown: &[Box<RawValue>],
) -> Result<Box<RawValue>> {
    let rules = version::rules(version).ok_or_else(|| {
        let message = format!("this server has no rooms of version {version}");
        Error::bad_request("M_INCOMPATIBLE_ROOM_VERSION", message).with("room_version", version.as_str())
    })?;
    let mut pdu = admit::object(pdu, rules)?;
    let event = admit::one(rooms, pdu.clone(), rules).await;
    let event = event.map_err(|error| Error::invalid_param(error.message))?;
    if event.event_id != event_id || event.room_id != room_id {
        return Err(Error::invalid_param("the path names another event or room than the body"));
    }
    if event.kind != "m.room.member" || event.membership() != Some(MembershipState::Invite) {
        return Err(Error::invalid_param("the event must be a member event with invite"));
    }
    let guest = event.state_key.as_deref().and_then(|user| <&UserId>::try_from(user).ok());
    let guest = guest
        .filter(|guest| rooms.is_local(guest))
        .ok_or_else(|| Error::invalid_param("the invited user is not one of this server"))?;
    // Of an invite that was made for an address, any server in the room may tell.
    if event.sender.server_name() != origin && event.content_value("third_party_invite").is_none() {
        return Err(Error::invalid_param(format!("{} is not a user of {origin}", event.sender)));
    }
    if rules.room_id_is_hash {
        check_shown(rooms, room_id, rules, shown).await?;
    }
    if crate::users::accounts::by_id(&rooms.users, guest)?.is_none_or(|(_, account)| account.deactivated) {
        return Err(Error::not_found("the invited user has no account here"));
    }
    super::membership::check_wanted(rooms, guest)?;
    sign::sign_event(&mut pdu, rooms.config.server_name.as_str(), &rooms.key, rules);
    let signed = Event::from_object(pdu, rules).map_err(|error| Error::bad_json(error.to_string()))?;
    let signed = Arc::new(signed);
    let here = numbers::find_room(&rooms.store, room_id)?
        .map(|room| super::ephemeral::locals(rooms, room))
        .transpose()?
        .is_some_and(|locals| !locals.is_empty());
    // A server that is in the room gets the invite a second time, as an event of the room.
    if !here {
        let shown = shown.iter().filter_map(|event| serde_json::from_str(event.get()).ok());
        let shown = shown.filter_map(|event| stripped(&event)).collect();
        note_outside(rooms, room_id, rules, &signed, shown)?.published().await?;
    }
    Ok(signed.to_pdu())
}

/// Whether what an invite shows of its room is of that room: signed PDUs, the create event among them. Asked for
/// where the room's ID is the hash of its create event; servers show less of older rooms.
async fn check_shown(rooms: &Rooms, room_id: &RoomId, rules: &'static Rules, shown: &[Box<RawValue>]) -> Result<()> {
    let mut pdus = Vec::new();
    for pdu in shown.iter().take(MOST_STRIPPED) {
        pdus.push(admit::object(pdu, rules).map_err(|error| Error::invalid_param(error.message))?);
    }
    let mut has_create = false;
    for event in admit::each(rooms, pdus, rules).await {
        let event = event.map_err(|error| Error::invalid_param(error.message))?;
        if event.room_id != room_id {
            return Err(Error::invalid_param("invite_room_state holds an event of another room"));
        }
        has_create |= event.is("m.room.create", "");
    }
    match has_create {
        true => Ok(()),
        false => Err(Error::invalid_param("invite_room_state must hold the create event")),
    }
}

/// Invites a user of another server: their server signs the invite first, then it enters the room.
///
/// Errors: 403 `M_FORBIDDEN`, or what the other server says.
pub async fn outgoing(
    rooms: &Arc<Rooms>,
    room: &Arc<Room>,
    sender: &UserId,
    guest: &UserId,
    is_direct: bool,
    reason: Option<&str>,
) -> Result<()> {
    match rooms.decide(room).membership(guest)? {
        MembershipState::Join => return Err(Error::forbidden(format!("{guest} is already in the room"))),
        MembershipState::Ban => return Err(Error::forbidden(format!("{guest} is banned from the room"))),
        _ => {}
    }
    let mut content = Object::from([("membership".to_owned(), "invite".into())]);
    if is_direct {
        content.insert("is_direct".to_owned(), Value::Bool(true));
    }
    if let Some(reason) = reason {
        content.insert("reason".to_owned(), reason.into());
    }
    offer(rooms, room, guest, NewEvent::state(sender, "m.room.member", guest.as_str(), content)).await
}

/// Puts an invite of a user of another server into a room once their server has signed it.
pub async fn offer(rooms: &Arc<Rooms>, room: &Arc<Room>, guest: &UserId, new: NewEvent) -> Result<()> {
    let server = guest.server_name();
    let (invite, before, shown, policy) = {
        let deciding = rooms.decide(room);
        let shown = shown_in(rooms, &deciding.head().state, &new.sender)?;
        let invite = deciding.compose(new)?;
        deciding.authorize(&invite)?;
        (invite, deciding.head().state.clone(), shown, deciding.policy()?)
    };
    let invite = policy::countersigned(rooms, invite, policy.as_ref(), room.rules).await?;
    let signed = ask_to_sign(rooms, room, server, &invite, &shown).await?;
    let signed = match &policy {
        Some(policy) => policy.carried_over(&invite, signed, room.rules).map_err(Error::internal)?,
        None => signed,
    };
    let (rooms, room) = (Arc::clone(rooms), Arc::clone(room));
    let enter = move || {
        let mut deciding = rooms.decide(&room);
        deciding.authorize(&signed)?;
        deciding.accept(&Arc::new(signed), &before, Standing::Accepted)?;
        deciding.commit()
    };
    heavy::run(enter).await??.published().await?;
    Ok(())
}

/// What somebody is shown of a room at whose door they stand with `event`.
pub fn shown(rooms: &Rooms, room: &Room, event: &Known) -> Result<Vec<Arc<Known>>> {
    let state = match event.before {
        Some(before) => rooms.state(before)?,
        None => rooms.current(room.number)?,
    };
    shown_in(rooms, &state, &event.event.sender)
}

fn shown_in(rooms: &Rooms, state: &State, sender: &UserId) -> Result<Vec<Arc<Known>>> {
    let keys = SHOWN.iter().map(|kind| (*kind, "")).chain([("m.room.member", sender.as_str())]);
    keys.filter_map(|(kind, key)| rooms.in_state(state, kind, key).transpose()).collect()
}

/// Whether a server may only know the first version of the endpoint, which has no place for a room version.
fn is_old(room: &Room, error: &RemoteError) -> bool {
    let unknown = |status: StatusCode| matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND);
    room.rules.event_ids == EventIds::Chosen && matches!(error, RemoteError::Refused { status, .. } if unknown(*status))
}

/// Spec: server-server-api#put_matrixfederationv1inviteroomideventid
async fn ask_old_to_sign(rooms: &Rooms, server: &ServerName, invite: &Event) -> Result<Box<RawValue>> {
    let path = handshake::old_path("invite", invite);
    let body = invite.json().to_owned().into_bytes();
    let answer = rooms.remote.send(server, Method::PUT, path, Some(body), Patience::default(), true).await;
    let answer = answer.map_err(|error| handshake::passed_on(error, server))?;
    if !answer.status().is_success() {
        return Err(handshake::passed_on(RemoteError::refusal(&answer), server));
    }
    let nonsense = |error: serde_json::Error| RemoteError::Nonsense(error.to_string()).for_client(server);
    let (_, Signed { event }): (u16, Signed) = serde_json::from_slice(answer.body()).map_err(nonsense)?;
    Ok(event)
}

#[derive(Deserialize)]
struct Signed {
    event: Box<RawValue>,
}

async fn ask_to_sign(
    rooms: &Rooms,
    room: &Room,
    server: &ServerName,
    invite: &Event,
    shown: &[Arc<Known>],
) -> Result<Event> {
    // Whole PDUs: the invited server checks them itself, from room version 1 on.
    let shown = shown.iter().map(|known| RawStrippedState::Pdu(known.event.to_pdu())).collect();
    let (room_id, event_id, version) = (room.id.clone(), invite.event_id.clone(), room.version.clone());
    let request = create_invite::v2::Request::new(room_id, event_id, version, invite.to_pdu(), shown);
    let answer = match rooms.remote.ask(server, request).await {
        Ok(answer) => answer.event,
        Err(error) if is_old(room, &error) => ask_old_to_sign(rooms, server, invite).await?,
        Err(error) => {
            return Err(match handshake::passed_on(error, server) {
                error if error.errcode == "M_INCOMPATIBLE_ROOM_VERSION" => {
                    let message = format!("{server} has no rooms of version {}", room.version);
                    Error::bad_request("M_UNSUPPORTED_ROOM_VERSION", message)
                }
                error => error,
            });
        }
    };
    let signed = admit::one(rooms, admit::object(&answer, room.rules)?, room.rules).await?;
    match signed.event_id == invite.event_id {
        true => Ok(signed),
        false => Err(Error::bad_json(format!("{server} has changed the invite"))),
    }
}
