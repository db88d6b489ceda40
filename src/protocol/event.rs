//! An event: what rooms are made of.
//!
//! An [`Event`] is made once and never changed, and is meant to be shared (`Arc<Event>`). It keeps the
//! event as servers exchange it, the *PDU*, in canonical JSON, beside the parsed fields that every part
//! of Ingle asks for; the content stays raw JSON, ready to be copied into an answer.
//!
//! It comes from another server ([`Event::parse`], with every check of the event format), from our
//! store ([`Event::from_stored`], fast, because the store is trusted), or from here
//! ([`super::compose::Draft`]). [`client_format`] writes it for clients. Whether the event is signed,
//! allowed or visible is not decided here.

use std::{borrow::Cow, fmt, ops::Range};

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, events::room::member::MembershipState, serde::Raw};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    canonical::{self, JsonError, Numbers, Object, Value},
    hash,
    redact::redact,
    version::Rules,
};

/// The largest PDU, with hashes and signatures. Spec: client-server-api#size-limits
pub const MAX_SIZE: usize = 65_536;
/// The longest type, state key, sender, room ID and event ID. Spec: client-server-api#size-limits
pub const MAX_FIELD: usize = 255;
/// The most `prev_events`. Spec: rooms/v12#event-format
pub const MAX_PREV_EVENTS: usize = 20;
/// The most `auth_events`. Spec: rooms/v12#event-format
pub const MAX_AUTH_EVENTS: usize = 10;

/// One event of a room, immutable.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    pub event_id: OwnedEventId,
    pub room_id: OwnedRoomId,
    pub sender: OwnedUserId,
    /// The `type`.
    pub kind: String,
    pub state_key: Option<String>,
    /// Milliseconds since 1970, as the sender's server says.
    pub origin_server_ts: u64,
    pub depth: u64,
    pub prev_events: Vec<OwnedEventId>,
    pub auth_events: Vec<OwnedEventId>,
    /// What an `m.room.redaction` names, in the envelope or else in the content. Where the two may
    /// differ and it matters, ask [`Event::redacts_under`].
    pub redacts: Option<OwnedEventId>,
    json: Box<str>,
    content: Range<u32>,
}

/// Why something is not an event of this room version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormatError {
    Json(JsonError),
    /// A field is absent or has another type.
    Field {
        field: &'static str,
        needs: &'static str,
    },
    /// An identifier with a wrong grammar.
    Identifier {
        field: &'static str,
        value: String,
    },
    /// A field of more than [`MAX_FIELD`] bytes.
    FieldTooLong {
        field: &'static str,
        bytes: usize,
    },
    TooManyReferences {
        field: &'static str,
        count: usize,
        limit: usize,
    },
    /// More than [`MAX_SIZE`] bytes.
    TooLarge {
        bytes: usize,
    },
    /// A create event that names its room, where the room's ID is the hash of that event.
    RoomIdInCreate,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => error.fmt(f),
            Self::Field { field, needs } => write!(f, "the event's {field} must be {needs}"),
            Self::Identifier { field, value } => {
                write!(f, "the event's {field} {value:?} is not a valid identifier")
            }
            Self::FieldTooLong { field, bytes } => {
                write!(f, "the event's {field} has {bytes} bytes, and {MAX_FIELD} are allowed")
            }
            Self::TooManyReferences { field, count, limit } => {
                write!(f, "the event has {count} {field}, and {limit} are allowed")
            }
            Self::TooLarge { bytes } => {
                write!(f, "the event has {bytes} bytes, and {MAX_SIZE} are allowed")
            }
            Self::RoomIdInCreate => f.write_str("in this room version a create event must not have a room_id"),
        }
    }
}

impl std::error::Error for FormatError {}

impl From<JsonError> for FormatError {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

impl Event {
    /// Reads a PDU of this room version as another server sent it, checking its format and working
    /// out its ID. `unsigned` is dropped: it is the sending server's own view.
    /// Spec: server-server-api#checks-performed-on-receipt-of-a-pdu
    pub fn parse(pdu: &[u8], rules: &Rules) -> Result<Self, FormatError> {
        Self::from_object(canonical::parse_object(pdu, rules.numbers)?, rules)
    }

