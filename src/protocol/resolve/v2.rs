//! State resolution of room versions 2 to 11, and with two changes of version 12.
//!
//! Events that may take power away are decided on first, ordered by who had more power; the rest
//! follows in the order of the power levels it was sent under. Each event is checked against what is
//! decided so far. Spec: rooms/v12#state-resolution

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};

use super::{Agreed, Conflicts, Lookup, MAX_CHAIN, Partial, ResolveError, StateMap, chains, divide};
use crate::protocol::{
    auth::{self, Power, PowerLevels},
    event::Event,
    version::{Resolution, Rules},
};

pub(super) fn resolve(rules: &Rules, states: &[&StateMap], lookup: &Lookup<'_>) -> Result<StateMap, ResolveError> {
    let (agreed, conflicts) = divide(states, true);
    if conflicts.is_empty() {
        return Ok(agreed);
    }
    let mut resolved = resolve_conflicts(rules, &agreed, states, &conflicts, lookup)?;
    resolved.extend(agreed);
    Ok(resolved)
}

/// What becomes of the conflicts, without what is agreed on.
pub(super) fn resolve_conflicts(
    rules: &Rules,
    agreed: &dyn Agreed,
    states: &[&StateMap],
    conflicts: &Conflicts,
    lookup: &Lookup<'_>,
) -> Result<StateMap, ResolveError> {
    let resolver = Resolver { rules, lookup, events: RefCell::default(), levels: RefCell::default() };
    let full = resolver.full_conflicted_set(states, agreed, conflicts)?;
    let power = resolver.power_events(&full)?;

    let empty = StateMap::new();
    let start = if rules.resolution == Resolution::V2 { agreed } else { &empty };
    let mut partial = Partial::default();
    resolver.check_each(&resolver.by_power(&power)?, start, &mut partial)?;

    let rest: Vec<Arc<Event>> =
        full.iter().filter(|id| !power.contains(*id)).map(|id| resolver.find(id)).collect::<Result<_, _>>()?;
    let levels = match partial.get("m.room.power_levels", "") {
        Some(event) => Some(event.clone()),
        None => match start.get("m.room.power_levels", "") {
            Some(id) => Some(resolver.find(&id)?),
            None => None,
        },
    };
    resolver.check_each(&resolver.by_mainline(rest, levels)?, start, &mut partial)?;

    let mut resolved = partial.into_state();
    resolved.retain(|(kind, key), _| agreed.get(kind, key).is_none());
    Ok(resolved)
}

/// The create event and the power levels event from which levels were read.
type LevelsKey = (Option<OwnedEventId>, Option<OwnedEventId>);

/// How many power levels are kept, each of which may name a thousand users.
const MOST_LEVELS: usize = 100;

struct Resolver<'a> {
    rules: &'a Rules,
    lookup: &'a Lookup<'a>,
    /// What was looked up before and may be needed again; not the auth chains, which may be long.
    events: RefCell<HashMap<OwnedEventId, Arc<Event>>>,
    /// Power levels by the event that sets them.
    levels: RefCell<HashMap<LevelsKey, Arc<PowerLevels>>>,
}

