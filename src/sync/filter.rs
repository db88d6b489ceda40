//! Filters: which rooms, events and fields a reader wants to hear of.
//!
//! [`Filter::parse`] reads the JSON once per request; the rest are questions about one event or room, most of them
//! those of [`crate::rooms::filter`]. Resolving the ID of a stored filter is the caller's.
//!
//! Spec: client-server-api#filtering

use serde::Deserialize;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

pub use crate::rooms::filter::EventFilter;
use crate::{
    error::{Error, Result},
    rooms::filter::listed,
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
    /// How many events of a room are shown.
    pub fn limit(&self) -> usize {
        self.timeline.limit.unwrap_or(USUAL_LIMIT).min(MOST_LIMIT) as usize
    }

    /// Whether the reader wants to hear of a room at all.
    pub fn wants_room(&self, room: &str) -> bool {
        listed(&self.rooms, &self.not_rooms, |listed| listed == room)
    }
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