    /// As [`Event::parse`], from JSON that is parsed already.
    pub fn from_object(mut pdu: Object, rules: &Rules) -> Result<Self, FormatError> {
        pdu.remove("unsigned");
        if rules.numbers == Numbers::Strict
            && let Some(number) = pdu.values().find(|value| !value.is_strict())
        {
            return Err(JsonError::Number(canonical::write(number).chars().take(40).collect()).into());
        }
        for field in ["content", "hashes", "signatures"] {
            if pdu.get(field).and_then(Value::as_object).is_none() {
                return Err(FormatError::Field { field, needs: "an object" });
            }
        }
        let kind = short_text(&pdu, "type")?.ok_or(FormatError::Field { field: "type", needs: "a string" })?;
        let event_id = match hash::event_id(&pdu, rules) {
            Some(event_id) => event_id,
            None => identifier(&pdu, "event_id", "an event ID")?,
        };
        let room_id = if rules.room_id_is_hash && kind == "m.room.create" {
            if pdu.contains_key("room_id") {
                return Err(FormatError::RoomIdInCreate);
            }
            room_id_of_create(&event_id)?
        } else {
            identifier(&pdu, "room_id", "a room ID")?
        };
        let (json, content) = write_pdu(&pdu)?;
        Ok(Self {
            room_id,
            sender: identifier(&pdu, "sender", "a user ID")?,
            state_key: short_text(&pdu, "state_key")?.map(str::to_owned),
            origin_server_ts: natural(&pdu, "origin_server_ts")?,
            depth: natural(&pdu, "depth")?,
            prev_events: references(&pdu, "prev_events", MAX_PREV_EVENTS, rules)?,
            auth_events: references(&pdu, "auth_events", MAX_AUTH_EVENTS, rules)?,
            redacts: redacted_by(kind, &pdu),
            kind: kind.to_owned(),
            event_id,
            json,
            content,
        })
    }

    /// Reads a PDU that we wrote ourselves: one pass, and no hash or size is checked again.
    pub fn from_stored(event_id: OwnedEventId, room_id: OwnedRoomId, json: Box<str>) -> Result<Self, FormatError> {
        let shape = |error: serde_json::Error| FormatError::Json(JsonError::Shape(error.to_string()));
        let header: Header<'_> = serde_json::from_str(&json).map_err(shape)?;
        let content = header.content.get();
        let start = (content.as_ptr() as usize - json.as_ptr() as usize) as u32;
        let content = start..start + content.len() as u32;
        let mut redacts = None;
        if header.kind == "m.room.redaction" {
            redacts = header.redacts.and_then(|id| serde_json::from_str(id.get()).ok());
            if redacts.is_none() {
                redacts = pick(&json[range(&content)], "redacts");
            }
        }
        Ok(Self {
            event_id,
            room_id,
            sender: header.sender,
            kind: header.kind.into_owned(),
            state_key: header.state_key.map(Cow::into_owned),
            origin_server_ts: header.origin_server_ts,
            depth: header.depth,
            prev_events: header.prev_events.into_iter().map(|reference| reference.0).collect(),
            auth_events: header.auth_events.into_iter().map(|reference| reference.0).collect(),
            redacts,
            json,
            content,
        })
    }

    /// The whole PDU, canonical JSON without `unsigned`: what servers exchange and the store keeps.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The PDU as an answer of the server-server API holds it.
    pub fn to_pdu(&self) -> Box<RawValue> {
        raw(self.json.to_string())
    }

    /// The PDU as a JSON object, to redact, verify or sign it.
    pub fn to_object(&self) -> Object {
        // Our own text parses; if memory went bad, an empty object fails every check.
        canonical::parse_object(self.json.as_bytes(), Numbers::Lax).unwrap_or_default()
    }

    /// The content, a JSON object as text.
    pub fn content(&self) -> &str {
        &self.json[range(&self.content)]
    }

