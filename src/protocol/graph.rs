//! The event graph of a room: ends, order and gaps.
//!
//! Events point to those before them (`prev_events`). These functions take events and lookups, never a
//! room, so that they serve the store, a page of backfill and a test alike. Each one is bounded by what
//! it is given: a graph with cycles, which only versions 1 and 2 allow, comes to an end as well.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};

use super::event::Event;

/// The forward extremities of these events: those that no other one names as previous.
/// Spec: server-server-api#pdus
pub fn forward_extremities<'a>(events: impl IntoIterator<Item = &'a Event> + Clone) -> BTreeSet<OwnedEventId> {
    let named: HashSet<&EventId> =
        events.clone().into_iter().flat_map(|event| &event.prev_events).map(|id| &**id).collect();
    events.into_iter().filter(|event| !named.contains(&*event.event_id)).map(|event| event.event_id.clone()).collect()
}

/// The forward extremities after one more event: it takes the place of those that it names.
/// `hidden` finds events that are rejected or soft-failed, as in [`follows`].
pub fn advance(
    extremities: &mut BTreeSet<OwnedEventId>,
    event: &Event,
    hidden: impl Fn(&EventId) -> Option<Arc<Event>>,
) {
    for prev in follows(event, hidden) {
        extremities.remove(&prev);
    }
    extremities.insert(event.event_id.clone());
}

/// How many hidden events one event is followed through.
const MOST_HIDDEN: usize = 1_000;

/// The events that an event comes right after: those that it names, and where one of them is hidden, because
/// it is rejected or soft-failed and so no end of the room, those that this one names, and so on.
pub fn follows(event: &Event, hidden: impl Fn(&EventId) -> Option<Arc<Event>>) -> HashSet<OwnedEventId> {
    let mut followed: HashSet<OwnedEventId> = event.prev_events.iter().cloned().collect();
    let mut open: Vec<OwnedEventId> = event.prev_events.clone();
    while let Some(id) = open.pop() {
        let Some(hidden) = hidden(&id).filter(|_| followed.len() < MOST_HIDDEN) else { continue };
        open.extend(hidden.prev_events.iter().filter(|prev| followed.insert((*prev).clone())).cloned());
    }
    followed
}

/// The depth of a new event after these: one more than the deepest, up to what JSON can hold.
/// Spec: rooms/v12#event-format
pub fn next_depth(previous: impl IntoIterator<Item = u64>) -> u64 {
    let deepest = previous.into_iter().max().unwrap_or(0);
    deepest.saturating_add(1).min(super::canonical::MAX_INT as u64)
}

/// The previous events that are neither among these nor known: the gaps to fill.
pub fn missing_previous<'a>(
    events: impl IntoIterator<Item = &'a Event> + Clone,
    is_known: impl Fn(&EventId) -> bool,
) -> BTreeSet<OwnedEventId> {
    let here: HashSet<&EventId> = events.clone().into_iter().map(|event| &*event.event_id).collect();
    let previous = events.into_iter().flat_map(|event| &event.prev_events);
    previous.filter(|id| !here.contains(&***id) && !is_known(id)).cloned().collect()
}

/// The events in an order in which each comes after its previous ones; of those that could come next,
/// the one with the least depth, time and ID. Events in or behind a cycle are left out.
pub fn topological_order(events: &[Arc<Event>]) -> Vec<Arc<Event>> {
    order_by(events, |event| event.prev_events.iter())
}

/// The events in an order in which each comes after its auth events, as [`topological_order`] does it.
pub fn auth_order(events: &[Arc<Event>]) -> Vec<Arc<Event>> {
    order_by(events, |event| event.auth_events.iter())
}

/// The events in an order in which each comes after its previous and its auth events.
pub fn causal_order(events: &[Arc<Event>]) -> Vec<Arc<Event>> {
    order_by(events, |event| event.prev_events.iter().chain(&event.auth_events))
}

fn order_by<'e, I: Iterator<Item = &'e OwnedEventId>>(
    events: &'e [Arc<Event>],
    edges: impl Fn(&'e Event) -> I,
) -> Vec<Arc<Event>> {
    let index: HashMap<&EventId, usize> =
        events.iter().enumerate().map(|(index, event)| (&*event.event_id, index)).collect();
    let mut waits_for = vec![0; events.len()];
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); events.len()];
    for (at, event) in events.iter().enumerate() {
        // An event that is given twice is ordered once.
        if index[&*event.event_id] != at {
            waits_for[at] = usize::MAX;
            continue;
        }
        let parents: HashSet<usize> = edges(event).filter_map(|id| index.get(&**id).copied()).collect();
        waits_for[at] = parents.len();
        for parent in parents {
            followers[parent].push(at);
        }
    }
    let rank = |at: usize| {
        let event = &events[at];
        Reverse((event.depth, event.origin_server_ts, &event.event_id, at))
    };
    let mut ready: BinaryHeap<_> = (0..events.len()).filter(|at| waits_for[*at] == 0).map(rank).collect();
    let mut ordered = Vec::with_capacity(events.len());
    while let Some(Reverse((.., at))) = ready.pop() {
        ordered.push(events[at].clone());
        for follower in &followers[at] {
            waits_for[*follower] -= 1;
            if waits_for[*follower] == 0 {
                ready.push(rank(*follower));
            }
        }
    }
    ordered
}

