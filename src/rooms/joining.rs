//! Joining, leaving and knocking at rooms that this server is not in, with the help of a server that is.
//!
//! Spec: server-server-api#joining-rooms, #leaving-rooms-rejecting-invites, #knocking-upon-a-room

use std::{collections::HashSet, sync::Arc, time::Duration};

use http::StatusCode;
use ruma::{
    EventId, OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{
        create_join_event, create_knock_event, create_leave_event, prepare_join_event, prepare_knock_event,
        prepare_leave_event,
    },
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{
    Room, Rooms, admit,
    append::{Deciding, chosen_id, sign},
    arriving,
    state::State,
};
use crate::{
    error::{Error, Result},
    heavy,
    protocol::{
        auth,
        canonical::{Object, Value},
        compose::Draft,
        event::Event,
        version::{self, Rules},
        vetting::Vetting,
    },
    remote::{Patience, RemoteError, transport::Body},
    store::{
        Ticket,
        schema::{
            events::Standing,
            numbers,
            rooms::{ROOMS, RoomRow},
        },
    },
};

/// How many servers are asked, one after the other.
const MOST_SERVERS: usize = 8;
/// How long the answer to a join may take, and how many bytes it may have.
const JOIN: Patience = Patience { timeout: Duration::from_secs(300), limit: 1 << 30, insist: true };
/// How many members are put in their places at once, before the user is let in; of more, that many are shown
/// until the rest follows.
const MOST_MEMBERS: usize = 500;
const SHOWN_MEMBERS: usize = 5;
/// How many events are kept in one `Write`.
const AT_ONCE: usize = 250;
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
    let _alone = rooms.entering(room_id).await;
    let mut last = Error::not_found("this server does not know the room, nor a server that is in it");
    // Somebody else of this server may have been let in meanwhile.
    let inside = super::doors::inside(rooms, room_id)?;
    if let Some(room) = &inside {
        let reason = content.get("reason").and_then(Value::as_str);
        let join = |deciding: &mut Deciding<'_>| Ok(deciding.join(user, reason, Object::new())?.is_some());
        match super::doors::change(rooms, room, join).await {
            Ok(()) => return Ok(Arc::clone(room)),
            Err(error) if !others_may_grant(&error) => return Err(error),
            Err(error) => last = error,
        }
    }
    for server in crate::remote::candidates(&rooms.config, servers).iter().take(MOST_SERVERS) {
        match join_through(rooms, room_id, user, server, content.clone(), inside.as_ref()).await {
            Ok(room) => return Ok(room),
            Err(error) => {
                tracing::info!(room = %room_id, %server, "{user} cannot join through {server}: {error}");
                if error.errcode == "M_INCOMPATIBLE_ROOM_VERSION" {
                    return Err(error);
                }
                last = more_telling(last, error);
            }
        }
    }
    Err(last)
}

/// Whether another server in a restricted room may let somebody in whom this one may not.
pub(super) fn others_may_grant(error: &Error) -> bool {
    matches!(&*error.errcode, "M_UNABLE_TO_AUTHORISE_JOIN" | "M_UNABLE_TO_GRANT_JOIN")
}

/// Which of two errors a user should read: what a server has said about the join, rather than that another one was
/// not there.
fn more_telling(earlier: Error, later: Error) -> Error {
    let says_something = |error: &Error| error.status.is_client_error() && error.status != StatusCode::NOT_FOUND;
    if says_something(&earlier) && !says_something(&later) { earlier } else { later }
}

/// The error for a client whose wish another server has refused. What is wrong with our own request is not the
/// client's to mend.
pub(super) fn passed_on(error: RemoteError, server: &ServerName) -> Error {
    match &error {
        RemoteError::Refused { errcode, message, .. }
            if matches!(&**errcode, "M_MISSING_PARAM" | "M_INVALID_PARAM") =>
        {
            let message = format!("{server} does not understand this server: {message}");
            Error::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message)
        }
        _ => error.for_client(server),
    }
}

