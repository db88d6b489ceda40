//! The authorization rules, told as rooms: is the last line allowed by the state before it?

use std::sync::Arc;

use expect_test::{Expect, expect};

use super::*;
use crate::protocol::{
    canonical::{Object, Value, write_object},
    sign::{KeyPair, sign_json},
    testing::Graph,
};

fn verdict(version: &str, text: &str) -> String {
    let graph = Graph::chain(version, text);
    let event = graph.event(graph.last());
    let before = &graph.before[graph.last()];
    let auth: Vec<Arc<Event>> = event.auth_events.iter().map(|id| graph.event(&id.as_str()[1..])).collect();
    check_auth_events(graph.rules, &event, auth.iter().map(|auth| (&**auth, false))).unwrap();
    match check(graph.rules, &event, |kind, key| graph.find(before, kind, key)) {
        Ok(()) => "allowed".to_owned(),
        Err(refusal) => refusal.to_string(),
    }
}

/// A room of Ann's, with Bob of another server in it, then the given lines.
fn room(lines: &str) -> String {
    format!(
        "create @ann create
         ann    @ann member ann join
         pl     @ann power_levels ann=100 mod=50
         rules  @ann join_rules public
         bob    @bob:b member bob:b join
         mod    @mod member mod join
         {lines}"
    )
}

fn check_in(versions: &[&str], lines: &str, expected: Expect) {
    for version in versions {
        // Creators have no level from version 12 on.
        let text = room(lines);
        let text = if *version == "12" { text.replace("ann=100 ", "") } else { text };
        expected.assert_eq(&verdict(version, &text));
    }
}

const ALL: &[&str] = &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];

#[test]
fn a_member_may_speak_and_a_stranger_may_not() {
    check_in(ALL, "x @bob:b message hello", expect!["allowed"]);
    check_in(ALL, "x @eve message hello", expect!["@eve:a is not in the room"]);
    check_in(ALL, "ban @ann member bob:b ban\nx @bob:b message hello", expect!["@bob:b is banned from the room"]);
}

#[test]
fn state_needs_power() {
    check_in(ALL, "x @bob:b topic tea", expect!["this needs a power level of 50, and the sender has 0"]);
    check_in(ALL, "x @mod topic tea", expect!["allowed"]);
    check_in(ALL, "x @bob:b org.example.x /@ann:a", expect!["this needs a power level of 50, and the sender has 0"]);
    check_in(
        ALL,
        "x @mod org.example.x /@ann:a",
        expect!["only @ann:a can send state with their user ID as the state key"],
    );
    check_in(ALL, "x @mod org.example.x /@mod:a", expect!["allowed"]);
}

#[test]
fn the_creator_joins_first() {
    for version in ALL {
        assert_eq!(verdict(version, "create @ann create\nx @ann member ann join"), "allowed");
        let refused = verdict(version, "create @ann create\nx @bob member bob join");
        assert_eq!(refused, "joining this room needs an invitation");
    }
}

