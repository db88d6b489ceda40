//! Signatures on JSON objects and on events.
//!
//! [`KeyPair`] signs; [`verify_json`] and [`verify_event`] check, with the signers' public keys coming
//! in through a lookup. The lookup answers for one server and one key ID, and decides whether that key
//! counts: for an event it returns nothing if the key had expired at the event's time. Fetching and
//! keeping keys is not done here; [`signers`] and [`key_ids`] say which ones to have ready.

use std::{collections::BTreeSet, fmt};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use ruma::{OwnedServerName, OwnedUserId, ServerName};

use super::{
    canonical::{Object, Value, write_without},
    hash::{base64, content_hash, unbase64},
    redact::signed_text,
    version::{EventIds, Rules},
};

const ALGORITHM: &str = "ed25519:";

/// A signing key with its version, the part of the key ID after `ed25519:`.
#[derive(Clone)]
pub struct KeyPair {
    key: SigningKey,
    version: String,
}

impl KeyPair {
    /// The key that follows from this seed.
    pub fn from_seed(seed: &[u8; 32], version: impl Into<String>) -> Self {
        Self { key: SigningKey::from_bytes(seed), version: version.into() }
    }

    /// The secret, to be stored.
    pub fn seed(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// The version, such as `a_abcd`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The key ID, such as `ed25519:a_abcd`.
    pub fn id(&self) -> String {
        format!("{ALGORITHM}{}", self.version)
    }

    /// What others verify with.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.key.verifying_key())
    }

    /// The signature of these bytes, in Base64.
    pub fn sign(&self, message: &[u8]) -> String {
        base64(&self.key.sign(message).to_bytes())
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.id())
    }
}

/// A public key, ready to verify with: worth keeping, for unpacking one costs time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a key as `m.server_keys` has it. `None` if it is none.
    pub fn from_base64(text: &str) -> Option<Self> {
        Self::from_bytes(&unbase64(text)?)
    }

    /// The key with these 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        VerifyingKey::from_bytes(bytes.try_into().ok()?).ok().map(Self)
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The key as `m.server_keys` has it.
    pub fn to_base64(&self) -> String {
        base64(self.as_bytes())
    }

    /// Whether this is the key's signature, in Base64, of these bytes.
    pub fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let Some(signature) = unbase64(signature).and_then(|bytes| Signature::from_slice(&bytes).ok()) else {
            return false;
        };
        self.0.verify_strict(message, &signature).is_ok()
    }
}

/// Why signatures do not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureError {
    /// There is no signature of this entity with an algorithm that we know.
    Missing(String),
    /// There are signatures, and none of their keys is known and was valid.
    UnknownKeys(String),
    /// A signature is wrong.
    Wrong { signer: String, key_id: String },
    /// The event does not say who should have signed it.
    NoSigner { field: &'static str },
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(signer) => write!(f, "{signer} has not signed this"),
            Self::UnknownKeys(signer) => {
                write!(f, "{signer} has signed this with keys that we cannot find or that had expired")
            }
            Self::Wrong { signer, key_id } => write!(f, "the signature of {signer} with the key {key_id} is wrong"),
            Self::NoSigner { field } => {
                write!(f, "the event's {field} does not say which server should have signed it")
            }
        }
    }
}

impl std::error::Error for SignatureError {}

/// Signs an object and adds the signature to it. Spec: appendices#signing-details
pub fn sign_json(object: &mut Object, signer: &str, key: &KeyPair) {
    let signature = key.sign(write_without(object, &["signatures", "unsigned"]).as_bytes());
    add_signature(object, signer, &key.id(), signature);
}

/// Adds a signature, leaving those that are there.
pub fn add_signature(object: &mut Object, signer: &str, key_id: &str, signature: String) {
    let signatures = child(object, "signatures");
    child(signatures, signer).insert(key_id.to_owned(), signature.into());
}

/// Adds the content hash and our signature to an event.
/// Spec: server-server-api#adding-hashes-and-signatures-to-outgoing-events
pub fn hash_and_sign_event(event: &mut Object, signer: &str, key: &KeyPair, rules: &Rules) {
    let hash = base64(&content_hash(event));
    child(event, "hashes").insert("sha256".to_owned(), hash.into());
    sign_event(event, signer, key, rules);
}

