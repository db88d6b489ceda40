//! Answers in the shapes from before `/sync`: a snapshot of one room or of all, and a stream of events.
//!
//! They are made of what `/sync` is made of, and a token of one is good for the other. A stream goes forward
//! without gaps: what does not fit into an answer comes with the next one. Whoever is not in a room may follow it
//! as well, if the world may read it.
//!
//! Spec: client-server-api#get_matrixclientv3roomsroomidinitialsync, client-server-api#get_matrixclientv3events

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use ruma::{OwnedRoomId, RoomId, events::room::member::MembershipState};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::{
    Found, LONGEST_WAIT, Look, Reader, Sync, account, ephemeral,
    filter::{EventFilter, Filter},
    places::{self, Place, Places},
    presence, published,
    room::Ask,
    timeline::{Timeline, Window},
    v3::StateForm,
    wait,
};
use crate::{
    error::{Error, Result},
    protocol::canonical::write_string,
    rooms::{
        Room,
        access::{self, Access},
        presence::content,
        token::SyncToken,
    },
    store::{
        Position,
        schema::{
            EventNo, RoomNo,
            events::TIMELINE,
            numbers,
            rooms::{MEMBERS, PUBLISHED, USER_ROOMS},
            users::GLOBAL,
        },
    },
};

/// How many events an answer of a stream holds at most.
const MOST_EVENTS: usize = 100;
/// How many events that are not shown one look passes over in a room.
const MOST_PASSED: usize = 2_000;

/// A snapshot of one room.
///
/// Errors: 403 `M_FORBIDDEN` for who may not look into it.
pub async fn room(sync: Arc<Sync>, reader: Reader, id: OwnedRoomId, limit: usize) -> Result<String> {
    on_a_thread(sync, reader, move |look| {
        let (room, access) = access::look(look.rooms, &id, &look.reader.user)?;
        let row = look.store().get(USER_ROOMS, &(look.reader.number, room.number))?;
        let place = row.map(|row| Place { room: room.number, id: room.id.clone(), row });
        info(look, &room, &access, place.as_ref(), limit.min(MOST_EVENTS)).map(Found::Told)
    })
    .await
}

/// A snapshot of all rooms of the reader; of those that they have left only with `archived`.
pub async fn all(sync: Arc<Sync>, reader: Reader, limit: usize, archived: bool) -> Result<String> {
    on_a_thread(sync, reader, move |look| {
        let places = match places::find(look, None, [])? {
            Places::Of(places) => places,
            Places::Behind(position) => return Ok(Found::Behind(position)),
        };
        let mut rooms = Vec::new();
        for place in &places {
            match place.row.membership {
                MembershipState::Invite => rooms.push(invited(look, place)?),
                MembershipState::Join => rooms.extend(snapshot(look, place, limit)?),
                MembershipState::Leave | MembershipState::Ban if archived && !place.row.forgotten => {
                    rooms.extend(snapshot(look, place, limit)?);
                }
                _ => {}
            }
        }
        let mut data = account::data(look, None)?;
        let mut kept = String::new();
        account::write(&mut kept, &data.remove(&GLOBAL).unwrap_or_default(), &EventFilter::default());
        let (end, rooms, people) = (look.now, rooms.join(","), people(look, None)?.join(","));
        let text =
            format!("{{\"end\":\"{end}\",\"presence\":[{people}],\"rooms\":[{rooms}],\"account_data\":[{kept}]}}");
        Ok(Found::Told(text))
    })
    .await
}