async fn join_through(
    rooms: &Arc<Rooms>,
    room_id: &RoomId,
    user: &UserId,
    server: &ServerName,
    mut content: Object,
    inside: Option<&Arc<Room>>,
) -> Result<Arc<Room>> {
    let mut request = prepare_join_event::v1::Request::new(room_id.to_owned(), user.to_owned());
    request.ver = versions();
    let template = rooms.remote.ask_with(server, request, ASK).await.map_err(|error| passed_on(error, server))?;
    let rules = known_version(template.room_version)?;
    content.extend(rooms.member_profile(user)?);
    let draft = draft(rooms, rules, &template.event, room_id, user, MembershipState::Join, content)?;
    let join = sign(rooms, draft, rules)?;
    let mut request = create_join_event::v2::Request::new(room_id.to_owned(), join.event_id.clone(), join.to_pdu());
    request.omit_members = true;
    let body = rooms.remote.stream(server, request, JOIN).await.map_err(|error| passed_on(error, server))?;
    let given = read(rooms, rules, body).await.map_err(|error| passed_on(error, server))?;
    let join = match &given.event {
        Some(signed) => countersigned(rooms, signed, &join, rules).await?,
        None => join,
    };
    if let Some(room) = inside {
        // This server is in the room; all that was missing is the other one's signature.
        let pdu = admit::object(&join.to_pdu(), rules)?;
        super::intake::receive(rooms, room, server, pdu).await?;
        return Ok(Arc::clone(room));
    }
    let (held, room_id, via) = (Arc::clone(rooms), room_id.to_owned(), server.to_owned());
    let begin = move || begin(&held, &room_id, rules, join, given, &via);
    let (room, ticket) = heavy::run(begin).await??;
    ticket.published().await?;
    if room.is_partial() {
        rooms.partial.begun.notify_one();
    }
    Ok(room)
}

/// What another server gives to one that has joined.
#[derive(Default)]
struct Given {
    state: Vec<Event>,
    chain: Vec<Event>,
    /// The join as it stands in the room.
    event: Option<Box<RawValue>>,
    members_omitted: bool,
    servers: Vec<OwnedServerName>,
}

