//! What must hold of everything that reads bytes from outside, one function per reader.
//!
//! Each takes any bytes and panics if a promise is broken: of a reader that refuses them nothing is asked but that
//! it says so. `cargo test` tries damaged documents (see `mod.rs`), the targets in `fuzz/` whatever they find.
//! A reader of two texts gets them from one input, divided at the first line break.

use http::{HeaderMap, HeaderValue, header::CACHE_CONTROL};
use ingle::{
    protocol::{
        acl::ServerAcl,
        auth::PowerLevels,
        canonical::{self, JsonError, MAX_INT, Numbers, Object, Value},
        event::{ClientFormat, Event, client_format, stripped_format},
        glob::Glob,
        intake,
        pieces::{Piece, PieceError, Pieces},
        push, sign,
        sign::KeyPair,
        version::{self, EventIds, Rules},
        words,
    },
    remote::{
        discovery,
        x_matrix::{self, Signed},
    },
    rooms::{self, admit, token::Cursor, token::SyncToken},
    sync,
};
use ruma::{
    ServerName,
    api::{IncomingRequestExt as _, federation::transactions::send_transaction_message::v1::Request as Transaction},
    push::Ruleset,
    user_id,
};

/// Canonical JSON: what is read is written so that everybody reads the same, and serde_json agrees.
pub fn canonical_json(bytes: &[u8]) {
    let lax = canonical::parse(bytes, Numbers::Lax);
    if let Ok(value) = &lax {
        let text = canonical::write(value);
        assert_eq!(canonical::parse(text.as_bytes(), Numbers::Lax).as_ref(), Ok(value), "{text}");
        assert_eq!(canonical::write(&canonical::parse(text.as_bytes(), Numbers::Lax).unwrap()), text);
    }
    let strict = canonical::parse(bytes, Numbers::Strict);
    if let Ok(value) = &strict {
        assert_eq!(lax.as_ref(), Ok(value), "a strict value is a lax one too");
        assert!(value.is_strict());
        let theirs: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let ours: serde_json::Value = serde_json::from_str(&canonical::write(value)).unwrap();
        assert_eq!(ours, theirs);
    }
    if let Ok(theirs) = serde_json::from_slice::<serde_json::Value>(bytes) {
        match &lax {
            Ok(_) => {}
            Err(error) => assert_eq!(*error, JsonError::TooDeep, "refused, and serde_json reads {theirs}"),
        }
        // A number may be one that is overwritten: of those serde_json tells nothing.
        if has_integers_only(&theirs) && lax.as_ref().is_ok_and(Value::is_strict) {
            assert_eq!(canonical::to_value(&theirs).as_ref(), lax.as_ref());
        }
    }
}

fn has_integers_only(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Number(number) => number.as_i64().is_some_and(|int| (-MAX_INT..=MAX_INT).contains(&int)),
        serde_json::Value::Array(items) => items.iter().all(has_integers_only),
        serde_json::Value::Object(members) => members.values().all(has_integers_only),
        _ => true,
    }
}

/// A PDU in every room version: what is admitted has one ID, however often it is read, stored and redacted.
pub fn pdu(bytes: &[u8]) {
    for rules in version::ALL {
        let Ok(event) = Event::parse(bytes, rules) else { continue };
        let json = event.json();
        assert_eq!(Event::parse(json.as_bytes(), rules).as_ref(), Ok(&event), "read again");
        let stored = Event::from_stored(event.event_id.clone(), event.room_id.clone(), json.into());
        assert_eq!(stored.as_ref(), Ok(&event), "read from the store");
        assert_eq!(
            canonical::parse(event.content().as_bytes(), rules.numbers).ok().as_ref(),
            event.to_object().get("content")
        );
        let redacted = event.redacted(rules);
        if rules.event_ids != EventIds::Chosen {
            let again = Event::parse(redacted.json().as_bytes(), rules).unwrap();
            assert_eq!(again.event_id, event.event_id, "redaction changes no ID");
        }
        assert_eq!(redacted.redacted(rules), redacted, "what is redacted stays as it is");
        is_json(&client_format(&event, &ClientFormat::default()));
        is_json(&stripped_format(&event));
        signed(event.to_object(), event.server(), rules);
    }
}

