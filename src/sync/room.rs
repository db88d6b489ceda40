//! One joined or left room in an answer of `/sync`.
//!
//! Spec: client-server-api#get_matrixclientv3sync (`rooms`)

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use super::{
    Look,
    account::{self, Data},
    ephemeral::{self, comma},
    filter::Filter,
    lazy::{Members, Stream},
    places::Place,
    state::{Changes, Entries},
    summary::Summary,
    timeline::{Timeline, Window},
    v3::{StateForm, event, state_event},
};
use crate::{
    error::Result,
    rooms::{cache::Known, partial, token::SyncToken},
    store::{
        Position,
        schema::{EventNo, RoomNo, StateKeyNo, events::STATE_DELTAS},
    },
};

/// A request in the middle of being answered.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The look.
    pub look: &'a Look<'a>,
    /// What is wanted.
    pub filter: &'a Filter,
    /// What the reader has.
    pub since: Option<SyncToken>,
    /// Whether all state is told again.
    pub full: bool,
    /// Which state.
    pub form: StateForm,
}

impl Ask<'_> {
    /// The stream of answers that this one belongs to.
    pub fn stream(&self) -> Stream {
        (self.look.reader.number, self.look.reader.device.clone(), self.filter.fingerprint)
    }

    /// Whether the reader comes from before a restart.
    pub fn other_boot(&self) -> bool {
        self.since.is_some_and(|since| since.boot != self.look.now.boot)
    }

    fn position(&self) -> Option<Position> {
        self.since.map(|since| since.position)
    }

    fn timeline(&self, place: &Place, window: Window) -> Result<Timeline> {
        let filter = &self.filter.room.timeline;
        if !filter.wants_room(place.id.as_str()) {
            return Ok(Timeline::default());
        }
        let own = Some(place.event());
        Timeline::read(self.look, place.room, window, own, |known| filter.wants(self.look.rooms, known))
    }
}

impl<'a> Ask<'a> {
    /// Reads the changes of state around a timeline so that both lead to the same.
    ///
    /// Where state is told as it was before the timeline, a state event there must not be older than what
    /// stands at the end: the change after it may be one that the reader may not see or does not want, or
    /// one by resolution. Then the timeline begins after that event.
    fn agree(
        &self,
        room: RoomNo,
        timeline: &mut Timeline,
        read: impl Fn(&Timeline) -> Result<Changes<'a>>,
    ) -> Result<Changes<'a>> {
        let changes = read(timeline)?;
        if self.form != StateForm::Before {
            return Ok(changes);
        }
        let mut stale = None;
        for (key, (at, event)) in timeline.newest(self.look)? {
            if changes.at_end(key)? != Some(event) {
                stale = stale.max(Some(at));
            }
        }
        let Some(stale) = stale else { return Ok(changes) };
        timeline.cut(self.look, room, stale)?;
        read(timeline)
    }
}