    /// The content as a Rust type, such as ruma has for every event type.
    pub fn content_as<'de, T: Deserialize<'de>>(&'de self) -> Result<T, JsonError> {
        serde_json::from_str(self.content()).map_err(|error| JsonError::Shape(error.to_string()))
    }

    /// One member of the content, if it is there and has this type. Nothing else is allocated.
    pub fn content_field<'de, T: Deserialize<'de>>(&'de self, name: &str) -> Option<T> {
        pick(self.content(), name)
    }

    /// One member of the content as a JSON value.
    pub fn content_value(&self, name: &str) -> Option<Value> {
        let raw: &RawValue = self.content_field(name)?;
        canonical::parse(raw.get().as_bytes(), Numbers::Lax).ok()
    }

    /// The membership that an `m.room.member` event gives to its state key.
    pub fn membership(&self) -> Option<MembershipState> {
        if self.kind != "m.room.member" {
            return None;
        }
        self.content_field("membership")
    }

    /// Whether this is a state event.
    pub fn is_state(&self) -> bool {
        self.state_key.is_some()
    }

    /// Whether this is the state event of this type and key.
    pub fn is(&self, kind: &str, state_key: &str) -> bool {
        self.kind == kind && self.state_key.as_deref() == Some(state_key)
    }

    /// Type and state key of a state event.
    pub fn key(&self) -> Option<(&str, &str)> {
        Some((&self.kind, self.state_key.as_deref()?))
    }

    /// The server whose user sent it.
    pub fn server(&self) -> &ServerName {
        self.sender.server_name()
    }

    /// What this redaction names, read where the room version has it. Spec: rooms/v11#event-format
    pub fn redacts_under(&self, rules: &Rules) -> Option<OwnedEventId> {
        if self.kind != "m.room.redaction" {
            None
        } else if rules.modern_redaction {
            self.content_field("redacts")
        } else {
            pick(&self.json, "redacts")
        }
    }

    /// The same event, same ID, with only what redaction keeps.
    pub fn redacted(&self, rules: &Rules) -> Self {
        let kept = redact(&self.to_object(), rules);
        let redacts = redacted_by(&self.kind, &kept);
        match write_pdu(&kept) {
            Ok((json, content)) => Self { redacts, json, content, ..self.clone() },
            // Less than what fitted before fits.
            Err(_) => self.clone(),
        }
    }

    /// About how many bytes of memory this event takes.
    pub fn memory_size(&self) -> usize {
        let long = |text: &str, inline: usize| if text.len() > inline { text.len() } else { 0 };
        size_of::<Self>()
            + self.json.len()
            + self.kind.capacity()
            + self.state_key.as_ref().map_or(0, String::capacity)
            + long(self.event_id.as_str(), 48)
            + self.room_id.as_str().len()
            + self.sender.as_str().len()
            + (self.prev_events.capacity() + self.auth_events.capacity()) * size_of::<OwnedEventId>()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({} {})", self.event_id, self.json)
    }
}

/// What to add to or leave out of an event on its way to a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientFormat<'a> {
    /// Whether `room_id` is written; `/sync` leaves it out.
    pub room_id: bool,
    /// The `unsigned` object, as JSON.
    pub unsigned: Option<&'a str>,
}

/// Writes an event as clients see it. Redactions name their target in the envelope and in the
/// content, whatever the room version. Spec: client-server-api#room-event-format
pub fn client_format(event: &Event, options: &ClientFormat<'_>) -> String {
    let mut out = String::with_capacity(event.content().len() + options.unsigned.map_or(0, str::len) + 384);
    write_client_format(&mut out, event, options);
    out
}

