//! State resolution of room version 1: by depth and SHA-1. Spec: rooms/v1#state-resolution

use std::{cmp::Reverse, sync::Arc};

use sha1::{Digest, Sha1};

use super::{Conflicts, Lookup, Partial, ResolveError, StateMap, divide};
use crate::protocol::{auth, event::Event, version::Rules};

/// What decides about others is resolved first, in this order.
const FIRST: [&str; 3] = ["m.room.power_levels", "m.room.join_rules", "m.room.member"];

pub(super) fn resolve(rules: &Rules, states: &[&StateMap], lookup: &Lookup<'_>) -> Result<StateMap, ResolveError> {
    let (mut resolved, conflicts) = divide(states, false);
    if conflicts.is_empty() {
        return Ok(resolved);
    }
    let state = Agreed { known: resolved.clone(), lookup };
    let mut decided = Partial::default();
    for kind in FIRST {
        let mut winners = Vec::new();
        for events in of_kind(&conflicts, |other| other == kind, lookup)? {
            winners.extend(last_allowed(rules, events, &state, &decided));
        }
        // Those of one kind do not judge each other.
        winners.into_iter().for_each(|event| decided.insert(event));
    }
    let mut winners = Vec::new();
    for mut events in of_kind(&conflicts, |kind| !FIRST.contains(&kind), lookup)? {
        events.reverse();
        let allowed =
            |event: &&Arc<Event>| auth::check(rules, event, |kind, key| state.find(kind, key, &decided)).is_ok();
        // If none is allowed, servers agree on the last of the order all the same.
        winners.extend(events.iter().find(allowed).or(events.last()).cloned());
    }
    winners.into_iter().for_each(|event| decided.insert(event));
    resolved.extend(decided.into_state());
    Ok(resolved)
}

/// The conflicting events of some kinds, for each key by ascending depth and descending hash.
fn of_kind(
    conflicts: &Conflicts,
    wanted: impl Fn(&str) -> bool,
    lookup: &Lookup<'_>,
) -> Result<Vec<Vec<Arc<Event>>>, ResolveError> {
    let keys = conflicts.iter().filter(|((kind, _), _)| wanted(kind));
    keys.map(|(_, ids)| {
        let mut events = ids.iter().map(|id| lookup.find(id)).collect::<Result<Vec<_>, _>>()?;
        events.sort_by_cached_key(|event| (event.depth, Reverse(Sha1::digest(event.event_id.as_str()))));
        Ok(events)
    })
    .collect()
}

/// Goes from event to event as long as each is allowed by the one before it.
fn last_allowed(rules: &Rules, events: Vec<Arc<Event>>, state: &Agreed<'_>, decided: &Partial) -> Option<Arc<Event>> {
    let mut events = events.into_iter();
    let mut last = events.next()?;
    for event in events {
        let find = |kind: &str, key: &str| {
            if last.is(kind, key) { Some(last.clone()) } else { state.find(kind, key, decided) }
        };
        if auth::check(rules, &event, find).is_err() {
            break;
        }
        last = event;
    }
    Some(last)
}

/// What the states agree on, looked up as it is needed.
struct Agreed<'a> {
    known: StateMap,
    lookup: &'a Lookup<'a>,
}

impl Agreed<'_> {
    fn find(&self, kind: &str, key: &str, decided: &Partial) -> Option<Arc<Event>> {
        if let Some(event) = decided.get(kind, key) {
            return Some(event.clone());
        }
        let id = self.known.get(&(kind.to_owned(), key.to_owned()))?;
        (self.lookup.event)(id)
    }
}