#[test]
fn a_create_event_comes_first_and_fits_its_version() {
    let check = |version, line: &str, expected: Expect| {
        expected.assert_eq(&verdict(version, line));
    };
    check("10", "x @ann create", expect!["allowed"]);
    check("12", "x @ann create", expect!["allowed"]);
    check("10", "x @ann:b create", expect!["the room's ID names another server than its creator's"]);
    check("10", r#"x @ann create {"room_version":"10"}"#, expect!["the create event must say who the creator is"]);
    check("11", r#"x @ann create {"room_version":"11"}"#, expect!["allowed"]);
    check(
        "11",
        r#"x @ann create {"room_version":"99"}"#,
        expect!["the room's version is not one that this server knows"],
    );
    check(
        "11",
        r#"x @ann create {"room_version":11}"#,
        expect!["the room's version is not one that this server knows"],
    );
    check("12", r#"x @ann create {"additional_creators":["@bob:b"]}"#, expect!["allowed"]);
    check(
        "12",
        r#"x @ann create {"additional_creators":["bob"]}"#,
        expect!["additional_creators must be a list of user IDs"],
    );
    check(
        "12",
        r#"x @ann create {"additional_creators":"@bob:b"}"#,
        expect!["additional_creators must be a list of user IDs"],
    );
    check("11", r#"x @ann create {"additional_creators":"@bob:b"}"#, expect!["allowed"]);
    check("11", "a @ann create\nx @ann create", expect!["a room can only be created by its first event"]);
}

#[test]
fn a_room_may_be_closed_to_other_servers() {
    let text = |user: &str| {
        format!(
            "create @ann create m.federate=false\nann @ann member ann join\nrules @ann join_rules public\nx {user} member {user} join"
        )
    };
    for version in ALL {
        assert_eq!(verdict(version, &text("@bob")), "allowed");
        assert_eq!(
            verdict(version, &text("@bob:b")),
            "this room is only for users of the server that it was created on"
        );
    }
}

#[test]
fn join_rules_decide_who_joins() {
    check_in(ALL, "x @eve member eve join", expect!["allowed"]);
    check_in(ALL, "x @ann member eve join", expect!["nobody can join or knock in another user's name"]);
    check_in(ALL, "b @ann member eve ban\nx @eve member eve join", expect!["@eve:a is banned from the room"]);
    check_in(ALL, "r @ann join_rules invite\nx @eve member eve join", expect!["joining this room needs an invitation"]);
    check_in(ALL, "r @ann join_rules invite\ni @bob:b member eve invite\nx @eve member eve join", expect!["allowed"]);
    check_in(ALL, "r @ann join_rules invite\nx @bob:b member bob:b join", expect!["allowed"]);
    // What is no text is no rule.
    check_in(
        ALL,
        "r @ann join_rules {\"join_rule\":5}\ni @bob:b member eve invite\nx @eve member eve join",
        expect![[r#"the room's join rule "" does not allow this"#]],
    );
    check_in(
        ALL,
        "r @ann join_rules private\nx @eve member eve join",
        expect![[r#"the room's join rule "private" does not allow this"#]],
    );
}

#[test]
fn knocking_came_with_version_7() {
    check_in(
        &["1", "6"],
        "r @ann join_rules knock\nx @eve member eve knock",
        expect![[r#"there is no membership "knock" in this room version"#]],
    );
    check_in(&["7", "9", "12"], "r @ann join_rules knock\nx @eve member eve knock", expect!["allowed"]);
    check_in(
        &["7", "12"],
        "x @eve member eve knock",
        expect![[r#"the room's join rule "public" does not allow this"#]],
    );
    check_in(
        &["7", "12"],
        "r @ann join_rules knock\nx @bob:b member bob:b knock",
        expect!["@bob:b is already in the room"],
    );
    check_in(
        &["7", "12"],
        "r @ann join_rules knock\ni @ann member eve invite\nx @eve member eve knock",
        expect!["you are already invited to this room"],
    );
    check_in(
        &["7", "12"],
        "r @ann join_rules knock\nx @ann member eve knock",
        expect!["nobody can join or knock in another user's name"],
    );
    check_in(
        &["7", "12"],
        "r @ann join_rules knock\nk @eve member eve knock\nx @eve member eve leave",
        expect!["allowed"],
    );
    check_in(
        &["7", "12"],
        "r @ann join_rules knock\nk @eve member eve knock\nx @eve member eve join",
        expect!["joining this room needs an invitation"],
    );
    check_in(
        &["7", "12"],
        "r @ann join_rules knock\nk @eve member eve knock\nx @ann member eve invite",
        expect!["allowed"],
    );
    check_in(
        &["9"],
        "r @ann join_rules knock_restricted\nx @eve member eve knock",
        expect![[r#"the room's join rule "knock_restricted" does not allow this"#]],
    );
    check_in(&["10", "12"], "r @ann join_rules knock_restricted\nx @eve member eve knock", expect!["allowed"]);
}

#[test]
fn a_restricted_room_needs_somebody_who_lets_in() {
    let by = |user: &str| {
        format!("r @ann join_rules restricted\nx @eve member eve join join_authorised_via_users_server=@{user}")
    };
    check_in(&["7"], &by("ann"), expect![[r#"the room's join rule "restricted" does not allow this"#]]);
    check_in(&["8", "12"], &by("ann"), expect!["allowed"]);
    check_in(
        &["8", "12"],
        &by("nobody"),
        expect!["joining this room needs an invitation, or somebody in the room who may let you in"],
    );
    let closed = |user: &str| {
        let pl = "p @ann power_levels ann=100 invite=50\n";
        format!("{pl}{}", by(user))
    };
    let text = room(&closed("bob:b"));
    expect!["joining this room needs an invitation, or somebody in the room who may let you in"]
        .assert_eq(&verdict("8", &text));
    check_in(
        &["8", "12"],
        "r @ann join_rules restricted\nx @eve member eve join",
        expect!["joining this room needs an invitation, or somebody in the room who may let you in"],
    );
    check_in(
        &["8", "12"],
        "r @ann join_rules restricted\ni @ann member eve invite\nx @eve member eve join",
        expect!["allowed"],
    );
    check_in(
        &["9"],
        &by("ann").replace("restricted", "knock_restricted"),
        expect![[r#"the room's join rule "knock_restricted" does not allow this"#]],
    );
    check_in(&["10"], &by("ann").replace("restricted", "knock_restricted"), expect!["allowed"]);
}

#[test]
fn inviting_needs_a_member_with_the_power_and_a_guest_who_is_out() {
    check_in(ALL, "x @bob:b member eve invite", expect!["allowed"]);
    check_in(ALL, "x @eve member fay invite", expect!["@eve:a is not in the room"]);
    check_in(ALL, "x @ann member bob:b invite", expect!["@bob:b is already in the room"]);
    check_in(ALL, "b @ann member eve ban\nx @ann member eve invite", expect!["@eve:a is banned from the room"]);
    let text = room("p @ann power_levels ann=100 invite=50\nx @bob:b member eve invite");
    assert_eq!(verdict("11", &text), "this needs a power level of 50, and the sender has 0");
}

#[test]
fn kicks_and_bans_need_power_over_the_other() {
    check_in(ALL, "x @bob:b member bob:b leave", expect!["allowed"]);
    check_in(ALL, "x @eve member eve leave", expect!["only who is in the room, invited or knocking can leave"]);
    check_in(ALL, "i @ann member eve invite\nx @eve member eve leave", expect!["allowed"]);
    check_in(ALL, "x @mod member bob:b leave", expect!["allowed"]);
    check_in(ALL, "x @bob:b member mod leave", expect!["this needs a power level of 50, and the sender has 0"]);
    check_in(ALL, "x @mod member bob:b ban", expect!["allowed"]);
    check_in(ALL, "x @bob:b member mod ban", expect!["this needs a power level of 50, and the sender has 0"]);
    check_in(ALL, "x @eve member bob:b ban", expect!["@eve:a is not in the room"]);
    check_in(
        ALL,
        "b @mod member eve ban\nx @bob:b member eve leave",
        expect!["this needs a power level of 50, and the sender has 0"],
    );
    check_in(ALL, "b @mod member eve ban\nx @mod member eve leave", expect!["allowed"]);
    check_in(ALL, "b @mod member eve ban\nx @eve member eve leave", expect!["@eve:a is banned from the room"]);
    check_in(
        &["1", "11"],
        "x @mod member ann ban",
        expect!["@ann:a has a power level of 100, which is not below the sender's"],
    );
    check_in(
        &["12"],
        "x @mod member ann ban",
        expect!["@ann:a has a power level of unlimited, which is not below the sender's"],
    );
    check_in(ALL, "x @mod member mod ban", expect!["@mod:a has a power level of 50, which is not below the sender's"]);
    check_in(ALL, "x @bob:b member bob:b dance", expect![[r#"there is no membership "dance" in this room version"#]]);
    check_in(ALL, "x @bob:b member bob:b {}", expect!["the content must have a membership"]);
}

#[test]
fn power_levels_change_only_within_reach() {
    let set = |version: &str, old: &str, new: &str| {
        verdict(
            version,
            &format!(
                "create @eve create
                 eve  @eve member eve join
                 r    @eve join_rules public
                 ann  @ann member ann join
                 pl   @eve power_levels {old}
                 x    @ann power_levels {new}"
            ),
        )
    };
    let old = "ann=60 bob=60 cat=50 kick=70 ban=50 events.m.room.topic=70 state_default=50";
    let same = |change: &str| format!("{old} {change}");
    assert_eq!(set("11", old, old), "allowed");
    assert_eq!(set("11", old, &same("dan=60")), "allowed");
    assert_eq!(set("11", old, &same("dan=61")), "the level 61 of @dan:a is out of reach for the sender, who has 60");
    assert_eq!(set("11", old, &same("bob=0")), "the level 60 of @bob:a is out of reach for the sender, who has 60");
    assert_eq!(set("11", old, &same("cat=0")), "allowed");
    assert_eq!(set("11", old, &same("cat=61")), "the level 61 of @cat:a is out of reach for the sender, who has 60");
    assert_eq!(set("11", old, &same("ann=0")), "allowed");
    assert_eq!(set("11", old, &same("kick=0")), "the level 70 of kick is out of reach for the sender, who has 60");
    assert_eq!(set("11", old, &same("ban=60")), "allowed");
    assert_eq!(set("11", old, &same("ban=61")), "the level 61 of ban is out of reach for the sender, who has 60");
    assert_eq!(set("11", old, &same("redact=61")), "the level 61 of redact is out of reach for the sender, who has 60");
    assert_eq!(
        set("11", old, &same("events.m.room.topic=0")),
        "the level 70 of m.room.topic is out of reach for the sender, who has 60"
    );
    assert_eq!(set("11", old, &same("events.x=61")), "the level 61 of x is out of reach for the sender, who has 60");
    assert_eq!(
        set("11", old, &same("notifications.room=61")),
        "the level 61 of room is out of reach for the sender, who has 60"
    );
    assert_eq!(set("5", old, &same("notifications.room=61")), "allowed");
    assert_eq!(
        set("11", old, "ann=60 bob=60 cat=50 kick=70"),
        "the level 70 of m.room.topic is out of reach for the sender, who has 60"
    );
}

#[test]
fn power_levels_have_a_shape() {
    let set = |version, content: &str| verdict(version, &room(&format!("x @ann power_levels {content}")));
    assert_eq!(set("11", r#"{"ban":"50"}"#), "ban is not a valid entry of power levels");
    assert_eq!(set("9", r#"{"ban":"50"}"#), "allowed");
    assert_eq!(set("9", r#"{"ban":"high"}"#), "ban is not a valid entry of power levels");
    assert_eq!(set("11", r#"{"users":{"ann":5}}"#), "users.ann is not a valid entry of power levels");
    assert_eq!(set("11", r#"{"users":[]}"#), "users is not a valid entry of power levels");
    assert_eq!(set("11", r#"{"events":{"x":null}}"#), "events.x is not a valid entry of power levels");
    assert_eq!(
        set("11", r#"{"notifications":{"room":"50"}}"#),
        "notifications.room is not a valid entry of power levels"
    );
    assert_eq!(set("12", r#"{"users":{"@ann:a":100}}"#), "@ann:a created the room and cannot be given a power level");
}

#[test]
fn creators_of_version_12_are_above_all() {
    let text = |line: &str| {
        format!(
            r#"create @ann create {{"additional_creators":["@bob:b"]}}
               ann    @ann member ann join
               pl     @ann power_levels mod=9007199254740991 users_default=9007199254740991
               r      @ann join_rules public
               bob    @bob:b member bob:b join
               mod    @mod member mod join
               {line}"#
        )
    };
    assert_eq!(verdict("12", &text("x @bob:b member mod ban")), "allowed");
    assert_eq!(verdict("12", &text("x @bob:b power_levels mod=0")), "allowed");
    assert_eq!(
        verdict("12", &text("x @bob:b member ann ban")),
        "@ann:a has a power level of unlimited, which is not below the sender's"
    );
    assert_eq!(
        verdict("12", &text("x @mod power_levels mod=0 bob:b=5")),
        "@bob:b created the room and cannot be given a power level"
    );
}

#[test]
fn redactions_are_authorized_in_the_oldest_rooms_only() {
    let own = "m @bob:b message hi\nx @bob:b redaction m:b";
    for version in ["1", "2", "3", "12"] {
        let expected = if version < "3" && version.len() == 1 {
            "redacting another server's event needs the redact power level"
        } else {
            "allowed"
        };
        assert_eq!(
            verdict(
                version,
                &room("x @bob:b redaction m:a").replace("ann=100 ", if version == "12" { "" } else { "ann=100 " })
            ),
            expected
        );
    }
    assert_eq!(verdict("1", &room("x:b @bob:b redaction m:b")), "allowed");
    assert_eq!(verdict("1", &room("x:b @mod redaction m:c")), "allowed");
    assert_eq!(verdict("3", &room(own)), "allowed");
}

#[test]
fn aliases_had_a_rule_of_their_own() {
    check_in(&["1", "5"], "x @eve:b aliases b", expect!["allowed"]);
    check_in(&["1", "5"], "x @eve:b aliases a", expect!["aliases can only be set in the name of the sender's server"]);
    check_in(&["6", "12"], "x @eve:b aliases b", expect!["@eve:b is not in the room"]);
}

#[test]
fn a_third_party_invitation_is_as_good_as_its_signature() {
    let key = KeyPair::from_seed(&[3; 32], "0");
    let mut signed = Object::from([("mxid".to_owned(), "@eve:a".into()), ("token".to_owned(), "t".into())]);
    sign_json(&mut signed, "identity", &key);
    let invite = |signed: &Object| {
        format!(
            r#"x @ann member eve {{"membership":"invite","third_party_invite":{{"signed":{}}}}}"#,
            write_object(signed)
        )
    };
    let offer = |key: &str| format!(r#"o @ann third_party_invite t {{"public_keys":[{{"public_key":"{key}"}}]}}"#);
    let good = offer(&key.public().to_base64());
    let other = offer(&KeyPair::from_seed(&[4; 32], "0").public().to_base64());
    check_in(ALL, &format!("{good}\n{}", invite(&signed)), expect!["allowed"]);
    check_in(
        ALL,
        &format!("{other}\n{}", invite(&signed)),
        expect!["the third-party invitation does not hold: no signature is by a key of the third-party invitation"],
    );
    check_in(
        ALL,
        &invite(&signed),
        expect!["the third-party invitation does not hold: the room has no third-party invitation with this token"],
    );
    check_in(
        ALL,
        &format!("{}\n{}", good.replace("@ann", "@mod"), invite(&signed)),
        expect!["the third-party invitation does not hold: somebody else made the third-party invitation"],
    );
    signed.insert("mxid".to_owned(), Value::from("@fay:a"));
    check_in(
        ALL,
        &format!("{good}\n{}", invite(&signed)),
        expect!["the third-party invitation does not hold: it was signed for another user"],
    );
    signed.remove("mxid");
    check_in(
        ALL,
        &format!("{good}\n{}", invite(&signed)),
        expect!["the third-party invitation does not hold: its signed part has no mxid or token"],
    );
    check_in(
        ALL,
        r#"x @ann member eve {"membership":"invite","third_party_invite":{}}"#,
        expect!["the third-party invitation does not hold: it has no signed part"],
    );
}

#[test]
fn auth_events_are_those_that_have_a_say() {
    let check = |version: &str, auth: &[(&str, bool)], expected: Expect| {
        let graph = Graph::chain(
            version,
            &room("topic @ann topic tea\nx @mod message hi")
                .replace("ann=100 ", if version == "12" { "" } else { "ann=100 " }),
        );
        let events: Vec<_> = auth.iter().map(|(name, rejected)| (graph.event(name), *rejected)).collect();
        let found = check_auth_events(
            graph.rules,
            &graph.event("x"),
            events.iter().map(|(event, rejected)| (&**event, *rejected)),
        );
        expected.assert_eq(&found.err().map(|refusal| refusal.to_string()).unwrap_or_default());
    };
    check("11", &[("create", false), ("pl", false), ("mod", false)], expect![""]);
    check("11", &[("create", false)], expect![""]);
    check("11", &[("pl", false), ("mod", false)], expect!["there is no create event for this room"]);
    check("12", &[("pl", false), ("mod", false)], expect![""]);
    check(
        "12",
        &[("create", false), ("mod", false)],
        expect!["the auth event $create has no say in whether this event is allowed"],
    );
    check(
        "11",
        &[("create", false), ("bob", false)],
        expect!["the auth event $bob has no say in whether this event is allowed"],
    );
    check(
        "11",
        &[("create", false), ("create", false)],
        expect![[r#"the event names two auth events for m.room.create """#]],
    );
    check("11", &[("create", false), ("pl", true)], expect!["the auth event $pl was itself rejected"]);
    check(
        "11",
        &[("create", false), ("x", false)],
        expect!["the auth event $x has no say in whether this event is allowed"],
    );
}
