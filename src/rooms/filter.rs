//! Event filters: which events of a room a client wants to see.
//!
//! An [`EventFilter`] is read from the JSON of a request or of a stored filter, and asked event by event.
//! Whether the reader *may* see an event is [`super::view`]'s to say.
//!
//! Spec: client-server-api#filtering (RoomEventFilter)

use ruma::UserId;
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
    pub not_types: Option<Vec<String>>,
    /// The senders that are wanted.
    pub senders: Option<Vec<String>>,
    /// The senders that are not.
    pub not_senders: Option<Vec<String>>,
    /// The rooms that are wanted.
    pub rooms: Option<Vec<String>>,
    /// The rooms that are not.
    pub not_rooms: Option<Vec<String>>,
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

    /// How many events are wanted at most, where there is no usual number.
    pub fn most(&self) -> usize {
        self.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
    }

    /// Whether events of a room are wanted at all.
    pub fn wants_room(&self, room: &str) -> bool {
        listed(&self.rooms, &self.not_rooms, |named| named == room)
    }

    /// Whether events of a type are wanted.
    pub fn wants_type(&self, kind: &str) -> bool {
        listed(&self.types, &self.not_types, |pattern| matches(pattern, kind))
    }

    /// Whether events of a sender are wanted.
    pub fn wants_sender(&self, sender: &str) -> bool {
        listed(&self.senders, &self.not_senders, |named| named == sender)
    }

    /// Whether an event is wanted.
    pub fn wants(&self, rooms: &Rooms, known: &Known) -> Result<bool> {
        let event = &known.event;
        let wanted = self.wants_type(&event.kind)
            && self.wants_sender(event.sender.as_str())
            && self.wants_room(event.room_id.as_str());
        if !wanted {
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

/// Whether something is on the first list, if there is one, and not on the second.
pub fn listed(wanted: &Option<Vec<String>>, unwanted: &Option<Vec<String>>, is: impl Fn(&String) -> bool) -> bool {
    wanted.as_ref().is_none_or(|list| list.iter().any(&is))
        && !unwanted.as_ref().is_some_and(|list| list.iter().any(is))
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
        assert!(filter.wants_type("m.open") && filter.wants_sender("@ann:a"));
        assert!(!filter.wants_type("m.secret") && !filter.wants_type("org.other"));
        assert!(!filter.wants_sender("@eve:a"));
    }

    #[test]
    fn a_filter_of_the_wrong_shape_is_told_apart() {
        assert_eq!(EventFilter::parse("[").unwrap_err().errcode, "M_BAD_JSON");
        assert_eq!(EventFilter::parse(r#"{"types":"m.room.message"}"#).unwrap_err().errcode, "M_BAD_JSON");
        assert!(EventFilter::parse(r#"{"types":null,"something":1}"#).unwrap().types.is_none());
    }
}
