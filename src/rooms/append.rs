//! The one place where an event enters a room.
//!
//! [`Deciding`] is a locked room with a [`Write`]: [`Deciding::send`] composes an event on top of what is
//! there, checks that it is allowed, and adds it with all that is derived from it. Nothing has happened
//! until [`Deciding::commit`]; a `Deciding` that is dropped leaves no trace. After the commit the next
//! event may build on the room at once, while readers wait for the ticket.

use std::{collections::HashMap, sync::Arc};

use parking_lot::MutexGuard;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedUserId, UserId, events::room::member::MembershipState,
};

use super::{
    Head, Room, Rooms,
    cache::{Derivation, Known, power_levels},
    projections, redaction,
    state::State,
};
use crate::{
    error::{Error, Result},
    protocol::{
        auth::{self, power::PowerLevels},
        canonical::Object,
        compose::Draft,
        event::{Event, FormatError},
        graph, hash, policy,
        version::{EventIds, Rules},
    },
    store::{
        Slot, Ticket, Write,
        schema::{
            EventNo, StateKeyNo,
            events::{DeltaRow, EVENTS, EventRow, HEADS, HeadRow, STATE_DELTAS, Standing},
            numbers,
            rooms::PARTIAL_EVENTS,
        },
    },
};

/// How many forward extremities one event names at most.
const MOST_PREV_EVENTS: usize = 20;

/// An event that somebody on this server wants to add to a room.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The type.
    pub kind: String,
    /// The state key, for state events.
    pub state_key: Option<String>,
    /// Who sends it.
    pub sender: OwnedUserId,
    /// The content.
    pub content: Object,
    /// The event that a redaction is about.
    pub redacts: Option<OwnedEventId>,
    /// When it happened, for bridges that know; now otherwise.
    pub timestamp: Option<MilliSecondsSinceUnixEpoch>,
}

impl NewEvent {
    /// An event without a state key.
    pub fn message(sender: &UserId, kind: impl Into<String>, content: Object) -> Self {
        Self { kind: kind.into(), state_key: None, sender: sender.to_owned(), content, redacts: None, timestamp: None }
    }

    /// A state event.
    pub fn state(sender: &UserId, kind: impl Into<String>, state_key: impl Into<String>, content: Object) -> Self {
        Self { state_key: Some(state_key.into()), ..Self::message(sender, kind, content) }
    }
}

/// An event on its way into a room: what the projections in `ON_EVENT` are told.
pub struct Appended<'a> {
    /// The room core.
    pub rooms: &'a Rooms,
    /// The room.
    pub room: &'a Room,
    /// The event's number.
    pub number: EventNo,
    /// The event.
    pub event: &'a Arc<Event>,
    /// Its place in the log.
    pub slot: Slot,
    /// The state before it.
    pub before: &'a State,
    /// The end of the room with this event.
    pub head: &'a Head,
    /// What the same `Write` has added.
    added: &'a [Arc<Known>],
}

impl Appended<'_> {
    /// The event that stood for a state key before this event.
    pub fn state(&self, write: &Write, kind: &str, state_key: &str) -> Result<Option<Arc<Known>>> {
        let Some(key) = self.rooms.state_key_in(write, kind, state_key)? else { return Ok(None) };
        self.before.get(key).map(|number| self.known(write, number)).transpose()
    }

    /// An event by its number, added just now or earlier.
    pub fn known(&self, write: &Write, number: EventNo) -> Result<Arc<Known>> {
        find(self.rooms, self.added, write, number)
    }
}

/// An event by its number, added just now or earlier.
fn find(rooms: &Rooms, added: &[Arc<Known>], write: &Write, number: EventNo) -> Result<Arc<Known>> {
    match added.iter().find(|known| known.number == number) {
        Some(known) => Ok(Arc::clone(known)),
        None => rooms.known_in(write, number),
    }
}

/// An entry of the room's current state that changes, by an event or by resolution: what the projections in
/// `ON_STATE` are told.
pub struct StateDelta<'a> {
    /// The room core.
    pub rooms: &'a Rooms,
    /// The room.
    pub room: &'a Room,
    /// The place in the log.
    pub slot: Slot,
    /// The event type.
    pub kind: &'a str,
    /// The state key.
    pub state_key: &'a str,
    /// The event that stood there.
    pub old: Option<&'a Known>,
    /// The event that stands there now.
    pub new: Option<&'a Known>,
}

