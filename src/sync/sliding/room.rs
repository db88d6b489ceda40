//! One room in an answer of sliding sync.
//!
//! Spec: MSC4186 (Room results)

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use ruma::{OwnedUserId, events::room::member::MembershipState};

use super::{
    super::{
        Look,
        ephemeral::{self, comma},
        filter::EventFilter,
        lazy::{Members, Stream},
        places::Place,
        state::Changes,
        stripped,
        summary::Summary,
        timeline::{Timeline, Window},
    },
    connections,
    lists::Match,
    request::{Config, Shape},
};
use crate::{
    error::Result,
    protocol::{canonical::write_string, event::stripped_format},
    rooms::{cache::Known, state::State},
    store::{
        Position,
        schema::{EventNo, RoomNo, StateKeyNo, events::TIMELINE},
    },
};

/// Events that count as activity.
const BUMPS: [&str; 9] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.beacon_info",
    "org.matrix.msc3672.beacon_info",
];
/// How many events are looked at for the newest of these.
const MOST_LOOKED_AT: usize = 200;

/// A room in the middle of being told.
pub struct Ask<'a> {
    /// The look.
    pub look: &'a Look<'a>,
    /// Which shape.
    pub shape: Shape,
    /// The stream of answers for lazy members.
    pub stream: &'a Stream,
    /// The moment of the answer before.
    pub since: Option<Position>,
    /// The room.
    pub place: &'a Place,
    /// What is wanted of it.
    pub wanted: &'a Match<'a>,
    /// What was told of it.
    pub told: Option<&'a connections::Room>,
    /// Whether it is a direct chat.
    pub direct: bool,
}

