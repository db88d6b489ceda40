//! What this server does for users of other servers who want to join, leave or knock at a room that it is in:
//! a template first, then the signed event.
//!
//! Spec: server-server-api#joining-rooms, #leaving-rooms-rejecting-invites, #knocking-upon-a-room

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use http::StatusCode;
use ruma::{
    EventId, OwnedEventId, RoomVersionId, ServerName, UserId,
    api::federation::membership::create_join_event::v2::RoomState, events::room::member::MembershipState,
};

use super::{Room, Rooms, admit, append::NewEvent, cache::Known, intake, projections::outbox, state::State};
use crate::{
    error::{Error, Result},
    protocol::{
        acl::ServerAcl,
        canonical::{Object, Value},
        event::Event,
        sign,
    },
    store::schema::{EventNo, events::Standing, rooms::ROOM_SERVERS},
};

/// Fails with 403 `M_FORBIDDEN` if the room's server ACL keeps a server out.
///
/// Spec: server-server-api#server-access-control-lists-acls
pub fn check_acl(rooms: &Rooms, room: &Room, server: &ServerName) -> Result<()> {
    match acl_allows(rooms, room, server)? {
        true => Ok(()),
        false => Err(Error::forbidden(format!("{server} may not take part in this room"))),
    }
}

/// Whether the room's server ACL lets a server take part.
pub fn acl_allows(rooms: &Rooms, room: &Room, server: &ServerName) -> Result<bool> {
    let acl = rooms.in_state(&rooms.current(room.number)?, "m.room.server_acl", "")?;
    Ok(acl.is_none_or(|acl| ServerAcl::new(&acl.event).allows(server)))
}

/// Fails with 404 `M_NOT_FOUND` unless a user of this server is in the room.
pub fn check_in_room(rooms: &Rooms, room: &Room) -> Result<()> {
    match super::ephemeral::locals(rooms, room.number)?.is_empty() {
        true => Err(Error::not_found("this server is not in the room")),
        false => Ok(()),
    }
}

/// The template of a member event for a user of another server, which may then be signed and sent back.
///
/// Errors: 403 `M_FORBIDDEN`, 400 `M_INCOMPATIBLE_ROOM_VERSION`, 400 `M_UNABLE_TO_AUTHORISE_JOIN`.
pub fn template(
    rooms: &Rooms,
    room: &Room,
    user: &UserId,
    membership: MembershipState,
    versions: Option<&[RoomVersionId]>,
) -> Result<Object> {
    if versions.is_some_and(|versions| !versions.contains(&room.version)) {
        let message = format!("the room has version {}, which your server does not have", room.version);
        return Err(
            Error::bad_request("M_INCOMPATIBLE_ROOM_VERSION", message).with("room_version", room.version.as_str())
        );
    }
    super::partial::check_whole(room)?;
    let deciding = rooms.decide(room);
    let mut content = Object::from([("membership".to_owned(), membership.as_str().into())]);
    if membership == MembershipState::Join
        && let Some(authoriser) = deciding.authoriser(user)?
    {
        content.insert("join_authorised_via_users_server".to_owned(), authoriser.as_str().into());
    }
    let draft = deciding.draft(NewEvent::state(user, "m.room.member", user.as_str(), content))?;
    let event = super::append::sign(rooms, draft.clone(), room.rules)?;
    deciding.authorize(&event)?;
    let mut template = draft.into_pdu(room.rules);
    template.insert("origin".to_owned(), rooms.config.server_name.as_str().into());
    Ok(template)
}

