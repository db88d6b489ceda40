//! Rooms as text again: a server knows the first part, and an event of the rest comes in.

use expect_test::{Expect, expect};

use super::*;
use crate::protocol::{
    canonical::{Numbers, Value, parse_object},
    compose::Draft,
    resolve::{self, Lookup},
    sign::{KeyPair, add_signature},
    testing::{Graph, State, id},
    version::by_name,
};

/// A room of Ann's in which Bob is a moderator and Cat a member.
const ROOM: &str = "
    create @ann create
    ann    @ann member ann join
    pl     @ann power_levels bob=50
    rules  @ann join_rules public
    bob    @bob member bob join
    cat    @cat member cat join
";

fn ids(state: &State) -> StateMap {
    state.iter().map(|(key, name)| (key.clone(), id(name))).collect()
}

fn name(id: &EventId) -> &str {
    &id.as_str()[1..]
}

fn merge(graph: &Graph, states: &[State]) -> State {
    let states: Vec<StateMap> = states.iter().map(ids).collect();
    let resolved = merge_maps(graph, &states, &HashSet::new());
    resolved.into_iter().map(|(key, id)| (key, name(&id).to_owned())).collect()
}

fn merge_maps(graph: &Graph, states: &[StateMap], rejected: &HashSet<OwnedEventId>) -> StateMap {
    let lookup = Lookup { event: &|id| graph.events.get(name(id)).cloned(), rejected: &|id| rejected.contains(id) };
    resolve::resolve(graph.rules, &states.iter().collect::<Vec<_>>(), &lookup).unwrap()
}

/// A server that has some events of a room.
struct Server<'a> {
    graph: &'a Graph,
    /// Those that have their place, with the states before them, and whether they are hidden.
    placed: HashMap<OwnedEventId, (StateId, bool)>,
    outliers: HashSet<OwnedEventId>,
    rejected: HashSet<OwnedEventId>,
    states: Vec<StateMap>,
    current: StateId,
    ends: BTreeSet<OwnedEventId>,
    floor: u64,
}

impl<'a> Server<'a> {
    fn new(graph: &'a Graph, has: &[&str], outliers: &[&str]) -> Self {
        let mut server = Self {
            graph,
            placed: HashMap::new(),
            outliers: outliers.iter().map(|name| id(name)).collect(),
            rejected: HashSet::new(),
            states: Vec::new(),
            current: 0,
            ends: BTreeSet::new(),
            floor: 0,
        };
        has.iter().for_each(|name| server.place(id(name), ids(&graph.before[*name]), &Verdict::Accepted));
        server
    }

    /// Equal states have one number.
    fn number(&mut self, state: StateMap) -> StateId {
        let known = self.states.iter().position(|known| *known == state);
        let number = known.unwrap_or(self.states.len());
        self.states.extend(known.is_none().then_some(state));
        number as StateId
    }

    fn place(&mut self, id: OwnedEventId, before: StateMap, verdict: &Verdict) {
        let before = self.number(before);
        self.rejected.extend(matches!(verdict, Verdict::Rejected(_)).then(|| id.clone()));
        self.placed.insert(id.clone(), (before, *verdict != Verdict::Accepted));
        if *verdict == Verdict::Accepted {
            let hidden = |id: &EventId| {
                let hidden = self.placed.get(id).is_some_and(|(_, hidden)| *hidden);
                hidden.then(|| self.graph.event(name(id)))
            };
            let mut ends = self.ends.clone();
            graph::advance(&mut ends, &self.graph.event(name(&id)), hidden);
            self.ends = ends;
            let states = self.ends.iter().map(|end| self.after(end)).collect::<Vec<_>>();
            self.current = self.number(merge_maps(self.graph, &states, &self.rejected));
        }
    }

    fn after(&self, id: &EventId) -> StateMap {
        let mut state = self.states[self.placed[id].0 as usize].clone();
        if let Some((kind, key)) = self.graph.event(name(id)).key().filter(|_| !self.rejected.contains(id)) {
            state.insert((kind.to_owned(), key.to_owned()), id.to_owned());
        }
        state
    }