/// Walks back from these events, nearest first (breadth-first), until `limit` events are found. The
/// walk does not enter or pass events for which `stop` is true.
///
/// With the events themselves included it answers `/backfill`, without them `/get_missing_events`.
/// Spec: server-server-api#post_matrixfederationv1get_missing_eventsroomid
pub fn walk_back(
    from: impl IntoIterator<Item = OwnedEventId>,
    include_start: bool,
    limit: usize,
    stop: impl Fn(&EventId) -> bool,
    find: impl Fn(&EventId) -> Option<Arc<Event>>,
) -> Vec<Arc<Event>> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut level: Vec<(OwnedEventId, bool)> = from.into_iter().map(|id| (id, include_start)).collect();
    while !level.is_empty() && found.len() < limit {
        let mut next = Vec::new();
        for (id, include) in level {
            if (include && stop(&id)) || !seen.insert(id.clone()) {
                continue;
            }
            let Some(event) = find(&id) else { continue };
            next.extend(event.prev_events.iter().map(|id| (id.clone(), true)));
            if include {
                found.push(event);
                if found.len() == limit {
                    break;
                }
            }
        }
        level = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::testing::{Graph, State, id};

    fn graph(text: &str) -> Graph {
        Graph::parse("11", text, &|_, states| -> State { states[0].clone() })
    }

    const FORK: &str = "
        a  @ann message 1
        b  @ann message 2  <- a
        c  @ann message 3  <- a
        d  @ann message 4  <- b c
        e  @ann message 5  <- c";

    fn names<'a>(ids: impl IntoIterator<Item = &'a OwnedEventId>) -> String {
        ids.into_iter().map(|id| &id.as_str()[1..]).collect::<Vec<_>>().join(" ")
    }

    fn all(graph: &Graph) -> Vec<Arc<Event>> {
        graph.order.iter().map(|name| graph.event(name)).collect()
    }

    #[test]
    fn the_ends_are_what_nobody_follows() {
        let graph = graph(FORK);
        let events = all(&graph);
        assert_eq!(names(&forward_extremities(events.iter().map(|event| &**event))), "d e");
        let mut ends = BTreeSet::new();
        for event in &events {
            advance(&mut ends, event, |_| None);
        }
        assert_eq!(names(&ends), "d e");
    }

    #[test]
    fn what_follows_a_hidden_event_follows_those_before_it() {
        let graph = graph(FORK);
        let hidden = |id: &EventId| ["$b", "$c"].contains(&id.as_str()).then(|| graph.event(&id.as_str()[1..]));
        let followed: BTreeSet<_> = follows(&graph.event("d"), hidden).into_iter().collect();
        assert_eq!(names(&followed), "a b c");
        let followed: BTreeSet<_> = follows(&graph.event("d"), |_| None).into_iter().collect();
        assert_eq!(names(&followed), "b c");
    }

    #[test]
    fn parents_come_before_children_whatever_the_input_order() {
        let graph = graph(FORK);
        let mut events = all(&graph);
        let ordered = |events: &[Arc<Event>]| names(topological_order(events).iter().map(|event| &event.event_id));
        assert_eq!(ordered(&events), "a b c d e");
        events.reverse();
        events.push(graph.event("a"));
        assert_eq!(ordered(&events), "a b c d e");
        assert_eq!(ordered(&events[..2]), "d e");
    }

    #[test]
    fn a_cycle_is_left_out() {
        let looped = |name: &str, prev: &str| {
            let mut event = (*graph("x @ann message 1").event("x")).clone();
            event.event_id = id(name);
            event.prev_events = vec![id(prev)];
            Arc::new(event)
        };
        let events = [looped("a", "b"), looped("b", "a"), looped("c", "b"), looped("d", "nowhere"), looped("e", "e")];
        assert_eq!(names(topological_order(&events).iter().map(|event| &event.event_id)), "d");
        let find = |id: &EventId| events.iter().find(|event| event.event_id == id).cloned();
        assert_eq!(walk_back([id("c")], true, 10, |_| false, find).len(), 3);
    }

    #[test]
    fn gaps_are_previous_events_that_nobody_has() {
        let graph = graph(FORK);
        let events = [graph.event("d"), graph.event("e"), graph.event("c")];
        let events = events.iter().map(|event| &**event);
        assert_eq!(names(&missing_previous(events.clone(), |_| false)), "a b");
        assert_eq!(names(&missing_previous(events, |known| known == id("a"))), "b");
    }

    #[test]
    fn walking_back_goes_level_by_level() {
        let graph = graph(FORK);
        let walk = |from: &[&str], include, limit, stop: &str| {
            let from = from.iter().map(|name| id(name));
            let find = |id: &EventId| graph.events.get(&id.as_str()[1..]).cloned();
            let found = walk_back(from, include, limit, |id| stop.contains(&id.as_str()[1..]), find);
            names(found.iter().map(|event| &event.event_id))
        };
        assert_eq!(walk(&["d"], true, 10, ""), "d b c a");
        assert_eq!(walk(&["d"], false, 10, ""), "b c a");
        assert_eq!(walk(&["d"], false, 10, "a"), "b c");
        assert_eq!(walk(&["d", "e"], false, 2, ""), "b c");
        assert_eq!(walk(&["x"], true, 2, ""), "");
    }

    #[test]
    fn depth_stops_where_json_does() {
        assert_eq!(next_depth([]), 1);
        assert_eq!(next_depth([3, 7, 5]), 8);
        assert_eq!(next_depth([(1 << 53) - 1]), (1 << 53) - 1);
        assert_eq!(next_depth([u64::MAX - 1]), (1 << 53) - 1);
    }
}