/// As [`client_format`], appended to a longer answer.
pub fn write_client_format(out: &mut String, event: &Event, options: &ClientFormat<'_>) {
    out.push_str("{\"content\":");
    match &event.redacts {
        Some(redacts) if event.content_field::<IgnoredAny>("redacts").is_none() => {
            let rest = event.content()[1..].trim_start();
            out.push_str("{\"redacts\":");
            canonical::write_string(out, redacts.as_str());
            out.push_str(if rest == "}" { "" } else { "," });
            out.push_str(rest);
        }
        _ => out.push_str(event.content()),
    }
    out.push_str(",\"event_id\":");
    canonical::write_string(out, event.event_id.as_str());
    out.push_str(",\"origin_server_ts\":");
    canonical::write_number(out, event.origin_server_ts);
    if let Some(redacts) = &event.redacts {
        out.push_str(",\"redacts\":");
        canonical::write_string(out, redacts.as_str());
    }
    if options.room_id {
        out.push_str(",\"room_id\":");
        canonical::write_string(out, event.room_id.as_str());
    }
    out.push_str(",\"sender\":");
    canonical::write_string(out, event.sender.as_str());
    if let Some(state_key) = &event.state_key {
        out.push_str(",\"state_key\":");
        canonical::write_string(out, state_key);
    }
    out.push_str(",\"type\":");
    canonical::write_string(out, &event.kind);
    if let Some(unsigned) = options.unsigned {
        out.push_str(",\"unsigned\":");
        out.push_str(unsigned);
    }
    out.push('}');
}

/// [`client_format`] as one of ruma's raw event types.
pub fn to_client<T>(event: &Event, options: &ClientFormat<'_>) -> Raw<T> {
    Raw::from_json(raw(client_format(event, options)))
}

/// A state event reduced to what an invited or knocking user is shown.
/// Spec: client-server-api#stripped-state
pub fn stripped_format(event: &Event) -> String {
    let mut out = String::with_capacity(event.content().len() + 192);
    out.push_str("{\"content\":");
    out.push_str(event.content());
    out.push_str(",\"sender\":");
    canonical::write_string(&mut out, event.sender.as_str());
    out.push_str(",\"state_key\":");
    canonical::write_string(&mut out, event.state_key.as_deref().unwrap_or_default());
    out.push_str(",\"type\":");
    canonical::write_string(&mut out, &event.kind);
    out.push('}');
    out
}

/// [`stripped_format`] as one of ruma's raw event types.
pub fn to_stripped<T>(event: &Event) -> Raw<T> {
    Raw::from_json(raw(stripped_format(event)))
}

/// JSON that we wrote, as serde's raw value.
fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The ID of the room that this version 12 create event begins.
fn room_id_of_create(event_id: &OwnedEventId) -> Result<OwnedRoomId, FormatError> {
    let room_id = event_id.as_str().replacen('$', "!", 1);
    OwnedRoomId::try_from(room_id.as_str()).map_err(|_| FormatError::Identifier { field: "room_id", value: room_id })
}

/// Writes the PDU and says where in it the content stands.
fn write_pdu(pdu: &Object) -> Result<(Box<str>, Range<u32>), FormatError> {
    let mut out = String::with_capacity(1024);
    let mut content = 0..0;
    out.push('{');
    for (key, value) in pdu {
        if out.len() > 1 {
            out.push(',');
        }
        canonical::write_string(&mut out, key);
        out.push(':');
        let start = out.len() as u32;
        canonical::write_value(&mut out, value);
        if key == "content" {
            content = start..out.len() as u32;
        }
        // Never builds much more than what is allowed.
        if out.len() > MAX_SIZE {
            return Err(FormatError::TooLarge { bytes: canonical::write_object(pdu).len() });
        }
    }
    out.push('}');
    if out.len() > MAX_SIZE {
        return Err(FormatError::TooLarge { bytes: out.len() });
    }
    Ok((out.into(), content))
}

fn range(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn short_text<'a>(pdu: &'a Object, field: &'static str) -> Result<Option<&'a str>, FormatError> {
    match pdu.get(field) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() > MAX_FIELD => {
            Err(FormatError::FieldTooLong { field, bytes: text.len() })
        }
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(FormatError::Field { field, needs: "a string" }),
    }
}

fn identifier<'a, T>(pdu: &'a Object, field: &'static str, needs: &'static str) -> Result<T, FormatError>
where
    T: TryFrom<&'a str>,
{
    let text = short_text(pdu, field)?.ok_or(FormatError::Field { field, needs })?;
    T::try_from(text).map_err(|_| FormatError::Identifier { field, value: text.to_owned() })
}

