//! Events from here, from elsewhere and from the store.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use ruma::events::room::redaction::RoomRedactionEventContent;

use super::*;
use crate::protocol::{
    compose::Draft,
    sign::KeyPair,
    version::{self, by_name},
};

fn draft(version: &str, kind: &str, content: &str) -> (Draft, &'static Rules) {
    let content = canonical::parse_object(content.as_bytes(), Numbers::Lax).unwrap();
    let mut draft = Draft::new(kind, "@ann:example.org".try_into().unwrap(), content);
    draft.room_id = Some("!r:example.org".try_into().unwrap());
    draft.origin_server_ts = 1_700_000_000_000;
    draft.depth = 7;
    draft.prev_events = vec!["$prev:example.org".try_into().unwrap()];
    draft.auth_events = vec!["$auth:example.org".try_into().unwrap()];
    draft.event_id = Some("$own:example.org".try_into().unwrap());
    (draft, by_name(version).unwrap())
}

fn signed((draft, rules): (Draft, &Rules)) -> Event {
    let key = KeyPair::from_seed(&[7; 32], "1");
    draft.sign("example.org".try_into().unwrap(), &key, rules).unwrap()
}

fn check_stored(version: &str, kind: &str, content: &str) {
    let event = signed(draft(version, kind, content));
    let stored = Event::from_stored(event.event_id.clone(), event.room_id.clone(), event.json().into()).unwrap();
    assert_eq!(stored, event);
    assert_eq!(Event::parse(event.json().as_bytes(), by_name(version).unwrap()).unwrap(), event);
}

