//! Joining, leaving and knocking at rooms that this server is not in, with the help of a server that is.
//!
//! Spec: server-server-api#joining-rooms, #leaving-rooms-rejecting-invites, #knocking-upon-a-room

use std::{collections::HashMap, sync::Arc, time::Duration};

use ruma::{
    OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{
        create_join_event, create_knock_event, create_leave_event, prepare_join_event, prepare_knock_event,
        prepare_leave_event,
    },
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;

use super::{
    Room, Rooms, admit,
    append::{chosen_id, sign},
};
use crate::{
    error::{Error, Result},
    protocol::{
        auth,
        canonical::{Object, Value},
        compose::Draft,
        event::Event,
        graph,
        version::{self, Rules},
    },
    remote::{Patience, RemoteError},
    store::schema::{
        events::Standing,
        rooms::{ROOMS, RoomRow},
    },
};

/// How many servers are asked, one after the other.
const MOST_SERVERS: usize = 8;
/// How long the answer to a join may take, and how many bytes it may have.
const JOIN: Patience = Patience { timeout: Duration::from_secs(180), limit: 256 * 1024 * 1024, insist: true };
/// How patient everything else is.
const ASK: Patience = Patience { timeout: Duration::from_secs(30), limit: 1024 * 1024, insist: true };

/// Lets a local user join a room that this server is not in, through one of `servers`. When it returns, the
/// join is durable.
///
/// Errors: those of the last server that was asked; 404 `M_NOT_FOUND` if there is none to ask.
pub async fn join(
    rooms: &Arc<Rooms>,
    room_id: &RoomId,
    user: &UserId,
    servers: Vec<OwnedServerName>,
    content: Object,
) -> Result<Arc<Room>> {
    let mut last = Error::not_found("this server does not know the room, nor a server that is in it");
    for server in crate::remote::candidates(&rooms.config, servers).iter().take(MOST_SERVERS) {
        match join_through(rooms, room_id, user, server, content.clone()).await {
            Ok(room) => return Ok(room),
            Err(error) => {
                tracing::info!(room = %room_id, %server, "{user} cannot join through {server}: {error}");
                last = error;
            }
        }
    }
    Err(last)
}

async fn join_through(
    rooms: &Arc<Rooms>,
    room_id: &RoomId,
    user: &UserId,
    server: &ServerName,
    mut content: Object,
) -> Result<Arc<Room>> {
    let mut request = prepare_join_event::v1::Request::new(room_id.to_owned(), user.to_owned());
    request.ver = versions();
    let template = rooms.remote.ask_with(server, request, ASK).await.map_err(|error| error.for_client(server))?;
    let rules = known_version(template.room_version)?;
    content.extend(rooms.member_profile(user)?);
    let draft = draft(rooms, rules, &template.event, room_id, user, MembershipState::Join, content)?;
    let join = sign(rooms, draft, rules)?;
    let mut request = create_join_event::v2::Request::new(room_id.to_owned(), join.event_id.clone(), join.to_pdu());
    request.omit_members = false;
    let answer = rooms.remote.ask_with(server, request, JOIN).await.map_err(|error| error.for_client(server))?;
    let answer = answer.room_state;
    let join = match answer.event {
        Some(signed) => countersigned(rooms, &signed, &join, rules).await?,
        None => join,
    };
    let state = events(rooms, answer.state, rules).await;
    let chain = events(rooms, answer.auth_chain, rules).await;
    let (rooms, room_id) = (Arc::clone(rooms), room_id.to_owned());
    let begin = move || begin(&rooms, &room_id, rules, join, state, chain);
    let (room, ticket) = tokio::task::spawn_blocking(begin).await.map_err(Error::internal)??;
    ticket.published().await?;
    Ok(room)
}

/// The versions that this server offers to join.
pub fn versions() -> Vec<RoomVersionId> {
    version::ALL.iter().map(Rules::id).collect()
}

fn known_version(version: Option<RoomVersionId>) -> Result<&'static Rules> {
    let version = version.unwrap_or(RoomVersionId::V1);
    version::rules(&version).ok_or_else(|| {
        let message = format!("the room has version {version}, which this server does not know");
        Error::bad_request("M_INCOMPATIBLE_ROOM_VERSION", message).with("room_version", version.as_str())
    })
}

