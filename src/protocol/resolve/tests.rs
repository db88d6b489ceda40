//! Forked rooms as text: which of the lines make up the state after all branches?

use std::{collections::HashSet, sync::Arc};

use expect_test::{Expect, expect};
use proptest::prelude::*;
use ruma::{
    MilliSecondsSinceUnixEpoch, RoomId, UInt, UserId,
    events::{StateEventType, TimelineEventType},
    state_res::utils::event_id_set::EventIdSet,
};
use serde_json::value::RawValue;

use super::*;
use crate::protocol::testing::{Graph, State, id};

/// A room of Ann's in which Bob and Cat are moderators and Dan is a member.
const ROOM: &str = "
    create @ann create
    ann    @ann member ann join
    pl     @ann power_levels ann=100 bob=50 cat=50
    rules  @ann join_rules public
    bob    @bob member bob join
    cat    @cat member cat join
    dan    @dan member dan join
";

fn ids(state: &State) -> StateMap {
    state.iter().map(|(key, name)| (key.clone(), id(name))).collect()
}

fn names(state: StateMap) -> State {
    state.into_iter().map(|(key, id)| (key, id.as_str()[1..].to_owned())).collect()
}

pub(super) fn resolve_in(graph: &Graph, states: &[State], rejected: &[&str]) -> Result<State, ResolveError> {
    let states: Vec<StateMap> = states.iter().map(ids).collect();
    let lookup = Lookup {
        event: &|id| graph.events.get(&id.as_str()[1..]).cloned(),
        rejected: &|id| rejected.contains(&&id.as_str()[1..]),
    };
    resolve(graph.rules, &states.iter().collect::<Vec<_>>(), &lookup).map(names)
}

fn graph(version: &str, lines: &str) -> Graph {
    // Creators have no level from version 12 on.
    let room = if version == "12" { ROOM.replace("ann=100 ", "") } else { ROOM.to_owned() };
    let lines = if version == "12" { lines.replace("ann=100 ", "") } else { lines.to_owned() };
    Graph::parse(version, &format!("{room}\n{lines}"), &|graph, states| resolve_in(graph, states, &[]).unwrap())
}

/// The states after the events that no other follows.
fn ends(graph: &Graph) -> Vec<State> {
    let events: Vec<Arc<Event>> = graph.order.iter().map(|name| graph.event(name)).collect();
    let ends = crate::protocol::graph::forward_extremities(events.iter().map(|event| &**event));
    ends.iter().map(|id| graph.after[&id.as_str()[1..]].clone()).collect()
}

/// Resolves the ends of the room, and shows what of the given lines is in the state.
fn check_resolve(versions: &[&str], lines: &str, expected: Expect) {
    for version in versions {
        let graph = graph(version, lines);
        let resolved = resolve_in(&graph, &ends(&graph), &[]).unwrap();
        let of_lines = |name: &&String| lines.lines().any(|line| line.split_whitespace().next() == Some(name));
        let found: Vec<&str> = graph
            .order
            .iter()
            .filter(|name| resolved.values().any(|it| it == *name))
            .filter(of_lines)
            .map(|name| &**name)
            .collect();
        expected.assert_eq(&found.join(" "));
    }
}

const MODERN: &[&str] = &["2", "6", "10", "11", "12"];

#[test]
fn a_topic_by_a_banned_user_does_not_survive() {
    check_resolve(
        MODERN,
        "topic1  @bob  topic       mine   <- dan
         ban     @ann  member bob  ban    <- dan",
        expect!["ban"],
    );
}

#[test]
fn of_two_topics_the_later_one_stays() {
    check_resolve(
        MODERN,
        "one  @cat  topic  tea     <- dan
         two  @bob  topic  coffee  <- dan",
        expect!["two"],
    );
}

#[test]
fn a_topic_sent_under_newer_power_levels_beats_a_later_one_under_older() {
    check_resolve(
        MODERN,
        "pl2  @ann  power_levels  ann=100 bob=50 cat=50 dan=50
         one  @cat  topic  tea     <- pl2
         two  @bob  topic  coffee  <- dan",
        expect!["pl2 one"],
    );
}

#[test]
fn whoever_loses_power_loses_what_it_was_used_for() {
    check_resolve(
        MODERN,
        "demote  @ann  power_levels  ann=100 bob=0 cat=50  <- dan
         kick    @bob  member dan    leave                 <- dan
         topic1  @bob  topic         mine                  <- kick",
        expect!["demote"],
    );
}

#[test]
fn a_join_does_not_survive_a_door_that_was_closed_meanwhile() {
    check_resolve(
        MODERN,
        "close  @ann  join_rules  invite  <- dan
         eve    @eve  member eve  join    <- dan",
        expect!["close"],
    );
}