impl Ask<'_> {
    /// The room as JSON; nothing if there is no news in it.
    pub fn write(&self, members: &mut Members) -> Result<Option<String>> {
        match self.place.row.membership {
            MembershipState::Join => self.joined(members),
            MembershipState::Invite | MembershipState::Knock => self.stripped(),
            _ => self.left(members),
        }
    }

    /// What is wanted that was not told before.
    fn config(&self) -> &Config {
        &self.wanted.config
    }

    fn joined(&self, members: &mut Members) -> Result<Option<String>> {
        let Self { look, place, .. } = *self;
        let until = look.now.position;
        let was_in = |told: &&connections::Room| told.membership == MembershipState::Join && place.row.since <= told.at;
        let told = self.told.filter(was_in);
        let expands = told.is_some_and(|told| self.config().limit > told.config.limit);
        let after = told.filter(|_| !expands).map(|told| told.at).unwrap_or_default();
        let timeline = self.timeline(Window { after, until, limit: self.config().limit, gap: false })?;
        let start = timeline.start(until);
        let changes = Changes::read(look, place.room, told.map(|told| told.at), start, until)?;
        let state = self.state(&changes, &timeline, told, members)?;
        let receipts = match told {
            Some(told) => ephemeral::receipts(look, place.room, told.at)?.own,
            None => true,
        };
        let facts = Facts::read(self, &changes, told.is_none())?;
        let direct = told.map(|told| told.direct) != Some(self.direct);
        let quiet = timeline.events.is_empty() && !timeline.limited && state.is_empty() && facts.is_empty();
        if quiet && !direct && !receipts && !expands && told.is_some() {
            return Ok(None);
        }
        let mut out = self.begin(told.is_none());
        facts.write(self.shape, &mut out);
        if direct && (self.direct || told.is_some()) {
            let _ = write!(out, ",\"is_dm\":{}", self.direct);
        }
        if expands {
            let name = if self.shape == Shape::V4 { "expanded_timeline" } else { "unstable_expanded_timeline" };
            let _ = write!(out, ",\"{name}\":true");
        }
        self.write_timeline(&timeline, &mut out)?;
        self.write_state(&state, &mut out)?;
        if self.shape == Shape::Unstable {
            let (count, _) = ephemeral::unread(look, place.room)?;
            let _ = write!(out, ",\"notification_count\":{},\"highlight_count\":{}", count.notify, count.highlight);
        }
        let _ = write!(out, ",\"bump_stamp\":{}}}", bump_stamp(look, place.room)?);
        Ok(Some(out))
    }

    /// A room to which the user is invited, or at which they knock.
    fn stripped(&self) -> Result<Option<String>> {
        let Self { look, place, .. } = *self;
        if self.told.is_some_and(|told| told.at >= place.row.since) {
            return Ok(None);
        }
        let mut out = self.begin(true);
        let name = if self.shape == Shape::V4 { "stripped_state" } else { "invite_state" };
        let mut events = String::new();
        stripped::write(look, place.room, &place.row, &mut events)?;
        let _ = write!(out, ",\"{name}\":[{events}]");
        if self.direct {
            out.push_str(",\"is_dm\":true");
        }
        let _ = write!(out, ",\"bump_stamp\":{}}}", place.row.since);
        Ok(Some(out))
    }

    /// A room that the user has left, up to the moment of leaving.
    fn left(&self, members: &mut Members) -> Result<Option<String>> {
        let Self { look, place, .. } = *self;
        let until = place.row.since;
        if self.told.is_some_and(|told| told.at >= until) {
            return Ok(None);
        }
        let told = self.told.filter(|told| told.membership == MembershipState::Join);
        let departure = place.departure(look)?;
        let was_in = departure.is_some();
        let after = told.map(|told| told.at).unwrap_or_default();
        let limit = self.config().limit.max(1);
        let mut timeline = self.timeline(Window { after, until, limit, gap: false })?;
        let mut state = Vec::new();
        match departure {
            Some(departure) => {
                let known = told.map(|told| told.at.min(departure.at));
                let changes = Changes::read(look, place.room, known, timeline.start(departure.at), departure.at)?;
                let changes = match look.rooms.state_after(&departure.event)? {
                    Some(state) => changes.with_state(state),
                    None => changes,
                };
                state = self.state(&changes, &timeline, told, members)?;
            }
            None => {
                timeline.events.retain(|(_, known)| known.number == place.event());
                timeline.limited = false;
            }
        }
        // In this shape a client knows only by this that the user has left.
        let own = look.rooms.known(place.event())?;
        if own.event.membership().as_ref() != Some(&place.row.membership) {
            return Ok(Some(self.left_outside(&own)));
        }
        state.retain(|change| change.known.as_ref().is_none_or(|known| known.event.key() != own.event.key()));
        let stripped = stripped_format(&own.event);
        state.push(Change { kind: String::new(), state_key: String::new(), known: Some(own) });
        let mut out = self.begin(told.is_none());
        if !was_in && self.shape == Shape::V4 {
            // How an invite or a knock ended.
            let _ = write!(out, ",\"stripped_state\":[{stripped}]");
        }
        self.write_timeline(&timeline, &mut out)?;
        self.write_state(&state, &mut out)?;
        let _ = write!(out, ",\"bump_stamp\":{}}}", place.row.since);
        Ok(Some(out))
    }

    /// A room that this server is not in, and in which nobody has written down that the user is gone.
    fn left_outside(&self, invite: &Known) -> String {
        let mut out = self.begin(true);
        out.push_str(",\"required_state\":[{\"type\":\"m.room.member\",\"state_key\":");
        write_string(&mut out, self.look.reader.user.as_str());
        out.push_str(",\"sender\":");
        write_string(&mut out, self.look.reader.user.as_str());
        out.push_str(",\"event_id\":");
        write_string(&mut out, invite.event.event_id.as_str());
        let (ts, since) = (invite.event.origin_server_ts, self.place.row.since);
        let _ = write!(
            out,
            ",\"origin_server_ts\":{ts},\"content\":{{\"membership\":\"leave\"}}}}],\"bump_stamp\":{since}}}"
        );
        out
    }

    fn begin(&self, initial: bool) -> String {
        let mut out = format!("{{\"initial\":{initial}");
        if self.shape == Shape::V4 {
            out.push_str(",\"membership\":");
            write_string(&mut out, self.place.row.membership.as_str());
            if !self.wanted.lists.is_empty() {
                out.push_str(",\"lists\":[");
                let mut first = true;
                for list in &self.wanted.lists {
                    comma(&mut out, &mut first);
                    write_string(&mut out, list);
                }
                out.push(']');
            }
        }
        out
    }

    fn timeline(&self, window: Window) -> Result<Timeline> {
        let all = EventFilter::default();
        let own = Some(self.place.event());
        Timeline::read(self.look, self.place.room, window, own, |known| all.wants(self.look.rooms, known))
    }

    fn write_timeline(&self, timeline: &Timeline, out: &mut String) -> Result<()> {
        if timeline.events.is_empty() && !timeline.limited {
            return Ok(());
        }
        out.push_str(",\"timeline\":[");
        let mut first = true;
        for (_, known) in &timeline.events {
            comma(out, &mut first);
            out.push_str(&self.look.viewer.event(known, false)?);
        }
        let live = timeline.events.iter().filter(|(at, _)| self.since.is_some_and(|since| *at > since)).count();
        let _ = write!(out, "],\"limited\":{},\"num_live\":{live}", timeline.limited);
        if let Some(cursor) = timeline.prev_batch {
            let _ = write!(out, ",\"prev_batch\":\"{cursor}\"");
        }
        Ok(())
    }

    fn write_state(&self, state: &[Change], out: &mut String) -> Result<()> {
        let mut first = true;
        for change in state {
            let text = match &change.known {
                Some(known) => self.look.viewer.state_event(known, false)?,
                // Only the accepted shape can say that something is gone.
                None if self.shape == Shape::V4 => stub(change),
                None => continue,
            };
            out.push_str(if std::mem::take(&mut first) { ",\"required_state\":[" } else { "," });
            out.push_str(&text);
        }
        if !first {
            out.push(']');
        }
        Ok(())
    }

    /// The state events that are wanted and news.
    fn state(
        &self,
        changes: &Changes<'_>,
        timeline: &Timeline,
        told: Option<&connections::Room>,
        members: &mut Members,
    ) -> Result<Vec<Change>> {
        let Self { look, place, .. } = *self;
        let me = look.reader.user.as_str();
        let mut chosen = BTreeMap::<StateKeyNo, Option<EventNo>>::new();
        match told {
            None => self.required(changes.state()?, None, &mut chosen)?,
            Some(told) => {
                if *told.config != *self.wanted.config {
                    self.required(changes.state()?, Some(&told.config), &mut chosen)?;
                }
                for (key, event) in changes.ends() {
                    let lazily = key.is_member() && self.config().lazy() && !timeline.limited;
                    let Some((kind, state_key)) = self.key(key, event)? else { continue };
                    if lazily || self.config().wants(&kind, &state_key, me) {
                        chosen.insert(key, event);
                    }
                }
            }
        }
        // After a gap clients forget the members that they were sent: they may have changed in it.
        let begins = told.is_none() || timeline.limited;
        if self.config().lazy() {
            for user in occurring(timeline) {
                let Some(key) = look.rooms.state_key("m.room.member", user)? else { continue };
                let has =
                    !begins && self.since.is_some_and(|since| look.sync.sent.has(self.stream, place.room, key, since));
                if !has && !chosen.contains_key(&key) {
                    chosen.extend(changes.at_end(key)?.map(|event| (key, Some(event))));
                }
            }
        }
        members.begun.extend(Some(place.room).filter(|_| begins));
        members.keys.extend(chosen.keys().filter(|key| key.is_member()).map(|key| (place.room, *key)));
        let mut state = Vec::with_capacity(chosen.len());
        for (key, event) in chosen {
            let known = event.map(|event| look.rooms.known(event)).transpose()?;
            let (kind, state_key) = match &known {
                Some(_) => Default::default(),
                None => self.key(key, None)?.unwrap_or_default(),
            };
            state.push(Change { kind, state_key, known });
        }
        Ok(state)
    }

    /// All state that is wanted, and was not wanted `before`.
    fn required(
        &self,
        state: &State,
        before: Option<&Config>,
        chosen: &mut BTreeMap<StateKeyNo, Option<EventNo>>,
    ) -> Result<()> {
        let look = self.look;
        let me = look.reader.user.as_str();
        let elements = || self.config().required.iter().flat_map(|required| &required.include);
        let new = |kind: &str, key: &str| {
            self.config().wants(kind, key, me) && !before.is_some_and(|before| before.wants(kind, key, me))
        };
        for element in elements() {
            let (Some(kind), Some(key)) = (&element.kind, &element.state_key) else { continue };
            let key = if key == "$ME" { me } else { key };
            if new(kind, key)
                && let Some(number) = look.rooms.state_key(kind, key)?
            {
                chosen.extend(state.get(number).map(|event| (number, Some(event))));
            }
        }
        let open = |members: bool| {
            elements().any(|element| {
                let any = element.kind.is_none() || element.state_key.is_none();
                any && element.kind.as_deref().is_none_or(|kind| (kind == "m.room.member") == members)
            })
        };
        let (others, all_members) = (open(false), open(true));
        if !others && !all_members {
            return Ok(());
        }
        for (key, event) in state.iter().filter(|(key, _)| if key.is_member() { all_members } else { others }) {
            let known = look.rooms.known(event)?;
            if known.event.key().is_some_and(|(kind, state_key)| new(kind, state_key)) {
                chosen.insert(key, Some(event));
            }
        }
        Ok(())
    }

    /// Type and state key behind a number.
    fn key(&self, key: StateKeyNo, event: Option<EventNo>) -> Result<Option<(String, String)>> {
        match event {
            Some(event) => {
                let known = self.look.rooms.known(event)?;
                Ok(known.event.key().map(|(kind, key)| (kind.to_owned(), key.to_owned())))
            }
            None => Ok(self.look.store().get(crate::store::schema::numbers::STATE_KEYS, &key)?),
        }
    }
}