/// Reads the answer to a join: every event has been checked for its signatures by then.
async fn read(rooms: &Arc<Rooms>, rules: &'static Rules, body: Body) -> Result<Given, RemoteError> {
    let (to, mut from) = mpsc::channel::<arriving::Batch>(2);
    let mut given = Given::default();
    let take = async {
        let (mut state, mut chain) = (Vec::new(), Vec::new());
        while let Some((field, events)) = from.recv().await {
            let list = if *field == *"state" { &mut state } else { &mut chain };
            list.extend(events);
        }
        (state, chain)
    };
    let (besides, taken) = tokio::join!(arriving::read(rooms, rules, body, &["state", "auth_chain"], to), take);
    (given.state, given.chain) = taken;
    for piece in besides? {
        match &*piece.field {
            "event" => given.event = RawValue::from_string(piece.json).ok().filter(|event| event.get() != "null"),
            "members_omitted" => given.members_omitted = piece.json == "true",
            "servers_in_room" => given.servers.extend(serde_json::from_str::<OwnedServerName>(&piece.json).ok()),
            _ => {}
        }
    }
    Ok(given)
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
    let about = [
        ("type", "m.room.member"),
        ("room_id", room_id.as_str()),
        ("state_key", user.as_str()),
        ("sender", user.as_str()),
    ];
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

/// Records a room as another server has given it, with our join on top. Every event has been checked for its
/// signatures; here each is checked against its auth events, and what does not hold is left out. Where members are
/// left out, or are many, they are fetched or put in their places later ([`super::completing`]).
fn begin(
    rooms: &Rooms,
    room_id: &RoomId,
    rules: &'static Rules,
    join: Event,
    given: Given,
    via: &ServerName,
) -> Result<(Arc<Room>, Ticket)> {
    let members = given.state.iter().filter(|event| event.kind == "m.room.member").count();
    let later = given.members_omitted || members > MOST_MEMBERS;
    let in_state: HashSet<OwnedEventId> = given.state.iter().map(|event| event.event_id.clone()).collect();
    let mut vetting = Vetting::new(rules, room_id);
    let good = vetting.offer(given.chain.into_iter().chain(given.state), |id| believed(rooms, room_id, id));
    let create = in_state.iter().find_map(|id| {
        let create =
            good.iter().find(|event| event.event_id == *id).cloned().or_else(|| Some(believed(rooms, room_id, id)?.0));
        create.filter(|event| event.is("m.room.create", ""))
    });
    let create = create.ok_or_else(|| Error::bad_json("the other server has sent no valid create event"))?;
    if auth::create::room_version(&create).is_none_or(|found| found.version != rules.version) {
        return Err(Error::bad_json("the room has another version than the other server has said"));
    }
    let room = rooms.begin(room_id.to_owned(), rules)?;
    keep(rooms, &room, &good, &create)?;
    let mut deciding = rooms.decide(&room);
    let mut before = Vec::new();
    let mut shown = 0;
    for id in &in_state {
        let Some(known) = deciding.by_id(id)?.filter(|known| known.standing != Standing::Rejected) else { continue };
        if later && known.event.kind == "m.room.member" && !rooms.is_local(&known.event.sender) {
            shown += usize::from(super::partial::is_present(&known.event));
            if !given.members_omitted && shown > SHOWN_MEMBERS {
                continue;
            }
        }
        before.push(known.number);
    }
    let before = deciding.state_of(&before)?;
    let join = Arc::new(join);
    match later {
        true => deciding.check_claimed(&before, &join)?,
        false => deciding.check_at(&before, &join)?,
    }
    deciding.start_over(join.depth);
    room.set_partial(later);
    let begun = enter(&mut deciding, &join, &before, later.then_some((via, &given.servers[..])));
    match begun.and_then(|()| deciding.commit()) {
        Ok(ticket) => Ok((Arc::clone(&room), ticket)),
        Err(error) => {
            room.set_partial(false);
            Err(error)
        }
    }
}

/// An event that was believed before, and whether it was rejected.
fn believed(rooms: &Rooms, room: &RoomId, id: &EventId) -> Option<(Arc<Event>, bool)> {
    let known = rooms.by_id(id).ok().flatten().filter(|known| known.event.room_id == *room)?;
    Some((Arc::clone(&known.event), known.standing == Standing::Rejected))
}

/// Keeps good events beside the room, some at a time: until the room is entered nothing names them.
fn keep(rooms: &Rooms, room: &Room, good: &[Arc<Event>], create: &Event) -> Result<()> {
    for (at, some) in good.chunks(AT_ONCE).enumerate() {
        let mut deciding = rooms.decide(room);
        for event in some {
            deciding.keep(event, Standing::Outlier)?;
        }
        if at == 0 {
            let number = numbers::event(&mut deciding.write, &create.event_id)?;
            let row = RoomRow { id: room.id.clone(), version: room.version.clone(), create: number };
            deciding.write.put(ROOMS, &room.number, &row);
        }
        drop(deciding.stage()?);
    }
    Ok(())
}

fn enter(
    deciding: &mut Deciding<'_>,
    join: &Arc<Event>,
    before: &State,
    partial: Option<(&ServerName, &[OwnedServerName])>,
) -> Result<()> {
    match partial {
        Some((via, servers)) => {
            let number = numbers::event(&mut deciding.write, &join.event_id)?;
            deciding.begin_partial(number, via, servers)?;
        }
        None => deciding.end_partial(false)?,
    }
    deciding.accept(join, before, Standing::Accepted).map(drop)
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
    let template = rooms.remote.ask_with(server, request, ASK).await.map_err(|error| passed_on(error, server))?;
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
            Err(error) => last = more_telling(last, error),
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
    let template = rooms.remote.ask_with(server, request, ASK).await.map_err(|error| passed_on(error, server))?;
    let rules = known_version(Some(template.room_version))?;
    content.extend(rooms.member_profile(user)?);
    let draft = draft(rooms, rules, &template.event, room_id, user, MembershipState::Knock, content)?;
    let knock = sign(rooms, draft, rules)?;
    let request = create_knock_event::v1::Request::new(room_id.to_owned(), knock.event_id.clone(), knock.to_pdu());
    let answer = rooms.remote.ask_with(server, request, ASK).await.map_err(|error| passed_on(error, server))?;
    let stripped: Vec<String> = answer
        .knock_room_state
        .iter()
        .filter_map(|event| serde_json::to_value(event).ok())
        .filter_map(|event| super::inviting::stripped(&event))
        .collect();
    super::inviting::note_outside(rooms, room_id, rules, &Arc::new(knock), stripped)?.published().await?;
    Ok(())
}
