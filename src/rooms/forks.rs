//! States where the room has more than one end, and events that other servers have added.
//!
//! An event from elsewhere may build on any known event. The state before it is resolved from the states
//! after the events that it names; the room's current state is resolved from those after all extremities.
//! Resolution is heavy: whoever calls this runs on a thread that may block.
//!
//! Spec: server-server-api#room-state-resolution

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, OwnedServerName};

use super::{
    append::Deciding,
    cache::{Derivation, Known},
    state::{Change, State},
};
use crate::{
    error::{Error, Result},
    protocol::{
        auth,
        event::Event,
        graph, hash,
        resolve::{Agreed, Lookup, StateMap, resolve, resolve_conflicts},
        version::{EventIds, Resolution},
    },
    store::{
        Position,
        schema::{
            EventNo, RoomNo, StateKeyNo, StateNo,
            events::Standing,
            numbers::{self, EVENT_NUMBERS, STATE_KEYS},
        },
    },
};

/// How many ends a room has at most. Each is one more state to resolve, for every event that comes.
const MOST_ENDS: usize = 50;

impl Deciding<'_> {
    /// The state after an event of this room's graph, saved.
    pub fn state_after(&mut self, known: &Known) -> Result<State> {
        let before = known
            .before
            .ok_or_else(|| Error::internal(format!("the state at {} is not known", known.event.event_id)))?;
        let Some((kind, state_key)) = known.event.key().filter(|_| known.standing != Standing::Rejected) else {
            return self.rooms.state_in(&self.write, before);
        };
        let from = Derivation::After(known.number, before);
        if let Some(state) = self.derived(&from)? {
            return Ok(state);
        }
        let before = self.rooms.state_in(&self.write, before)?;
        let key = numbers::state_key(&mut self.write, kind, state_key)?;
        let state = before.derive(&mut self.write, &[(key, Some(known.number))])?;
        self.note_derived(from, &state);
        Ok(state)
    }

    /// One state out of several, saved.
    pub fn resolve(&mut self, states: &[State]) -> Result<State> {
        let Some(first) = states.first() else { return Ok(State::default()) };
        if states.iter().all(|state| state == first || state.diff(first).is_empty()) {
            return Ok(first.clone());
        }
        let mut from: Vec<StateNo> = states.iter().map(|state| state.number).collect();
        from.sort_unstable();
        from.dedup();
        let from = Derivation::Resolved(from);
        if let Some(state) = self.derived(&from)? {
            return Ok(state);
        }
        let state = self.resolve_anew(states, first)?;
        self.note_derived(from, &state);
        Ok(state)
    }

    /// Of large states only what differs is looked at by name. Version 1 wants to see everything.
    fn resolve_anew(&mut self, states: &[State], first: &State) -> Result<State> {
        let whole = self.room.rules.resolution == Resolution::V1;
        let conflicted: BTreeSet<StateKeyNo> =
            states.iter().flat_map(|state| first.diff(state)).map(|(key, ..)| key).collect();
        let mut keys = BTreeMap::new();
        let mut maps = Vec::new();
        for state in states {
            let entries = state.iter().filter(|(key, _)| whole || conflicted.contains(key));
            maps.push(self.by_name(entries, &mut keys)?);
        }
        let failed = Cell::new(None);
        let find = |id: &EventId| match self.by_id(id) {
            Ok(known) => known,
            Err(error) => {
                failed.set(Some(error));
                None
            }
        };
        let lookup = Lookup {
            event: &|id| find(id).map(|known| Arc::clone(&known.event)),
            rejected: &|id| find(id).is_some_and(|known| known.standing == Standing::Rejected),
        };
        let maps: Vec<&StateMap> = maps.iter().collect();
        let resolved = match whole {
            true => resolve(self.room.rules, &maps, &lookup),
            false => {
                let agreed = Shared { deciding: self, state: first, conflicted: &conflicted, failed: &failed };
                resolve_conflicts(self.room.rules, &agreed, &maps, &lookup)
            }
        };
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        let resolved = resolved.map_err(Error::internal)?;
        // Resolution may bring back an entry that none of the states has, from an auth chain.
        for name in resolved.keys() {
            if !keys.contains_key(name) {
                keys.insert(name.clone(), numbers::state_key(&mut self.write, &name.0, &name.1)?);
            }
        }
        let changes = self.changes_to(first, &resolved, &keys)?;
        first.derive(&mut self.write, &changes)
    }

    /// The event that stands for a state key in any state.
    pub fn entry(&self, state: StateNo, kind: &str, state_key: &str) -> Result<Option<Arc<Known>>> {
        let Some(key) = self.rooms.state_key_in(&self.write, kind, state_key)? else { return Ok(None) };
        let state = self.rooms.state_in(&self.write, state)?;
        state.get(key).map(|number| self.known(number)).transpose()
    }

    /// A whole state by names.
    pub fn entries(&self, state: StateNo) -> Result<StateMap> {
        let state = self.rooms.state_in(&self.write, state)?;
        self.by_name(state.iter(), &mut BTreeMap::new())
    }

    /// Entries of a state by names instead of numbers; `keys` collects which is which.
    fn by_name(
        &self,
        entries: impl Iterator<Item = (StateKeyNo, EventNo)>,
        keys: &mut BTreeMap<(String, String), StateKeyNo>,
    ) -> Result<StateMap> {
        let mut map = StateMap::new();
        for (key, number) in entries {
            let name = self.write.get(STATE_KEYS, &key)?;
            let name = name.ok_or_else(|| Error::internal(format!("state key {key} is missing")))?;
            keys.insert(name.clone(), key);
            map.insert(name, self.known(number)?.event.event_id.clone());
        }
        Ok(map)
    }

    fn changes_to(
        &self,
        from: &State,
        resolved: &StateMap,
        keys: &BTreeMap<(String, String), StateKeyNo>,
    ) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for (name, key) in keys {
            let event = match resolved.get(name) {
                Some(id) => self.write.get(EVENT_NUMBERS, &id.as_str().to_owned())?,
                None => None,
            };
            if from.get(*key) != event {
                changes.push((*key, event));
            }
        }
        Ok(changes)
    }

    /// A whole state out of events that are known, saved as a difference from the current one.
    pub fn state_of(&mut self, events: &[EventNo]) -> Result<State> {
        let mut changes: BTreeMap<StateKeyNo, Option<EventNo>> =
            self.head().state.iter().map(|(key, _)| (key, None)).collect();
        for number in events {
            let known = self.known(*number)?;
            let Some((kind, state_key)) = known.event.key() else { continue };
            let key = numbers::state_key(&mut self.write, kind, state_key)?;
            changes.insert(key, Some(*number));
        }
        let base = self.head().state.clone();
        base.derive(&mut self.write, &changes.into_iter().collect::<Vec<_>>())
    }

    /// Keeps an event without giving it a place in the room: part of a state, or of an auth chain.
    pub fn keep(&mut self, event: &Arc<Event>, standing: Standing) -> Result<Arc<Known>> {
        let taken = || Error::bad_json(format!("another event has the ID {}", event.event_id));
        self.keep_if_first(event, standing)?.ok_or_else(taken)
    }

    /// The same for one of many: it is left out if another event has its ID.
    pub(super) fn keep_if_first(&mut self, event: &Arc<Event>, standing: Standing) -> Result<Option<Arc<Known>>> {
        if let Some(known) = self.by_id(&event.event_id)? {
            return Ok((!self.is_another(&known, event)).then_some(known));
        }
        let number = numbers::event(&mut self.write, &event.event_id)?;
        if let Some((kind, state_key)) = event.key() {
            numbers::state_key(&mut self.write, kind, state_key)?;
        }
        Ok(Some(self.record(Known {
            number,
            room: self.room.number,
            event: Arc::clone(event),
            standing,
            before: None,
            replaces: None,
            redacted_by: None,
        })))
    }

    /// Whether a known event only has the same ID. In rooms of versions 1 and 2 senders choose the IDs, and may choose
    /// one twice: what came first counts.
    pub(super) fn is_another(&self, known: &Known, event: &Event) -> bool {
        let rules = self.room.rules;
        let hash = |event: &Event| hash::reference_hash(&event.to_object(), rules);
        rules.event_ids == EventIds::Chosen && (known.room != self.room.number || hash(&known.event) != hash(event))
    }

    /// The room begins for this server at this depth, where it enters. The old ends of a room that it was in
    /// before are forgotten.
    pub fn start_over(&mut self, depth: u64) {
        let head = self.head_mut();
        head.extremities.clear();
        head.floor = depth;
    }

    /// Whether a state allows an event.
    ///
    /// Errors: 403 `M_FORBIDDEN`.
    pub fn check_at(&self, state: &State, event: &Event) -> Result<()> {
        self.check_with(state, event, false)
    }

    /// The same; with `claims`, members that the state lacks are those that the event names.
    pub(super) fn check_with(&self, state: &State, event: &Event, claims: bool) -> Result<()> {
        let failed = Cell::new(None);
        let verdict = auth::check(self.room.rules, event, |kind, key| {
            let entry = self.rooms.state_key_in(&self.write, kind, key);
            let known = entry.and_then(|key| key.and_then(|key| state.get(key)).map(|at| self.known(at)).transpose());
            let known = match known {
                Ok(None) if claims && kind == "m.room.member" => self.named(event, kind, key),
                known => known,
            };
            match known {
                Ok(known) => known.map(|known| Arc::clone(&known.event)),
                Err(error) => {
                    failed.set(Some(error));
                    None
                }
            }
        });
        match failed.into_inner() {
            Some(error) => Err(error),
            None => verdict.map_err(|refusal| Error::forbidden(refusal.to_string())),
        }
    }

    /// The event for a state key that another event names as one that it rests on.
    fn named(&self, event: &Event, kind: &str, key: &str) -> Result<Option<Arc<Known>>> {
        for id in &event.auth_events {
            let auth = self.by_id(id)?.filter(|auth| auth.event.is(kind, key) && auth.standing != Standing::Rejected);
            if auth.is_some() {
                return Ok(auth);
            }
        }
        Ok(None)
    }

    /// Gives an event from elsewhere its place on top of the events that it names, and the room the state
    /// that follows. A soft-failed or rejected event is kept beside the room: it does not become an end of it.
    pub fn accept(&mut self, event: &Arc<Event>, before: &State, standing: Standing) -> Result<Arc<Known>> {
        if let Some(known) = self.by_id(&event.event_id)?.filter(|known| known.before.is_some()) {
            return Ok(known);
        }
        let known = self.place(event, before, standing)?;
        if standing == Standing::Accepted {
            self.advance(&known)?;
            let state = self.state_of_extremities()?;
            self.enter(&known, before, state)?;
        }
        Ok(known)
    }

    /// Writes an event with the state before it, and changes nothing else.
    pub fn place(&mut self, event: &Arc<Event>, before: &State, standing: Standing) -> Result<Arc<Known>> {
        // What was redacted while it was known without a place does not come back whole.
        let redacted = self.by_id(&event.event_id)?.filter(|known| known.redacted_by.is_some());
        let event = redacted.as_ref().map_or(event, |known| &known.event);
        let number = numbers::event(&mut self.write, &event.event_id)?;
        let key = match event.key() {
            Some((kind, state_key)) => Some(numbers::state_key(&mut self.write, kind, state_key)?),
            None => None,
        };
        self.note_partial(number);
        Ok(self.record(Known {
            number,
            room: self.room.number,
            event: Arc::clone(event),
            standing,
            before: Some(before.number),
            replaces: key.and_then(|key| before.get(key)),
            redacted_by: redacted.as_ref().and_then(|known| known.redacted_by),
        }))
    }

    /// The event becomes an end of the room, in place of those that it names.
    fn advance(&mut self, known: &Arc<Known>) -> Result<()> {
        let event = &known.event;
        let failed = Cell::new(None);
        let followed = graph::follows(event, |id| {
            let known = self.by_id(id).unwrap_or_else(|error| {
                failed.set(Some(error));
                None
            });
            known.filter(|known| known.standing.is_hidden()).map(|known| Arc::clone(&known.event))
        });
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        let head = self.head_mut();
        head.extremities.retain(|(_, id)| !followed.contains(id));
        head.extremities.push((known.number, event.event_id.clone()));
        head.depth = head.depth.max(event.depth);
        if head.extremities.len() > MOST_ENDS {
            self.give_up_an_end()?;
        }
        Ok(())
    }

    /// The room has more ends than make sense: of the server that has made most of them, the oldest is no longer one.
    fn give_up_an_end(&mut self) -> Result<()> {
        let mut servers = Vec::new();
        for (number, _) in &self.head().extremities {
            servers.push(self.known(*number)?.event.server().to_owned());
        }
        let made = |server: &OwnedServerName| servers.iter().filter(|other| *other == server).count();
        let most = servers.iter().map(made).max();
        if let Some(at) = servers.iter().position(|server| Some(made(server)) == most) {
            let (room, server) = (&self.room.id, &servers[at]);
            tracing::info!(%room, %server, "{server} makes the room fork too often: one of its ends is passed over");
            self.head_mut().extremities.remove(at);
        }
        Ok(())
    }

    /// Makes the current state what follows from the ends of the room.
    pub(super) fn settle(&mut self) -> Result<()> {
        let state = self.state_of_extremities()?;
        let slot = self.write.slot();
        let changes = self.head().state.diff(&state);
        self.head_mut().state = state;
        for (key, old, new) in changes {
            self.change_state(slot, key, old, new)?;
        }
        Ok(())
    }

    fn state_of_extremities(&mut self) -> Result<State> {
        let mut states = Vec::new();
        for (number, _) in self.head().extremities.clone() {
            let known = self.known(number)?;
            states.push(self.state_after(&known)?);
        }
        self.resolve(&states)
    }
}

