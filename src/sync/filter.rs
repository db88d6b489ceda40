//! Filters: which rooms, events and fields a reader wants to hear of.
//!
//! [`Filter::parse`] reads the JSON once per request; the rest are questions about one event or room.
//! Resolving the ID of a stored filter is the caller's.
//!
//! Spec: client-server-api#filtering

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    error::{Error, Result},
    rooms::{Rooms, cache::Known},
    store::schema::{events::RELATIONS, numbers},
};

/// How many events of a room a sync shows when the filter does not say.
const USUAL_LIMIT: u64 = 10;
/// How many it shows at most.
const MOST_LIMIT: u64 = 100;

/// A whole filter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Filter {
    event_fields: Option<Vec<String>>,
    /// How events are written.
    pub event_format: Format,
    /// For presence.
    pub presence: EventFilter,
    /// For account data that belongs to no room.
    pub account_data: EventFilter,
    /// For rooms.
    pub room: RoomFilter,
    /// Two filters with the same text have the same number.
    #[serde(skip)]
    pub fingerprint: u64,
    #[serde(skip)]
    fields: Option<Vec<Vec<String>>>,
}

/// How events are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// As they are sent between servers.
    Federation,
    /// As the Client-Server API has them.
    #[default]
    #[serde(other)]
    Client,
}

/// The part of a filter that is about rooms.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RoomFilter {
    rooms: Option<Vec<String>>,
    not_rooms: Option<Vec<String>>,
    /// Whether rooms that the user has left are told of from the beginning.
    pub include_leave: bool,
    /// For typing and receipts.
    pub ephemeral: EventFilter,
    /// For state.
    pub state: EventFilter,
    /// For the timeline.
    pub timeline: EventFilter,
    /// For what the user keeps about rooms.
    pub account_data: EventFilter,
}

/// What is wanted of one kind of events. Fields that mean nothing for a kind are not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    limit: Option<u64>,
    types: Option<Vec<String>>,
    not_types: Option<Vec<String>>,
    senders: Option<Vec<String>>,
    not_senders: Option<Vec<String>>,
    rooms: Option<Vec<String>>,
    not_rooms: Option<Vec<String>>,
    contains_url: Option<bool>,
    related_by_senders: Option<Vec<String>>,
    related_by_rel_types: Option<Vec<String>>,
    /// Whether member events come only with what their users have sent.
    pub lazy_load_members: bool,
    /// Whether those member events come again each time.
    pub include_redundant_members: bool,
    /// Whether unread counts are split by thread.
    pub unread_thread_notifications: bool,
}

impl Filter {
    /// Reads a filter.
    ///
    /// Errors: 400 `M_BAD_JSON`.
    pub fn parse(json: &str) -> Result<Self> {
        let mut filter: Self = serde_json::from_str(json)
            .map_err(|error| Error::bad_json(format!("the filter is not of the right shape: {error}")))?;
        filter.fingerprint = xxh3_64(json.as_bytes());
        filter.fields = filter.event_fields.take().map(|fields| fields.iter().map(|field| path(field)).collect());
        Ok(filter)
    }

    /// An event with only those fields that are wanted.
    pub fn reduce(&self, event: String) -> String {
        let Some(fields) = &self.fields else { return event };
        let Ok(whole) = serde_json::from_str::<Value>(&event) else { return event };
        let mut reduced = Value::Object(Default::default());
        for field in fields {
            copy(&whole, &mut reduced, field);
        }
        reduced.to_string()
    }
}

impl RoomFilter {
    /// Whether the reader wants to hear of a room at all.
    pub fn wants_room(&self, room: &str) -> bool {
        listed(&self.rooms, &self.not_rooms, |listed| listed == room)
    }
}