#[test]
fn of_two_moderators_who_ban_each_other_the_first_stays() {
    check_resolve(
        MODERN,
        "pl2   @ann  power_levels  ann=100 bob=50 cat=49
         ban1  @bob  member cat    ban    <- pl2
         ban2  @cat  member bob    leave  <- pl2",
        expect!["pl2 ban1"],
    );
}

#[test]
fn changes_of_power_are_taken_in_the_order_of_power() {
    check_resolve(
        MODERN,
        "byBob  @bob  power_levels  ann=100 bob=50 cat=50 dan=50  <- dan
         byAnn  @ann  power_levels  ann=100 bob=50 cat=50 eve=50  <- dan",
        // Bob's comes after Ann's, and does not mention Eve, whom he cannot remove.
        expect!["byAnn"],
    );
    check_resolve(
        MODERN,
        "byBob  @bob  power_levels  ann=100 bob=50 cat=50 dan=50          <- dan
         byAnn  @ann  power_levels  ann=100 bob=50 cat=50 users_default=5  <- dan",
        expect!["byBob"],
    );
}

#[test]
fn agreed_state_is_not_taken_back() {
    check_resolve(
        MODERN,
        "name1  @ann  name          home
         a      @bob  message       left   <- name1
         b      @cat  topic         right  <- name1",
        expect!["name1 b"],
    );
}

#[test]
fn three_branches_are_resolved_together() {
    check_resolve(
        MODERN,
        "one    @bob  topic       a     <- dan
         two    @cat  topic       b     <- dan
         three  @ann  member cat  ban   <- dan
         four   @bob  name        home  <- dan",
        expect!["one three four"],
    );
}

#[test]
fn forks_may_meet_and_fork_again() {
    check_resolve(
        MODERN,
        "one    @bob  topic       a    <- dan
         two    @cat  topic       b    <- dan
         meet   @dan  message     hi   <- one two
         three  @bob  topic       c    <- meet
         ban    @ann  member cat  ban  <- two",
        expect!["three ban"],
    );
}

#[test]
fn what_only_one_side_has_is_a_conflict() {
    // Dan was kicked on one side; on the other, where nobody knows of it, he leaves a mark.
    check_resolve(
        MODERN,
        "own   @dan  org.example.mark /@dan:a        <- dan
         kick  @ann  member dan                leave  <- dan",
        expect!["kick"],
    );
}

#[test]
fn version_12_replays_what_lies_between_conflicting_events() {
    // One state is of old: it has the first power levels beside a topic that was set under the second.
    let levels = |version: &str| {
        let graph = graph(
            version,
            "pl2    @ann  power_levels  ann=100 bob=50 cat=50 dan=60
             topic1 @dan  topic         tea
             pl3    @dan  power_levels  ann=100 bob=50 cat=50 dan=60 eve=10",
        );
        let key = ("m.room.power_levels".to_owned(), String::new());
        let mut old = graph.after["pl3"].clone();
        old.insert(key.clone(), "pl".to_owned());
        resolve_in(&graph, &[graph.after["pl3"].clone(), old], &[]).unwrap()[&key].clone()
    };
    assert_eq!(levels("11"), "pl");
    assert_eq!(levels("12"), "pl3");
}

#[test]
fn the_first_version_goes_by_depth() {
    check_resolve(
        &["1"],
        "one  @cat  topic    tea     <- dan
         say  @bob  message  hi      <- dan
         two  @bob  topic    coffee  <- say",
        expect!["two"],
    );
    check_resolve(
        &["1"],
        "one  @cat  topic    tea     <- dan
         two  @bob  topic    coffee  <- dan",
        // SHA-1 of $two begins with 04d, of $one with 044.
        expect!["one"],
    );
    check_resolve(
        &["1"],
        "demote  @ann  power_levels  ann=100 bob=0 cat=50  <- dan
         say     @bob  message       hi                    <- dan
         topic1  @bob  topic         mine                  <- say",
        expect!["demote topic1"],
    );
    check_resolve(
        &["1"],
        "close  @ann  join_rules  invite  <- dan
         open   @ann  join_rules  public  <- dan
         eve    @eve  member eve  join    <- open",
        expect!["close eve"],
    );
}

