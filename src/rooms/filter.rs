//! Event filters: which events of a room a client wants to see.
//!
//! An [`EventFilter`] is read from the JSON of a request or of a stored filter, and asked event by event.
//! Whether the reader *may* see an event is [`super::view`]'s to say.
//!
//! Spec: client-server-api#filtering (RoomEventFilter)

use ruma::{RoomId, UserId};
use serde::{Deserialize, de::IgnoredAny};

use super::{Rooms, cache::Known};
use crate::{
    error::{Error, Result},
    store::schema::{events::RELATIONS, numbers},
};

/// A `RoomEventFilter`. What is absent does not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    /// How many events at most.
    pub limit: Option<u64>,
    /// The types that are wanted; `*` stands for any text.
    pub types: Option<Vec<String>>,
    /// The types that are not.
    pub not_types: Vec<String>,
    /// The senders that are wanted.
    pub senders: Option<Vec<String>>,
    /// The senders that are not.
    pub not_senders: Vec<String>,
    /// The rooms that are wanted.
    pub rooms: Option<Vec<String>>,
    /// The rooms that are not.
    pub not_rooms: Vec<String>,
    /// Whether the content must have, or must not have, a `url`.
    pub contains_url: Option<bool>,
    /// Wanted are parents of such relations.
    pub related_by_rel_types: Option<Vec<String>>,
    /// Wanted are events to which events of these senders relate.
    pub related_by_senders: Option<Vec<String>>,
    /// Whether member events come only as far as they are needed.
    pub lazy_load_members: bool,
    /// Whether they come again although the client has them.
    pub include_redundant_members: bool,
    /// Whether unread counts are told per thread.
    pub unread_thread_notifications: bool,
}

impl EventFilter {
    /// Reads a filter; 400 `M_BAD_JSON` for what is none.
    pub fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| Error::bad_json(format!("the filter is not valid: {error}")))
    }

    /// Whether events of a room are wanted at all.
    pub fn wants_room(&self, room: &RoomId) -> bool {
        let named = |rooms: &[String]| rooms.iter().any(|named| named == room.as_str());
        self.rooms.as_deref().is_none_or(named) && !named(&self.not_rooms)
    }

    /// Whether something of this type and sender is wanted; for what is not an event of a room.
    pub fn wants_kind(&self, kind: &str, sender: Option<&UserId>) -> bool {
        let typed = |types: &[String]| types.iter().any(|pattern| matches(pattern, kind));
        let sent = |senders: &[String]| sender.is_some_and(|sender| senders.iter().any(|named| named == sender));
        self.types.as_deref().is_none_or(typed)
            && !typed(&self.not_types)
            && self.senders.as_deref().is_none_or(sent)
            && !sent(&self.not_senders)
    }

    /// Whether an event is wanted.
    pub fn wants(&self, rooms: &Rooms, known: &Known) -> Result<bool> {
        let event = &known.event;
        if !self.wants_kind(&event.kind, Some(&event.sender)) || !self.wants_room(&event.room_id) {
            return Ok(false);
        }
        if let Some(wanted) = self.contains_url
            && wanted != event.content_field::<IgnoredAny>("url").is_some()
        {
            return Ok(false);
        }
        self.is_related(rooms, known)
    }

    fn is_related(&self, rooms: &Rooms, known: &Known) -> Result<bool> {
        if self.related_by_rel_types.is_none() && self.related_by_senders.is_none() {
            return Ok(true);
        }
        let mut senders = Vec::new();
        for sender in self.related_by_senders.iter().flatten() {
            if let Ok(sender) = UserId::parse(sender) {
                senders.extend(numbers::find_user(&rooms.store, &sender)?);
            }
        }
        for row in rooms.store.scan(RELATIONS, &(known.number,)) {
            let ((_, rel_type, ..), row) = row?;
            let typed = self.related_by_rel_types.as_ref().is_none_or(|types| types.contains(&rel_type));
            if typed && (self.related_by_senders.is_none() || senders.contains(&row.sender)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether a type fits a pattern in which `*` stands for any text.
fn matches(pattern: &str, kind: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == kind };
    let Some(mut kind) = kind.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = kind.find(part) else { return false };
        kind = &kind[at + part.len()..];
    }
    kind.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text() {
        let fits = |pattern, kind| assert!(matches(pattern, kind), "{pattern} {kind}");
        let differs = |pattern, kind| assert!(!matches(pattern, kind), "{pattern} {kind}");
        fits("m.room.*", "m.room.name");
        fits("*", "");
        fits("m.*.name", "m.room.name");
        fits("*.name", "m.room.name");
        fits("m.*room*", "m.room.name");
        differs("m.room.*", "m.reaction");
        differs("m.room", "m.room.name");
        differs("a*ba", "aba.");
        differs("ab*ba", "aba");
    }

    #[test]
    fn what_is_excluded_is_not_wanted_even_if_it_is_named() {
        let filter = EventFilter::parse(r#"{"types":["m.*"],"not_types":["m.secret"],"not_senders":["@eve:a"]}"#);
        let filter = filter.unwrap();
        let (ann, eve) = (ruma::user_id!("@ann:a"), ruma::user_id!("@eve:a"));
        assert!(filter.wants_kind("m.open", Some(ann)));
        assert!(!filter.wants_kind("m.secret", Some(ann)));
        assert!(!filter.wants_kind("m.open", Some(eve)));
        assert!(!filter.wants_kind("org.other", Some(ann)));
    }

    #[test]
    fn a_filter_of_the_wrong_shape_is_told_apart() {
        assert_eq!(EventFilter::parse("[").unwrap_err().errcode, "M_BAD_JSON");
        assert_eq!(EventFilter::parse(r#"{"types":"m.room.message"}"#).unwrap_err().errcode, "M_BAD_JSON");
        assert!(EventFilter::parse(r#"{"types":null,"something":1}"#).unwrap().types.is_none());
    }
}