impl EventFilter {
    /// How many events are shown.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(USUAL_LIMIT).min(MOST_LIMIT) as usize
    }

    /// How many events are wanted at most, where there is no usual number.
    pub fn most(&self) -> usize {
        self.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
    }

    /// Whether events of this room are wanted.
    pub fn wants_room(&self, room: &str) -> bool {
        listed(&self.rooms, &self.not_rooms, |listed| listed == room)
    }

    /// Whether events of this type are wanted.
    pub fn wants_type(&self, kind: &str) -> bool {
        listed(&self.types, &self.not_types, |pattern| matches(pattern, kind))
    }

    /// Whether events of this sender are wanted.
    pub fn wants_sender(&self, sender: &str) -> bool {
        listed(&self.senders, &self.not_senders, |listed| listed == sender)
    }

    /// Whether this event is wanted, in a room that is wanted.
    pub fn wants(&self, rooms: &Rooms, known: &Known) -> Result<bool> {
        let event = &known.event;
        if !self.wants_type(&event.kind) || !self.wants_sender(event.sender.as_str()) {
            return Ok(false);
        }
        if let Some(wanted) = self.contains_url
            && event.content_field::<IgnoredAny>("url").is_some() != wanted
        {
            return Ok(false);
        }
        if self.related_by_senders.is_none() && self.related_by_rel_types.is_none() {
            return Ok(true);
        }
        self.wants_relations(rooms, known)
    }

    /// Whether something relates to the event in a way that is wanted.
    fn wants_relations(&self, rooms: &Rooms, known: &Known) -> Result<bool> {
        for row in rooms.store.scan(RELATIONS, &(known.number,)) {
            let ((_, rel_type, _, _), row) = row?;
            if !listed(&self.related_by_rel_types, &None, |listed| *listed == rel_type) {
                continue;
            }
            let Some(senders) = &self.related_by_senders else { return Ok(true) };
            let sender = numbers::user_id(&rooms.store, row.sender)?;
            if sender.is_some_and(|sender| senders.iter().any(|listed| sender == listed.as_str())) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether something is on the first list, if there is one, and not on the second.
fn listed(wanted: &Option<Vec<String>>, unwanted: &Option<Vec<String>>, is: impl Fn(&String) -> bool) -> bool {
    wanted.as_ref().is_none_or(|list| list.iter().any(&is))
        && !unwanted.as_ref().is_some_and(|list| list.iter().any(is))
}

/// Whether a type matches a pattern, in which `*` stands for any characters.
fn matches(pattern: &str, kind: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == kind };
    let Some(mut kind) = kind.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        match kind.find(part) {
            Some(at) => kind = &kind[at + part.len()..],
            None => return false,
        }
    }
    kind.ends_with(end)
}

/// The names in a dot-separated path.  Spec: appendices#dot-separated-property-paths
fn path(field: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut characters = field.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped = character == '\\' && matches!(characters.peek(), Some('.' | '\\'));
        match (character, names.last_mut()) {
            ('.', _) => names.push(String::new()),
            (_, Some(name)) if escaped => name.extend(characters.next()),
            (_, Some(name)) => name.push(character),
            (_, None) => {}
        }
    }
    names
}

/// Copies what stands at a path.
fn copy(from: &Value, to: &mut Value, path: &[String]) {
    let (Some((name, rest)), Some(to)) = (path.split_first(), to.as_object_mut()) else { return };
    let Some(value) = from.get(name) else { return };
    if rest.is_empty() {
        to.insert(name.clone(), value.clone());
    } else if value.is_object() {
        copy(value, to.entry(name.clone()).or_insert_with(|| Value::Object(Default::default())), rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, kind, expected) in [
            ("m.room.*", "m.room.message", true),
            ("m.room.*", "m.reaction", false),
            ("*", "anything", true),
            ("*.message", "m.room.message", true),
            ("m.*.m*e", "m.room.message", true),
            ("m.*.m*x", "m.room.message", false),
            ("m.room.message", "m.room.message", true),
            ("m.room", "m.room.message", false),
            ("a*a", "a", false),
            ("m.r?om", "m.room", false),
        ] {
            assert_eq!(matches(pattern, kind), expected, "{pattern} {kind}");
        }
    }

    #[test]
    fn what_is_excluded_is_excluded_even_if_it_is_listed() {
        let filter = Filter::parse(r#"{"room":{"timeline":{"types":["m.*"],"not_types":["m.reaction"]}}}"#).unwrap();
        assert!(filter.room.timeline.wants_type("m.room.message"));
        assert!(!filter.room.timeline.wants_type("m.reaction"));
        assert!(!filter.room.timeline.wants_type("org.example"));
    }

    #[test]
    fn only_the_named_fields_are_left() {
        let filter = Filter::parse(r#"{"event_fields":["type","content.body","content.a\\.b"]}"#).unwrap();
        let event = r#"{"type":"x","sender":"@a:b","content":{"body":"hi","a.b":1,"more":2}}"#;
        let expected = serde_json::json!({ "type": "x", "content": { "body": "hi", "a.b": 1 } });
        assert_eq!(serde_json::from_str::<Value>(&filter.reduce(event.to_owned())).unwrap(), expected);
    }

    #[test]
    fn a_filter_of_another_shape_is_refused() {
        assert_eq!(Filter::parse(r#"{"room":{"timeline":{"limit":"many"}}}"#).unwrap_err().errcode, "M_BAD_JSON");
        assert_eq!(Filter::parse("{").unwrap_err().errcode, "M_BAD_JSON");
    }
}