/// Adds our signature to an event that has its hashes, such as an invitation or a restricted join.
pub fn sign_event(event: &mut Object, signer: &str, key: &KeyPair, rules: &Rules) {
    child(event, "signatures");
    let signature = key.sign(signed_text(event, rules).as_bytes());
    add_signature(event, signer, &key.id(), signature);
}

/// The IDs of the `ed25519` keys with which this entity has signed the object.
pub fn key_ids<'a>(object: &'a Object, signer: &str) -> impl Iterator<Item = &'a str> {
    let signatures = object.get("signatures").and_then(|all| all.get(signer)?.as_object());
    signatures.into_iter().flat_map(Object::keys).map(String::as_str).filter(|id| id.starts_with(ALGORITHM))
}

/// Checks that the entity has signed the object: at least one of its keys is known, and every
/// signature with a known key is right. Spec: appendices#checking-for-a-signature
pub fn verify_json(
    object: &Object,
    signer: &str,
    public_key: impl Fn(&str) -> Option<PublicKey>,
) -> Result<(), SignatureError> {
    let message = write_without(object, &["signatures", "unsigned"]);
    verify_message(object, message.as_bytes(), signer, public_key)
}

/// What the signatures and the hash of an event say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Signed and whole.
    Valid,
    /// Signed, but the content is not what was signed: go on with the redacted event.
    HashMismatch,
    /// Not signed by those who must have: drop it.
    BadSignature(SignatureError),
}

/// Checks the signatures and the content hash of an event from another server.
/// Spec: server-server-api#validating-hashes-and-signatures-on-received-events
pub fn verify_event(
    event: &Object,
    rules: &Rules,
    public_key: impl Fn(&ServerName, &str) -> Option<PublicKey>,
) -> Verdict {
    verify_text(event, &signed_text(event, rules), rules, public_key)
}

/// The same for an event of which that text is at hand which its signatures cover.
pub(super) fn verify_text(
    event: &Object,
    signed_text: &str,
    rules: &Rules,
    public_key: impl Fn(&ServerName, &str) -> Option<PublicKey>,
) -> Verdict {
    let signers = match signers(event, rules) {
        Ok(signers) => signers,
        Err(error) => return Verdict::BadSignature(error),
    };
    for signer in &signers {
        let key = |key_id: &str| public_key(signer, key_id);
        if let Err(error) = verify_message(event, signed_text.as_bytes(), signer.as_str(), key) {
            return Verdict::BadSignature(error);
        }
    }
    let claimed = event.get("hashes").and_then(|hashes| unbase64(hashes.get("sha256")?.as_str()?));
    if claimed.as_deref() == Some(&content_hash(event)) { Verdict::Valid } else { Verdict::HashMismatch }
}

/// The servers that must have signed the event: the sender's, unless it is an invitation that follows
/// from a third-party one; in versions 1 and 2 the one in the event's ID; and the one that let a
/// restricted join in. Spec: server-server-api#validating-hashes-and-signatures-on-received-events
pub fn signers(event: &Object, rules: &Rules) -> Result<BTreeSet<OwnedServerName>, SignatureError> {
    let text = |field: &'static str| event.get(field).and_then(Value::as_str);
    let mut signers = BTreeSet::new();
    let is_member = text("type") == Some("m.room.member");
    let content = event.get("content");
    let in_content = |field: &str| content.and_then(|content| content.get(field));

    let third_party = is_member
        && in_content("membership").and_then(Value::as_str) == Some("invite")
        && in_content("third_party_invite").is_some_and(|invite| invite.as_object().is_some());
    if !third_party {
        signers.insert(server_of_user(text("sender")).ok_or(SignatureError::NoSigner { field: "sender" })?);
    }
    if rules.event_ids == EventIds::Chosen {
        let server = text("event_id")
            .and_then(|id| id.strip_prefix('$')?.split_once(':'))
            .and_then(|(_, server)| OwnedServerName::try_from(server).ok());
        signers.insert(server.ok_or(SignatureError::NoSigner { field: "event_id" })?);
    }
    if rules.restricted
        && is_member
        && let Some(authoriser) = in_content("join_authorised_via_users_server")
    {
        let server = server_of_user(authoriser.as_str());
        signers.insert(server.ok_or(SignatureError::NoSigner { field: "join_authorised_via_users_server" })?);
    }
    Ok(signers)
}

