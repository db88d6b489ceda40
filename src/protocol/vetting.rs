//! Which of many events may be believed, as they arrive in any order: each is checked against its auth events once
//! all of those are found good.
//!
//! This is for the states and auth chains that another server gives, whose events have no place in the graph yet.
//! Formats, signatures and hashes have been checked before. An event whose auth events never come is never found
//! good.
//!
//! Spec: server-server-api#joining-rooms

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};

use super::{auth, event::Event, version::Rules};

/// The events of one room that are being vetted.
pub struct Vetting {
    rules: &'static Rules,
    room: OwnedRoomId,
    good: HashMap<OwnedEventId, Arc<Event>>,
    /// Events, by one of those that they wait for.
    waiting: HashMap<OwnedEventId, Vec<Arc<Event>>>,
}

enum Judgement {
    Good,
    Bad,
    WaitsFor(OwnedEventId),
}

impl Vetting {
    /// For a room of this version.
    pub fn new(rules: &'static Rules, room: &RoomId) -> Self {
        Self { rules, room: room.to_owned(), good: HashMap::new(), waiting: HashMap::new() }
    }

    /// Takes events, and gives all that are found good by now, each after those that it rests on. `known` looks
    /// up events that were believed before, and says whether they were rejected.
    pub fn offer(
        &mut self,
        events: impl IntoIterator<Item = Event>,
        known: impl Fn(&EventId) -> Option<(Arc<Event>, bool)>,
    ) -> Vec<Arc<Event>> {
        let of_room = events.into_iter().filter(|event| event.room_id == self.room);
        let mut open: VecDeque<Arc<Event>> = of_room.map(Arc::new).collect();
        let mut found = Vec::new();
        while let Some(event) = open.pop_front() {
            if self.good.contains_key(&event.event_id) {
                continue;
            }
            match self.judge(&event, &known) {
                Judgement::WaitsFor(id) => self.waiting.entry(id).or_default().push(event),
                Judgement::Bad => {}
                Judgement::Good => {
                    open.extend(self.waiting.remove(&event.event_id).unwrap_or_default());
                    self.good.insert(event.event_id.clone(), Arc::clone(&event));
                    found.push(event);
                }
            }
        }
        found
    }

    /// Lets go of the good members: whoever calls this has them where `known` will find them.
    pub fn forget_members(&mut self) {
        self.good.retain(|_, event| event.kind != "m.room.member");
    }

    /// The events for which others wait.
    pub fn wanted(&self) -> impl Iterator<Item = &OwnedEventId> {
        self.waiting.keys()
    }

    /// How many events were not found good because something that they rest on did not come.
    pub fn left_over(&self) -> usize {
        self.waiting.values().map(Vec::len).sum()
    }

    fn judge(&self, event: &Event, known: &impl Fn(&EventId) -> Option<(Arc<Event>, bool)>) -> Judgement {
        let find = |id: &EventId| self.good.get(id).map(|event| (Arc::clone(event), false)).or_else(|| known(id));
        let mut auths = Vec::with_capacity(event.auth_events.len() + 1);
        for id in &event.auth_events {
            let Some(auth) = find(id) else { return Judgement::WaitsFor(id.clone()) };
            auths.push(auth);
        }
        let selected = auth::check_auth_events(self.rules, event, auths.iter().map(|(auth, bad)| (&**auth, *bad)));
        if selected.is_err() {
            return Judgement::Bad;
        }
        if self.rules.room_id_is_hash && event.kind != "m.room.create" {
            let Ok(id) = OwnedEventId::try_from(event.room_id.as_str().replacen('!', "$", 1)) else {
                return Judgement::Bad;
            };
            let Some(create) = find(&id) else { return Judgement::WaitsFor(id) };
            auths.push(create);
        }
        let stands_for = |kind: &str, key: &str| {
            auths.iter().find(|(auth, bad)| !bad && auth.is(kind, key)).map(|(auth, _)| Arc::clone(auth))
        };
        match auth::check(self.rules, event, stands_for) {
            Ok(()) => Judgement::Good,
            Err(_) => Judgement::Bad,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::testing::Graph;

    const ROOM: &str = "
        create  @ann  create
        ann     @ann  member ann join  <- create
        levels  @ann  power_levels  ann=100  <- ann
        rules   @ann  join_rules  public  <- levels
        bob     @bob  member bob join  <- rules
        topic   @bob  topic  mine  <- bob
        cid     @cid  member cid join  <- topic";

    #[test]
    fn whatever_the_order_the_same_are_good() {
        let graph = Graph::chain("11", ROOM);
        let vet = |order: &str, at_once: usize| {
            let mut vetting = Vetting::new(graph.rules, &graph.event("create").room_id);
            let names: Vec<&str> = order.split_whitespace().collect();
            let mut good = Vec::new();
            for some in names.chunks(at_once) {
                good.extend(vetting.offer(some.iter().map(|name| (*graph.event(name)).clone()), |_| None));
            }
            let mut names: Vec<_> = good.iter().map(|event| event.event_id.as_str()[1..].to_owned()).collect();
            names.sort();
            (names.join(" "), vetting.left_over())
        };
        // Bob may not set the topic.
        let all = ("ann bob cid create levels rules".to_owned(), 0);
        assert_eq!(vet("create ann levels rules bob topic cid", 7), all);
        assert_eq!(vet("cid topic bob rules levels ann create", 2), all);
        assert_eq!(vet("bob bob create levels cid ann rules topic create", 1), all);
        assert_eq!(vet("ann levels rules", 3), (String::new(), 3));
    }
}