    fn record(&mut self, judged: &[Judged]) {
        for Judged { event, verdict, before } in judged {
            let before = match before {
                Before::Nothing => StateMap::new(),
                Before::After(prev) => self.after(prev),
                Before::Known(state) => self.entries(*state),
                Before::State(state) => (**state).clone(),
                Before::Unknown => {
                    self.outliers.insert(event.event_id.clone());
                    self.rejected.extend((*verdict != Verdict::Outlier).then(|| event.event_id.clone()));
                    continue;
                }
            };
            self.place(event.event_id.clone(), before, verdict);
        }
    }
}

impl View for Server<'_> {
    fn event(&self, id: &EventId) -> Option<Known> {
        let hidden = self.placed.get(id).map(|(_, hidden)| *hidden);
        let rejected = self.rejected.contains(id);
        (hidden.is_some() || self.outliers.contains(id)).then(|| Known {
            event: self.graph.event(name(id)),
            rejected,
            soft_failed: hidden == Some(true) && !rejected,
        })
    }
    fn state_before(&self, id: &EventId) -> Option<StateId> {
        self.placed.get(id).map(|(state, _)| *state)
    }
    fn extremities(&self) -> BTreeSet<OwnedEventId> {
        self.ends.clone()
    }
    fn floor(&self) -> u64 {
        self.floor
    }
    fn current_state(&self) -> StateId {
        self.current
    }
    fn entry(&self, state: StateId, kind: &str, state_key: &str) -> Option<OwnedEventId> {
        self.states[state as usize].get(&(kind.to_owned(), state_key.to_owned())).cloned()
    }
    fn entries(&self, state: StateId) -> StateMap {
        self.states[state as usize].clone()
    }
    fn policy(&self) -> Option<PolicyServer> {
        let policy = self.entry(self.current, "m.room.policy", "")?;
        PolicyServer::named_in(&self.graph.event(name(&policy)))
    }
}

/// What happens on the way and in the end when the last line comes in. Lines that begin with `-` are
/// known to nobody who is asked; the server itself has the room and the lines that begin with `+`.
fn run(version: &str, lines: &str) -> String {
    let marked = |mark: char| -> Vec<&str> {
        let of_mark = lines.lines().filter_map(|line| line.trim().strip_prefix(mark));
        of_mark.filter_map(|line| line.split_whitespace().next()).collect()
    };
    let plain: String =
        lines.lines().map(|line| format!("{}\n", line.trim().trim_start_matches(['+', '-', '!']))).collect();
    let graph = Graph::parse(version, &format!("{ROOM}\n{plain}"), &merge);
    let mut has = vec!["create", "ann", "pl", "rules", "bob", "cat"];
    has.extend(marked('+'));
    run_on(&mut Server::new(&graph, &has, &marked('!')), &marked('-'))
}

fn run_on(server: &mut Server<'_>, lost: &[&str]) -> String {
    let graph = server.graph;
    let event = |name: &str| (*graph.event(name)).clone();
    let mut intake = Intake::new(graph.rules, event(graph.last()));
    let mut story = Vec::new();
    for _ in 0..MAX_GAP + MAX_ROUNDS {
        let step = intake.step(server);
        match step {
            Step::NeedGap { missing: ids, .. } | Step::Need(ids) => {
                story.push(format!("need {}", ids.iter().map(|id| name(id)).collect::<Vec<_>>().join(" ")));
                let found = ids
                    .iter()
                    .map(|id| name(id))
                    .filter(|name| !lost.contains(name) && graph.events.contains_key(*name));
                intake.supply(found.map(event));
            }
            Step::NeedState(before) => {
                story.push(format!("state before {}", name(&before)));
                let state = graph.before[name(&before)].values().map(|name| id(name)).collect();
                intake.state(before, (!lost.contains(&"states")).then_some(state));
            }
            Step::NeedApproval { policy, event } => {
                story.push(format!("{} has to look at {}", policy.via, name(&event.event_id)));
                let good = !event.content().contains("spam");
                intake.approve(good.then(|| signed(&event, &policy, graph.rules)));
            }
            Step::Record(judged) => {
                server.record(&judged);
                story.extend(judged.iter().map(told));
            }
            Step::Done(Ok(judged)) => {
                story.extend(judged.iter().map(told));
                return story.join("\n");
            }
            Step::Done(Err(why)) => {
                story.push(why.to_string());
                return story.join("\n");
            }
        }
    }
    panic!("this has no end: {story:?}");
}