fn server_of_user(user_id: Option<&str>) -> Option<OwnedServerName> {
    Some(OwnedUserId::try_from(user_id?).ok()?.server_name().to_owned())
}

/// Whether an event has this key's signature of `signer` under this key ID.
pub fn is_signed(event: &Object, signer: &str, key_id: &str, key: &PublicKey, rules: &Rules) -> bool {
    let signature = event.get("signatures").and_then(|all| all.get(signer)?.get(key_id)?.as_str());
    let message = || signed_text(event, rules);
    signature.is_some_and(|signature| key.verifies(message().as_bytes(), signature))
}

fn verify_message(
    object: &Object,
    message: &[u8],
    signer: &str,
    public_key: impl Fn(&str) -> Option<PublicKey>,
) -> Result<(), SignatureError> {
    let mut signed = false;
    let mut verified = false;
    for key_id in key_ids(object, signer) {
        signed = true;
        let Some(key) = public_key(key_id) else {
            continue;
        };
        let signature = object["signatures"].get(signer).and_then(|all| all.get(key_id)?.as_str());
        if !signature.is_some_and(|signature| key.verifies(message, signature)) {
            return Err(SignatureError::Wrong { signer: signer.to_owned(), key_id: key_id.to_owned() });
        }
        verified = true;
    }
    match (signed, verified) {
        (_, true) => Ok(()),
        (true, false) => Err(SignatureError::UnknownKeys(signer.to_owned())),
        (false, false) => Err(SignatureError::Missing(signer.to_owned())),
    }
}