/// Takes a signed join, leave or knock of a user of `origin` into the room, and returns it as it stands there.
///
/// Errors: 400 `M_INVALID_PARAM` or `M_BAD_JSON` if it is not such an event, 403 `M_FORBIDDEN` if the room
/// refuses it.
pub async fn receive(
    rooms: &Arc<Rooms>,
    room: &Arc<Room>,
    origin: &ServerName,
    event_id: &EventId,
    membership: MembershipState,
    mut pdu: Object,
) -> Result<Arc<Known>> {
    check_member_event(&pdu, origin, &membership)?;
    if membership != MembershipState::Leave {
        super::partial::check_whole(room)?;
    }
    if membership == MembershipState::Join && authorised_by_us(rooms, &pdu) {
        // That there was a template does not mean that the user meets the conditions.
        let user = pdu.get("sender").and_then(Value::as_str).and_then(|user| <&UserId>::try_from(user).ok());
        user.map(|user| rooms.decide(room).authoriser(user)).transpose()?;
        sign::sign_event(&mut pdu, rooms.config.server_name.as_str(), &rooms.key, room.rules);
    }
    let event = Event::from_object(pdu.clone(), room.rules).map_err(|error| Error::bad_json(error.to_string()))?;
    if event.event_id != event_id || event.room_id != room.id {
        return Err(Error::invalid_param("the path names another event or room than the body"));
    }
    let event = admit::one(rooms, pdu, room.rules).await.map_err(|error| Error::invalid_param(error.message))?;
    let is_new = rooms.by_id(event_id)?.is_none();
    intake::receive_admitted(rooms, room, origin, event).await?;
    let known = rooms.by_id(event_id)?.ok_or_else(|| Error::internal(format!("event {event_id} is missing")))?;
    if known.standing != Standing::Accepted {
        return Err(Error::forbidden("the room has changed in the meantime and does not allow it any more"));
    }
    if is_new && let Some(ticket) = outbox::relay(rooms, room.number, known.number)? {
        ticket.published().await?;
    }
    Ok(known)
}

fn check_member_event(pdu: &Object, origin: &ServerName, membership: &MembershipState) -> Result<()> {
    let text = |field: &str| pdu.get(field).and_then(Value::as_str);
    let sender = text("sender").and_then(|sender| <&UserId>::try_from(sender).ok());
    let sender = sender.ok_or_else(|| Error::bad_json("the event has no sender"))?;
    let said = pdu.get("content").and_then(|content| content.get("membership")?.as_str());
    if text("type") != Some("m.room.member") || said != Some(membership.as_str()) {
        return Err(Error::bad_request(
            "M_INVALID_PARAM",
            format!("the event must be a member event with {membership}"),
        ));
    }
    if text("state_key") != Some(sender.as_str()) {
        return Err(Error::invalid_param("the event must be about its own sender"));
    }
    if sender.server_name() != origin {
        return Err(Error::invalid_param(format!("{sender} is not a user of {origin}")));
    }
    Ok(())
}

/// Whether a restricted join names a user of this server as the one who lets the joining user in.
fn authorised_by_us(rooms: &Rooms, pdu: &Object) -> bool {
    let authoriser = pdu.get("content").and_then(|content| content.get("join_authorised_via_users_server")?.as_str());
    authoriser.and_then(|user| <&UserId>::try_from(user).ok()).is_some_and(|user| rooms.is_local(user))
}

/// All events that the events with these IDs rest on, without themselves unless they rest on each other.
pub fn auth_chain(rooms: &Rooms, of: impl IntoIterator<Item = OwnedEventId>) -> Result<Vec<Arc<Known>>> {
    auth_chain_numbers(rooms, of)?.into_iter().map(|number| rooms.known(number)).collect()
}

/// The same by their numbers: the chain of a large room is not held in memory as a whole.
pub fn auth_chain_numbers(rooms: &Rooms, of: impl IntoIterator<Item = OwnedEventId>) -> Result<Vec<EventNo>> {
    let mut open: VecDeque<OwnedEventId> = VecDeque::new();
    let mut seen = BTreeSet::new();
    let mut chain = Vec::new();
    let mut note = |auth_events: &[OwnedEventId], open: &mut VecDeque<OwnedEventId>| {
        for auth in auth_events {
            if seen.insert(auth.clone()) {
                open.push_back(auth.clone());
            }
        }
    };
    for id in of {
        if let Some(known) = rooms.by_id(&id)? {
            note(&known.event.auth_events, &mut open);
        }
    }
    while let Some(id) = open.pop_front() {
        let Some(known) = rooms.by_id(&id)? else { continue };
        chain.push(known.number);
        note(&known.event.auth_events, &mut open);
    }
    Ok(chain)
}

/// The state before an event.
///
/// Errors: 404 `M_NOT_FOUND` if the event is not known or has no place in the room.
pub fn state_before(rooms: &Rooms, room: &Room, event_id: &EventId) -> Result<State> {
    super::partial::check_whole(room)?;
    let not_found = || Error::not_found("this server does not know the state at that event");
    let known = rooms.by_id(event_id)?.filter(|known| known.room == room.number).ok_or_else(not_found)?;
    rooms.state(known.before.ok_or_else(not_found)?)
}

