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

mod client;
mod stored;

use std::{borrow::Cow, fmt, ops::Range};

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, events::room::member::MembershipState};
use serde::Deserialize;
use serde_json::value::RawValue;

pub use self::client::{ClientFormat, client_format, stripped_format, to_client, to_stripped, write_client_format};
use self::stored::{Header, pick};
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
        Self::from_object(read_pdu(pdu, rules)?, rules)
    }

    /// As [`Event::parse`], from JSON that is parsed already.
    pub fn from_object(pdu: Object, rules: &Rules) -> Result<Self, FormatError> {
        let event_id = hash::event_id(&pdu, rules);
        Self::with_id(pdu, event_id, rules)
    }

    /// The same for an event of which that text is at hand which its signatures cover.
    pub(super) fn from_verified(pdu: Object, signed_text: &str, rules: &Rules) -> Result<Self, FormatError> {
        let event_id = hash::event_id_of(signed_text, rules);
        Self::with_id(pdu, event_id, rules)
    }

    fn with_id(mut pdu: Object, event_id: Option<OwnedEventId>, rules: &Rules) -> Result<Self, FormatError> {
        pdu.remove("unsigned");
        check_numbers(&pdu, rules)?;
        for field in ["content", "hashes", "signatures"] {
            if pdu.get(field).and_then(Value::as_object).is_none() {
                return Err(FormatError::Field { field, needs: "an object" });
            }
        }
        let kind = short_text(&pdu, "type")?.ok_or(FormatError::Field { field: "type", needs: "a string" })?;
        let event_id = match event_id {
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

/// Reads the JSON of a PDU of this room version. `unsigned` is left out: what servers keep beside an event is not held
/// to the rules for what they sign.
pub fn read_pdu(pdu: &[u8], rules: &Rules) -> Result<Object, JsonError> {
    let mut pdu = canonical::parse_object(pdu, Numbers::Lax)?;
    pdu.remove("unsigned");
    check_numbers(&pdu, rules)?;
    Ok(pdu)
}

/// Spec: rooms/v6#canonical-json
fn check_numbers(pdu: &Object, rules: &Rules) -> Result<(), JsonError> {
    match pdu.values().find(|value| rules.numbers == Numbers::Strict && !value.is_strict()) {
        Some(number) => Err(JsonError::Number(canonical::write(number).chars().take(40).collect())),
        None => Ok(()),
    }
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

/// JSON that we wrote, as serde's raw value.
fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests;