/// Reads much, where that may take its time; again, when a row was newer than what is published.
async fn on_a_thread(
    sync: Arc<Sync>,
    reader: Reader,
    read: impl Fn(&Look<'_>) -> Result<Found> + Clone + Send + 'static,
) -> Result<String> {
    wait(&sync.clone(), &reader.clone(), None, Duration::ZERO, true, move |_| {
        read(&Look::new(&sync, &reader, SyncToken::now(&sync.rooms.store))?)
    })
    .await
}

/// Who is there, or has come and gone since.
fn people(look: &Look<'_>, since: Option<SyncToken>) -> Result<Vec<String>> {
    let filter = Filter::default();
    let ask = Ask { look, filter: &filter, since, full: false, form: StateForm::default() };
    presence::events(&ask, &BTreeSet::new())
}

/// Who of the members of a room is there, or was since the start.
fn people_in(look: &Look<'_>, room: RoomNo) -> Result<Vec<String>> {
    let mut people = Vec::new();
    if !look.rooms.config.presence.enabled {
        return Ok(people);
    }
    for row in look.store().scan(MEMBERS, &(room,)) {
        let ((_, user), row) = row?;
        let Some(presence) = look.store().live().presence(user).filter(|_| row.membership == MembershipState::Join)
        else {
            continue;
        };
        let Some(id) = numbers::user_id(look.store(), user)?.filter(|id| !look.ignored.contains(id)) else { continue };
        let content = content(look.rooms, &presence);
        people.push(json!({ "type": "m.presence", "sender": id, "content": content }).to_string());
    }
    Ok(people)
}

fn snapshot(look: &Look<'_>, place: &Place, limit: usize) -> Result<Option<String>> {
    match access::look(look.rooms, &place.id, &look.reader.user) {
        Ok((room, access)) => info(look, &room, &access, Some(place), limit.min(MOST_EVENTS)).map(Some),
        // An invite that was declined.
        Err(error) if error.status.is_client_error() => Ok(None),
        Err(error) => Err(error),
    }
}

/// `RoomInfo`: a room as the reader may see it.
fn info(look: &Look<'_>, room: &Room, access: &Access, place: Option<&Place>, limit: usize) -> Result<String> {
    let mut out = begin(&room.id, place.map(|place| &place.row.membership));
    let departure = match (access, place) {
        (Access::Departed(_), Some(place)) => place.departure(look)?,
        _ => None,
    };
    let until = departure.as_ref().map_or(look.now.position, |departure| departure.at);
    let own = departure.map(|departure| departure.event.number);
    let window = Window { after: Position(0), until, limit, gap: false };
    let timeline = Timeline::read(look, room.number, window, own, |_| Ok(true))?;
    out.push_str(",\"messages\":{");
    if let Some(start) = timeline.prev_batch {
        let _ = write!(out, "\"start\":\"{start}\",");
    }
    let events = timeline.events.iter().map(|(_, known)| look.viewer.event(known, true));
    let end = SyncToken { position: until, inbox: until, ..look.now };
    let _ = write!(out, "\"chunk\":[{}],\"end\":\"{end}\"}}", events.collect::<Result<Vec<_>>>()?.join(","));
    let state = access.state(look.rooms, room)?;
    let state = state.iter().map(|(_, number)| look.viewer.state_event(&*look.rooms.known(number)?, true));
    let _ = write!(out, ",\"state\":[{}]", state.collect::<Result<Vec<_>>>()?.join(","));
    let visibility = if look.store().contains(PUBLISHED, &room.number)? { "public" } else { "private" };
    let mut data = String::new();
    account::write(&mut data, &account::of_room(look, room.number)?, &EventFilter::default());
    let (receipts, people) = match access {
        Access::Member => {
            (ephemeral::receipts(look, room.number, Position(0))?.events(look)?, people_in(look, room.number)?)
        }
        _ => (Vec::new(), Vec::new()),
    };
    let receipts: Vec<String> = receipts.iter().map(|event| in_room(&room.id, event)).collect();
    let (receipts, people) = (receipts.join(","), people.join(","));
    let _ = write!(out, ",\"visibility\":\"{visibility}\",\"account_data\":[{data}]");
    let _ = write!(out, ",\"receipts\":[{receipts}],\"presence\":[{people}]}}");
    Ok(out)
}

/// `RoomInfo` of a room to which the reader is invited.
fn invited(look: &Look<'_>, place: &Place) -> Result<String> {
    let mut out = begin(&place.id, Some(&place.row.membership));
    let invite = look.rooms.known(place.event())?;
    let _ = write!(out, ",\"invite\":{}}}", look.viewer.event(&invite, true)?);
    Ok(out)
}

fn begin(room: &RoomId, membership: Option<&MembershipState>) -> String {
    let mut out = String::from("{\"room_id\":");
    write_string(&mut out, room.as_str());
    if let Some(membership) = membership {
        let _ = write!(out, ",\"membership\":\"{membership}\"");
    }
    out
}

/// What a stream is asked for.
#[derive(Debug, Default)]
pub struct Listen {
    /// What the reader has; nothing for what happens from now on.
    pub from: Option<SyncToken>,
    /// How long to wait for news.
    pub timeout: Duration,
    /// The one room to follow, also from outside; all rooms of the reader otherwise.
    pub room: Option<OwnedRoomId>,
}

/// The events after a token, oldest first, waiting for them if there are none.
///
/// Errors: 403 `M_FORBIDDEN` for a room into which the reader may not look.
pub async fn events(sync: Arc<Sync>, reader: Reader, ask: Listen) -> Result<String> {
    let store = &sync.rooms.store;
    let since = ask.from.filter(|from| from.is_of(store)).unwrap_or_else(|| SyncToken::now(store));
    let (held, who) = (Arc::clone(&sync), reader.clone());
    match ask.room {
        Some(room) => peek(&sync, &reader, since, ask.timeout, &room).await,
        None => {
            let look = move |since: Option<SyncToken>| match since {
                Some(since) => everywhere(&held, &who, since),
                None => Err(Error::internal("a stream has a beginning")),
            };
            wait(&sync, &reader, Some(since), ask.timeout, false, look).await
        }
    }
}

/// What happened in the rooms of the reader.
fn everywhere(sync: &Sync, reader: &Reader, since: SyncToken) -> Result<Found> {
    let store = &sync.rooms.store;
    let now = SyncToken::now(store);
    let quiet =
        since.boot == now.boot && since.live == now.live && store.wakers().newest(reader.number) <= since.position;
    let look = Look::new(sync, reader, now)?;
    let mut stream = Stream::new(&look, since);
    if !quiet {
        let typing = store.live().changed_since(since.live_now(store));
        let places = match places::find(&look, Some(since.position), typing)? {
            Places::Of(places) => places,
            Places::Behind(position) => return Ok(Found::Behind(position)),
        };
        for place in &places {
            let is_new = place.is_new(Some(since.position));
            match place.row.membership {
                MembershipState::Join => {
                    stream.hear(place.room, now.position, None)?;
                    stream.notice(place.room, &place.id)?;
                }
                MembershipState::Leave | MembershipState::Ban if is_new => {
                    stream.hear(place.room, place.row.since, Some(place.event()))?;
                }
                MembershipState::Invite | MembershipState::Knock if is_new => {
                    let known = look.rooms.known(place.event())?;
                    stream.add(place.row.since, look.viewer.event(&known, true)?);
                }
                _ => {}
            }
        }
    }
    stream.notices.extend(people(&look, Some(since))?);
    Ok(stream.answer())
}

/// What happens in one room, also for who is not in it. Such a reader is named by no `Write`, and looks at all of
/// them for the room.
async fn peek(sync: &Sync, reader: &Reader, since: SyncToken, timeout: Duration, id: &RoomId) -> Result<String> {
    let store = &sync.rooms.store;
    let deadline = Instant::now() + timeout.min(LONGEST_WAIT);
    let mut log = store.watch();
    let mut known = since;
    loop {
        log.borrow_and_update();
        let news = store.wakers().listen(reader.number);
        let (room, _) = access::look(&sync.rooms, id, &reader.user)?;
        let found = one_room(sync, reader, known, &room)?;
        match found {
            Found::Told(text) => return Ok(text),
            Found::Behind(position) => published(store, position).await?,
            Found::Nothing(text, _) if timeout.is_zero() => return Ok(text),
            Found::Nothing(text, now) => {
                known = now;
                let touched = async {
                    while log.changed().await.is_ok() && store.wakers().newest_in(room.number) <= known.position {}
                };
                tokio::select! {
                    biased;
                    () = sync.stop.cancelled() => return Ok(text),
                    () = sleep_until(deadline) => return Ok(text),
                    () = touched => {}
                    () = news => {}
                }
            }
        }
    }
}

fn one_room(sync: &Sync, reader: &Reader, since: SyncToken, room: &Room) -> Result<Found> {
    let look = Look::new(sync, reader, SyncToken::now(&sync.rooms.store))?;
    let mut stream = Stream::new(&look, since);
    let row = look.store().get(USER_ROOMS, &(reader.number, room.number))?;
    let own = row.as_ref().map(|row| row.event);
    stream.hear(room.number, look.now.position, own)?;
    if row.is_some_and(|row| row.membership == MembershipState::Join) {
        stream.notice(room.number, &room.id)?;
    }
    Ok(stream.answer())
}

/// The oldest events after a token, as far as there is place.
struct Stream<'a> {
    look: &'a Look<'a>,
    since: SyncToken,
    /// Up to here everything is heard.
    until: Position,
    events: BTreeMap<Position, String>,
    /// Typing, receipts and who is there, which have no place in the order.
    notices: Vec<String>,
}

