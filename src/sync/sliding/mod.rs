//! Simplified sliding sync: the rooms that a client has in its window, and what is new in them.
//!
//! A request names parts of the user's rooms by activity ([`lists`]) and what it wants of each. What a
//! connection was told is remembered in memory ([`connections`]); from that, [`room`] and [`besides`] tell the
//! rest. The parts of an answer are made by the same functions as those of `/sync`.
//!
//! Spec: MSC4186

mod besides;
mod connections;
mod lists;
pub mod request;
mod room;
mod roster;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

pub use self::request::Request;
use self::{
    connections::{Connections, Name, Told},
    lists::{Match, Matches},
    roster::Rosters,
};
use super::{
    Found, Look, Reader, Sync, devices, is_news,
    lazy::{Members, Stream},
    places::Place,
    wait,
};
use crate::{
    e2ee::inbox,
    error::Result,
    protocol::canonical::write_string,
    rooms::token::SyncToken,
    store::{Position, schema::RoomNo},
};

/// What sliding sync keeps in memory.
#[derive(Default)]
pub struct Memory {
    connections: Connections,
    rosters: Rosters,
}

/// Answers a request, at once or when there are news or the time is over.
///
/// Errors: 400 `M_UNKNOWN_POS` for a `pos` that is not remembered.
pub async fn answer(sync: Arc<Sync>, reader: Reader, request: Request) -> Result<String> {
    let store = &sync.rooms.store;
    let name: Name = (reader.number, reader.device.clone(), request.connection.clone());
    let told = sync.sliding.connections.find(&name, request.pos.as_deref())?;
    if request.extensions.to_device.enabled == Some(true) {
        // With this token the device got them.
        let through = besides::inbox_position(store, request.extensions.to_device.since.as_deref());
        inbox::acknowledge(store, reader.number, reader.device.as_str(), through)?;
    }
    let first = told.now.is_none();
    let timeout = if first { Duration::ZERO } else { request.timeout };
    let heavy = first || told.request != request.fingerprint;
    // A change of these is news as well, but no row says when it happened.
    let supply = devices::supply(store, &reader)?;
    let number = sync.sliding.connections.next();
    let turn = Turn { sync: Arc::clone(&sync), reader: reader.clone(), name, number, request, told, supply };
    let turn = Arc::new(turn);
    wait(&sync, &reader, None, timeout, heavy, move |_| turn.look()).await
}

/// One request on a connection.
struct Turn {
    sync: Arc<Sync>,
    reader: Reader,
    name: Name,
    /// The number of the answer, however often it is looked for.
    number: u64,
    request: Request,
    told: Told,
    supply: String,
}

impl Turn {
    fn look(&self) -> Result<Found> {
        let Self { sync, reader, request, told, .. } = self;
        let store = &sync.rooms.store;
        let now = SyncToken::now(store);
        let asks_the_same = told.request == request.fingerprint;
        if told.now.is_some() && asks_the_same && !is_news(store, reader, told.now) && !self.has_messages(now)? {
            let next = Told { now: Some(now), ..told.clone() };
            return Ok(Found::Nothing(self.write(next, "", "{}"), now));
        }
        let look = Look::new(sync, reader, now)?;
        let roster = sync.sliding.rosters.of(reader.number);
        let mut roster = roster.lock();
        if let Err(position) = roster.refresh(&look)? {
            return Ok(Found::Behind(position));
        }
        let matches = Matches::find(&look, request, &mut roster, told)?;
        let mut places = BTreeMap::new();
        for room in matches.rooms.keys() {
            if let Some(entry) = roster.get(*room) {
                places.insert(*room, Place { room: *room, id: entry.id.clone(), row: entry.row.clone() });
            }
        }
        drop(roster);
        let mut next = self.next(now, &matches);
        let (rooms, members) = self.rooms(&look, &matches, &places, &mut next)?;
        let ask = besides::Ask { look: &look, request, matches: &matches, places: &places, told };
        let besides = ask.write(&self.supply)?;
        next.covered = besides.covered;
        if told.now.is_some() && asks_the_same && rooms.is_empty() && !besides.news {
            return Ok(Found::Nothing(self.write(next, "", "{}"), now));
        }
        sync.sent.note(&self.stream(), &members, now.position, told.now.is_none());
        Ok(Found::Told(self.write(next, &rooms, &besides.text)))
    }