/// A room that the reader is in; nothing if there is no news in it.
pub fn joined(ask: &Ask<'_>, place: &Place, data: Data, members: &mut Members) -> Result<Option<String>> {
    let look = ask.look;
    let (until, since) = (look.now.position, ask.position());
    let lazy = ask.filter.room.state.lazy_load_members;
    let (is_whole, arrived) = partial::arrived(look.rooms, place.room)?;
    if !is_whole && !lazy {
        // Whoever wants to be told of everybody hears of the room when everybody is known.
        return Ok(None);
    }
    let arrived = arrived.is_some_and(|at| at <= until && since.is_some_and(|since| at > since));
    let fresh = place.is_new(since) || (arrived && !lazy);
    // Who was here before has a part of the timeline already; nothing of it is told again.
    let returns = fresh && since.is_some() && place.has_past(look)?;
    let after = since.filter(|_| !fresh || returns).unwrap_or_default();
    let limit = ask.filter.room.limit();
    let mut timeline = ask.timeline(place, Window { after, until, limit, gap: returns })?;
    let whole = fresh || ask.full;
    let read =
        |timeline: &Timeline| Changes::read(look, place.room, since.filter(|_| !whole), timeline.start(until), until);
    let changes = ask.agree(place.room, &mut timeline, read)?;
    let summary = match whole || arrived || Summary::changed(look, &changes)? {
        true => Some(Summary::read(look, place.room, changes.state()?)?),
        false => None,
    };
    let heroes = summary.as_ref().and_then(|summary| summary.heroes.as_deref()).unwrap_or_default();
    let mut wanted: BTreeSet<&str> = heroes.iter().map(|hero| hero.as_str()).collect();
    wanted.extend(timeline.events.iter().map(|(_, known)| known.event.sender.as_str()));
    // Who comes back may believe what members were when they went.
    let departure = if returns { place.departure(look)? } else { None };
    let moved = match departure {
        Some(departure) => moved(look, place.room, departure.at.min(after), until)?,
        None => BTreeSet::new(),
    };
    let choice = Choice { ask, place, changes: &changes, whole, moved };
    let mut state = choice.select(&timeline, wanted, members)?;
    if !is_whole {
        state.extend(claimed(ask, &timeline, &changes)?);
    }
    let (receipts, ephemeral) = ephemeral(ask, place, fresh)?;
    let data = if fresh && since.is_some() { account::of_room(look, place.room)? } else { data };
    let account_data = write_account_data(ask, place, &data);
    let quiet = timeline.events.is_empty() && !timeline.limited && state.is_empty() && summary.is_none();
    if quiet && !whole && ephemeral.is_empty() && account_data.is_empty() && !receipts {
        return Ok(None);
    }
    let mut out = String::from("{");
    write_timeline(ask, &timeline, &mut out)?;
    write_state(ask, &state, &mut out)?;
    let _ = write!(out, ",\"account_data\":{{\"events\":[{account_data}]}},\"ephemeral\":{{\"events\":[{ephemeral}]}}");
    let by_thread = ask.filter.room.timeline.unread_thread_notifications;
    ephemeral::write_unread(look, place.room, by_thread, &mut out)?;
    out.push_str(",\"summary\":");
    match summary {
        Some(summary) => summary.write(&mut out),
        None => out.push_str("{}"),
    }
    out.push('}');
    Ok(Some(out))
}

/// A room that the reader has left, or out of which they were put, if that is news or they asked for all.
pub fn left(ask: &Ask<'_>, place: &Place, data: Data, members: &mut Members) -> Result<Option<String>> {
    let look = ask.look;
    let since = ask.position();
    let asked = ask.filter.room.include_leave && !place.row.forgotten;
    let news = since.is_some() && place.is_new(since);
    if !news && !(asked && (since.is_none() || ask.full)) {
        return Ok(None);
    }
    let until = place.row.since;
    let limit = ask.filter.room.limit();
    let after = since.unwrap_or_default().min(until);
    let departure = place.departure(look)?;
    // Whether the reader was in the room when they last heard of it.
    let was_in = departure.as_ref().is_some_and(|departure| departure.joined <= after);
    let gap = departure.is_some() && !was_in;
    let mut timeline = ask.timeline(place, Window { after, until, limit, gap })?;
    if departure.is_none() {
        // Nothing of a room in which the reader never was, but how the invite or knock ended.
        timeline.events.retain(|(_, known)| known.number == place.event());
        timeline.limited = false;
    }
    let mut state = Vec::new();
    if let Some(departure) = departure.filter(|departure| ask.full || departure.at > after) {
        let whole = ask.full || !was_in;
        let known = since.filter(|_| !whole);
        let state_then = look.rooms.state_after(&departure.event)?;
        let changes = ask.agree(place.room, &mut timeline, |timeline| {
            let changes = Changes::read(look, place.room, known, timeline.start(departure.at), departure.at)?;
            Ok(match state_then.clone() {
                Some(state) => changes.with_state(state),
                None => changes,
            })
        })?;
        let wanted = timeline.events.iter().map(|(_, known)| known.event.sender.as_str()).collect();
        let choice = Choice { ask, place, changes: &changes, whole, moved: BTreeSet::new() };
        state = choice.select(&timeline, wanted, members)?;
    }
    let account_data = write_account_data(ask, place, &data);
    let mut out = String::from("{");
    write_timeline(ask, &timeline, &mut out)?;
    write_state(ask, &state, &mut out)?;
    let _ = write!(out, ",\"account_data\":{{\"events\":[{account_data}]}}}}");
    Ok(Some(out))
}