impl<'a> Stream<'a> {
    fn new(look: &'a Look<'a>, since: SyncToken) -> Self {
        Self { look, since, until: look.now.position, events: BTreeMap::new(), notices: Vec::new() }
    }

    /// Adds what the reader may see of a room's timeline up to `until`, and `own` in any case.
    fn hear(&mut self, room: RoomNo, until: Position, own: Option<EventNo>) -> Result<()> {
        let look = self.look;
        let from = Position(self.since.position.0.saturating_add(1));
        let to = Position(until.min(self.until).0.saturating_add(1));
        let mut passed = 0;
        for row in look.store().range(TIMELINE, &(room, from), &(room, to)) {
            let ((_, at), number) = row?;
            if at > self.until {
                break;
            }
            let known = look.rooms.known(number)?;
            let unheard = known.event.state_key.is_none() && look.ignored.contains(&known.event.sender);
            match !unheard && (own == Some(number) || look.viewer.may_see(&known)?) {
                true => self.add(at, look.viewer.event(&known, true)?),
                false => passed += 1,
            }
            if passed >= MOST_PASSED {
                self.end_at(at);
            }
        }
        Ok(())
    }

    fn add(&mut self, at: Position, event: String) {
        if at > self.until {
            return;
        }
        self.events.insert(at, event);
        if self.events.len() > MOST_EVENTS
            && let Some((spare, _)) = self.events.pop_last()
        {
            self.end_at(Position(spare.0 - 1));
        }
    }