#[test]
fn rejected_auth_events_have_no_say() {
    let lines = "
        invite  @bob  member eve  invite  <- dan
        close   @ann  join_rules  invite  <- dan
        one     @cat  topic       a       <- close
        eve     @eve  member eve  join    <- invite";
    let graph = graph("10", lines);
    // On Eve's side the state has only her join: that she was invited is known from its auth events.
    let mut eves = graph.after["eve"].clone();
    let key = ("m.room.member".to_owned(), "@eve:a".to_owned());
    let joined = |rejected: &[&str]| {
        let states = [graph.after["one"].clone(), eves.clone()];
        resolve_in(&graph, &states, rejected).unwrap().get(&key).cloned()
    };
    assert_eq!(joined(&[]).as_deref(), Some("eve"));
    assert_eq!(joined(&["invite"]), Some("eve".to_owned()));
    eves = graph.after["invite"].clone();
    let states = [graph.after["one"].clone(), eves];
    assert_eq!(resolve_in(&graph, &states, &[]).unwrap().get(&key).map(String::as_str), Some("invite"));
}

#[test]
fn what_is_missing_is_named() {
    let mut graph = graph("11", "one @bob topic a <- dan\ntwo @cat topic b <- dan");
    let states = ends(&graph);
    graph.events.remove("pl");
    assert_eq!(resolve_in(&graph, &states, &[]), Err(ResolveError::Missing(id("pl"))));
}

#[test]
fn one_state_is_its_own_resolution() {
    for version in ["1", "6", "12"] {
        let graph = graph(version, "one @bob topic a");
        let state = graph.after["one"].clone();
        assert_eq!(resolve_in(&graph, std::slice::from_ref(&state), &[]).unwrap(), state);
        assert_eq!(resolve_in(&graph, &[state.clone(), state.clone()], &[]).unwrap(), state);
    }
}

#[test]
fn a_cycle_of_auth_events_comes_to_an_end() {
    for version in ["2", "12"] {
        let mut graph = graph(
            version,
            "one @bob power_levels ann=100 bob=50 cat=50 dan=5 <- dan\ntwo @cat power_levels ann=100 bob=50 cat=50 dan=6 <- dan",
        );
        for (name, auth) in [("one", "two"), ("two", "one")] {
            let mut event = (*graph.event(name)).clone();
            event.auth_events.push(id(auth));
            graph.events.insert(name.to_owned(), Arc::new(event));
        }
        assert!(resolve_in(&graph, &ends(&graph), &[]).is_ok());
    }
}

/// A step of a random room: who does what, and where in the graph.
fn step() -> impl Strategy<Value = (usize, usize, usize, usize, bool)> {
    (0..5usize, 0..8usize, 0..5usize, 0..6usize, any::<bool>())
}

/// Writes a random room; what is not allowed on its branch is left out, as servers would reject it.
fn random_room(version: &str, steps: &[(usize, usize, usize, usize, bool)]) -> Graph {
    let people = ["ann", "bob", "cat", "dan", "eve"];
    let mut lines = String::new();
    let mut heads = vec!["dan".to_owned(); 3];
    for (number, (who, what, whom, branch, merge)) in steps.iter().enumerate() {
        let (who, whom) = (people[*who], people[*whom]);
        let action = match what {
            0 => format!("@{who} topic {number}"),
            1 => format!("@{who} member {whom} ban"),
            2 => format!("@{who} member {whom} leave"),
            3 => format!("@{who} member {who} join"),
            4 => format!("@{who} power_levels ann=100 {whom}=50 bob=50 users_default=0"),
            5 => format!("@{who} power_levels ann=100 bob=50 cat={number}"),
            6 => format!("@{who} join_rules {}", if *merge { "invite" } else { "public" }),
            _ => format!("@{who} name {number}"),
        };
        let branch = branch % heads.len();
        let mut prev = heads[branch].clone();
        if *merge && heads[(branch + 1) % 3] != prev {
            prev = format!("{prev} {}", heads[(branch + 1) % 3]);
        }
        let attempt = format!("{lines}e{number} {action} <- {prev}\n");
        let graph = graph(version, &attempt);
        let name = format!("e{number}");
        let event = graph.event(&name);
        let before = &graph.before[&name];
        if crate::protocol::auth::check(graph.rules, &event, |kind, key| graph.find(before, kind, key)).is_ok() {
            lines = attempt;
            heads[branch] = name;
        }
    }
    graph(version, &lines)
}

/// An event as ruma's state resolution sees it.
#[derive(Clone)]
struct ForRuma {
    event: Arc<Event>,
    kind: TimelineEventType,
    content: Box<RawValue>,
}

impl ForRuma {
    fn new(event: Arc<Event>) -> Self {
        let content = RawValue::from_string(event.content().to_owned()).unwrap();
        Self { kind: event.kind.as_str().into(), content, event }
    }
}

