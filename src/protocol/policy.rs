//! Policy servers: a server in the room that is asked about every event before it is shown.
//!
//! A room names its policy server, with the key that counts, in `m.room.policy`; the server's signature on an
//! event says that it has nothing against it. Whether that server has somebody in the room is for the caller to
//! know, and nobody is asked here.
//!
//! Spec: server-server-api#policy-servers

use ruma::{OwnedServerName, events::room::policy::POLICY_SERVER_ED25519_SIGNING_KEY_ID};

use super::{
    canonical::Value,
    event::{Event, FormatError},
    sign::{self, PublicKey},
    version::Rules,
};

/// The ID of every policy server's key. No server publishes it: the key is in the room.
pub const KEY_ID: &str = POLICY_SERVER_ED25519_SIGNING_KEY_ID;

/// The policy server that a room names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyServer {
    /// Its name.
    pub via: OwnedServerName,
    /// Its key; nothing if what the room has is no key, and then no signature is good.
    pub key: Option<PublicKey>,
}

impl PolicyServer {
    /// The policy server that an `m.room.policy` event names, if it is valid.
    /// Spec: server-server-api#determining-if-a-policy-server-is-enabled-in-a-room
    pub fn named_in(event: &Event) -> Option<Self> {
        let via = event.content_field("via")?;
        let keys = event.content_value("public_keys")?;
        let key = keys.as_object()?.get("ed25519").and_then(Value::as_str)?;
        Some(Self { via, key: PublicKey::from_base64(key) })
    }

    /// Whether the policy server has signed an event.
    pub fn approves(&self, event: &Event, rules: &Rules) -> bool {
        let signed = |key| sign::is_signed(&event.to_object(), self.via.as_str(), KEY_ID, key, rules);
        self.key.as_ref().is_some_and(signed)
    }

    /// Whether an event is recommended for inclusion: the policy server has signed it, or has no say in it.
    /// Spec: server-server-api#validating-policy-server-signatures
    pub fn recommends(&self, event: &Event, rules: &Rules) -> bool {
        !concerns(&event.kind, event.state_key.as_deref()) || self.approves(event, rules)
    }
}

impl PolicyServer {
    /// The signed event, also if somebody has left the policy server's signature out of it that `from` has.
    pub fn carried_over(&self, from: &Event, event: Event, rules: &Rules) -> Result<Event, FormatError> {
        if self.approves(&event, rules) || !self.approves(from, rules) {
            return Ok(event);
        }
        let from = from.to_object();
        let signature = from.get("signatures").and_then(|all| all.get(self.via.as_str())?.get(KEY_ID)?.as_str());
        match signature {
            Some(signature) => with_signature(&event, self, signature.to_owned(), rules),
            None => Ok(event),
        }
    }
}

/// Whether a policy server has a say in an event: in all but the one that names or dismisses it.
pub fn concerns(kind: &str, state_key: Option<&str>) -> bool {
    (kind, state_key) != ("m.room.policy", Some(""))
}

/// The event with the policy server's signature beside those that it has.
pub fn with_signature(
    event: &Event,
    policy: &PolicyServer,
    signature: String,
    rules: &Rules,
) -> Result<Event, FormatError> {
    let mut pdu = event.to_object();
    sign::add_signature(&mut pdu, policy.via.as_str(), KEY_ID, signature);
    Event::from_object(pdu, rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        canonical::{Numbers, parse_object},
        compose::Draft,
        sign::{KeyPair, sign_event},
        version::by_name,
    };

    fn event(kind: &str, content: &str) -> Event {
        let content = parse_object(content.as_bytes(), Numbers::Strict).unwrap();
        let mut draft = Draft::new(kind, "@ann:a".try_into().unwrap(), content);
        draft.state_key = Some(String::new());
        draft.room_id = Some("!r:a".try_into().unwrap());
        draft.sign("a".try_into().unwrap(), &KeyPair::from_seed(&[1; 32], "1"), by_name("11").unwrap()).unwrap()
    }

    #[test]
    fn a_policy_server_needs_a_name_and_a_key() {
        let named = |content: &str| PolicyServer::named_in(&event("m.room.policy", content)).map(|server| server.via);
        let key = KeyPair::from_seed(&[2; 32], "2").public().to_base64();
        let whole = format!(r#"{{"public_keys":{{"ed25519":"{key}"}},"via":"p"}}"#);
        assert_eq!(named(&whole).unwrap(), "p");
        for incomplete in ["{}", r#"{"via":"p"}"#, r#"{"public_keys":{},"via":"p"}"#, r#"{"public_keys":[],"via":"p"}"#]
        {
            assert_eq!(named(incomplete), None, "{incomplete}");
        }
        assert!(!concerns("m.room.policy", Some("")));
        assert!(concerns("m.room.policy", None) && concerns("m.room.policy", Some("x")));
    }

    #[test]
    fn only_the_key_of_the_room_counts_and_other_signatures_stay() {
        let rules = by_name("11").unwrap();
        let (good, bad) =
            (KeyPair::from_seed(&[2; 32], "policy_server"), KeyPair::from_seed(&[3; 32], "policy_server"));
        let policy = PolicyServer { via: "a".try_into().unwrap(), key: Some(good.public()) };
        let signed = |key: &KeyPair| {
            let plain = event("m.room.topic", r#"{"topic":"tea"}"#);
            let mut pdu = plain.to_object();
            sign_event(&mut pdu, "a", key, rules);
            let signature = pdu["signatures"].get("a").and_then(|all| all.get(KEY_ID)?.as_str()).unwrap().to_owned();
            with_signature(&plain, &policy, signature, rules).unwrap()
        };
        assert!(!policy.approves(&event("m.room.topic", r#"{"topic":"tea"}"#), rules));
        assert!(!policy.approves(&signed(&bad), rules));
        assert!(policy.approves(&signed(&good), rules));
        assert!(signed(&good).json().contains("ed25519:1"));
        assert!(!PolicyServer { key: None, ..policy.clone() }.approves(&signed(&good), rules));
    }
}