    /// The rooms in which there is news, as JSON without braces; `next` learns what was told.
    fn rooms(
        &self,
        look: &Look<'_>,
        matches: &Matches<'_>,
        places: &BTreeMap<RoomNo, Place>,
        next: &mut Told,
    ) -> Result<(String, Members)> {
        let (request, told) = (&self.request, &self.told);
        let stream = self.stream();
        let (mut out, mut members) = (String::new(), Members::default());
        for (number, wanted) in &matches.rooms {
            let Some(place) = places.get(number) else { continue };
            let ask = room::Ask {
                look,
                shape: request.shape,
                stream: &stream,
                since: told.now.map(|now| now.position),
                place,
                wanted,
                told: told.rooms.get(number),
                direct: matches.direct.contains(place.id.as_str()),
            };
            if !self.may_have_news(&ask, wanted) {
                continue;
            }
            if let Some(text) = ask.write(&mut members)? {
                if !out.is_empty() {
                    out.push(',');
                }
                room::write_id(&mut out, place);
                out.push_str(&text);
            }
            next.rooms.insert(*number, room::remember(&ask));
        }
        Ok((out, members))
    }

    fn may_have_news(&self, ask: &room::Ask<'_>, wanted: &Match<'_>) -> bool {
        ask.told.is_none_or(|told| {
            let newest = self.sync.rooms.store.wakers().newest_in(ask.place.room);
            let same = Arc::ptr_eq(&told.config, &wanted.config) || *told.config == *wanted.config;
            newest > told.at || !same || told.direct != ask.direct
        })
    }

    /// Whether messages wait that the client does not have.
    fn has_messages(&self, now: SyncToken) -> Result<bool> {
        let wanted = &self.request.extensions.to_device;
        if wanted.enabled != Some(true) {
            return Ok(false);
        }
        let store = &self.sync.rooms.store;
        let from = besides::inbox_position(store, wanted.since.as_deref());
        let batch = inbox::read(store, self.reader.number, self.reader.device.as_str(), from, now.position, 1)?;
        Ok(!batch.events.is_empty())
    }

    /// What the client will have been told, apart from the rooms.
    fn next(&self, now: SyncToken, matches: &Matches<'_>) -> Told {
        let told = &self.told;
        let mut rooms = told.rooms.clone();
        let mut matched = Arc::clone(&told.matched);
        if !matched.iter().eq(matches.rooms.keys()) {
            let at = told.now.map_or((Position(0), 0), |now| (now.position, now.live));
            for gone in matched.iter().filter(|room| !matches.rooms.contains_key(room)) {
                if let Some(room) = rooms.get_mut(gone) {
                    (room.besides, room.live) = at;
                }
            }
            matched = Arc::new(matches.rooms.keys().copied().collect::<BTreeSet<_>>());
        }
        let counts = matches.counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let request = self.request.fingerprint;
        let configs = matches.configs.clone();
        Told { now: Some(now), rooms, matched, configs, covered: told.covered.clone(), request, counts }
    }

    /// Writes the answer and remembers that it was given.
    fn write(&self, told: Told, rooms: &str, besides: &str) -> String {
        let now = told.now.unwrap_or_else(|| SyncToken::now(&self.sync.rooms.store));
        let mut out = format!("{{\"pos\":\"{now}~{}\"", self.number);
        if let Some(transaction) = &self.request.transaction {
            out.push_str(",\"txn_id\":");
            write_string(&mut out, transaction);
        }
        out.push_str(",\"lists\":{");
        for (at, (name, count)) in told.counts.iter().enumerate() {
            out.push_str(if at > 0 { "," } else { "" });
            write_string(&mut out, name);
            let _ = write!(out, ":{{\"count\":{count}}}");
        }
        let _ = write!(out, "}},\"rooms\":{{{rooms}}},\"extensions\":{besides}}}");
        self.sync.sliding.connections.keep(&self.name, self.number, told);
        out
    }

    /// The stream of answers that these belong to, for lazy members.
    fn stream(&self) -> Stream {
        let (user, device, connection) = &self.name;
        // No filter of `/sync` has these numbers, as far as chance goes.
        (*user, device.clone(), xxhash_rust::xxh3::xxh3_64(format!("sliding {connection}").as_bytes()))
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