/// The member events of senders who are not known yet, as their own events name them.
fn claimed(ask: &Ask<'_>, timeline: &Timeline, changes: &Changes<'_>) -> Result<Vec<Arc<Known>>> {
    let rooms = ask.look.rooms;
    let mut claimed = BTreeMap::new();
    for (_, known) in &timeline.events {
        let sender = known.event.sender.as_str();
        let key = rooms.state_key("m.room.member", sender)?;
        if key.map(|key| changes.at_end(key)).transpose()?.flatten().is_none()
            && let Some(member) = partial::claimed_sender(rooms, known)?
        {
            claimed.insert(sender, member);
        }
    }
    Ok(claimed.into_values().collect())
}

/// The members who changed in a part of the log.
fn moved(look: &Look<'_>, room: RoomNo, after: Position, until: Position) -> Result<BTreeSet<StateKeyNo>> {
    let (from, to) = (Position(after.0.saturating_add(1)), Position(until.0.saturating_add(1)));
    let mut moved = BTreeSet::new();
    for row in look.store().range(STATE_DELTAS, &(room, from), &(room, to)) {
        let ((_, _, key), _) = row?;
        moved.extend(Some(key).filter(|key| key.is_member()));
    }
    Ok(moved)
}

/// Typing and receipts, and whether the reader has read something.
fn ephemeral(ask: &Ask<'_>, place: &Place, fresh: bool) -> Result<(bool, String)> {
    let look = ask.look;
    let filter = &ask.filter.room.ephemeral;
    let mut out = String::new();
    let known = ask.since.filter(|_| !fresh);
    let receipts = ephemeral::receipts(look, place.room, known.map(|since| since.position).unwrap_or_default())?;
    if !filter.wants_room(place.id.as_str()) {
        return Ok((receipts.own, out));
    }
    let mut first = true;
    if filter.wants_type("m.typing") {
        let seen = known.map_or(0, |since| since.live_now(look.store()));
        let corrects = !fresh && ask.other_boot();
        if let Some(typing) = ephemeral::typing(look, place.room, seen, corrects)? {
            comma(&mut out, &mut first);
            out.push_str(&typing);
        }
    }
    if filter.wants_type("m.receipt") {
        for event in receipts.events(look)? {
            comma(&mut out, &mut first);
            out.push_str(&event);
        }
    }
    Ok((receipts.own, out))
}

/// What the reader keeps about the room, without brackets.
fn write_account_data(ask: &Ask<'_>, place: &Place, data: &Data) -> String {
    let filter = &ask.filter.room.account_data;
    let mut out = String::new();
    if filter.wants_room(place.id.as_str()) {
        account::write(&mut out, data, filter);
    }
    out
}

fn write_timeline(ask: &Ask<'_>, timeline: &Timeline, out: &mut String) -> Result<()> {
    out.push_str("\"timeline\":{\"events\":[");
    let mut first = true;
    for (_, known) in &timeline.events {
        comma(out, &mut first);
        out.push_str(&event(ask.look, ask.filter, known)?);
    }
    let _ = write!(out, "],\"limited\":{}", timeline.limited);
    let _ = match (timeline.prev_batch, ask.since) {
        (Some(cursor), _) => write!(out, ",\"prev_batch\":\"{cursor}\""),
        (None, Some(since)) => write!(out, ",\"prev_batch\":\"{since}\""),
        (None, None) => write!(out, ",\"prev_batch\":\"{}\"", ask.look.now),
    };
    out.push('}');
    Ok(())
}