/// Whoever relays an event cannot change it: it is taken as it was signed, or without what was not.
fn signed(mut pdu: Object, server: &ServerName, rules: &Rules) {
    let key = KeyPair::from_seed(&[7; 32], "1");
    let known = |_: &ServerName, id: &str| (id == key.id()).then(|| key.public());
    pdu.insert("signatures".to_owned(), Value::Object(Object::new()));
    sign::hash_and_sign_event(&mut pdu, server.as_str(), &key, rules);
    let others =
        sign::signers(&pdu, rules).map(|signers| signers.into_iter().filter(|signer| signer != server).collect());
    let others: Vec<_> = others.unwrap_or_default();
    for signer in others {
        sign::sign_event(&mut pdu, signer.as_str(), &key, rules);
    }
    let Ok(whole) = Event::from_object(pdu.clone(), rules) else { return };
    let Ok(admitted) = intake::admit(pdu.clone(), rules, known) else { return };
    assert_eq!(admitted, whole);
    if let Some(Value::Object(content)) = pdu.get_mut("content") {
        content.insert("org.example.relay".to_owned(), Value::Int(1));
    }
    if let Ok(changed) = intake::admit(pdu, rules, known) {
        assert_eq!(changed.event_id, whole.event_id, "the relay's change has no ID of its own");
        assert!(changed.content_value("org.example.relay").is_none(), "what was not signed is not kept");
    }
}

fn is_json(text: &str) {
    serde_json::from_str::<serde::de::IgnoredAny>(text).unwrap();
}

/// The `X-Matrix` header: what is read is what was written.
pub fn x_matrix(bytes: &[u8]) {
    let Some(header) = std::str::from_utf8(bytes).ok().and_then(x_matrix::parse) else { return };
    let again = x_matrix::parse(&header.to_string()).unwrap();
    assert_eq!((&again.origin, &again.destination), (&header.origin, &header.destination));
    assert_eq!((&again.key, again.sig.as_bytes()), (&header.key, header.sig.as_bytes()));
    let key = KeyPair::from_seed(&[7; 32], "1");
    let signed = Signed {
        origin: &header.origin,
        destination: header.destination.as_deref().unwrap_or(&header.origin),
        method: "GET",
        uri: "/_matrix/federation/v1/version",
        content: None,
    };
    let ours = x_matrix::parse(&signed.header(&key)).unwrap();
    assert_eq!((&ours.origin, ours.destination.as_deref()), (&header.origin, Some(signed.destination)));
    assert!(signed.verifies(&ours, &key.public()));
    // Whoever signed, it was not this key.
    assert!(ours.sig.as_bytes() == header.sig.as_bytes() || !signed.verifies(&header, &key.public()));
}

/// A large answer in pieces: the same however its bytes are divided. The first byte says how.
pub fn pieces(bytes: &[u8]) {
    let Some((at_once, bytes)) = bytes.split_first() else { return };
    let whole = cut(bytes.chunks(bytes.len().max(1)));
    assert_eq!(cut(bytes.chunks(usize::from(*at_once).max(1))), whole);
    assert_eq!(cut(bytes.chunks(1)), whole);
    let (found, ended) = whole;
    let held: usize = found.iter().map(|piece| piece.json.len()).sum();
    assert!(held <= bytes.len());
    if let Ok(serde_json::Value::Object(members)) = serde_json::from_slice(bytes)
        && ended != Err(PieceError::TooLong)
    {
        assert_eq!(ended, Ok(()));
        for piece in &found {
            is_json(&piece.json);
        }
        let parts = |value: &serde_json::Value| value.as_array().map_or(1, Vec::len);
        // A name that stands twice is two members here.
        assert!(found.len() >= members.values().map(parts).sum::<usize>());
    }
}