/// The object under this key, made or made an object if need be.
fn child<'a>(object: &'a mut Object, key: &str) -> &'a mut Object {
    let value = object.entry(key.to_owned()).or_insert(Value::Null);
    if value.as_object().is_none() {
        *value = Value::Object(Object::new());
    }
    match value {
        Value::Object(object) => object,
        _ => unreachable!("it was made an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        canonical::{Numbers, parse_object, write_object},
        redact::redact,
        version::by_name,
    };

    fn object(text: &str) -> Object {
        parse_object(text.as_bytes(), Numbers::Strict).unwrap()
    }

    /// The key of the test vectors in the appendices.
    fn key() -> KeyPair {
        let seed = unbase64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
        KeyPair::from_seed(&seed.try_into().unwrap(), "1")
    }

    #[test]
    fn json_is_signed_as_in_the_appendix() {
        for (text, signature) in [
            ("{}", "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
            (
                r#"{"one":1,"two":"Two"}"#,
                "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
            ),
        ] {
            let mut signed = object(text);
            sign_json(&mut signed, "domain", &key());
            assert_eq!(signed["signatures"].get("domain").unwrap().get("ed25519:1").unwrap().as_str(), Some(signature));
            assert_eq!(verify_json(&signed, "domain", |_| Some(key().public())), Ok(()));
        }
    }

    #[test]
    fn events_are_signed_as_in_the_appendix() {
        for (event, hash, signature) in [
            (
                r#"{"room_id":"!x:domain","sender":"@a:domain","origin":"domain","origin_server_ts":1000000,"signatures":{},
                    "hashes":{},"type":"X","content":{},"prev_events":[],"auth_events":[],"depth":3,"unsigned":{"age_ts":1000000}}"#,
                "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
                "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
            ),
            (
                r#"{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain",
                    "origin_server_ts":1000000,"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain",
                    "signatures":{},"unsigned":{"age_ts":1000000}}"#,
                "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
                "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
            ),
        ] {
            let rules = by_name("1").unwrap();
            let mut event = object(event);
            hash_and_sign_event(&mut event, "domain", &key(), rules);
            assert_eq!(event["hashes"].get("sha256").unwrap().as_str(), Some(hash));
            assert_eq!(event["signatures"].get("domain").unwrap().get("ed25519:1").unwrap().as_str(), Some(signature));
            let rules = by_name("3").unwrap();
            assert_eq!(verify_event(&event, rules, |_, _| Some(key().public())), Verdict::Valid);
        }
    }

    fn signed_event() -> Object {
        let mut event = object(
            r#"{"type":"m.room.message","content":{"body":"hello"},"sender":"@ann:domain","room_id":"!r:domain",
                "prev_events":[],"auth_events":[],"depth":3,"origin_server_ts":5}"#,
        );
        hash_and_sign_event(&mut event, "domain", &key(), by_name("11").unwrap());
        event
    }

    fn verdict(event: &Object) -> Verdict {
        verify_event(event, by_name("11").unwrap(), |server, id| {
            (server == "domain" && id == "ed25519:1").then(|| key().public())
        })
    }

    #[test]
    fn changed_content_is_a_hash_mismatch_and_a_changed_envelope_a_bad_signature() {
        let mut event = signed_event();
        assert_eq!(verdict(&event), Verdict::Valid);
        event.insert("content".to_owned(), object(r#"{"body":"goodbye"}"#).into());
        assert_eq!(verdict(&event), Verdict::HashMismatch);
        event = redact(&signed_event(), by_name("11").unwrap());
        assert_eq!(verdict(&event), Verdict::HashMismatch);
        event.insert("depth".to_owned(), Value::Int(4));
        let wrong = SignatureError::Wrong { signer: "domain".to_owned(), key_id: "ed25519:1".to_owned() };
        assert_eq!(verdict(&event), Verdict::BadSignature(wrong));
    }

    #[test]
    fn unknown_keys_are_skipped_but_one_must_be_known() {
        let mut event = signed_event();
        add_signature(&mut event, "domain", "ed25519:policy_server", "AAAA".to_owned());
        add_signature(&mut event, "domain", "rsa:1", "AAAA".to_owned());
        add_signature(&mut event, "elsewhere", "ed25519:1", "AAAA".to_owned());
        assert_eq!(verdict(&event), Verdict::Valid);
        child(child(&mut event, "signatures"), "domain").remove("ed25519:1");
        assert_eq!(verdict(&event), Verdict::BadSignature(SignatureError::UnknownKeys("domain".to_owned())));
        child(child(&mut event, "signatures"), "domain").remove("ed25519:policy_server");
        assert_eq!(verdict(&event), Verdict::BadSignature(SignatureError::Missing("domain".to_owned())));
    }

    #[test]
    fn a_signature_that_is_no_signature_is_wrong() {
        for signature in [Value::from("AAAA"), Value::from("!"), Value::Int(5)] {
            let mut event = signed_event();
            child(child(&mut event, "signatures"), "domain").insert("ed25519:1".to_owned(), signature);
            assert!(matches!(verdict(&event), Verdict::BadSignature(SignatureError::Wrong { .. })));
        }
    }

    fn check_signers(version: &str, event: &str, expected: &str) {
        let signers = match signers(&object(event), by_name(version).unwrap()) {
            Ok(signers) => signers.iter().map(|server| server.as_str()).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        };
        assert_eq!(signers, expected);
    }

    #[test]
    fn who_must_sign_depends_on_the_event_and_the_version() {
        let message = r#"{"type":"m.room.message","sender":"@a:one","event_id":"$x:two:8448","content":{}}"#;
        check_signers("2", message, "one two:8448");
        check_signers("3", message, "one");
        let restricted = r#"{"type":"m.room.member","sender":"@a:one","event_id":"$x:one","content":{"membership":"join",
            "join_authorised_via_users_server":"@b:two"}}"#;
        check_signers("7", restricted, "one");
        check_signers("8", restricted, "one two");
        let invite = r#"{"type":"m.room.member","sender":"@a:one","event_id":"$x:two","content":{"membership":"invite",
            "third_party_invite":{}}}"#;
        check_signers("1", invite, "two");
        check_signers("12", invite, "");
        check_signers(
            "12",
            r#"{"type":"x","sender":"a","content":{}}"#,
            "the event's sender does not say which server should have signed it",
        );
    }

    #[test]
    fn a_key_survives_its_text_form() {
        let public = key().public();
        assert_eq!(PublicKey::from_base64(&public.to_base64()), Some(public));
        assert_eq!(PublicKey::from_base64("short"), None);
        assert_eq!(KeyPair::from_seed(key().seed(), "1").public(), key().public());
        assert_eq!(key().id(), "ed25519:1");
        assert_eq!(write_object(&object("{}")), "{}");
    }
}