/// An ID for a new event, in rooms of versions 1 and 2, where the sender chooses it.
pub fn chosen_id(rooms: &Rooms, rules: &Rules) -> Option<OwnedEventId> {
    if rules.event_ids != EventIds::Chosen {
        return None;
    }
    let name = rooms.remote.chance.word(18);
    EventId::parse(format!("${name}:{}", rooms.config.server_name)).ok()
}

/// Signs a draft with the key of this server.
///
/// Errors: 413 `M_TOO_LARGE`, 400 `M_BAD_JSON`.
pub fn sign(rooms: &Rooms, draft: Draft, rules: &Rules) -> Result<Event> {
    draft.sign(&rooms.config.server_name, &rooms.key, rules).map_err(|error| match error {
        FormatError::TooLarge { .. } | FormatError::FieldTooLong { .. } => Error::too_large(error.to_string()),
        error => Error::bad_json(error.to_string()),
    })
}

/// A room that is locked while somebody decides what happens in it.
pub struct Deciding<'a> {
    pub(super) rooms: &'a Rooms,
    pub(super) room: &'a Room,
    guard: MutexGuard<'a, Head>,
    head: Head,
    /// The changes so far; rows that belong with the events may be added.
    pub write: Write,
    added: Vec<Arc<Known>>,
    /// The states that were derived on the way.
    derived: HashMap<Derivation, State>,
}

impl<'a> Deciding<'a> {
    pub(super) fn new(rooms: &'a Rooms, room: &'a Room, guard: MutexGuard<'a, Head>) -> Self {
        let head = guard.clone();
        Self { rooms, room, guard, head, write: rooms.store.write(), added: Vec::new(), derived: HashMap::new() }
    }

    /// The state that was derived like this before, here or in a `Write` that was committed.
    pub(super) fn derived(&self, from: &Derivation) -> Result<Option<State>> {
        if let Some(state) = self.derived.get(from) {
            return Ok(Some(state.clone()));
        }
        self.rooms.cache.derived(from).map(|number| self.rooms.state_in(&self.write, number)).transpose()
    }

    /// Remembers how a state was derived, for as long as there is space.
    pub(super) fn note_derived(&mut self, from: Derivation, state: &State) {
        self.derived.insert(from, state.clone());
    }

    /// The number of the event that was added last.
    pub fn newest(&self) -> Option<EventNo> {
        self.head.extremities.last().map(|(number, _)| *number)
    }

    /// The end of the room as it is with the events added so far.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The event that stands for a state key.
    pub fn state(&self, kind: &str, state_key: &str) -> Result<Option<Arc<Known>>> {
        let Some(key) = self.rooms.state_key_in(&self.write, kind, state_key)? else { return Ok(None) };
        self.head.state.get(key).map(|number| self.known(number)).transpose()
    }

    /// Somebody's membership; `leave` for those who never were in the room.
    pub fn membership(&self, user: &UserId) -> Result<MembershipState> {
        let member = self.state("m.room.member", user.as_str())?;
        Ok(member.and_then(|known| known.event.membership()).unwrap_or(MembershipState::Leave))
    }

    /// The power levels as they are now.
    pub fn power_levels(&self) -> Result<PowerLevels> {
        power_levels(self.room.rules, |kind| self.state(kind, ""))
    }

    /// An event by its number, added just now or earlier.
    pub fn known(&self, number: EventNo) -> Result<Arc<Known>> {
        find(self.rooms, &self.added, &self.write, number)
    }

    /// Composes, signs and adds an event on top of the room.
    ///
    /// Errors: 403 `M_FORBIDDEN` when the authorization rules refuse it, 413 `M_TOO_LARGE`, 400 `M_BAD_JSON`; and
    /// where the room has a policy server, the one with which [`super::policy::approved`] knows what to do.
    /// Spec: server-server-api#authorization-rules
    pub fn send(&mut self, new: NewEvent) -> Result<Arc<Event>> {
        if policy::concerns(&new.kind, new.state_key.as_deref())
            && let Some(policy) = self.policy()?
        {
            return self.send_approved(new, policy);
        }
        let event = self.compose(new)?;
        self.authorize(&event)?;
        self.add(event)
    }

    /// A signed event on top of the room, not yet checked or added.
    pub fn compose(&self, new: NewEvent) -> Result<Event> {
        sign(self.rooms, self.draft(new)?, self.room.rules)
    }