fn cut<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<Piece>, Result<(), PieceError>) {
    let mut pieces = Pieces::new(1_000);
    let mut found = Vec::new();
    for part in parts {
        if let Err(error) = pieces.push(part, |piece| found.push(piece)) {
            return (found, Err(error));
        }
    }
    let ended = pieces.finish();
    (found, ended)
}

/// The places that clients come back to.
pub fn tokens(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(token) = SyncToken::parse(text) {
        assert_eq!(SyncToken::parse(&token.to_string()), Some(token));
    }
    if let Some(cursor) = Cursor::parse(text) {
        assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        let after = Cursor::after(cursor.depth, cursor.event);
        assert!(after > cursor || cursor.event.0 == u64::MAX);
    }
}

/// A filter, and an event that is shown through it.
pub fn filter(bytes: &[u8]) {
    let Some([filter, event]) = lines(bytes) else { return };
    if let Ok(filter) = rooms::filter::EventFilter::parse(filter) {
        filter.wants_type(event);
        filter.wants_sender(event);
    }
    let Ok(filter) = sync::filter::Filter::parse(filter) else { return };
    assert!(filter.room.limit() <= 100);
    filter.room.timeline.wants_type(event);
    filter.room.wants_room(event);
    let Ok(whole) = serde_json::from_str::<serde_json::Value>(event) else { return };
    let reduced = filter.reduce(event.to_owned());
    let shown: serde_json::Value = serde_json::from_str(&reduced).unwrap();
    assert!(is_part(&shown, &whole), "{reduced} shows what is not in {event}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&filter.reduce(reduced)).unwrap(), shown);
}

fn is_part(part: &serde_json::Value, whole: &serde_json::Value) -> bool {
    match (part, whole) {
        (serde_json::Value::Object(part), serde_json::Value::Object(whole)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|whole| is_part(value, whole)))
        }
        // What is no object has no fields, so nothing is left of it.
        (serde_json::Value::Object(part), _) => part.is_empty(),
        (part, whole) => part == whole,
    }
}

/// A `.well-known` answer, after the `Cache-Control` that came with it.
pub fn well_known(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (control, body) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    let mut headers = HeaderMap::new();
    if let Ok(control) = HeaderValue::from_bytes(control) {
        headers.insert(CACHE_CONTROL, control);
    }
    let (found, seconds) = discovery::delegation(&headers, body, 1_000_000);
    assert!(seconds <= 48 * 3600, "nothing is believed for longer than two days");
    if let Some(name) = found {
        assert!(ServerName::parse(name.as_str()).is_ok());
        assert!(!name.host().is_empty());
    }
}

/// Push rules of a user, and an event that they are asked about.
pub fn push_rules(bytes: &[u8]) {
    let Some([rules, content]) = lines(bytes) else { return };
    let Ok(rules) = serde_json::from_str::<Ruleset>(rules) else { return };
    let Some(event) = event("m.room.message", content) else { return };
    let levels = PowerLevels::new(&version::ALL[10], None, None);
    let context = push::Context {
        user: user_id!("@bob:example.org"),
        display_name: Some("Bob"),
        member_count: 2,
        power_levels: Some(&levels),
    };
    let subject = push::Subject::new(&event);
    let said = serde_json::to_string(push::evaluate(&rules, &subject, &context).list).unwrap();
    push::asks(&rules);
    // Rules are stored as they are written.
    let again: Ruleset = serde_json::from_str(&serde_json::to_string(&rules).unwrap()).unwrap();
    assert_eq!(serde_json::to_string(push::evaluate(&again, &subject, &context).list).unwrap(), said);
    let to_self = push::Context { user: &event.sender, ..context };
    assert!(!push::evaluate(&rules, &subject, &to_self).notify(), "nobody is told of their own events");
}