fn told(judged: &Judged) -> String {
    let verdict = match &judged.verdict {
        Verdict::Accepted => "accepted".to_owned(),
        Verdict::Outlier => "outlier".to_owned(),
        Verdict::SoftFailed(refusal) => format!("soft-failed: {refusal}"),
        Verdict::Rejected(refusal) => format!("rejected: {refusal}"),
    };
    let before = match &judged.before {
        Before::Nothing | Before::Unknown => String::new(),
        Before::After(id) => format!(" after {}", name(id)),
        Before::Known(_) => " with the current state".to_owned(),
        Before::State(_) => " with a state of its own".to_owned(),
    };
    format!("{}{before} {verdict}", name(&judged.event.event_id))
}

fn policy_key() -> KeyPair {
    KeyPair::from_seed(&[9; 32], "policy_server")
}

fn signed(event: &Event, policy: &PolicyServer, rules: &Rules) -> Event {
    let mut pdu = event.to_object();
    sign::sign_event(&mut pdu, policy.via.as_str(), &policy_key(), rules);
    // In these texts events have names of their own.
    let json = crate::protocol::canonical::write_object(&pdu).into_boxed_str();
    Event::from_stored(event.event_id.clone(), event.room_id.clone(), json).unwrap()
}

#[test]
fn the_policy_server_of_a_room_is_asked_about_what_it_has_not_signed() {
    let policy = format!(
        r#"+policy @bob policy {{"via":"p","public_keys":{{"ed25519":"{}"}}}} <- cat"#,
        policy_key().public().to_base64()
    );
    check(
        &format!("{policy}\nx @cat message hello"),
        expect![[r#"
            p has to look at x
            x after policy accepted"#]],
    );
    check(
        &format!("{policy}\none @cat message spam\nx @cat message hello"),
        expect![[r#"
            need one
            p has to look at one
            one after policy soft-failed: the room's policy server, p, has not signed it
            p has to look at x
            x after one accepted"#]],
    );
    check(
        &format!("{policy}\nx @cat topic tea"),
        expect!["x after policy rejected: this needs a power level of 50, and the sender has 0"],
    );
    check(&format!("{policy}\nx @bob policy {{}}"), expect!["x after policy accepted"]);
}

fn check(lines: &str, expected: Expect) {
    for version in ["2", "6", "10", "11", "12"] {
        expected.assert_eq(&run(version, lines));
    }
}

#[test]
fn an_event_at_the_end_of_the_room_is_judged_at_once() {
    check("x @cat message hello", expect!["x after cat accepted"]);
    check("x @bob topic tea", expect!["x after cat accepted"]);
    check("x @cat topic tea", expect!["x after cat rejected: this needs a power level of 50, and the sender has 0"]);
    check("x @eve message hello", expect!["x after cat rejected: @eve:a is not in the room"]);
}

#[test]
fn whoever_was_banned_meanwhile_is_not_heard() {
    check(
        "+ban @bob member cat ban <- cat
         x @cat message hello <- cat",
        expect!["x after cat soft-failed: @cat:a is banned from the room"],
    );
    check(
        "+ban @bob member cat ban <- cat
         x @cat message hello <- ban",
        expect!["x after ban rejected: @cat:a is banned from the room"],
    );
}

#[test]
fn gaps_are_filled_and_judged_in_order() {
    check(
        "one @cat message 1
         two @bob member eve invite
         three @eve member eve join
         x @eve message hello",
        expect![[r#"
            need three
            need two
            need one
            one after cat accepted
            two after one accepted
            three after two accepted
            x after three accepted"#]],
    );
}

#[test]
fn what_is_rejected_in_a_gap_has_no_effect() {
    check(
        "one @cat topic mine
         two @cat member bob ban
         x @cat message hello",
        expect![[r#"
            need two
            need one
            one after cat rejected: this needs a power level of 50, and the sender has 0
            two after one rejected: this needs a power level of 50, and the sender has 0
            x after two accepted"#]],
    );
}

#[test]
fn where_branches_meet_the_state_is_resolved() {
    check(
        "+ban @ann member bob ban  <- cat
         topic1 @bob topic mine    <- cat
         x @cat message hello      <- ban topic1",
        expect![[r#"
            need topic1
            topic1 after cat soft-failed: @bob:a is banned from the room
            x with a state of its own accepted"#]],
    );
    check(
        "+one @cat message 1  <- cat
         +two @bob message 2  <- cat
         x @cat message hello <- one two",
        expect!["x after one accepted"],
    );
}

#[test]
fn a_message_brings_in_the_state_of_its_branch() {
    check(
        "topic @bob topic mine            <- cat
         +leave @bob member bob leave     <- cat
         other @cat message from a branch <- topic
         x @cat message hello             <- leave other",
        expect![[r#"
            need other
            need topic
            topic after cat soft-failed: @bob:a is not in the room
            other after topic accepted
            x with the current state accepted"#]],
    );
}

#[test]
fn if_the_gap_cannot_be_filled_the_state_is_asked_for() {
    check(
        "-lost @ann member dan join
         -gone @bob name home
         near @cat message hi
         x @cat message hello",
        expect![[r#"
            need near
            need gone
            state before near
            need gone lost
            near with a state of its own accepted
            x after near accepted"#]],
    );
}

#[test]
fn what_happened_before_the_server_came_is_not_taken_in() {
    for version in ["2", "6", "10", "11", "12"] {
        // Dan's server has been given the state before his join. Bob has heard nothing of Dan yet.
        let lines = "dan @dan member dan join <- cat\n two @bob message hi <- cat";
        let graph = Graph::parse(version, &format!("{ROOM}\n{lines}"), &merge);
        let outliers = vec!["create", "ann", "pl", "rules", "bob", "cat"];
        let floor = graph.event("dan").depth;
        let mut server = Server { floor, ..Server::new(&graph, &["dan"], &outliers) };
        let expected = expect![[r#"
            state before two
            two with a state of its own accepted"#]];
        expected.assert_eq(&run_on(&mut server, &[]));
    }
}

#[test]
fn a_given_state_counts_only_as_far_as_it_is_allowed() {
    check(
        "lost @eve member eve join
         -gone @cat message hi
         x @eve message hello",
        expect![[r#"
            need gone
            state before x
            need lost
            lost outlier
            x with a state of its own accepted"#]],
    );
    check(
        "lost @cat topic mine
         -gone @cat message hi
         x @cat message hello",
        expect![[r#"
            need gone
            state before x
            need lost
            lost rejected: this needs a power level of 50, and the sender has 0
            x with a state of its own accepted"#]],
    );
}

#[test]
fn a_given_state_does_not_bring_back_who_was_banned() {
    check(
        "+ban @bob member cat ban <- cat
         -gone @cat message hi    <- cat
         x @cat message hello",
        expect![[r#"
            need gone
            state before x
            x with a state of its own soft-failed: @cat:a is banned from the room"#]],
    );
}

#[test]
fn what_cannot_be_had_ends_the_intake() {
    let lines = "-gone @cat message hi\nx @cat message hello";
    let graph = Graph::parse("11", &format!("{ROOM}\n{}", lines.replace('-', "")), &merge);
    let has = vec!["create", "ann", "pl", "rules", "bob", "cat"];
    let mut server = Server::new(&graph, &has, &[]);
    expect![[r#"
        need gone
        state before x
        the state before x cannot be found"#]]
    .assert_eq(&run_on(&mut server, &["gone", "states"]).replace("$x", "x"));
}

#[test]
fn auth_events_that_are_missing_are_fetched_with_theirs() {
    let graph =
        Graph::parse("11", &format!("{ROOM}\neve @eve member eve join <- bob\nx @eve message hello <- eve"), &merge);
    let mut server = Server::new(&graph, &["create", "ann", "pl", "rules", "bob", "cat"], &[]);
    // The same message, said after events that the server has, names a join that it does not have.
    let mut event = (*graph.event("x")).clone();
    event.prev_events = vec![id("cat")];
    let mut intake = Intake::new(graph.rules, event);
    let Step::Need(ids) = intake.step(&server) else { panic!("the join is needed") };
    assert_eq!(ids, [id("eve")]);
    intake.supply([(*graph.event("eve")).clone()]);
    let Step::Done(Ok(judged)) = intake.step(&server) else { panic!("nothing else is needed") };
    let verdicts: Vec<_> = judged.iter().map(|judged| judged.verdict.clone()).collect();
    let not_in_room = Refusal::NotInRoom { user: "@eve:a".try_into().unwrap() };
    assert_eq!(verdicts, [Verdict::Outlier, Verdict::Rejected(not_in_room)]);

    server.outliers.insert(id("eve"));
    server.rejected.insert(id("eve"));
    let Step::Done(Ok(judged)) = intake.step(&server) else { panic!("nothing else is needed") };
    assert_eq!(judged.last().unwrap().verdict, Verdict::Rejected(Refusal::RejectedAuthEvent { event_id: id("eve") }));
}

#[test]
fn an_outlier_gets_its_place_when_it_is_built_upon() {
    check(
        "!invite @bob member eve invite
         x @eve member eve join",
        expect![[r#"
            invite after cat accepted
            x after invite accepted"#]],
    );
}

#[test]
fn a_long_gap_is_given_up_for_the_state() {
    let lines: String = (0..MAX_GAP + 50).map(|number| format!("e{number} @cat message {number}\n")).collect();
    let graph = Graph::parse("11", &format!("{ROOM}\n{lines}x @cat message hello"), &merge);
    let mut server = Server::new(&graph, &["create", "ann", "pl", "rules", "bob", "cat"], &[]);
    let mut intake = Intake::new(graph.rules, (*graph.event("x")).clone());
    intake.supply((50..MAX_GAP + 50).map(|number| (*graph.event(&format!("e{number}"))).clone()));
    let Step::NeedState(before) = intake.step(&server) else { panic!("the state is needed") };
    intake.state(before.clone(), Some(graph.before[name(&before)].values().map(|name| id(name)).collect()));
    for _ in 1..MAX_GAP {
        let Step::Record(judged) = intake.step(&server) else { panic!("they are judged one by one") };
        assert!(judged.iter().all(|judged| judged.verdict == Verdict::Accepted));
        server.record(&judged);
    }
    let Step::Done(Ok(judged)) = intake.step(&server) else { panic!("nothing else is needed") };
    assert_eq!(judged[0].verdict, Verdict::Accepted);
}

#[test]
fn a_server_that_never_has_what_it_names_is_not_asked_for_ever() {
    let graph = Graph::parse("2", ROOM, &merge);
    let server = Server::new(&graph, &["create"], &[]);
    let mut event = (*graph.event("cat")).clone();
    event.event_id = id("x");
    event.prev_events = vec![id("x1")];
    let mut intake = Intake::new(graph.rules, event.clone());
    for round in 1.. {
        match intake.step(&server) {
            Step::NeedGap { missing: ids, .. } | Step::Need(ids) => {
                let next = |id: &OwnedEventId| {
                    let mut next = event.clone();
                    next.event_id = id.clone();
                    next.prev_events = vec![super::super::testing::id(&format!("x{}", round + 1))];
                    next
                };
                intake.supply(ids.iter().map(next));
            }
            Step::NeedState(before) => intake.state(before, None),
            Step::NeedApproval { .. } | Step::Record(_) => panic!("nothing can be judged"),
            Step::Done(result) => {
                assert!(matches!(result.err(), Some(Unjudged::MissingState(_))));
                assert!(round <= MAX_GAP_ROUNDS + 2);
                break;
            }
        }
    }
}

#[test]
fn an_event_is_admitted_if_it_is_signed_and_redacted_if_it_was_changed() {
    let rules = by_name("11").unwrap();
    let key = KeyPair::from_seed(&[1; 32], "1");
    let content = parse_object(br#"{"body":"hello"}"#, Numbers::Strict).unwrap();
    let mut draft = Draft::new("m.room.message", "@ann:a".try_into().unwrap(), content);
    draft.room_id = Some("!r:a".try_into().unwrap());
    let pdu = draft.sign("a".try_into().unwrap(), &key, rules).unwrap().to_object();
    let admit =
        |pdu: &Object| admit(pdu.clone(), rules, |_, _| Some(key.public())).map(|event| event.content().to_owned());
    assert_eq!(admit(&pdu).unwrap(), r#"{"body":"hello"}"#);
    let mut changed = pdu.clone();
    changed.insert("content".to_owned(), Value::Object(parse_object(br#"{"body":"no"}"#, Numbers::Strict).unwrap()));
    assert_eq!(admit(&changed).unwrap(), "{}");
    changed.insert("depth".to_owned(), Value::Int(50));
    assert!(matches!(admit(&changed), Err(Dropped::Signature(SignatureError::Wrong { .. }))));
    let mut broken = pdu;
    broken.remove("depth");
    assert!(matches!(admit(&broken), Err(Dropped::Format(_))));
    add_signature(&mut broken, "b", "ed25519:1", "AAAA".to_owned());
}

#[test]
fn a_state_goes_on_without_what_nobody_has() {
    check(
        "-lost @dan member dan join
         dan2  @dan member dan join displayname=Dan
         -gone @cat message hi
         x @cat message hello",
        expect![[r#"
            need gone
            state before x
            need dan2
            need lost
            x with a state of its own accepted"#]],
    );
}

#[test]
fn nothing_is_rejected_for_a_state_of_which_parts_are_missing() {
    let lines = "eve @eve member eve join\neve2 @eve member eve join displayname=Eve\nx @eve message hello";
    let graph = Graph::parse("11", &format!("{ROOM}\n{lines}"), &merge);
    let has = vec!["create", "ann", "pl", "rules", "bob", "cat", "eve"];
    let server = Server::new(&graph, &has, &[]);
    let mut event = (*graph.event("x")).clone();
    event.prev_events = vec![id("gone")];
    let auth = event.auth_events.iter_mut().find(|auth| **auth == id("eve2")).unwrap();
    *auth = id("eve");
    let mut intake = Intake::new(graph.rules, event);
    let judged = loop {
        match intake.step(&server) {
            Step::NeedGap { .. } | Step::Need(_) => {}
            Step::NeedState(before) => {
                intake.state(before, Some(graph.before["x"].values().map(|name| id(name)).collect()));
            }
            Step::Done(judged) => break judged,
            Step::NeedApproval { .. } | Step::Record(_) => panic!("there is one event"),
        }
    };
    assert_eq!(judged.unwrap_err(), Unjudged::IncompleteState(id("x")));
}

#[test]
fn what_rests_on_itself_is_no_part_of_a_state() {
    let lines = "one @bob topic a\ntwo @bob name b\nx @cat message hello";
    let graph = Graph::parse("2", &format!("{ROOM}\n{lines}"), &merge);
    let has = vec!["create", "ann", "pl", "rules", "bob", "cat"];
    let server = Server::new(&graph, &has, &[]);
    let looped = |name: &str, on: &str| {
        let mut event = (*graph.event(name)).clone();
        event.auth_events.push(id(on));
        event
    };
    let mut event = (*graph.event("x")).clone();
    event.prev_events = vec![id("gone")];
    let mut intake = Intake::new(graph.rules, event);
    let judged = loop {
        match intake.step(&server) {
            Step::NeedGap { .. } => {}
            Step::Need(_) => intake.supply([looped("one", "two"), looped("two", "one")]),
            Step::NeedState(before) => {
                intake.state(before, Some(graph.before["x"].values().map(|name| id(name)).collect()));
            }
            Step::Done(judged) => break judged.unwrap(),
            Step::NeedApproval { .. } | Step::Record(_) => panic!("there is one event"),
        }
    };
    let [Judged { verdict: Verdict::Accepted, before: Before::State(state), .. }] = &judged[..] else {
        panic!("{judged:?}");
    };
    assert!(!state.values().any(|event| *event == id("one") || *event == id("two")));
}
