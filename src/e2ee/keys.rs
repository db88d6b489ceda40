//! What a device uploads: its identity keys, one-time keys and fallback keys.
//!
//! All of an upload is checked before any of it is kept. The identity of a device (its Ed25519 and
//! Curve25519 keys) never changes: who has lost it logs in on a new device.
//!
//! Spec: client-server-api#uploading-keys

use std::collections::BTreeMap;

use super::{Device, E2ee, cross_signing, device_lists, fallback_keys, one_time_keys, published, signed};
use crate::{
    error::{Error, Result},
    protocol::{
        canonical::{self, Numbers, Object, Value},
        sign::PublicKey,
    },
    store::{
        Ticket, Write,
        schema::e2ee::{DEVICE_KEYS, SignedRow},
    },
};

/// What a device uploads at once.
#[derive(Debug, Clone, Default)]
pub struct Upload {
    /// Its identity keys.
    pub identity: Option<Object>,
    /// One-time keys, each with its `algorithm:id`.
    pub one_time: Vec<(String, Object)>,
    /// Fallback keys, likewise.
    pub fallback: Vec<(String, Object)>,
}

/// The only algorithm of one-time and fallback keys. Spec: client-server-api#one-time-and-fallback-keys
pub(super) const SIGNED_CURVE25519: &str = "signed_curve25519";

/// How many one-time and fallback keys one upload may bring: each has a signature to check.
const MOST_AT_ONCE: usize = 1_000;

/// Keeps what a device uploads, and says how many one-time keys of it are left, by algorithm.
///
/// Errors: 400 `M_INVALID_PARAM` for what is no such key, `M_INVALID_SIGNATURE` for what the device has
/// not signed, `M_UNKNOWN` for another one-time key of a name that is taken.
pub async fn upload(e2ee: &E2ee, device: Device<'_>, upload: Upload) -> Result<BTreeMap<String, u64>> {
    let (counts, ticket) = decide(e2ee, device, &upload)?;
    published(ticket).await?;
    Ok(counts)
}

fn decide(e2ee: &E2ee, device: Device<'_>, upload: &Upload) -> Result<(BTreeMap<String, u64>, Option<Ticket>)> {
    if upload.identity.is_none() && upload.one_time.is_empty() && upload.fallback.is_empty() {
        return Ok((one_time_keys::counts(&e2ee.store, device.number, device.id)?, None));
    }
    // Signatures are checked before the lock, against the identity that the lock will confirm.
    let stored = e2ee.store.get(DEVICE_KEYS, &device.place())?;
    let identity = match &upload.identity {
        Some(object) => Some(check_identity(object, device)?),
        None => stored.clone(),
    };
    check_one_time(upload, device, identity.as_ref())?;

    let _deciding = e2ee.decide(device.number);
    let mut write = e2ee.store.write();
    device.check_there(&write)?;
    if upload.identity.is_none()
        && write.get(DEVICE_KEYS, &device.place())?.map(|row| row.json) != stored.map(|row| row.json)
    {
        // Logged out and in again meanwhile, under the same name.
        return Err(Error::unknown_token(false));
    }
    put(e2ee, &mut write, device, upload, identity)?;
    let counts = one_time_keys::counts_in(&write, device.number, device.id)?;
    Ok((counts, Some(write.commit()?)))
}

/// Puts a checked upload into a `Write`. The caller holds the lock of the user.
pub(super) fn put(
    e2ee: &E2ee,
    write: &mut Write,
    device: Device<'_>,
    upload: &Upload,
    identity: Option<SignedRow>,
) -> Result<()> {
    if let (Some(row), Some(_)) = (identity, &upload.identity) {
        put_identity(write, device, row)?;
    }
    one_time_keys::add(e2ee, write, device, &upload.one_time)?;
    fallback_keys::add(write, device, &upload.fallback)?;
    Ok(())
}

fn put_identity(write: &mut Write, device: Device<'_>, mut row: SignedRow) -> Result<()> {
    if cross_signing::is_public_key(write, device.number, device.id)? {
        return Err(Error::forbidden("this device is called like one of your cross-signing keys; log in on another"));
    }
    if let Some(old) = write.get(DEVICE_KEYS, &device.place())? {
        if keys_of(&old) != keys_of(&row) {
            return Err(Error::invalid_param(
                "this device already has other identity keys, and those never change; log in on a new device",
            ));
        }
        if old.json == row.json {
            // The same once more: what others have signed meanwhile stays.
            let before = old.signatures.clone();
            row.signatures.extend(old.signatures);
            if row.signatures == before {
                return Ok(());
            }
        }
    }
    write.put(DEVICE_KEYS, &device.place(), &row);
    device_lists::record_device(write, device.number, device.id)?;
    Ok(())
}