/// A pattern and a text: as the plainest matcher that there is would say.
pub fn globs(bytes: &[u8]) {
    let Some([pattern, text]) = lines(bytes) else { return };
    if pattern.len() > 200 || text.len() > 500 {
        return;
    }
    let (lower_pattern, lower): (Vec<char>, String) = (pattern.to_lowercase().chars().collect(), text.to_lowercase());
    let chars: Vec<char> = lower.chars().collect();
    let glob = Glob::new(pattern);
    let whole = fits(&lower_pattern, &chars);
    assert_eq!(glob.matches(text), whole);
    assert_eq!(glob.matches_lower(&lower), whole);
    if whole && !pattern.is_empty() {
        assert!(glob.matches_word_lower(&lower), "a whole text begins and ends at boundaries");
    }
    if glob.matches_word_lower(&lower) {
        assert!(Glob::new(&format!("*{pattern}*")).matches_lower(&lower));
    }
}

/// Whether a pattern fits a text: row by row, what each beginning of the pattern fits.
fn fits(pattern: &[char], text: &[char]) -> bool {
    let mut row: Vec<bool> = (0..=text.len()).map(|end| end == 0).collect();
    for char in pattern {
        let mut next = vec![*char == '*' && row[0]];
        for (at, letter) in text.iter().enumerate() {
            next.push(match char {
                '*' => row[at + 1] || next[at],
                '?' => row[at],
                char => row[at] && char == letter,
            });
        }
        row = next;
    }
    row[text.len()]
}

/// The content of a server ACL, and a server's name.
pub fn server_acl(bytes: &[u8]) {
    let Some([content, server]) = lines(bytes) else { return };
    let Some(event) = event("m.room.server_acl", content) else { return };
    let Ok(server) = <&ServerName>::try_from(server) else { return };
    let acl = ServerAcl::new(&event);
    let allowed = acl.allows(server);
    for other in [server.as_str().to_uppercase(), format!("{}:1", server.host())] {
        if let Ok(other) = ServerName::parse(&*other) {
            assert_eq!(acl.allows(&other), allowed, "neither case nor ports count: {other}");
        }
    }
    let content = canonical::parse_object(event.content().as_bytes(), Numbers::Lax).unwrap();
    let list = |name: &str| content.get(name).and_then(Value::as_array).unwrap_or_default().to_vec();
    assert!(!list("deny").contains(&"*".into()) || !allowed);
    assert!(!list("allow").is_empty() || !allowed);
}

/// The body of a transaction: its events and ephemeral events, as far as they are read without a room.
pub fn transaction(bytes: &[u8]) {
    let request = http::Request::put("/_matrix/federation/v1/send/1").body(bytes).unwrap();
    let Ok(transaction) = Transaction::try_from_http_request(request, &["1"]) else { return };
    for edu in &transaction.edus {
        edu.deserialize().ok();
    }
    for pdu in &transaction.pdus {
        for rules in [&version::ALL[0], &version::ALL[5], &version::ALL[11]] {
            let Ok(object) = admit::object(pdu, rules) else { continue };
            let id = admit::event_id(&object, rules);
            sign::signers(&object, rules).ok();
            if let Ok(event) = Event::from_object(object, rules) {
                assert_eq!(id, Some(event.event_id), "what is answered for is what was taken in");
            }
        }
    }
}

/// The words of a text, for those who search: bounded, and folded for good.
pub fn search_words(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let counted = words::counted(&text);
    assert!(counted.len() <= 400);
    for word in counted.keys() {
        assert!(word.len() <= 40);
        assert_eq!(words::fold(word), *word, "a folded word is folded");
    }
}

/// The first line and the rest.
fn lines(bytes: &[u8]) -> Option<[&str; 2]> {
    let (first, rest) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
    Some([first, rest])
}

/// An event with this content, if it can be the content of one.
fn event(kind: &str, content: &str) -> Option<Event> {
    let content = canonical::parse_object(content.as_bytes(), Numbers::Strict).ok()?;
    let mut pdu = canonical::parse_object(
        br#"{"room_id":"!r:example.org","sender":"@ann:example.org","state_key":"","depth":1,"origin_server_ts":1,
            "prev_events":[],"auth_events":[],"hashes":{},"signatures":{}}"#,
        Numbers::Strict,
    )
    .unwrap();
    pdu.insert("type".to_owned(), kind.into());
    pdu.insert("content".to_owned(), Value::Object(content));
    Event::from_object(pdu, &version::ALL[10]).ok()
}