impl ruma::state_res::Event for ForRuma {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event.event_id
    }
    fn room_id(&self) -> Option<&RoomId> {
        (!self.event.room_id.as_str().starts_with("!create") || self.event.kind != "m.room.create")
            .then_some(&*self.event.room_id)
    }
    fn sender(&self) -> &UserId {
        &self.event.sender
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.event.origin_server_ts))
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }
    fn content(&self) -> &RawValue {
        &self.content
    }
    fn state_key(&self) -> Option<&str> {
        self.event.state_key.as_deref()
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.event.prev_events.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.event.auth_events.iter())
    }
    fn redacts(&self) -> Option<&OwnedEventId> {
        self.event.redacts.as_ref()
    }
    fn rejected(&self) -> bool {
        false
    }
}

/// Resolves by ruma-state-res, which others wrote and which shares no line with ours.
fn by_ruma(graph: &Graph, states: &[State]) -> State {
    let rules = graph.rules.id().rules().unwrap();
    let maps: Vec<ruma::state_res::StateMap<OwnedEventId>> = states
        .iter()
        .map(|state| {
            let entry = |(key, name): (&(String, String), &String)| {
                ((StateEventType::from(key.0.as_str()), key.1.clone()), id(name))
            };
            state.iter().map(entry).collect()
        })
        .collect();
    let chains: Vec<EventIdSet<OwnedEventId>> =
        states.iter().map(|state| state.values().flat_map(|name| chain(graph, name)).collect()).collect();
    let resolved = ruma::state_res::resolve(
        &rules.authorization,
        rules.state_res.v2_rules().unwrap(),
        &maps,
        chains,
        |id| graph.events.get(&id.as_str()[1..]).cloned().map(ForRuma::new),
        |conflicts| {
            let conflicted: Vec<&OwnedEventId> = conflicts.values().flatten().collect();
            let below: HashSet<OwnedEventId> =
                conflicted.iter().flat_map(|id| chain(graph, &id.as_str()[1..])).collect();
            let above = |id: &&OwnedEventId| {
                let own = chain(graph, &id.as_str()[1..]);
                conflicted.iter().any(|other| own.contains(*other))
            };
            let between = below.iter().chain(conflicted.iter().copied());
            Some(between.filter(above).chain(conflicted.iter().copied()).cloned().collect())
        },
    );
    let resolved = resolved.unwrap().into_iter();
    resolved.map(|((kind, key), id)| ((kind.to_string(), key), id.as_str()[1..].to_owned())).collect()
}

/// The auth chain of an event, without it.
fn chain(graph: &Graph, name: &str) -> HashSet<OwnedEventId> {
    let mut found = HashSet::new();
    let mut open = vec![name.to_owned()];
    while let Some(name) = open.pop() {
        for id in &graph.event(&name).auth_events {
            if found.insert(id.clone()) {
                open.push(id.as_str()[1..].to_owned());
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_the_states_does_not_matter(
        version in prop::sample::select(vec!["1", "2", "6", "11", "12"]),
        steps in prop::collection::vec(step(), 1..16),
        turn in 0..7usize,
    ) {
        let graph = random_room(version, &steps);
        let states = ends(&graph);
        let resolved = resolve_in(&graph, &states, &[]).unwrap();
        let mut turned = states.clone();
        turned.rotate_left(turn % states.len());
        prop_assert_eq!(&resolve_in(&graph, &turned, &[]).unwrap(), &resolved);
        turned.reverse();
        turned.push(states[0].clone());
        prop_assert_eq!(&resolve_in(&graph, &turned, &[]).unwrap(), &resolved);
        // Nothing is made up, and what all agree on stays.
        for (key, name) in &resolved {
            let event = graph.event(name);
            prop_assert_eq!(event.key(), Some((&*key.0, &*key.1)));
        }
        for (key, name) in &states[0] {
            if states.iter().all(|state| state.get(key) == Some(name)) {
                prop_assert_eq!(resolved.get(key), Some(name));
            }
        }
    }

    #[test]
    fn an_implementation_by_others_finds_the_same(
        version in prop::sample::select(vec!["2", "6", "11", "12"]),
        steps in prop::collection::vec(step(), 1..16),
    ) {
        let graph = random_room(version, &steps);
        let mut states = ends(&graph);
        // Another server may claim any state: one in which some entries are older.
        let mut claimed = states[0].clone();
        for (step, (key, name)) in steps.iter().zip(&mut claimed) {
            let older = graph.order.iter().find(|name| graph.event(name).key() == Some((&*key.0, &*key.1)));
            if step.4 && let Some(older) = older {
                older.clone_into(name);
            }
        }
        states.push(claimed);
        prop_assert_eq!(&resolve_in(&graph, &states, &[]).unwrap(), &by_ruma(&graph, &states));
    }
}