fn write_state(ask: &Ask<'_>, state: &[Arc<Known>], out: &mut String) -> Result<()> {
    let _ = write!(out, ",\"{}\":{{\"events\":[", ask.form.field());
    let mut first = true;
    for known in state {
        comma(out, &mut first);
        out.push_str(&state_event(ask.look, ask.filter, known)?);
    }
    out.push_str("]}");
    Ok(())
}

/// The choice of the state events of one room.
struct Choice<'a> {
    ask: &'a Ask<'a>,
    place: &'a Place,
    changes: &'a Changes<'a>,
    whole: bool,
    /// Members who changed without the reader hearing of it.
    moved: BTreeSet<StateKeyNo>,
}

impl Choice<'_> {
    /// The state events that the reader lacks and wants. `wanted` are the users who occur in the answer: with
    /// lazy loading, members come with it if they are among them or have changed.
    fn select<'b>(
        &'b self,
        timeline: &'b Timeline,
        mut wanted: BTreeSet<&'b str>,
        members: &mut Members,
    ) -> Result<Vec<Arc<Known>>> {
        let Self { ask, place, changes, whole, .. } = *self;
        let look = ask.look;
        let filter = &ask.filter.room.state;
        if !filter.wants_room(place.id.as_str()) {
            return Ok(Vec::new());
        }
        let shown = timeline.state_keys(look)?;
        let entries: Entries = match ask.form {
            StateForm::Before => changes.under(&shown)?,
            _ => changes.over()?,
        };
        let mut chosen: BTreeMap<StateKeyNo, _> = entries.into_iter().collect();
        if filter.lazy_load_members {
            if whole {
                wanted.insert(look.reader.user.as_str());
            }
            let wanted = self.keys(wanted)?;
            if whole {
                chosen.retain(|key, _| !key.is_member() || wanted.contains(key) || self.moved.contains(key));
            } else {
                for key in wanted {
                    if let Some(event) = self.lacks(key)? {
                        chosen.entry(key).or_insert(event);
                    }
                }
            }
            members.begun.extend(Some(place.room).filter(|_| whole));
            members.keys.extend(chosen.keys().filter(|key| key.is_member()).map(|key| (place.room, *key)));
            if ask.form == StateForm::Before {
                members.keys.extend(shown.iter().filter(|key| key.is_member()).map(|key| (place.room, *key)));
            }
        }
        let mut numbers: Vec<_> = chosen.into_values().collect();
        numbers.sort_unstable();
        let mut events = Vec::with_capacity(numbers.len());
        for number in numbers {
            let known = look.rooms.known(number)?;
            if filter.wants(look.rooms, &known)? {
                events.push(known);
            }
        }
        Ok(events)
    }

    fn keys(&self, users: BTreeSet<&str>) -> Result<BTreeSet<StateKeyNo>> {
        let mut keys = BTreeSet::new();
        for user in users {
            keys.extend(self.ask.look.rooms.state_key("m.room.member", user)?);
        }
        Ok(keys)
    }

    /// The member event of somebody who occurs in the answer, unless the reader has it.
    fn lacks(&self, key: StateKeyNo) -> Result<Option<EventNo>> {
        let Self { ask, place, changes, .. } = *self;
        let since = ask.position().unwrap_or_default();
        let redundant = ask.filter.room.state.include_redundant_members;
        if !redundant && ask.look.sync.sent.has(&ask.stream(), place.room, key, since) {
            return Ok(None);
        }
        match ask.form {
            StateForm::Before => changes.at_start(key),
            _ => changes.at_end(key),
        }
    }
}
