//! Answers in the shape of `/sync`, written as JSON text.
//!
//! Spec: client-server-api#get_matrixclientv3sync

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use ruma::events::room::member::MembershipState;

use super::{
    Found, Look, Reader, Sync, account, devices,
    filter::{Filter, Format},
    is_news,
    lazy::Members,
    places::{self, Place, Places},
    presence,
    room::{self, Ask},
    stripped, wait,
};
use crate::{
    error::{Error, Result},
    protocol::canonical::write_string,
    rooms::{cache::Known, token::SyncToken},
    store::{
        Position,
        schema::{RoomNo, UserNo, users::GLOBAL},
    },
};

/// A reader who missed more than this many positions is answered on a thread of its own.
const LONG_AWAY: u64 = 1_000;

/// Whether state is told up to the start of the timeline or up to its end, and by what name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateForm {
    /// `state`: up to the start.
    #[default]
    Before,
    /// `state_after`: up to the end.
    After,
    /// The same by the name that it had as a proposal.
    UnstableAfter,
}

impl StateForm {
    /// The name of the field.
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::Before => "state",
            Self::After => "state_after",
            Self::UnstableAfter => "org.matrix.msc4222.state_after",
        }
    }
}

/// What is asked.
#[derive(Debug, Default)]
pub struct Request {
    /// What the reader has; nothing for an answer from the beginning.
    pub since: Option<SyncToken>,
    /// What the reader wants to hear of.
    pub filter: Filter,
    /// Whether all state is told again.
    pub full_state: bool,
    /// Which state.
    pub form: StateForm,
    /// How long to wait for news.
    pub timeout: Duration,
}

/// Reads the `since` of a request.
///
/// Errors: 400 `M_INVALID_PARAM` for what never was a token of this server.
pub fn since(text: &str) -> Result<Option<SyncToken>> {
    if text.is_empty() {
        return Ok(None);
    }
    match SyncToken::parse(text) {
        Some(token) => Ok(Some(token)),
        None => Err(Error::invalid_param("since is not a token of this server; leave it out to begin again")),
    }
}

/// Answers a `/sync`, at once or when there are news or the time is over.
pub async fn answer(sync: Arc<Sync>, reader: Reader, request: Request) -> Result<String> {
    let store = &sync.rooms.store;
    let known = request.since.filter(|since| since.is_of(store));
    let timeout = if request.full_state || known.is_none() { Duration::ZERO } else { request.timeout };
    let away = known.is_none_or(|since| store.position().0 - since.position.0 > LONG_AWAY);
    let heavy = request.full_state || (away && is_news(store, &reader, known));
    // A change of these is news as well, but no row says when it happened.
    let supply: Arc<str> = devices::supply(store, &reader)?.into();
    let (held, who, request) = (Arc::clone(&sync), reader.clone(), Arc::new(request));
    wait(&sync, &reader, known, timeout, heavy, move |since| look(&held, &who, &request, since, &supply)).await
}

fn look(sync: &Sync, reader: &Reader, request: &Request, since: Option<SyncToken>, told: &str) -> Result<Found> {
    let store = &sync.rooms.store;
    let mut now = SyncToken::now(store);
    if !request.full_state && !is_news(store, reader, since) {
        return Ok(Found::Nothing(write_nothing(now, told), now));
    }
    let supply = devices::supply(store, reader)?;
    // Whoever comes with a token of another store has keys that may be out of date: everybody's.
    let lists = since.map(|since| since.position).or(request.since.map(|_| Position(0)));
    let news = devices::news(store, reader, since.map(|since| since.inbox), lists, &mut now)?;
    let look = Look::new(sync, reader, now)?;
    let filter = &request.filter;
    let ask = Ask { look: &look, filter, since, full: request.full_state, form: request.form };
    let mut data = account::data(&look, since.map(|since| since.position))?;
    let global = data.remove(&GLOBAL).unwrap_or_default();
    let Sections { rooms, members, newcomers } = match sections(&ask, data)? {
        Ok(sections) => sections,
        Err(position) => return Ok(Found::Behind(position)),
    };
    let mut out = begin(now);
    let mut told = since.is_none() || request.full_state || !news.is_empty() || supply != told;
    out.push_str(&supply);
    out.push_str(&news);
    if rooms.iter().any(|(_, rooms)| !rooms.is_empty()) {
        told = true;
        write_rooms(&mut out, &rooms);
    }
    let people = presence::events(&ask, &newcomers)?;
    if !people.is_empty() {
        told = true;
        let _ = write!(out, ",\"presence\":{{\"events\":[{}]}}", people.join(","));
    }
    let mut events = String::new();
    if account::write(&mut events, &global, &filter.account_data) {
        told = true;
        let _ = write!(out, ",\"account_data\":{{\"events\":[{events}]}}");
    }
    out.push('}');
    if !told {
        return Ok(Found::Nothing(write_nothing(now, &supply), now));
    }
    if filter.room.state.lazy_load_members {
        sync.sent.note(&ask.stream(), &members, now.position, since.is_none());
    }
    Ok(Found::Told(out))
}

