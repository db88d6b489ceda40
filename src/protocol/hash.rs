//! Content hash and reference hash of an event, and the Base64 that Matrix writes them in.
//!
//! The content hash covers the whole event, the reference hash what redaction keeps of it; from
//! version 3 on the reference hash is the event's ID. Verifying a content hash belongs to
//! [`super::sign::verify_event`].

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ruma::OwnedEventId;
use sha2::{Digest, Sha256};

use super::{
    canonical::{Object, write_without},
    redact::signed_text,
    version::{EventIds, Rules},
};

/// Writes without padding; reads with or without, and forgives stray last bits, as Python does.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_encode_padding(false)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// Unpadded Base64. Spec: appendices#unpadded-base64
pub fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Unpadded Base64 in the URL-safe alphabet. Spec: appendices#unpadded-base64
pub fn base64_url(bytes: &[u8]) -> String {
    BASE64_URL.encode(bytes)
}

/// Reads Base64 in either alphabet, padded or not, as other servers do.
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).or_else(|_| BASE64_URL.decode(text)).ok()
}

/// The hash of the complete event. Spec: server-server-api#calculating-the-content-hash-for-an-event
pub fn content_hash(event: &Object) -> [u8; 32] {
    Sha256::digest(write_without(event, &["hashes", "signatures", "unsigned"])).into()
}

/// The hash of what redaction keeps. Spec: server-server-api#calculating-the-reference-hash-for-an-event
pub fn reference_hash(event: &Object, rules: &Rules) -> [u8; 32] {
    Sha256::digest(signed_text(event, rules)).into()
}

/// The ID that follows from the event itself, or `None` where the sender's server chose it
/// (versions 1 and 2). Spec: rooms/v4#event-ids
pub fn event_id(event: &Object, rules: &Rules) -> Option<OwnedEventId> {
    match rules.event_ids {
        EventIds::Chosen => None,
        EventIds::Hash | EventIds::UrlSafeHash => event_id_of(&signed_text(event, rules), rules),
    }
}

/// The same for an event of which that text is at hand which its signatures cover.
pub(super) fn event_id_of(signed_text: &str, rules: &Rules) -> Option<OwnedEventId> {
    let hash = Sha256::digest(signed_text);
    let hash = match rules.event_ids {
        EventIds::Chosen => return None,
        EventIds::Hash => base64(&hash),
        EventIds::UrlSafeHash => base64_url(&hash),
    };
    OwnedEventId::try_from(format!("${hash}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_written_bare_and_read_either_way() {
        for (text, expected) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), expected);
            assert_eq!(unbase64(expected).as_deref(), Some(text.as_bytes()));
        }
        assert_eq!(unbase64("Zg==").as_deref(), Some(&b"f"[..]));
        assert_eq!(base64(&[0xfb, 0xff]), "+/8");
        assert_eq!(base64_url(&[0xfb, 0xff]), "-_8");
        assert_eq!(unbase64("-_8"), unbase64("+/8"));
        assert_eq!(unbase64("Zm9v!"), None);
    }
}