impl Resolver<'_> {
    fn find(&self, id: &EventId) -> Result<Arc<Event>, ResolveError> {
        if let Some(event) = self.events.borrow().get(id) {
            return Ok(event.clone());
        }
        let event = self.lookup.find(id)?;
        self.events.borrow_mut().insert(id.to_owned(), event.clone());
        Ok(event)
    }

    /// The conflicting events, the auth difference and, from version 12, what lies between them.
    fn full_conflicted_set(
        &self,
        states: &[&StateMap],
        agreed: &dyn Agreed,
        conflicts: &Conflicts,
    ) -> Result<BTreeSet<OwnedEventId>, ResolveError> {
        let mut full: BTreeSet<OwnedEventId> = conflicts.values().flatten().cloned().collect();
        let subgraph = match self.rules.resolution {
            Resolution::V2_1 => self.conflicted_subgraph(&full)?,
            _ => BTreeSet::new(),
        };
        let difference = self.auth_difference(states, agreed, conflicts)?;
        full.extend(subgraph);
        full.extend(difference);
        Ok(full)
    }

    /// Events in the auth chain of some of the states, but not of all.
    fn auth_difference(
        &self,
        states: &[&StateMap],
        agreed: &dyn Agreed,
        conflicts: &Conflicts,
    ) -> Result<HashSet<OwnedEventId>, ResolveError> {
        // What follows from agreed events is in the chains of all.
        let own: Vec<BTreeSet<&OwnedEventId>> =
            states.iter().map(|state| conflicts.keys().filter_map(|key| state.get(key)).collect()).collect();
        self.not_reached_from(agreed, chains::difference(&own, self.lookup)?)
    }

    /// Those of these events that are in no auth chain of what is agreed on. The walk ends when none is left; where
    /// a member's own event is among them, which nothing rests on, it goes through all that is agreed on.
    fn not_reached_from(
        &self,
        agreed: &dyn Agreed,
        mut events: HashSet<OwnedEventId>,
    ) -> Result<HashSet<OwnedEventId>, ResolveError> {
        if events.is_empty() {
            return Ok(events);
        }
        let mut reached: HashSet<OwnedEventId> = HashSet::new();
        let mut failed = None;
        agreed.walk(&mut |id| {
            let mut open = vec![id.to_owned()];
            while let Some(id) = open.pop() {
                let event = match self.lookup.find(&id) {
                    Ok(event) if reached.len() <= MAX_CHAIN => event,
                    Ok(_) => {
                        failed = Some(ResolveError::TooLarge);
                        return false;
                    }
                    Err(error) => {
                        failed = Some(error);
                        return false;
                    }
                };
                for auth in &event.auth_events {
                    if reached.insert(auth.clone()) {
                        events.remove(auth);
                        open.push(auth.clone());
                    }
                }
            }
            !events.is_empty()
        });
        failed.map_or(Ok(events), Err)
    }

    /// The events on the ways that lead by auth events from one conflicting event to another.
    fn conflicted_subgraph(&self, conflicted: &BTreeSet<OwnedEventId>) -> Result<BTreeSet<OwnedEventId>, ResolveError> {
        // Everything that is reached from conflicting events, and from where.
        let mut reached_from: HashMap<OwnedEventId, Vec<OwnedEventId>> = HashMap::new();
        let mut open: Vec<OwnedEventId> = conflicted.iter().cloned().collect();
        let mut entered: HashSet<OwnedEventId> = open.iter().cloned().collect();
        while let Some(id) = open.pop() {
            for auth in &self.lookup.find(&id)?.auth_events {
                reached_from.entry(auth.clone()).or_default().push(id.clone());
                if entered.insert(auth.clone()) {
                    open.push(auth.clone());
                }
            }
            if entered.len() > MAX_CHAIN {
                return Err(ResolveError::TooLarge);
            }
        }
        // Of that, whatever reaches a conflicting event.
        let mut between = BTreeSet::new();
        let mut open: Vec<&OwnedEventId> = conflicted.iter().collect();
        while let Some(id) = open.pop() {
            for from in reached_from.get(id).into_iter().flatten() {
                if between.insert(from.clone()) {
                    open.push(from);
                }
            }
        }
        Ok(between)
    }

    /// The power events of the set, with those of the set that they rest on.
    fn power_events(&self, full: &BTreeSet<OwnedEventId>) -> Result<BTreeSet<OwnedEventId>, ResolveError> {
        let mut selected = BTreeSet::new();
        let mut open = Vec::new();
        for id in full {
            if is_power_event(&*self.find(id)?) {
                open.push(id.clone());
            }
        }
        while let Some(id) = open.pop() {
            let event = self.find(&id)?;
            if selected.insert(id) {
                open.extend(event.auth_events.iter().filter(|id| full.contains(*id)).cloned());
            }
        }
        Ok(selected)
    }

    /// Reverse topological power ordering: after the auth events, the more powerful sender first.
    fn by_power(&self, ids: &BTreeSet<OwnedEventId>) -> Result<Vec<Arc<Event>>, ResolveError> {
        let mut waits_for: HashMap<&EventId, usize> = HashMap::new();
        let mut followers: HashMap<&EventId, Vec<&EventId>> = HashMap::new();
        let mut rank: HashMap<&EventId, (Reverse<Power>, u64)> = HashMap::new();
        for id in ids {
            let event = self.find(id)?;
            rank.insert(id, (Reverse(self.senders_power(&event)?), event.origin_server_ts));
            let parents: BTreeSet<&OwnedEventId> = event.auth_events.iter().filter_map(|id| ids.get(id)).collect();
            waits_for.insert(id, parents.len());
            for parent in parents {
                followers.entry(parent).or_default().push(id);
            }
        }
        let entry = |id: &'_ EventId| (rank[id].0, rank[id].1, id.to_owned());
        let mut ready: BinaryHeap<_> =
            waits_for.iter().filter(|(_, count)| **count == 0).map(|(id, _)| Reverse(entry(id))).collect();
        let mut ordered = Vec::with_capacity(ids.len());
        while let Some(Reverse((.., id))) = ready.pop() {
            for follower in followers.remove(&*id).into_iter().flatten() {
                if let Some(count) = waits_for.get_mut(follower) {
                    *count -= 1;
                    if *count == 0 {
                        ready.push(Reverse(entry(follower)));
                    }
                }
            }
            ordered.push(self.find(&id)?);
        }
        Ok(ordered)
    }

    /// The power that the event's own auth events give to its sender.
    fn senders_power(&self, event: &Event) -> Result<Power, ResolveError> {
        let mut create = self.create_of(event)?;
        let mut power_levels = None;
        for id in &event.auth_events {
            let auth = self.find(id)?;
            if auth.is("m.room.power_levels", "") {
                power_levels = Some(auth);
            } else if auth.is("m.room.create", "") {
                create = Some(auth);
            }
        }
        Ok(self.levels(create.as_deref(), power_levels.as_deref()).user_level(&event.sender))
    }

    /// In version 12 the create event is found by the room's ID and not among the auth events.
    fn create_of(&self, event: &Event) -> Result<Option<Arc<Event>>, ResolveError> {
        if !self.rules.room_id_is_hash {
            return Ok(None);
        }
        match OwnedEventId::try_from(event.room_id.as_str().replacen('!', "$", 1)) {
            Ok(id) => self.find(&id).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn levels(&self, create: Option<&Event>, power_levels: Option<&Event>) -> Arc<PowerLevels> {
        let id = |event: Option<&Event>| event.map(|event| event.event_id.clone());
        let key = (id(create), id(power_levels));
        let mut known = self.levels.borrow_mut();
        if known.len() >= MOST_LEVELS {
            known.clear();
        }
        known.entry(key).or_insert_with(|| Arc::new(PowerLevels::new(self.rules, create, power_levels))).clone()
    }

    /// Mainline ordering, based on these power levels.
    fn by_mainline(
        &self,
        events: Vec<Arc<Event>>,
        levels: Option<Arc<Event>>,
    ) -> Result<Vec<Arc<Event>>, ResolveError> {
        // The place in the mainline, 0 for the newest power levels.
        let mut places: HashMap<OwnedEventId, usize> = HashMap::new();
        let mut next = levels;
        while let Some(event) = next {
            if places.contains_key(&event.event_id) {
                break;
            }
            places.insert(event.event_id.clone(), places.len());
            next = self.power_levels_of(&event)?;
        }
        let mut ranked = Vec::with_capacity(events.len());
        for event in events {
            let place = self.mainline_place(&event, &mut places)?;
            ranked.push((Reverse(place), event.origin_server_ts, event.event_id.clone(), event));
        }
        ranked.sort_unstable_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
        Ok(ranked.into_iter().map(|(.., event)| event).collect())
    }

    /// Walks from power levels to power levels until it meets the mainline. Remembers the way, so that
    /// many events on one side branch cost one walk.
    fn mainline_place(&self, event: &Event, places: &mut HashMap<OwnedEventId, usize>) -> Result<usize, ResolveError> {
        let mut way: Vec<OwnedEventId> = Vec::new();
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        let mut next = self.power_levels_of(event)?;
        let place = loop {
            let Some(levels) = next else { break usize::MAX };
            if let Some(place) = places.get(&levels.event_id) {
                break *place;
            }
            if !seen.insert(levels.event_id.clone()) {
                break usize::MAX;
            }
            way.push(levels.event_id.clone());
            next = self.power_levels_of(&levels)?;
        };
        places.extend(way.into_iter().map(|id| (id, place)));
        Ok(place)
    }

    fn power_levels_of(&self, event: &Event) -> Result<Option<Arc<Event>>, ResolveError> {
        for id in &event.auth_events {
            let auth = self.find(id)?;
            if auth.is("m.room.power_levels", "") {
                return Ok(Some(auth));
            }
        }
        Ok(None)
    }

    /// Iterative auth checks: takes each event into the state that is allowed by it.
    fn check_each(&self, events: &[Arc<Event>], start: &dyn Agreed, partial: &mut Partial) -> Result<(), ResolveError> {
        for event in events {
            let mut own: Vec<Arc<Event>> = Vec::with_capacity(event.auth_events.len() + 1);
            for id in &event.auth_events {
                if !(self.lookup.rejected)(id) {
                    own.push(self.find(id)?);
                }
            }
            own.extend(self.create_of(event)?);
            let missing = Cell::new(None);
            let find = |kind: &str, key: &str| {
                if let Some(decided) = partial.get(kind, key) {
                    return Some(decided.clone());
                }
                let Some(id) = start.get(kind, key) else {
                    return own.iter().find(|event| event.is(kind, key)).cloned();
                };
                self.find(&id).map_err(|error| missing.set(Some(error))).ok()
            };
            let create = find("m.room.create", "");
            let levels = self.levels(create.as_deref(), find("m.room.power_levels", "").as_deref());
            let allowed = auth::check_with(self.rules, event, levels, find).is_ok();
            if let Some(error) = missing.into_inner() {
                return Err(error);
            }
            if allowed {
                partial.insert(event.clone());
            }
        }
        Ok(())
    }
}

/// Whether the event may take away what somebody can do.
fn is_power_event(event: &Event) -> bool {
    match (&*event.kind, event.state_key.as_deref()) {
        ("m.room.power_levels" | "m.room.join_rules" | "m.room.create", Some("")) => true,
        ("m.room.member", Some(target)) if event.sender != target => event
            .content_field::<std::borrow::Cow<'_, str>>("membership")
            .is_some_and(|it| it == "leave" || it == "ban"),
        _ => false,
    }
}
