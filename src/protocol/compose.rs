//! A new event of our own: from a [`Draft`] to a signed [`Event`].
//!
//! The draft holds what its author decides; [`Draft::sign`] adds content hash and signature and works
//! out the ID. Whether the event is allowed is asked afterwards ([`super::auth`]), of the finished event,
//! exactly as for an event from elsewhere.

use std::collections::BTreeMap;

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, ServerName};

use super::{
    canonical::{Object, Value, unsigned},
    event::{Event, FormatError},
    sign::{KeyPair, hash_and_sign_event},
    version::{EventIds, Rules},
};

/// An event before it is hashed and signed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// `None` only for the create event of a room whose ID is that event's hash (from version 12).
    pub room_id: Option<OwnedRoomId>,
    /// The `type`.
    pub kind: String,
    pub state_key: Option<String>,
    pub sender: OwnedUserId,
    pub content: Object,
    pub prev_events: Vec<OwnedEventId>,
    pub auth_events: Vec<OwnedEventId>,
    pub depth: u64,
    pub origin_server_ts: u64,
    /// What a redaction names. Put where the room version has it.
    pub redacts: Option<OwnedEventId>,
    /// The ID that we chose, in versions 1 and 2 only.
    pub event_id: Option<OwnedEventId>,
    /// Reference hashes of prev and auth events, in Base64, for versions 1 and 2 only.
    pub reference_hashes: BTreeMap<OwnedEventId, String>,
}

impl Draft {
    /// A draft of this type and content, not yet placed in a room.
    pub fn new(kind: impl Into<String>, sender: OwnedUserId, content: Object) -> Self {
        Self {
            room_id: None,
            kind: kind.into(),
            state_key: None,
            sender,
            content,
            prev_events: Vec::new(),
            auth_events: Vec::new(),
            depth: 1,
            origin_server_ts: 0,
            redacts: None,
            event_id: None,
            reference_hashes: BTreeMap::new(),
        }
    }

    /// Hashes and signs the event and checks its format and size.
    /// Spec: server-server-api#adding-hashes-and-signatures-to-outgoing-events
    pub fn sign(self, server_name: &ServerName, key: &KeyPair, rules: &Rules) -> Result<Event, FormatError> {
        let mut pdu = self.into_pdu(rules);
        hash_and_sign_event(&mut pdu, server_name.as_str(), key, rules);
        Event::from_object(pdu, rules)
    }

    /// The event without hashes and signatures, as the templates of `make_join` and its kin have it.
    /// Spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
    pub fn into_pdu(mut self, rules: &Rules) -> Object {
        let mut pdu = Object::new();
        let mut put = |key: &str, value: Value| pdu.insert(key.to_owned(), value);
        if let Some(redacts) = self.redacts.take() {
            if rules.modern_redaction {
                self.content.insert("redacts".to_owned(), redacts.as_str().into());
            } else {
                put("redacts", redacts.as_str().into());
            }
        }
        if let (EventIds::Chosen, Some(event_id)) = (rules.event_ids, &self.event_id) {
            put("event_id", event_id.as_str().into());
        }
        if let Some(room_id) = &self.room_id {
            put("room_id", room_id.as_str().into());
        }
        if let Some(state_key) = &self.state_key {
            put("state_key", state_key.as_str().into());
        }
        put("prev_events", self.references(&self.prev_events, rules));
        put("auth_events", self.references(&self.auth_events, rules));
        put("type", self.kind.into());
        put("sender", self.sender.as_str().into());
        put("depth", unsigned(self.depth));
        put("origin_server_ts", unsigned(self.origin_server_ts));
        put("content", Value::Object(self.content));
        pdu
    }

    fn references(&self, ids: &[OwnedEventId], rules: &Rules) -> Value {
        let reference = |id: &OwnedEventId| {
            if rules.plain_references() {
                return Value::from(id.as_str());
            }
            let hash = self.reference_hashes.get(id).map(|hash| ("sha256".to_owned(), hash.as_str().into()));
            Value::Array(vec![id.as_str().into(), Value::Object(hash.into_iter().collect())])
        };
        Value::Array(ids.iter().map(reference).collect())
    }
}