/// Our own event out of another server's template: of that only the place in the graph is taken over.
fn draft(
    rooms: &Rooms,
    rules: &Rules,
    template: &RawValue,
    room_id: &RoomId,
    user: &UserId,
    membership: MembershipState,
    mut content: Object,
) -> Result<Draft> {
    let template = admit::object(template, rules)?;
    let text = |field: &str| template.get(field).and_then(Value::as_str);
    let said = template.get("content").and_then(|content| content.get("membership")?.as_str());
    let about = [("type", "m.room.member"), ("room_id", room_id.as_str()), ("state_key", user.as_str())];
    if about.iter().any(|(field, wanted)| text(field) != Some(wanted)) || said != Some(membership.as_str()) {
        return Err(Error::bad_json("the other server's template is not the event that was asked for"));
    }
    content.insert("membership".to_owned(), membership.as_str().into());
    let authoriser = template.get("content").and_then(|content| content.get("join_authorised_via_users_server"));
    if let Some(authoriser) = authoriser {
        content.insert("join_authorised_via_users_server".to_owned(), authoriser.clone());
    }
    let mut draft = Draft::new("m.room.member", user.to_owned(), content);
    draft.room_id = Some(room_id.to_owned());
    draft.state_key = Some(user.to_string());
    draft.origin_server_ts = rooms.clock.now();
    draft.depth = template.get("depth").and_then(Value::as_int).and_then(|depth| depth.try_into().ok()).unwrap_or(1);
    let hashes = &mut draft.reference_hashes;
    draft.prev_events = references(template.get("prev_events"), hashes);
    draft.auth_events = references(template.get("auth_events"), hashes);
    draft.event_id = chosen_id(rooms, rules);
    Ok(draft)
}

/// References to events: IDs, or in versions 1 and 2 IDs with hashes.
fn references(
    list: Option<&Value>,
    hashes: &mut std::collections::BTreeMap<OwnedEventId, String>,
) -> Vec<OwnedEventId> {
    let mut ids = Vec::new();
    for entry in list.and_then(Value::as_array).unwrap_or_default() {
        let (id, hash) = match entry {
            Value::Array(pair) => {
                (pair.first().and_then(Value::as_str), pair.get(1).and_then(|hashes| hashes.get("sha256")?.as_str()))
            }
            entry => (entry.as_str(), None),
        };
        let Some(id) = id.and_then(|id| OwnedEventId::try_from(id).ok()) else { continue };
        if let Some(hash) = hash {
            hashes.insert(id.clone(), hash.to_owned());
        }
        ids.push(id);
    }
    ids
}

/// Our join with the signature of the server that lets us into a restricted room.
async fn countersigned(rooms: &Rooms, signed: &RawValue, join: &Event, rules: &Rules) -> Result<Event> {
    let event = admit::one(rooms, admit::object(signed, rules)?, rules).await?;
    match event.event_id == join.event_id {
        true => Ok(event),
        false => Err(Error::bad_json("the other server has changed our join")),
    }
}

async fn events(rooms: &Rooms, pdus: Vec<Box<RawValue>>, rules: &'static Rules) -> Vec<Event> {
    let objects = pdus.into_iter().filter_map(|pdu| admit::object(&pdu, rules).ok()).collect();
    admit::many(rooms, objects, rules).await
}

/// Records a room as another server has given it, with our join on top. Every event has been checked for its
/// signatures; here each is checked against its auth events, and what does not hold is left out.
fn begin(
    rooms: &Rooms,
    room_id: &RoomId,
    rules: &'static Rules,
    join: Event,
    state: Vec<Event>,
    chain: Vec<Event>,
) -> Result<(Arc<Room>, crate::store::Ticket)> {
    let in_state: std::collections::HashSet<OwnedEventId> = state.iter().map(|event| event.event_id.clone()).collect();
    let given: Vec<Arc<Event>> =
        chain.into_iter().chain(state).filter(|event| event.room_id == *room_id).map(Arc::new).collect();
    let good = allowed(rules, &given);
    let create = good.values().find(|event| event.is("m.room.create", "") && in_state.contains(&event.event_id));
    let create = create.ok_or_else(|| Error::bad_json("the other server has sent no valid create event"))?;
    if auth::create::room_version(create).is_none_or(|found| found.version != rules.version) {
        return Err(Error::bad_json("the room has another version than the other server has said"));
    }
    let create = create.event_id.clone();
    let room = rooms.begin(room_id.to_owned(), rules)?;
    let mut deciding = rooms.decide(&room);
    let mut before = Vec::new();
    for event in graph::auth_order(&good.values().cloned().collect::<Vec<_>>()) {
        let number = deciding.keep(&event, Standing::Outlier)?;
        if event.event_id == create {
            let row = RoomRow { id: room.id.clone(), version: room.version.clone(), create: number };
            deciding.write.put(ROOMS, &room.number, &row);
        }
        if in_state.contains(&event.event_id) {
            before.push(number);
        }
    }
    let before = deciding.state_of(&before)?;
    let join = Arc::new(join);
    deciding.check_at(&before, &join)?;
    deciding.start_over();
    deciding.accept(&join, &before, Standing::Accepted)?;
    let ticket = deciding.commit()?;
    Ok((room, ticket))
}