fn check_refused(version: &str, change: &str, expected: Expect) {
    let (draft, rules) = draft(version, "m.room.message", r#"{"body":"hello"}"#);
    let mut pdu = signed((draft, rules)).to_object();
    for (key, value) in canonical::parse_object(change.as_bytes(), Numbers::Lax).unwrap() {
        if value == Value::Null {
            pdu.remove(&key)
        } else {
            pdu.insert(key, value)
        };
    }
    let error = Event::parse(canonical::write_object(&pdu).as_bytes(), rules).unwrap_err();
    expected.assert_eq(&error.to_string());
}

#[test]
fn an_event_is_the_same_from_here_from_elsewhere_and_from_the_store() {
    for version in ["1", "2", "3", "4", "5", "6", "10", "11", "12"] {
        check_stored(version, "m.room.message", r#"{"body":"a \"quoted\" \u0000 word","msgtype":"m.text"}"#);
        check_stored(version, "m.room.redaction", r#"{"redacts":"$b"}"#);
    }
    check_stored("5", "org.example.float", r#"{"x":[1.50,1e20,99999999999999999999]}"#);
}

#[test]
fn the_id_is_the_reference_hash_or_was_chosen() {
    let id = |version| signed(draft(version, "m.room.message", r#"{"body":"x"}"#)).event_id.to_string();
    expect!["$own:example.org"].assert_eq(&id("2"));
    expect!["$Qt8TNaVbr6YQPLvqsyccSDSi9ZQwdcWUjlpjhJnVQGU"].assert_eq(&id("3"));
    expect!["$Qt8TNaVbr6YQPLvqsyccSDSi9ZQwdcWUjlpjhJnVQGU"].assert_eq(&id("4"));
}

#[test]
fn a_room_of_version_12_is_named_by_its_create_event() {
    let (mut draft, rules) = draft("12", "m.room.create", r#"{"room_version":"12"}"#);
    draft.state_key = Some(String::new());
    let with_room = draft.clone().sign("example.org".try_into().unwrap(), &KeyPair::from_seed(&[7; 32], "1"), rules);
    assert_eq!(with_room.unwrap_err(), FormatError::RoomIdInCreate);
    draft.room_id = None;
    let event = signed((draft, rules));
    assert_eq!(event.room_id.as_str()[1..], event.event_id.as_str()[1..]);
    assert!(!event.json().contains("room_id"));
    assert!(client_format(&event, &ClientFormat { room_id: true, unsigned: None }).contains(event.room_id.as_str()));
}

#[test]
fn a_wrong_format_is_named() {
    check_refused("11", r#"{"room_id":null}"#, expect!["the event's room_id must be a room ID"]);
    check_refused("11", r#"{"sender":"ann"}"#, expect![[r#"the event's sender "ann" is not a valid identifier"#]]);
    check_refused("11", r#"{"content":[]}"#, expect!["the event's content must be an object"]);
    check_refused("11", r#"{"hashes":null}"#, expect!["the event's hashes must be an object"]);
    check_refused("11", r#"{"type":5}"#, expect!["the event's type must be a string"]);
    check_refused("11", r#"{"state_key":5}"#, expect!["the event's state_key must be a string"]);
    check_refused("11", r#"{"depth":-1}"#, expect!["the event's depth must be an integer that is not negative"]);
    check_refused("11", r#"{"depth":"1"}"#, expect!["the event's depth must be an integer that is not negative"]);
    check_refused(
        "11",
        r#"{"x":1.5}"#,
        expect![
            "the number 1.5 is not allowed: numbers must be integers between -9007199254740991 and 9007199254740991"
        ],
    );
    check_refused(
        "11",
        r#"{"prev_events":["x"]}"#,
        expect![[r#"the event's prev_events "x" is not a valid identifier"#]],
    );
    check_refused(
        "11",
        r#"{"prev_events":[["$x",{}]]}"#,
        expect!["the event's prev_events must be a list of event IDs"],
    );
    check_refused(
        "2",
        r#"{"prev_events":["$x:y"]}"#,
        expect!["the event's prev_events must be a list of event IDs with hashes"],
    );
    check_refused("2", r#"{"event_id":null}"#, expect!["the event's event_id must be an event ID"]);
    let many = |field: &str, count| format!(r#"{{"{field}":{:?}}}"#, vec!["$x"; count]);
    check_refused("11", &many("prev_events", 21), expect!["the event has 21 prev_events, and 20 are allowed"]);
    check_refused("11", &many("auth_events", 11), expect!["the event has 11 auth_events, and 10 are allowed"]);
}

#[test]
fn sizes_are_counted_in_bytes() {
    let long = |field: &str, text: &str| format!(r#"{{"{field}":"{text}"}}"#);
    check_refused(
        "11",
        &long("type", &"é".repeat(128)),
        expect!["the event's type has 256 bytes, and 255 are allowed"],
    );
    check_refused(
        "11",
        &long("state_key", &"x".repeat(256)),
        expect!["the event's state_key has 256 bytes, and 255 are allowed"],
    );
    let sender = format!("@{}:example.org", "a".repeat(244));
    check_refused("11", &long("sender", &sender), expect!["the event's sender has 257 bytes, and 255 are allowed"]);
    let room_id = format!("!{}", "a".repeat(255));
    check_refused("11", &long("room_id", &room_id), expect!["the event's room_id has 256 bytes, and 255 are allowed"]);

    let envelope = signed(draft("11", "m.room.message", r#"{"body":""}"#)).json().len();
    let body = |bytes| draft("11", "m.room.message", &format!(r#"{{"body":"{}"}}"#, "x".repeat(bytes)));
    assert_eq!(signed(body(MAX_SIZE - envelope)).json().len(), MAX_SIZE);
    let (large, rules) = body(MAX_SIZE - envelope + 1);
    let key = KeyPair::from_seed(&[7; 32], "1");
    let error = large.sign("example.org".try_into().unwrap(), &key, rules).unwrap_err();
    assert_eq!(error, FormatError::TooLarge { bytes: MAX_SIZE + 1 });
}

#[test]
fn clients_see_the_content_as_it_is() {
    let (mut draft, rules) = draft("11", "m.room.topic", r#"{"topic":"tea"}"#);
    draft.state_key = Some(String::new());
    let mut event = signed((draft, rules));
    event.event_id = "$id".try_into().unwrap();
    expect![[r#"{"content":{"topic":"tea"},"event_id":"$id","origin_server_ts":1700000000000,"room_id":"!r:example.org","sender":"@ann:example.org","state_key":"","type":"m.room.topic","unsigned":{"age":5}}"#]]
            .assert_eq(&client_format(&event, &ClientFormat { room_id: true, unsigned: Some(r#"{"age":5}"#) }));
    expect![[r#"{"content":{"topic":"tea"},"sender":"@ann:example.org","state_key":"","type":"m.room.topic"}"#]]
        .assert_eq(&stripped_format(&event));
}

#[test]
fn clients_find_the_target_of_a_redaction_in_both_places() {
    for (version, content) in
        [("10", "{}"), ("10", r#"{"reason":"spam"}"#), ("11", "{}"), ("11", r#"{"reason":"spam"}"#)]
    {
        let (mut draft, rules) = draft(version, "m.room.redaction", content);
        draft.redacts = Some("$gone".try_into().unwrap());
        let event = signed((draft, rules));
        assert_eq!(event.redacts_under(rules), event.redacts);
        assert_eq!(event.json().contains(r#","redacts":"$gone","room_id""#), version == "10");
        let seen: Value = serde_json::from_str(&client_format(&event, &ClientFormat::default())).unwrap();
        assert_eq!(seen.get("redacts").and_then(Value::as_str), Some("$gone"));
        assert_eq!(seen.get("content").unwrap().get("redacts").and_then(Value::as_str), Some("$gone"));
        assert_eq!(seen.get("content").unwrap().as_object().unwrap().len(), 1 + usize::from(content != "{}"));
    }
}

#[test]
fn a_redaction_is_read_where_the_room_version_has_it() {
    let (mut draft, v10) = draft("10", "m.room.redaction", r#"{"redacts":"$in_content"}"#);
    draft.redacts = Some("$in_envelope".try_into().unwrap());
    let event = signed((draft, v10));
    assert_eq!(event.redacts_under(v10).unwrap(), "$in_envelope");
    assert_eq!(event.redacts_under(by_name("11").unwrap()).unwrap(), "$in_content");
    let content: RoomRedactionEventContent = event.content_as().unwrap();
    assert_eq!(content.redacts.unwrap(), "$in_content");
}

#[test]
fn a_redacted_event_keeps_its_id_and_its_place() {
    let (draft, rules) = draft("11", "m.room.message", r#"{"body":"secret"}"#);
    let event = signed((draft, rules));
    let redacted = event.redacted(rules);
    assert_eq!(redacted.content(), "{}");
    assert_eq!(Event::parse(redacted.json().as_bytes(), rules).unwrap(), redacted);
    assert_eq!(redacted.event_id, event.event_id);
}

#[test]
fn fields_of_the_content_are_picked_without_reading_the_rest() {
    let event =
        signed(draft("11", "m.room.member", r#"{"a":[1,{"b":"membership"}],"membership":"join","z":"\u00e9"}"#));
    assert_eq!(event.membership(), Some(MembershipState::Join));
    assert_eq!(event.content_field::<&str>("z"), Some("é"));
    assert_eq!(event.content_field::<u64>("membership"), None);
    assert_eq!(event.content_field::<u64>("absent"), None);
}

/// Content in which every key occurs that some redaction keeps.
fn contents() -> impl Strategy<Value = Object> {
    let names = [
        "membership",
        "join_authorised_via_users_server",
        "third_party_invite",
        "creator",
        "room_version",
        "join_rule",
        "allow",
        "ban",
        "events",
        "events_default",
        "invite",
        "kick",
        "redact",
        "state_default",
        "users",
        "users_default",
        "notifications",
        "aliases",
        "history_visibility",
        "redacts",
        "body",
        "signed",
    ];
    let values = prop_oneof![
        Just(Value::from("$x")),
        (0..100i64).prop_map(Value::Int),
        Just(Value::Object(Object::from([("signed".to_owned(), Value::Int(1)), ("other".to_owned(), Value::Int(2))]))),
    ];
    prop::collection::btree_map(prop::sample::select(names.to_vec()).prop_map(str::to_owned), values, 0..12).prop_map(
        |mut content: Object| {
            // ruma keeps one that is no object, of which there is no signed part to keep.
            content.retain(|key, value| key != "third_party_invite" || value.as_object().is_some());
            content
        },
    )
}

fn kinds() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "m.room.member",
        "m.room.create",
        "m.room.join_rules",
        "m.room.power_levels",
        "m.room.aliases",
        "m.room.history_visibility",
        "m.room.redaction",
        "m.room.message",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn others_redact_and_hash_the_same(
        version in prop::sample::select(version::ALL.to_vec()),
        kind in kinds(),
        content in contents(),
    ) {
        let mut draft = draft(version.name(), kind, "{}").0;
        draft.content = content;
        let mut pdu = draft.into_pdu(&version);
        pdu.insert("origin".to_owned(), "example.org".into());
        pdu.insert("membership".to_owned(), "join".into());
        pdu.insert("unknown".to_owned(), "x".into());
        let theirs: ruma::CanonicalJsonObject = serde_json::from_str(&canonical::write_object(&pdu)).unwrap();
        let rules = version.id().rules().unwrap();
        let redacted = ruma::canonical_json::redact(theirs.clone(), &rules.redaction, None).unwrap();
        prop_assert_eq!(canonical::write_object(&redact(&pdu, &version)), serde_json::to_string(&redacted).unwrap());
        let hash = ruma::signatures::content_hash(&theirs).unwrap();
        prop_assert_eq!(hash::base64(&hash::content_hash(&pdu)), hash.encode());
        if let Some(event_id) = hash::event_id(&pdu, &version) {
            let hash = ruma::signatures::reference_hash(&theirs, &rules).unwrap();
            prop_assert_eq!(&event_id.as_str()[1..], hash);
        }
    }

    #[test]
    fn a_damaged_pdu_is_refused_or_makes_a_sound_event(
        version in prop::sample::select(version::ALL.to_vec()),
        kind in kinds(),
        content in contents(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        lost in prop::option::of(prop::sample::select(vec!["depth", "sender", "prev_events", "room_id", "state_key"])),
    ) {
        let (mut draft, rules) = draft(version.name(), kind, "{}");
        draft.content = content;
        if rules.room_id_is_hash && kind == "m.room.create" {
            draft.room_id = None;
        }
        let mut pdu = signed((draft, rules)).to_object();
        if let Some(lost) = lost {
            pdu.remove(lost);
        }
        let mut bytes = canonical::write_object(&pdu).into_bytes();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(event) = Event::parse(&bytes, rules) {
            let (id, room) = (event.event_id.clone(), event.room_id.clone());
            prop_assert_eq!(&Event::from_stored(id, room, event.json().into()).unwrap(), &event);
            prop_assert_eq!(&Event::parse(event.json().as_bytes(), rules).unwrap(), &event);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&client_format(&event, &ClientFormat::default())).is_ok());
            let redacted = event.redacted(rules);
            prop_assert_eq!(hash::event_id(&redacted.to_object(), rules), hash::event_id(&event.to_object(), rules));
        }
    }
}