/// Which servers are to hear of what happened in a room at a position: those that are in it, and those that have
/// left it since.
pub fn servers_at(rooms: &super::Rooms, room: RoomNo, at: Position) -> Result<Vec<OwnedServerName>> {
    use crate::store::schema::rooms::DEPARTED;
    let mut servers = servers(rooms, room)?;
    let end = (RoomNo(room.0 + 1), Position(0), String::new());
    for row in rooms.store.range(DEPARTED, &(room, at, String::new()), &end) {
        let ((_, _, server), ()) = row?;
        servers.extend(OwnedServerName::try_from(server));
    }
    Ok(servers)
}

/// What states agree on, as one of them has it.
struct Shared<'a, 'd> {
    deciding: &'a Deciding<'d>,
    state: &'a State,
    conflicted: &'a BTreeSet<StateKeyNo>,
    failed: &'a Cell<Option<Error>>,
}

impl Shared<'_, '_> {
    fn or_note<T>(&self, result: Result<Option<T>>) -> Option<T> {
        result.unwrap_or_else(|error| {
            self.failed.set(Some(error));
            None
        })
    }
}

impl Agreed for Shared<'_, '_> {
    fn get(&self, kind: &str, state_key: &str) -> Option<OwnedEventId> {
        let Deciding { rooms, write, .. } = self.deciding;
        let key = self.or_note(rooms.state_key_in(write, kind, state_key))?;
        let number = self.state.get(key).filter(|_| !self.conflicted.contains(&key))?;
        self.or_note(self.deciding.known(number).map(Some)).map(|known| known.event.event_id.clone())
    }

    fn walk(&self, each: &mut dyn FnMut(&EventId) -> bool) {
        let entries = || self.state.iter().filter(|(key, _)| !self.conflicted.contains(key));
        let others = entries().filter(|(key, _)| !key.is_member());
        for (_, number) in others.chain(entries().filter(|(key, _)| key.is_member())) {
            let Some(known) = self.or_note(self.deciding.known(number).map(Some)) else { return };
            if !each(&known.event.event_id) {
                return;
            }
        }
    }
}

/// Which servers have joined users in a room, by the published rows.
pub fn servers(rooms: &super::Rooms, room: RoomNo) -> Result<Vec<OwnedServerName>> {
    use crate::store::schema::rooms::ROOM_SERVERS;
    let rows = rooms.store.scan(ROOM_SERVERS, &(room,));
    rows.filter_map(|row| match row {
        Ok(((_, server), _)) => OwnedServerName::try_from(server).ok().map(Ok),
        Err(error) => Some(Err(error.into())),
    })
    .collect()
}