    fn end_at(&mut self, until: Position) {
        self.until = self.until.min(until);
        self.events.retain(|at, _| *at <= until);
    }

    /// Adds who is typing in a room, and who has read what.
    fn notice(&mut self, room: RoomNo, id: &RoomId) -> Result<()> {
        let look = self.look;
        let corrects = self.since.boot != look.now.boot;
        let typing = ephemeral::typing(look, room, self.since.live_now(look.store()), corrects)?;
        let receipts = ephemeral::receipts(look, room, self.since.position)?.events(look)?;
        self.notices.extend(typing.iter().chain(&receipts).map(|event| in_room(id, event)));
        Ok(())
    }

    fn answer(self) -> Found {
        let Self { look, since, until, events, notices } = self;
        // Messages between devices are no business of a stream: `/sync` finds them where it was.
        let end = SyncToken { position: until, inbox: since.inbox, ..look.now };
        let chunk: Vec<String> = events.into_values().chain(notices).collect();
        let told = !chunk.is_empty() || until < look.now.position;
        let text = format!("{{\"start\":\"{since}\",\"end\":\"{end}\",\"chunk\":[{}]}}", chunk.join(","));
        match told {
            true => Found::Told(text),
            false => Found::Nothing(text, end),
        }
    }
}

/// An event that is an object with something in it, with the ID of its room.
fn in_room(room: &RoomId, event: &str) -> String {
    let mut out = String::from("{\"room_id\":");
    write_string(&mut out, room.as_str());
    out.push(',');
    out.push_str(event.strip_prefix('{').unwrap_or(event));
    out
}