/// A state event, or the place where there is none any more.
struct Change {
    kind: String,
    state_key: String,
    known: Option<Arc<Known>>,
}

fn stub(change: &Change) -> String {
    let mut out = String::from("{\"type\":");
    write_string(&mut out, &change.kind);
    out.push_str(",\"state_key\":");
    write_string(&mut out, &change.state_key);
    out.push('}');
    out
}

/// Who occurs in a timeline: who sends, and whose membership changes.
fn occurring(timeline: &Timeline) -> BTreeSet<&str> {
    let mut users = BTreeSet::new();
    for (_, known) in &timeline.events {
        users.insert(known.event.sender.as_str());
        if let ("m.room.member", Some(user)) = (known.event.kind.as_str(), &known.event.state_key) {
            users.insert(user);
        }
    }
    users
}

/// The position of the newest event that counts as activity.
fn bump_stamp(look: &Look<'_>, room: RoomNo) -> Result<u64> {
    let mut oldest = 0;
    for row in look.store().scan(TIMELINE, &(room,)).rev().take(MOST_LOOKED_AT) {
        let ((_, at), number) = row?;
        oldest = at.0;
        if BUMPS.contains(&look.rooms.known(number)?.event.kind.as_str()) {
            break;
        }
    }
    Ok(oldest)
}

