//! Key objects as clients send them: what is in them, and who has signed them.
//!
//! Spec: client-server-api#key-algorithms, appendices#signing-json

use std::collections::BTreeMap;

use ruma::UserId;

use crate::{
    error::{Error, Result},
    protocol::{
        canonical::{self, Numbers, Object, Value},
        hash::unbase64,
        sign::PublicKey,
    },
    store::schema::e2ee::SignedRow,
};

/// How long a key object may be, in bytes.
const MOST_BYTES: usize = 16 * 1024;
/// How many signatures of its owner a key object may bring.
const MOST_SIGNATURES: usize = 100;
/// How long the ID of a key may be, in bytes.
pub(super) const MOST_ID: usize = 255;

/// 400 `M_INVALID_SIGNATURE`.
pub(super) fn invalid_signature(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::bad_request("M_INVALID_SIGNATURE", message)
}

/// A key object from the text of a request.
pub fn object(text: &str) -> Result<Object> {
    if text.len() > MOST_BYTES {
        return Err(Error::too_large(format!("a key has at most {MOST_BYTES} bytes")));
    }
    canonical::parse_object(text.as_bytes(), Numbers::Strict)
        .map_err(|error| Error::bad_json(format!("this is not a key: {error}")))
}

/// A text in an object.
pub(super) fn text<'a>(object: &'a Object, field: &str) -> Result<&'a str> {
    object
        .get(field)
        .and_then(Value::as_str)
        .ok_or_else(|| Error::invalid_param(format!("this key has no text in `{field}`")))
}

/// Whether this is a Curve25519 key: 32 bytes in Base64.
pub(super) fn is_curve25519(text: &str) -> bool {
    unbase64(text).is_some_and(|bytes| bytes.len() == 32)
}

/// What the signatures of an object are made over, as it is stored.
pub(super) fn without_signatures(object: &Object) -> String {
    canonical::write_without(object, &["signatures", "unsigned"])
}

/// The signatures that `signer` gave an object: key ID → signature.
pub(super) fn signatures_of(object: &Object, signer: &UserId) -> Result<BTreeMap<String, String>> {
    let Some(all) = object.get("signatures").and_then(|all| all.get(signer.as_str())) else {
        return Ok(BTreeMap::new());
    };
    let wrong = || Error::invalid_param("the signatures of this key are not texts by key ID");
    let all = all.as_object().ok_or_else(wrong)?;
    if all.len() > MOST_SIGNATURES {
        return Err(Error::too_large(format!("a key has at most {MOST_SIGNATURES} signatures of one user")));
    }
    all.iter()
        .map(|(id, signature)| match signature.as_str() {
            Some(signature) if id.len() <= MOST_ID => Ok((id.clone(), signature.to_owned())),
            _ => Err(wrong()),
        })
        .collect()
}

/// The signatures of `signer` on an object by the keys that `public_key` knows. One that is wrong is an
/// error; those by other keys are left out.
pub(super) fn checked_signatures(
    object: &Object,
    signer: &UserId,
    public_key: impl Fn(&str) -> Option<PublicKey>,
) -> Result<BTreeMap<String, String>> {
    let message = without_signatures(object);
    let mut good = BTreeMap::new();
    for (id, signature) in signatures_of(object, signer)? {
        let Some(key) = public_key(&id) else { continue };
        if !key.verifies(message.as_bytes(), &signature) {
            return Err(invalid_signature(format!("the signature of {signer} with the key {id} is wrong")));
        }
        good.insert(id, signature);
    }
    Ok(good)
}

/// The Ed25519 key among the `keys` of a stored object, and its ID.
pub(super) fn ed25519(row: &SignedRow) -> Option<(String, PublicKey)> {
    let object = canonical::parse_object(row.json.as_bytes(), Numbers::Strict).ok()?;
    let keys = object.get("keys")?.as_object()?;
    let (id, key) = keys.iter().find(|(id, _)| id.starts_with("ed25519:"))?;
    Some((id.clone(), PublicKey::from_base64(key.as_str()?)?))
}

/// A stored object as JSON text, with the signatures of its owner, those of one more user, and what the
/// server adds to it.
pub(super) fn show(
    row: &SignedRow,
    owner: &UserId,
    other: Option<(&UserId, &(String, String))>,
    unsigned: Option<&str>,
) -> String {
    let mut out = row.json.strip_suffix('}').unwrap_or("{").to_owned();
    out.push_str(r#","signatures":{"#);
    let mut users = 0;
    let mut signatures = |out: &mut String, user: &UserId, all: &mut dyn Iterator<Item = (&String, &String)>| {
        let mut all = all.peekable();
        if all.peek().is_none() {
            return;
        }
        if users > 0 {
            out.push(',');
        }
        users += 1;
        canonical::write_string(out, user.as_str());
        out.push_str(":{");
        for (at, (id, signature)) in all.enumerate() {
            if at > 0 {
                out.push(',');
            }
            canonical::write_string(out, id);
            out.push(':');
            canonical::write_string(out, signature);
        }
        out.push('}');
    };
    signatures(&mut out, owner, &mut row.signatures.iter());
    if let Some((user, (id, signature))) = other {
        signatures(&mut out, user, &mut std::iter::once((id, signature)));
    }
    out.push('}');
    if let Some(name) = unsigned {
        out.push_str(r#","unsigned":{"device_display_name":"#);
        canonical::write_string(&mut out, name);
        out.push('}');
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_shown_with_the_signatures_that_may_be_seen() {
        let ann = <&UserId>::try_from("@ann:test").unwrap();
        let bob = <&UserId>::try_from("@bob:test").unwrap();
        let object = object(
            r#"{"user_id": "@ann:test", "keys": {"ed25519:A": "x"}, "unsigned": {"a": 1},
                "signatures": {"@ann:test": {"ed25519:A": "s", "ed25519:B": "t"}, "@eve:test": {"ed25519:E": "u"}}}"#,
        );
        let object = object.unwrap();
        let row = SignedRow { json: without_signatures(&object), signatures: signatures_of(&object, ann).unwrap() };
        assert_eq!(row.json, r#"{"keys":{"ed25519:A":"x"},"user_id":"@ann:test"}"#);
        assert_eq!(
            show(&row, ann, Some((bob, &("ed25519:U".to_owned(), "v".to_owned()))), Some("a \"phone\"")),
            r#"{"keys":{"ed25519:A":"x"},"user_id":"@ann:test","signatures":{"@ann:test":{"ed25519:A":"s","ed25519:B":"t"},"@bob:test":{"ed25519:U":"v"}},"unsigned":{"device_display_name":"a \"phone\""}}"#
        );
        let bare = SignedRow { signatures: BTreeMap::new(), ..row };
        assert_eq!(show(&bare, ann, None, None), r#"{"keys":{"ed25519:A":"x"},"user_id":"@ann:test","signatures":{}}"#);
    }
}
