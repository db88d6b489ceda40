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

use super::{Room, Rooms, append::NewEvent, cache::Known, intake, projections::outbox, state::State};
use crate::{
    error::{Error, Result},
    protocol::{
        acl::ServerAcl,
        canonical::{Object, Value},
        event::Event,
        sign,
    },
    store::schema::{EventNo, events::Standing},
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
    Ok(draft.into_pdu(room.rules))
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
    let is_new = rooms.by_id(event_id)?.is_none();
    intake::receive(rooms, room, origin, pdu).await?;
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

/// A state and its auth chain, as other servers get them.
#[derive(Debug)]
pub struct Snapshot {
    /// The events of the state.
    pub state: Vec<Arc<Known>>,
    /// What they rest on.
    pub auth_chain: Vec<Arc<Known>>,
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

fn snapshot(rooms: &Rooms, state: &State) -> Result<Snapshot> {
    let state = state.iter().map(|(_, number)| rooms.known(number)).collect::<Result<Vec<_>>>()?;
    let auth_chain = auth_chain(rooms, state.iter().map(|known| known.event.event_id.clone()))?;
    Ok(Snapshot { state, auth_chain })
}

/// What a server is told that has joined: the state before the join and what it rests on. With `omit_members`
/// it gets only those members that it needs at once, and the servers that are in the room.
///
/// Spec: server-server-api#put_matrixfederationv2send_joinroomideventid
pub fn joined(rooms: &Rooms, room: &Room, join: &Known, omit_members: bool) -> Result<RoomState> {
    let mut snapshot = snapshot(rooms, &state_before(rooms, room, &join.event.event_id)?)?;
    let servers = match omit_members {
        true => {
            leave_out_members(rooms, room, &mut snapshot, join)?;
            let mut servers: Vec<String> =
                super::forks::servers(rooms, room.number)?.into_iter().map(Into::into).collect();
            let joining = join.event.server();
            servers.retain(|server| {
                server != joining.as_str()
                    || snapshot.state.iter().any(|known| {
                        known.event.membership() == Some(MembershipState::Join) && known.event.server() == joining
                    })
            });
            Some(servers)
        }
        false => None,
    };
    let pdus = |events: &[Arc<Known>]| events.iter().map(|known| known.event.to_pdu()).collect();
    let mut answer = RoomState::new();
    answer.members_omitted = omit_members;
    answer.auth_chain = pdus(&snapshot.auth_chain);
    answer.state = pdus(&snapshot.state);
    answer.event = Some(join.event.to_pdu());
    answer.servers_in_room = servers;
    Ok(answer)
}

/// Leaves out of a state all members but the heroes of the room's name and whoever the join names.
fn leave_out_members(rooms: &Rooms, room: &Room, snapshot: &mut Snapshot, join: &Known) -> Result<()> {
    const HEROES: usize = 5;
    let current = rooms.current(room.number)?;
    let named = rooms.in_state(&current, "m.room.name", "")?.is_some()
        || rooms.in_state(&current, "m.room.canonical_alias", "")?.is_some();
    let mut heroes = if named { 0 } else { HEROES };
    snapshot.state.retain(|known| {
        if known.event.kind != "m.room.member" || known.event.state_key == join.event.state_key {
            return true;
        }
        let present = matches!(known.event.membership(), Some(MembershipState::Join | MembershipState::Invite));
        let kept = present && heroes > 0;
        heroes -= usize::from(kept);
        kept
    });
    let in_state: BTreeSet<_> = snapshot.state.iter().map(|known| known.number).collect();
    snapshot.auth_chain = auth_chain(
        rooms,
        snapshot.state.iter().map(|known| known.event.event_id.clone()).chain([join.event.event_id.clone()]),
    )?;
    snapshot.auth_chain.retain(|known| !in_state.contains(&known.number));
    Ok(())
}

/// The error for a restricted room whose conditions this server cannot check.
pub fn unable_to_authorise(message: &'static str) -> Error {
    Error::new(StatusCode::BAD_REQUEST, "M_UNABLE_TO_AUTHORISE_JOIN", message)
}