/// What is told of a room besides events: each only if it is news. What is gone is told as well.
#[derive(Default)]
struct Facts {
    name: Option<Option<String>>,
    avatar: Option<Option<String>>,
    heroes: Option<Vec<Hero>>,
    counts: Option<(u64, u64)>,
}

struct Hero {
    user: OwnedUserId,
    name: Option<String>,
    avatar: Option<String>,
}

impl Facts {
    fn read(ask: &Ask<'_>, changes: &Changes<'_>, initial: bool) -> Result<Self> {
        let look = ask.look;
        let mut facts = Self::default();
        for (kind, field, fact) in
            [("m.room.name", "name", &mut facts.name), ("m.room.avatar", "url", &mut facts.avatar)]
        {
            let key = look.rooms.state_key(kind, "")?;
            if initial || changes.any(|changed| Some(changed) == key) {
                let event = key.map(|key| changes.at_end(key)).transpose()?.flatten();
                let known = event.map(|event| look.rooms.known(event)).transpose()?;
                let text = known.and_then(|known| known.event.content_field::<String>(field));
                *fact = Some(text.filter(|text| !text.is_empty()));
            }
        }
        if initial || Summary::changed(look, changes)? {
            let summary = Summary::read(look, ask.place.room, changes.state()?)?;
            facts.counts = Some((summary.joined, summary.invited));
            facts.heroes = match summary.heroes {
                Some(heroes) => Some(heroes.into_iter().map(|user| hero(look, changes, user)).collect::<Result<_>>()?),
                None => None,
            };
        }
        Ok(facts)
    }

    fn is_empty(&self) -> bool {
        self.name.is_none() && self.avatar.is_none() && self.counts.is_none()
    }

    fn write(&self, shape: Shape, out: &mut String) {
        for (field, fact) in [("name", &self.name), ("avatar", &self.avatar)] {
            match fact {
                Some(Some(text)) => {
                    let _ = write!(out, ",\"{field}\":");
                    write_string(out, text);
                }
                // Clients of the unstable shape read `null` for an avatar only.
                Some(None) if shape == Shape::V4 || field == "avatar" => {
                    let _ = write!(out, ",\"{field}\":null");
                }
                _ => {}
            }
        }
        if let Some(heroes) = &self.heroes {
            out.push_str(",\"heroes\":[");
            let mut first = true;
            for hero in heroes {
                comma(out, &mut first);
                out.push_str("{\"user_id\":");
                write_string(out, hero.user.as_str());
                for (field, text) in [("displayname", &hero.name), ("avatar_url", &hero.avatar)] {
                    if let Some(text) = text {
                        let _ = write!(out, ",\"{field}\":");
                        write_string(out, text);
                    }
                }
                out.push('}');
            }
            out.push(']');
        }
        if let Some((joined, invited)) = self.counts {
            let _ = write!(out, ",\"joined_count\":{joined},\"invited_count\":{invited}");
        }
    }
}

fn hero(look: &Look<'_>, changes: &Changes<'_>, user: OwnedUserId) -> Result<Hero> {
    let known = look.rooms.in_state(changes.state()?, "m.room.member", user.as_str())?;
    let field = |name: &str| known.as_ref().and_then(|known| known.event.content_field::<String>(name));
    Ok(Hero { name: field("displayname"), avatar: field("avatar_url"), user })
}

/// The ID of a place, quoted, before what is told of it.
pub fn write_id(out: &mut String, place: &Place) {
    write_string(out, place.id.as_str());
    out.push(':');
}

/// Where a told room stands from now on.
pub fn remember(ask: &Ask<'_>) -> connections::Room {
    let position: Position = ask.look.now.position;
    connections::Room {
        at: position,
        besides: ask.told.map_or(Position(0), |told| told.besides),
        live: ask.told.map_or(0, |told| told.live),
        config: Arc::clone(&ask.wanted.config),
        membership: ask.place.row.membership.clone(),
        direct: ask.direct,
    }
}