    /// An event on top of the room, not yet signed: what another server gets as a template.
    pub fn draft(&self, new: NewEvent) -> Result<Draft> {
        let rules = self.room.rules;
        let mut draft = Draft::new(new.kind, new.sender, new.content);
        draft.room_id = (!(rules.room_id_is_hash && draft.kind == "m.room.create")).then(|| self.room.id.clone());
        draft.state_key = new.state_key;
        draft.redacts = new.redacts;
        draft.origin_server_ts = new.timestamp.map_or(self.rooms.clock.now(), |ts| ts.get().into());
        draft.depth = graph::next_depth([self.head.depth]);
        draft.prev_events =
            self.head.extremities.iter().rev().take(MOST_PREV_EVENTS).map(|(_, id)| id.clone()).collect();
        for (kind, state_key) in
            auth::auth_types(&draft.kind, &draft.sender, draft.state_key.as_deref(), &draft.content, rules)
        {
            if let Some(known) = self.state(kind, &state_key)? {
                draft.auth_events.push(known.event.event_id.clone());
            }
        }
        if rules.event_ids == EventIds::Chosen {
            self.name_references(&mut draft)?;
        }
        Ok(draft)
    }

    /// What only rooms of versions 1 and 2 have: an ID that the sender chooses, and hashes beside references.
    fn name_references(&self, draft: &mut Draft) -> Result<()> {
        draft.event_id = chosen_id(self.rooms, self.room.rules);
        for id in draft.prev_events.iter().chain(&draft.auth_events) {
            if let Some(known) = self.by_id(id)? {
                let hash = hash::reference_hash(&known.event.to_object(), self.room.rules);
                draft.reference_hashes.insert(id.clone(), hash::base64(&hash));
            }
        }
        Ok(())
    }

    /// Whether the room's current state allows an event.
    pub fn authorize(&self, event: &Event) -> Result<()> {
        self.check_at(&self.head.state, event)
    }

    /// Adds an allowed event that builds on the room's extremities.
    pub fn add(&mut self, event: Event) -> Result<Arc<Event>> {
        let number = numbers::event(&mut self.write, &event.event_id)?;
        let before = self.head.state.clone();
        let mut after = before.clone();
        let mut replaces = None;
        if let Some((kind, state_key)) = event.key() {
            let key = numbers::state_key(&mut self.write, kind, state_key)?;
            replaces = before.get(key);
            after = before.derive(&mut self.write, &[(key, Some(number))])?;
            self.note_derived(Derivation::After(number, before.number), &after);
        }
        let event = Arc::new(event);
        let known = self.record(Known {
            number,
            room: self.room.number,
            event: Arc::clone(&event),
            standing: Standing::Accepted,
            before: Some(before.number),
            replaces,
            redacted_by: None,
        });
        self.note_partial(number);
        self.head.extremities = vec![(number, event.event_id.clone())];
        self.head.depth = event.depth;
        self.enter(&known, &before, after)?;
        Ok(event)
    }

    /// Notes that an event has got its place while most members are unknown.
    pub(super) fn note_partial(&mut self, number: EventNo) {
        if self.room.is_partial() {
            let at = self.write.number();
            self.write.put(PARTIAL_EVENTS, &(self.room.number, at), &number);
        }
    }

    /// Writes an event's row.
    pub(super) fn record(&mut self, known: Known) -> Arc<Known> {
        let known = Arc::new(known);
        self.put_event(&known);
        self.added.push(Arc::clone(&known));
        known
    }

    /// An accepted event gets its place in the log, the room its new state, and both their projections.
    pub(super) fn enter(&mut self, known: &Arc<Known>, before: &State, state: State) -> Result<()> {
        let slot = self.write.slot();
        let changes = self.head.state.diff(&state);
        self.head.state = state;
        for (key, old, new) in changes {
            self.change_state(slot, key, old, new)?;
        }
        self.project(known, before, slot)?;
        redaction::apply(self, known)
    }

