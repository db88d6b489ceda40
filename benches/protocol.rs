//! What one event costs: reading, writing for a client, signing, checking, telling.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use ingle::protocol::{
    auth::{self, PowerLevels},
    canonical::{self, Numbers, Object, parse_object},
    compose::Draft,
    event::{ClientFormat, Event, client_format},
    push::{Context, Subject, default_rules, evaluate},
    sign::{KeyPair, verify_event},
    version::{Rules, by_name},
};
use ruma::{ServerName, UserId};

fn rules() -> &'static Rules {
    by_name("11").unwrap()
}

fn key() -> KeyPair {
    KeyPair::from_seed(&[7; 32], "1")
}

fn server() -> &'static ServerName {
    "example.org".try_into().unwrap()
}

fn draft(kind: &str, state_key: Option<&str>, content: &str) -> Draft {
    let content = parse_object(content.as_bytes(), Numbers::Strict).unwrap();
    let mut draft = Draft::new(kind, "@ann:example.org".try_into().unwrap(), content);
    draft.room_id = Some("!kitchen:example.org".try_into().unwrap());
    draft.state_key = state_key.map(str::to_owned);
    draft.origin_server_ts = 1_700_000_000_000;
    draft.depth = 1234;
    draft.prev_events = vec!["$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg".try_into().unwrap()];
    let auth = ["a", "b", "c"].map(|letter| format!("${}", letter.repeat(43)).try_into().unwrap());
    draft.auth_events = auth.to_vec();
    draft
}

fn event(kind: &str, state_key: Option<&str>, content: &str) -> Event {
    draft(kind, state_key, content).sign(server(), &key(), rules()).unwrap()
}

const MESSAGE: &str = r#"{"body":"Dinner is at seven. Would somebody bring bread?","msgtype":"m.text"}"#;

fn reading_and_writing(c: &mut Criterion) {
    let event = event("m.room.message", None, MESSAGE);
    println!("the message has {} bytes", event.json().len());
    c.bench_function("event/from_stored", |b| {
        b.iter(|| Event::from_stored(event.event_id.clone(), event.room_id.clone(), black_box(event.json()).into()))
    });
    c.bench_function("event/client_format", |b| {
        let options = ClientFormat { room_id: true, unsigned: Some(r#"{"age":1234}"#) };
        b.iter(|| client_format(black_box(&event), &options))
    });
    c.bench_function("event/parse", |b| b.iter(|| Event::parse(black_box(event.json().as_bytes()), rules())));
    c.bench_function("event/membership", |b| {
        let member =
            self::event("m.room.member", Some("@ann:example.org"), r#"{"displayname":"Ann","membership":"join"}"#);
        b.iter(|| black_box(&member).membership())
    });
    c.bench_function("canonical/parse", |b| {
        b.iter(|| canonical::parse(black_box(event.json().as_bytes()), Numbers::Strict))
    });
    let value = canonical::parse(event.json().as_bytes(), Numbers::Strict).unwrap();
    c.bench_function("canonical/write", |b| b.iter(|| canonical::write(black_box(&value))));
}

fn signing(c: &mut Criterion) {
    let key = key();
    let draft = draft("m.room.message", None, MESSAGE);
    c.bench_function("sign/draft", |b| b.iter(|| draft.clone().sign(server(), &key, rules())));
    let pdu: Object = draft.sign(server(), &key, rules()).unwrap().to_object();
    let public = key.public();
    c.bench_function("sign/verify_event", |b| {
        b.iter(|| verify_event(black_box(&pdu), rules(), |_, _| Some(public.clone())))
    });
}

fn deciding(c: &mut Criterion) {
    let levels = r#"{"ban":50,"events":{"m.room.avatar":50,"m.room.encryption":100,"m.room.history_visibility":100,
        "m.room.name":50,"m.room.power_levels":100,"m.room.tombstone":100},"events_default":0,"invite":0,"kick":50,
        "redact":50,"state_default":50,"users":{"@ann:example.org":100,"@bob:example.org":50},"users_default":0}"#;
    let state = [
        event("m.room.create", Some(""), r#"{"room_version":"11"}"#),
        event("m.room.power_levels", Some(""), levels),
        event("m.room.member", Some("@ann:example.org"), r#"{"displayname":"Ann","membership":"join"}"#),
    ]
    .map(Arc::new);
    let find = |kind: &str, key: &str| state.iter().find(|event| event.is(kind, key)).cloned();
    let message = event("m.room.message", None, MESSAGE);
    c.bench_function("auth/message", |b| b.iter(|| auth::check(rules(), black_box(&message), find).unwrap()));
    let parsed = Arc::new(PowerLevels::new(rules(), Some(&state[0]), Some(&state[1])));
    c.bench_function("auth/message_with_levels", |b| {
        b.iter(|| auth::check_with(rules(), black_box(&message), parsed.clone(), find).unwrap())
    });

    let user: &UserId = "@bob:example.org".try_into().unwrap();
    let ruleset = default_rules(user);
    let context = Context { user, display_name: Some("Bob"), member_count: 10, power_levels: Some(&parsed) };
    c.bench_function("push/prepare", |b| b.iter(|| Subject::new(black_box(&message))));
    let subject = Subject::new(&message);
    c.bench_function("push/evaluate", |b| b.iter(|| evaluate(black_box(&ruleset), &subject, &context).notify()));
}

criterion_group!(benches, reading_and_writing, signing, deciding);
criterion_main!(benches);