fn keys_of(row: &SignedRow) -> Option<Value> {
    canonical::parse_object(row.json.as_bytes(), Numbers::Strict).ok()?.remove("keys")
}

/// Checks that identity keys are those of this device and that it has signed them.
pub(super) fn check_identity(object: &Object, device: Device<'_>) -> Result<SignedRow> {
    if signed::text(object, "user_id")? != device.user.as_str() {
        return Err(Error::invalid_param("these are the keys of another user"));
    }
    if signed::text(object, "device_id")? != device.id {
        return Err(Error::invalid_param("these are the keys of another device"));
    }
    let algorithms = object.get("algorithms").and_then(Value::as_array);
    if !algorithms.is_some_and(|all| all.iter().all(|one| one.as_str().is_some())) {
        return Err(Error::invalid_param("`algorithms` must be a list of texts"));
    }
    let keys = object.get("keys").and_then(Value::as_object);
    let keys = keys.ok_or_else(|| Error::invalid_param("the device has no `keys`"))?;
    for (id, key) in keys {
        let Some((algorithm, name)) = id.split_once(':') else {
            return Err(Error::invalid_param("the ID of a key is `algorithm:device`"));
        };
        if name != device.id {
            return Err(Error::invalid_param(format!("the key {id} is not called after its device")));
        }
        let key = key.as_str().unwrap_or_default();
        let good = match algorithm {
            "ed25519" => PublicKey::from_base64(key).is_some(),
            "curve25519" => signed::is_curve25519(key),
            _ => !key.is_empty(),
        };
        if !good {
            return Err(Error::invalid_param(format!("{id} is not a key of its kind")));
        }
    }
    let id = format!("ed25519:{}", device.id);
    let key = keys.get(&id).and_then(Value::as_str).and_then(PublicKey::from_base64);
    let key = key.ok_or_else(|| Error::invalid_param("a device needs an Ed25519 key to sign with"))?;
    let signatures = signed::checked_signatures(object, device.user, |by| (by == id).then(|| key.clone()))?;
    if signatures.is_empty() {
        return Err(signed::invalid_signature("the device has not signed its keys"));
    }
    Ok(SignedRow { json: signed::without_signatures(object), signatures })
}

/// Checks that one-time and fallback keys are keys, and signed by their device.
pub(super) fn check_one_time(upload: &Upload, device: Device<'_>, identity: Option<&SignedRow>) -> Result<()> {
    if upload.one_time.is_empty() && upload.fallback.is_empty() {
        return Ok(());
    }
    if upload.one_time.len() + upload.fallback.len() > MOST_AT_ONCE {
        return Err(Error::too_large(format!("at most {MOST_AT_ONCE} one-time keys can be uploaded at once")));
    }
    let Some((signer, public)) = identity.and_then(signed::ed25519) else {
        return Err(Error::invalid_param("upload the keys of the device first: they say who has signed these"));
    };
    for (name, object) in upload.one_time.iter().chain(&upload.fallback) {
        let (algorithm, id) = split(name);
        if algorithm != SIGNED_CURVE25519 {
            return Err(Error::invalid_param(format!("one-time keys are of the algorithm {SIGNED_CURVE25519}")));
        }
        if id.is_empty() || id.len() > signed::MOST_ID {
            return Err(Error::invalid_param(format!("the ID of a key has 1 to {} bytes", signed::MOST_ID)));
        }
        if !signed::is_curve25519(signed::text(object, "key")?) {
            return Err(Error::invalid_param(format!("{name} is not a Curve25519 key")));
        }
        let by = |id: &str| (id == signer).then(|| public.clone());
        if signed::checked_signatures(object, device.user, by)?.is_empty() {
            return Err(signed::invalid_signature(format!("the device has not signed {name}")));
        }
    }
    let mut algorithms: Vec<&str> = upload.fallback.iter().map(|(name, _)| split(name).0).collect();
    algorithms.dedup();
    match algorithms.len() == upload.fallback.len() {
        true => Ok(()),
        false => Err(Error::invalid_param("there is one fallback key per algorithm")),
    }
}

/// The algorithm and the ID of a one-time key.
pub(super) fn split(name: &str) -> (&str, &str) {
    name.split_once(':').unwrap_or((name, ""))
}