    /// The end of the room, to be changed.
    pub(super) fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }

    /// Makes an event findable that came into the room without a place in the log.
    pub(super) fn find_by_words(&mut self, known: &Known) -> Result<()> {
        let find = |write: &Write, number| find(self.rooms, &self.added, write, number);
        projections::search::enter(&mut self.write, self.rooms, self.room, (known.number, &known.event), &find)
    }

    /// Takes an event that is being redacted out of search.
    pub(super) fn unfind(&mut self, known: &Known) -> Result<()> {
        let find = |write: &Write, number| find(self.rooms, &self.added, write, number);
        projections::search::remove(&mut self.write, self.rooms, self.room, known, &find)
    }

    /// Writes an event again, as it is from now on.
    pub(super) fn replace(&mut self, known: Known) {
        self.added.retain(|added| added.number != known.number);
        self.record(known);
    }

    fn put_event(&mut self, known: &Known) {
        let row = EventRow {
            id: known.event.event_id.clone(),
            room: known.room,
            json: known.event.json().to_owned(),
            standing: known.standing,
            before: known.before,
            replaces: known.replaces,
            redacted_by: known.redacted_by,
        };
        self.write.put(EVENTS, &known.number, &row);
    }

    /// Notes that an entry of the current state has changed, for readers and projections.
    pub(super) fn change_state(
        &mut self,
        slot: Slot,
        key: StateKeyNo,
        old: Option<EventNo>,
        new: Option<EventNo>,
    ) -> Result<()> {
        let room = self.room.number;
        self.write.put_at(STATE_DELTAS, slot, move |at| ((room, at, key), DeltaRow(old, new)));
        self.tell_state(slot, old, new)
    }

    /// Tells the projections that an entry of the current state has changed.
    pub(super) fn tell_state(&mut self, slot: Slot, old: Option<EventNo>, new: Option<EventNo>) -> Result<()> {
        let old = old.map(|number| self.known(number)).transpose()?;
        let new = new.map(|number| self.known(number)).transpose()?;
        let Some((kind, state_key)) = new.as_ref().or(old.as_ref()).and_then(|known| known.event.key()) else {
            return Ok(());
        };
        let delta = StateDelta {
            rooms: self.rooms,
            room: self.room,
            slot,
            kind,
            state_key,
            old: old.as_deref(),
            new: new.as_deref(),
        };
        projections::members::count(&mut self.write, &mut self.head, &delta)?;
        for project in projections::ON_STATE {
            project(&mut self.write, &delta)?;
        }
        Ok(())
    }

    fn project(&mut self, known: &Known, before: &State, slot: Slot) -> Result<()> {
        let appended = Appended {
            rooms: self.rooms,
            room: self.room,
            number: known.number,
            event: &known.event,
            slot,
            before,
            head: &self.head,
            added: &self.added,
        };
        for project in projections::ON_EVENT {
            project(&mut self.write, &appended)?;
        }
        Ok(())
    }

    /// Queues everything for the disk and lets the next event build on it.
    pub fn commit(mut self) -> Result<Ticket> {
        let row = HeadRow {
            extremities: self.head.extremities.iter().map(|(number, _)| *number).collect(),
            depth: self.head.depth,
            floor: self.head.floor,
            state: self.head.state.number,
            members: self.head.members,
        };
        self.write.put(HEADS, &self.room.number, &row);
        self.write.touch(self.room.number);
        for user in &self.head.locals {
            self.write.wake(*user);
        }
        let gone: Vec<_> = self.guard.locals.iter().filter(|user| !self.head.locals.contains(*user)).copied().collect();
        for local in &gone {
            self.write.wake(*local);
        }
        let ticket = self.write.commit()?;
        // Whoever leaves in the middle of a sentence has stopped.
        for local in gone {
            self.rooms.store.live().typing(self.room.number, local, None, self.rooms.clock.now());
        }
        self.rooms.cache.keep_events(self.added);
        self.rooms.cache.keep_state(&self.head.state, 4);
        self.rooms.cache.keep_derived(self.derived.into_iter().map(|(from, state)| (from, state.number)));
        *self.guard = self.head;
        Ok(ticket)
    }

    /// Queues only what was kept beside the room: its end stays as it is, and nobody is woken.
    pub fn stage(self) -> Result<Ticket> {
        let ticket = self.write.commit()?;
        self.rooms.cache.keep_events(self.added);
        Ok(ticket)
    }

    /// An event of the room that was believed before, and whether it was rejected: what
    /// [`crate::protocol::vetting`] asks.
    pub(super) fn believed(&self, id: &EventId) -> Option<(Arc<Event>, bool)> {
        let known = self.by_id(id).ok().flatten().filter(|known| known.room == self.room.number)?;
        Some((Arc::clone(&known.event), known.standing == Standing::Rejected))
    }

    /// An event by its ID, added just now or earlier, if this server has it.
    pub fn by_id(&self, id: &EventId) -> Result<Option<Arc<Known>>> {
        let Some(number) = self.write.get(numbers::EVENT_NUMBERS, &id.as_str().to_owned())? else { return Ok(None) };
        let here = self.added.iter().any(|known| known.number == number)
            || self.rooms.cache.event(number).is_some()
            || self.write.get(EVENTS, &number)?.is_some();
        here.then(|| self.known(number)).transpose()
    }
}