fn natural(pdu: &Object, field: &'static str) -> Result<u64, FormatError> {
    pdu.get(field)
        .and_then(Value::as_int)
        .and_then(|int| u64::try_from(int).ok())
        .ok_or(FormatError::Field { field, needs: "an integer that is not negative" })
}

fn references(
    pdu: &Object,
    field: &'static str,
    limit: usize,
    rules: &Rules,
) -> Result<Vec<OwnedEventId>, FormatError> {
    let needs = if rules.plain_references() { "a list of event IDs" } else { "a list of event IDs with hashes" };
    let list = pdu.get(field).and_then(Value::as_array).ok_or(FormatError::Field { field, needs })?;
    if list.len() > limit {
        return Err(FormatError::TooManyReferences { field, count: list.len(), limit });
    }
    list.iter()
        .map(|item| {
            let id = match item {
                Value::String(id) if rules.plain_references() => Some(id.as_str()),
                Value::Array(pair) if !rules.plain_references() && pair.len() == 2 => pair[0].as_str(),
                _ => None,
            };
            let id = id.ok_or(FormatError::Field { field, needs })?;
            if id.len() > MAX_FIELD {
                return Err(FormatError::FieldTooLong { field, bytes: id.len() });
            }
            OwnedEventId::try_from(id).map_err(|_| FormatError::Identifier { field, value: id.to_owned() })
        })
        .collect()
}

fn redacted_by(kind: &str, pdu: &Object) -> Option<OwnedEventId> {
    if kind != "m.room.redaction" {
        return None;
    }
    let read = |value: Option<&Value>| OwnedEventId::try_from(value?.as_str()?).ok();
    read(pdu.get("redacts")).or_else(|| read(pdu.get("content")?.get("redacts")))
}

#[derive(Deserialize)]
struct Header<'a> {
    auth_events: Vec<Reference>,
    #[serde(borrow)]
    content: &'a RawValue,
    depth: u64,
    origin_server_ts: u64,
    prev_events: Vec<Reference>,
    #[serde(borrow, default)]
    redacts: Option<&'a RawValue>,
    sender: OwnedUserId,
    #[serde(borrow, default)]
    state_key: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

/// An event ID, alone or in a pair with a hash.
struct Reference(OwnedEventId);

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Reference;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event ID, or a list of one and its hashes")
            }

            fn visit_str<E: serde::de::Error>(self, id: &str) -> Result<Reference, E> {
                OwnedEventId::try_from(id).map(Reference).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Reference, A::Error> {
                let id = pair.next_element()?.ok_or_else(|| serde::de::Error::custom("an empty reference"))?;
                while pair.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Reference(id))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// One member of a JSON object, without reading the others.
pub(super) fn pick<'de, T: Deserialize<'de>>(object: &'de str, name: &str) -> Option<T> {
    struct Pick<'n, T>(&'n str, std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Pick<'_, T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<T>, A::Error> {
            let mut found = None;
            while let Some(hit) = map.next_key_seed(KeyIs(self.0))? {
                if hit {
                    found = Some(map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }

    serde_json::Deserializer::from_str(object).deserialize_map(Pick(name, std::marker::PhantomData)).ok().flatten()
}

/// Compares a key with a name instead of copying it.
struct KeyIs<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for KeyIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use ruma::events::room::redaction::RoomRedactionEventContent;

    use super::*;
    use crate::protocol::{compose::Draft, sign::KeyPair, version::by_name};

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
        let with_room =
            draft.clone().sign("example.org".try_into().unwrap(), &KeyPair::from_seed(&[7; 32], "1"), rules);
        assert_eq!(with_room.unwrap_err(), FormatError::RoomIdInCreate);
        draft.room_id = None;
        let event = signed((draft, rules));
        assert_eq!(event.room_id.as_str()[1..], event.event_id.as_str()[1..]);
        assert!(!event.json().contains("room_id"));
        assert!(
            client_format(&event, &ClientFormat { room_id: true, unsigned: None }).contains(event.room_id.as_str())
        );
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
        check_refused(
            "11",
            &long("room_id", &room_id),
            expect!["the event's room_id has 256 bytes, and 255 are allowed"],
        );

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
}