/// The numbers of the events of a state, and of its auth chain.
pub fn snapshot_numbers(rooms: &Rooms, state: &State) -> Result<(Vec<EventNo>, Vec<EventNo>)> {
    let state: Vec<EventNo> = state.iter().map(|(_, number)| number).collect();
    let ids = state.iter().map(|number| Ok(rooms.known(*number)?.event.event_id.clone()));
    let auth_chain = auth_chain_numbers(rooms, ids.collect::<Result<Vec<_>>>()?)?;
    Ok((state, auth_chain))
}

/// What a server is told that has joined: the state before the join and what it rests on. With `omit_members`
/// it gets only those members that it needs at once, and the servers that are in the room.
///
/// Spec: server-server-api#put_matrixfederationv2send_joinroomideventid
pub fn joined(rooms: &Rooms, room: &Room, join: &Known, omit_members: bool) -> Result<RoomState> {
    let before = state_before(rooms, room, &join.event.event_id)?;
    let state = match omit_members {
        true => without_members(rooms, room, &before, join)?,
        false => before.iter().map(|(_, number)| rooms.known(number)).collect::<Result<Vec<_>>>()?,
    };
    let ids = state.iter().map(|known| known.event.event_id.clone()).chain([join.event.event_id.clone()]);
    let mut auth_chain = auth_chain(rooms, ids)?;
    if omit_members {
        let in_state: BTreeSet<_> = state.iter().map(|known| known.number).collect();
        auth_chain.retain(|known| !in_state.contains(&known.number));
    }
    let pdus = |events: &[Arc<Known>]| events.iter().map(|known| known.event.to_pdu()).collect();
    let mut answer = RoomState::new();
    answer.members_omitted = omit_members;
    answer.auth_chain = pdus(&auth_chain);
    answer.state = pdus(&state);
    answer.event = Some(join.event.to_pdu());
    answer.servers_in_room = omit_members.then(|| servers_before(rooms, room, &before, join)).transpose()?;
    Ok(answer)
}

/// The servers that were in a room before somebody joined.
fn servers_before(rooms: &Rooms, room: &Room, before: &State, join: &Known) -> Result<Vec<String>> {
    let joining = join.event.server();
    let count = rooms.store.get(ROOM_SERVERS, &(room.number, joining.as_str().to_owned()))?.unwrap_or(0);
    let own = rooms.in_state(before, "m.room.member", join.event.sender.as_str())?;
    let joined_before = own.is_some_and(|known| known.event.membership() == Some(MembershipState::Join));
    let servers = super::forks::servers(rooms, room.number)?.into_iter();
    Ok(servers.filter(|server| server != joining || count > 1 || joined_before).map(Into::into).collect())
}

/// A state without all members but the heroes of the room's name and whoever has joined. Nobody else's event is
/// looked at, however many there are.
fn without_members(rooms: &Rooms, room: &Room, state: &State, join: &Known) -> Result<Vec<Arc<Known>>> {
    const HEROES: usize = 5;
    let current = rooms.current(room.number)?;
    let named = rooms.in_state(&current, "m.room.name", "")?.is_some()
        || rooms.in_state(&current, "m.room.canonical_alias", "")?.is_some();
    let mut heroes = if named { 0 } else { HEROES };
    let mut kept = Vec::new();
    for (_, number) in state.iter().filter(|(key, _)| !key.is_member()) {
        kept.push(rooms.known(number)?);
    }
    kept.extend(rooms.in_state(state, "m.room.member", join.event.sender.as_str())?);
    for (_, number) in state.iter().filter(|(key, _)| key.is_member()) {
        if heroes == 0 {
            break;
        }
        let known = rooms.known(number)?;
        if known.event.state_key != join.event.state_key && super::partial::is_present(&known.event) {
            heroes -= 1;
            kept.push(known);
        }
    }
    Ok(kept)
}

/// The error for a restricted room whose conditions this server cannot check.
pub fn unable_to_authorise(message: &'static str) -> Error {
    Error::new(StatusCode::BAD_REQUEST, "M_UNABLE_TO_AUTHORISE_JOIN", message)
}