fn begin(now: SyncToken) -> String {
    format!("{{\"next_batch\":\"{now}\"")
}

fn write_nothing(now: SyncToken, supply: &str) -> String {
    let mut out = begin(now);
    out.push_str(supply);
    out.push('}');
    out
}

fn write_rooms(out: &mut String, sections: &[(&str, String)]) {
    out.push_str(",\"rooms\":{");
    let told = sections.iter().filter(|(_, rooms)| !rooms.is_empty());
    for (at, (name, rooms)) in told.enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(out, "{comma}\"{name}\":{{{rooms}}}");
    }
    out.push('}');
}

/// The rooms of an answer.
struct Sections {
    /// By the names of the sections: `"room ID":{…}` one after the other.
    rooms: Vec<(&'static str, String)>,
    /// The member events among them.
    members: Members,
    /// The people whom the reader did not see before.
    newcomers: BTreeSet<UserNo>,
}

/// Writes all rooms of which the reader has to hear; the position to wait for if a row is ahead.
fn sections(ask: &Ask<'_>, mut data: BTreeMap<RoomNo, account::Data>) -> Result<Result<Sections, Position>> {
    let look = ask.look;
    let typing = match ask.since {
        Some(since) => look.store().live().changed_since(since.live_now(look.store())),
        None => Vec::new(),
    };
    // After a restart nobody knows any more where people were typing: then it is all rooms.
    let from = ask.since.map(|since| since.position).filter(|_| !ask.full && !ask.other_boot());
    let places = match places::find(look, from, typing.into_iter().chain(data.keys().copied()))? {
        Places::Of(places) => places,
        Places::Behind(position) => return Ok(Err(position)),
    };
    let (mut join, mut invite, mut knock, mut leave) = (String::new(), String::new(), String::new(), String::new());
    let mut members = Members::default();
    for place in &places {
        if !ask.filter.room.wants_room(place.id.as_str()) {
            continue;
        }
        let data = data.remove(&place.room).unwrap_or_default();
        let (section, room) = match place.row.membership {
            MembershipState::Join => (&mut join, room::joined(ask, place, data, &mut members)?),
            MembershipState::Invite => (&mut invite, invited(ask, place, "invite_state")?),
            MembershipState::Knock => (&mut knock, invited(ask, place, "knock_state")?),
            _ => (&mut leave, room::left(ask, place, data, &mut members)?),
        };
        let Some(room) = room else { continue };
        if !section.is_empty() {
            section.push(',');
        }
        write_string(section, place.id.as_str());
        section.push(':');
        section.push_str(&room);
    }
    let rooms = vec![("join", join), ("invite", invite), ("knock", knock), ("leave", leave)];
    let newcomers = presence::newcomers(ask, &places)?;
    Ok(Ok(Sections { rooms, members, newcomers }))
}

/// A room to which the reader is invited, or at which they knock, if that is news.
fn invited(ask: &Ask<'_>, place: &Place, field: &str) -> Result<Option<String>> {
    if !place.is_new(ask.since.map(|since| since.position).filter(|_| !ask.full)) {
        return Ok(None);
    }
    let sender = &ask.look.rooms.known(place.event())?.event.sender;
    if field == "invite_state" && ask.look.ignored.contains(sender) {
        return Ok(None);
    }
    let mut events = String::new();
    stripped::write(ask.look, place.room, &place.row, &mut events)?;
    Ok(Some(format!("{{\"{field}\":{{\"events\":[{events}]}}}}")))
}

/// An event of a timeline in the format that the reader asked for.
pub(super) fn event(look: &Look<'_>, filter: &Filter, known: &Known) -> Result<String> {
    match filter.event_format {
        Format::Federation => Ok(look.viewer.readable(known)?.json().to_owned()),
        Format::Client => Ok(filter.reduce(look.viewer.event(known, false)?)),
    }
}

/// The same for an event in a list of state.
pub(super) fn state_event(look: &Look<'_>, filter: &Filter, known: &Known) -> Result<String> {
    match filter.event_format {
        Format::Federation => Ok(known.event.json().to_owned()),
        Format::Client => Ok(filter.reduce(look.viewer.state_event(known, false)?)),
    }
}
