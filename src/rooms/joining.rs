//! Joining a room that this server is not in, with the help of a server that is.
//!
//! Spec: server-server-api#joining-rooms

use std::{collections::HashSet, sync::Arc, time::Duration};

use http::Method;
use ruma::{
    EventId, OwnedEventId, OwnedServerName, RoomId, ServerName, UserId,
    api::federation::membership::{create_join_event, prepare_join_event},
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{
    Room, Rooms, admit,
    append::Deciding,
    arriving, early,
    handshake::{self, ASK, MOST_SERVERS, Wish, known_version, more_telling, nonsense, old_path, passed_on, versions},
    late, staged,
    state::State,
};
use crate::{
    error::{Error, Result},
    heavy,
    protocol::{
        auth,
        canonical::{Object, Value},
        event::Event,
        version::Rules,
        vetting::Vetting,
    },
    remote::{Patience, RemoteError, transport::Body},
    store::{
        Ticket,
        schema::{
            events::Standing,
            numbers,
            rooms::{ROOMS, RoomRow, STAGED},
        },
    },
};

/// How long the answer to a join may take, and how many bytes it may have.
const JOIN: Patience = Patience { timeout: Duration::from_secs(300), limit: 1 << 30, insist: true };
/// How many members are put in their places at once, before the user is let in; of more, that many are shown
/// until the rest follows.
const MOST_MEMBERS: usize = 500;
const SHOWN_MEMBERS: usize = 5;
/// How many events are kept in one `Write`.
const AT_ONCE: usize = 250;

/// Lets a local user join a room that this server is not in, through one of `servers`. When it returns, the
/// join is durable.
///
/// Errors: those of the server that says most about it; 404 `M_NOT_FOUND` if there is none to ask.
pub async fn join(
    rooms: &Arc<Rooms>,
    room_id: &RoomId,
    user: &UserId,
    servers: Vec<OwnedServerName>,
    content: Object,
) -> Result<Arc<Room>> {
    let _alone = rooms.entering(room_id).await;
    let expected = rooms.early.expect(room_id);
    let joined = through_one_of(rooms, room_id, user, servers, content).await;
    if joined.is_err()
        && let Err(error) = staged::sweep_room(rooms, room_id).await
    {
        tracing::error!(room = %room_id, ?error, "what a join has left is removed at the next start");
    }
    drop(expected);
    let (held, id) = (Arc::clone(rooms), room_id.to_owned());
    tokio::spawn(async move {
        if let Err(error) = early::take_in(&held, &id).await {
            tracing::error!(room = %id, ?error, "what came during a join is taken in at the next start");
        }
    });
    joined
}

async fn through_one_of(
    rooms: &Arc<Rooms>,
    room_id: &RoomId,
    user: &UserId,
    servers: Vec<OwnedServerName>,
    content: Object,
) -> Result<Arc<Room>> {
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
    let wish = Wish { room: room_id, user, membership: MembershipState::Join, content };
    let join = handshake::event(rooms, rules, &template.event, server, wish)?;
    let body = send(rooms, server, &join).await.map_err(|error| passed_on(error, server))?;
    let given = read(rooms, rules, body).await.map_err(|error| passed_on(error, server))?;
    let join = match &given.event {
        // Others may have signed it as well.
        Some(signed) => match countersigned(rooms, signed, &join, rules).await {
            Ok(signed) => signed,
            Err(_) if join.content_value("join_authorised_via_users_server").is_none() => join,
            Err(error) => return Err(nonsense(server, error)),
        },
        None => join,
    };
    if let Some(room) = inside {
        // This server is in the room; all that was missing is the other one's signature.
        super::intake::receive_admitted(rooms, room, server, join).await?;
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

/// Sends a signed join, and gives the body of the answer.
async fn send(rooms: &Rooms, server: &ServerName, join: &Event) -> Result<Body, RemoteError> {
    let (room, event) = (join.room_id.clone(), join.event_id.clone());
    let mut request = create_join_event::v2::Request::new(room, event, join.to_pdu());
    request.omit_members = true;
    match rooms.remote.stream(server, request, JOIN).await {
        Err(error) if error.is_unknown_endpoint() => {
            let body = join.json().to_owned().into_bytes();
            rooms.remote.open(server, Method::PUT, old_path("send_join", join), Some(body), JOIN).await
        }
        answer => answer,
    }
}

/// What another server gives to one that has joined.
#[derive(Default)]
struct Given {
    state: Vec<Event>,
    chain: Vec<Event>,
    /// Events of the state that cannot be believed yet, because nobody has the keys of their servers.
    keyless: Vec<OwnedEventId>,
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
        while let Some((field, checked)) = from.recv().await {
            match &*field {
                "state" => {
                    given.state.extend(checked.events);
                    given.keyless.extend(checked.keyless);
                }
                _ => given.chain.extend(checked.events),
            }
        }
    };
    let (besides, ()) = tokio::join!(arriving::read(rooms, rules, body, &["state", "auth_chain"], to), take);
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
    let in_state: Vec<OwnedEventId> = given.state.iter().map(|event| event.event_id.clone()).collect();
    let mut vetting = Vetting::new(rules, room_id);
    let good = vetting.offer(given.chain.into_iter().chain(given.state), |id| believed(rooms, room_id, id));
    let create = create_event(rooms, room_id, &in_state, &good);
    let create = create.ok_or_else(|| nonsense(via, "it has sent no valid create event"))?;
    if auth::create::room_version(&create).is_none_or(|found| found.version != rules.version) {
        return Err(nonsense(via, "the room has another version than it has said"));
    }
    let room = rooms.begin(room_id.to_owned(), rules)?;
    keep(rooms, &room, &good, &create)?;
    let mut deciding = rooms.decide(&room);
    let mut before = Vec::new();
    let mut shown = 0;
    for id in &in_state {
        let Some(known) = deciding.by_id(id)?.filter(|known| known.standing != Standing::Rejected) else { continue };
        if later && known.event.kind == "m.room.member" && !is_about_local(rooms, &known.event) {
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
    // Where the rest follows, it is found out then what is missing.
    late::want(&mut deciding, if later { &[] } else { &given.keyless })?;
    deciding.write.delete(STAGED, &room.number);
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

/// The create event among those of a state that are good or were believed before.
fn create_event(rooms: &Rooms, room: &RoomId, in_state: &[OwnedEventId], good: &[Arc<Event>]) -> Option<Arc<Event>> {
    let in_state: HashSet<&OwnedEventId> = in_state.iter().collect();
    let is_it = |event: &Arc<Event>| event.is("m.room.create", "") && in_state.contains(&event.event_id);
    good.iter()
        .find(|event| is_it(event))
        .cloned()
        .or_else(|| in_state.iter().find_map(|id| Some(believed(rooms, room, id)?.0).filter(is_it)))
}

/// Whether a member event is about a user of this server.
fn is_about_local(rooms: &Rooms, event: &Event) -> bool {
    let user = event.state_key.as_deref().and_then(|user| <&UserId>::try_from(user).ok());
    user.is_some_and(|user| rooms.is_local(user))
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
        if at == 0 && deciding.write.get(STAGED, &room.number)?.is_none() {
            let first = deciding.write.number();
            deciding.write.put(STAGED, &room.number, &first);
        }
        for event in some {
            deciding.keep_if_first(event, Standing::Outlier)?;
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
