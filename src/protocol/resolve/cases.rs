//! The cases that others who resolve state test themselves with, and those of MSC4297, from which version 12 comes.

use expect_test::{Expect, expect};

use super::tests::resolve_in;
use crate::protocol::testing::{Graph, State};

/// A room of Alice's with three members.
const ROOM: &str = "
    create   @alice    create
    alice    @alice    member alice join
    pl       @alice    power_levels alice=100 bob=50
    open     @alice    join_rules public
    bob      @bob      member bob join
    charlie  @charlie  member charlie join
";

fn graph(version: &str, lines: &str) -> Graph {
    let text = format!("{ROOM}\n{lines}");
    let text = if version == "12" { text.replace("alice=100", "eve=0") } else { text };
    Graph::parse(version, &text, &|graph, states| resolve_in(graph, states, &[]).unwrap())
}

/// The state after an event, with other events for some keys: what another server claims it to be.
fn state(graph: &Graph, after: &str, changed: &[&str]) -> State {
    let mut state = graph.after[after].clone();
    for name in changed {
        let event = graph.event(name);
        let (kind, key) = event.key().unwrap();
        state.insert((kind.to_owned(), key.to_owned()), (*name).to_owned());
    }
    state
}

/// Resolves the states after some events, and shows what comes of it without what all agree on.
#[track_caller]
fn check(versions: &[&str], lines: &str, ends: &[(&str, &[&str])], expected: Expect) {
    for version in versions {
        let graph = graph(version, lines);
        let states: Vec<State> = ends.iter().map(|(after, changed)| state(&graph, after, changed)).collect();
        let resolved = resolve_in(&graph, &states, &[]).unwrap();
        let agreed = |key, name| states.iter().all(|state| state.get(key) == Some(name));
        let left = graph.order.iter().filter(|name| resolved.iter().any(|(key, it)| it == *name && !agreed(key, it)));
        expected.assert_eq(&left.map(String::as_str).collect::<Vec<_>>().join(" "));
    }
}

const MODERN: &[&str] = &["2", "6", "10", "11", "12"];

#[test]
fn a_ban_beats_the_power_levels_of_the_banned() {
    let lines = "ban     @alice  member bob ban                       <- charlie
                 levels  @bob    power_levels alice=100 bob=50 charlie=50 <- charlie";
    check(MODERN, lines, &[("ban", &[]), ("levels", &[])], expect!["pl ban"]);
}

#[test]
fn a_demotion_beats_the_topic_of_the_demoted() {
    let lines = "demote  @alice  power_levels alice=100 bob=0  <- charlie
                 topic1  @bob    topic mine                    <- charlie";
    check(MODERN, lines, &[("demote", &[]), ("topic1", &[])], expect!["demote"]);
}

#[test]
fn the_levels_of_an_admin_beat_those_of_a_moderator() {
    let lines = "admin  @alice  power_levels alice=100 bob=0            <- charlie
                 mod    @bob    power_levels alice=100 bob=50 charlie=50 <- charlie";
    check(MODERN, lines, &[("admin", &[]), ("mod", &[])], expect!["admin"]);
}

#[test]
fn a_ban_beats_the_topic_of_the_banned() {
    let lines = "first   @alice  topic ours
                 ban     @alice  member bob ban  <- first
                 second  @bob    topic mine      <- first";
    check(MODERN, lines, &[("ban", &[]), ("second", &[])], expect!["first ban"]);
}

#[test]
fn a_closed_door_beats_a_join() {
    let lines = "closed  @alice  join_rules invite   <- charlie
                 ella    @ella   member ella join    <- charlie";
    check(MODERN, lines, &[("closed", &[]), ("ella", &[])], expect!["closed"]);
}

#[test]
fn joins_beside_each_other_both_count() {
    let lines = "dora  @dora  member dora join  <- charlie
                 ella  @ella  member ella join  <- charlie";
    check(MODERN, lines, &[("dora", &[]), ("ella", &[])], expect!["dora ella"]);
}

#[test]
fn of_equal_powers_the_later_one_stays() {
    let lines = "restricted  @alice  join_rules invite  <- charlie
                 again       @alice  join_rules public  <- charlie";
    check(MODERN, lines, &[("restricted", &[]), ("again", &[])], expect!["again"]);
}

/// Alice has closed the door and left. To one side another server has given an old rule.
#[test]
fn version_12_decides_on_conflicts_from_nothing() {
    let lines = "closed    @alice    join_rules invite
                 gone      @alice    member alice leave
                 bob2      @bob      member bob join displayname=bob          <- gone
                 charlie2  @charlie  member charlie join displayname=charlie  <- gone";
    let ends: &[(&str, &[&str])] = &[("bob2", &[]), ("charlie2", &["open"])];
    check(&["2", "11"], lines, ends, expect!["bob2 charlie2"]);
    check(&["12"], lines, ends, expect!["closed bob2 charlie2"]);
}

/// Power went from Alice to Bob to Charlie. To one side another server has given the levels of the beginning.
#[test]
fn version_12_looks_at_what_lies_between() {
    let lines = "first   @alice  power_levels alice=100 zara=0
                 second  @alice  power_levels alice=100 bob=50 zara=0
                 third   @bob    power_levels alice=100 bob=50 zara=0 charlie=50
                 zara    @zara   member zara join                  <- third
                 eve     @eve    member eve join                   <- third
                 eve2    @eve    member eve join displayname=eve   <- eve";
    let ends: &[(&str, &[&str])] = &[("eve2", &["first"]), ("zara", &[])];
    check(&["2", "11"], lines, ends, expect!["first zara eve2"]);
    check(&["12"], lines, ends, expect!["third zara eve2"]);
}

/// Whoever forks the room often makes every resolution look at many states; what it finds is the same.
#[test]
fn many_states_are_resolved_together() {
    for version in ["2", "12"] {
        let forks: String = (0..70).map(|fork| format!("t{fork} @bob topic {fork} <- charlie\n")).collect();
        let graph = graph(version, &format!("{forks}ban @alice member charlie ban <- charlie"));
        let ends = (0..70).map(|fork| format!("t{fork}")).chain(["ban".to_owned()]);
        let states: Vec<State> = ends.map(|end| graph.after[&end].clone()).collect();
        let resolved = resolve_in(&graph, &states, &[]).unwrap();
        assert_eq!(resolved[&("m.room.topic".to_owned(), String::new())], "t69");
        assert_eq!(resolved[&("m.room.member".to_owned(), "@charlie:a".to_owned())], "ban");
    }
}