/// Those of the events that their own auth events allow.
fn allowed(rules: &Rules, events: &[Arc<Event>]) -> HashMap<OwnedEventId, Arc<Event>> {
    let mut good: HashMap<OwnedEventId, Arc<Event>> = HashMap::new();
    for event in graph::auth_order(events) {
        let mut auths: Vec<Arc<Event>> = event.auth_events.iter().filter_map(|id| good.get(id).cloned()).collect();
        let complete = auths.len() == event.auth_events.len();
        let selected = auth::check_auth_events(rules, &event, auths.iter().map(|auth| (&**auth, false)));
        if rules.room_id_is_hash {
            auths.extend(good.values().find(|event| event.is("m.room.create", "")).cloned());
        }
        let find = |kind: &str, key: &str| auths.iter().find(|auth| auth.is(kind, key)).cloned();
        if complete && selected.is_ok() && auth::check(rules, &event, find).is_ok() {
            good.insert(event.event_id.clone(), event);
        }
    }
    good
}

/// Takes a local user out of a room that this server is not in: an invite is declined, a knock taken back.
pub async fn leave(rooms: &Arc<Rooms>, room_id: &RoomId, user: &UserId, servers: &[OwnedServerName]) -> Result<()> {
    for server in servers.iter().take(MOST_SERVERS) {
        match leave_through(rooms, room_id, user, server).await {
            Ok(()) => break,
            // The user is rid of the room in any case; the other side finds out when it asks.
            Err(error) => {
                tracing::info!(room = %room_id, %server, "{user} cannot tell {server} about leaving: {error}")
            }
        }
    }
    super::inviting::forget_outside(rooms, room_id, user)?.published().await?;
    Ok(())
}

async fn leave_through(rooms: &Rooms, room_id: &RoomId, user: &UserId, server: &ServerName) -> Result<()> {
    let request = prepare_leave_event::v1::Request::new(room_id.to_owned(), user.to_owned());
    let template = rooms.remote.ask_with(server, request, ASK).await.map_err(|error| error.for_client(server))?;
    let rules = known_version(template.room_version)?;
    let draft = draft(rooms, rules, &template.event, room_id, user, MembershipState::Leave, Object::new())?;
    let leave = sign(rooms, draft, rules)?;
    let request = create_leave_event::v2::Request::new(room_id.to_owned(), leave.event_id.clone(), leave.to_pdu());
    rooms.remote.ask_with(server, request, ASK).await.map(drop).map_err(|error: RemoteError| error.for_client(server))
}

/// Knocks at a room that this server is not in.
pub async fn knock(
    rooms: &Arc<Rooms>,
    room_id: &RoomId,
    user: &UserId,
    servers: Vec<OwnedServerName>,
    content: Object,
) -> Result<()> {
    let mut last = Error::not_found("this server does not know the room, nor a server that is in it");
    for server in crate::remote::candidates(&rooms.config, servers).iter().take(MOST_SERVERS) {
        match knock_through(rooms, room_id, user, server, content.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn knock_through(
    rooms: &Rooms,
    room_id: &RoomId,
    user: &UserId,
    server: &ServerName,
    mut content: Object,
) -> Result<()> {
    let mut request = prepare_knock_event::v1::Request::new(room_id.to_owned(), user.to_owned());
    request.ver = versions();
    let template = rooms.remote.ask_with(server, request, ASK).await.map_err(|error| error.for_client(server))?;
    let rules = known_version(Some(template.room_version))?;
    content.extend(rooms.member_profile(user)?);
    let draft = draft(rooms, rules, &template.event, room_id, user, MembershipState::Knock, content)?;
    let knock = sign(rooms, draft, rules)?;
    let request = create_knock_event::v1::Request::new(room_id.to_owned(), knock.event_id.clone(), knock.to_pdu());
    let answer = rooms.remote.ask_with(server, request, ASK).await.map_err(|error| error.for_client(server))?;
    let stripped: Vec<String> = answer
        .knock_room_state
        .iter()
        .filter_map(|event| serde_json::to_value(event).ok())
        .filter_map(|event| super::inviting::stripped(&event))
        .collect();
    super::inviting::note_outside(rooms, room_id, rules, &Arc::new(knock), stripped)?.published().await?;
    Ok(())
}
