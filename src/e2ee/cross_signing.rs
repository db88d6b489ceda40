//! Cross-signing keys: the three public keys by which people, not only devices, are known.
//!
//! [`check`] says whether an upload holds together and whether it replaces anything, which needs more
//! than an access token; [`upload`] keeps it.
//!
//! Spec: client-server-api#cross-signing

use std::collections::BTreeMap;

use super::{Device, E2ee, device_lists, published, signed};
use crate::{
    error::{Error, Result},
    protocol::{
        canonical::{Object, Value},
        sign::PublicKey,
    },
    store::{
        Rows, Ticket, Write,
        schema::{
            UserNo,
            devices::DEVICES,
            e2ee::{CROSS_SIGNING, DEVICE_KEYS, MASTER_SIGNATURES, SignedRow, usage},
        },
    },
};

/// What a client uploads.
#[derive(Debug, Clone, Default)]
pub struct Upload {
    /// The master key.
    pub master: Option<Object>,
    /// The self-signing key.
    pub self_signing: Option<Object>,
    /// The user-signing key.
    pub user_signing: Option<Object>,
}

/// Whether an upload needs user-interactive authentication.
///
/// Spec: client-server-api#post_matrixclientv3keysdevice_signingupload
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// No: these are the user's first keys, or those that are there already.
    Nothing,
    /// Yes: it replaces keys, or adds to them.
    Authentication,
}

const NAMES: [(u8, &str); 3] =
    [(usage::MASTER, "master"), (usage::SELF_SIGNING, "self_signing"), (usage::USER_SIGNING, "user_signing")];

/// Checks an upload against what is there now.
///
/// Errors: 400 `M_INVALID_PARAM` for what is no such key, `M_INVALID_SIGNATURE`, `M_MISSING_PARAM` without
/// a master key; 403 `M_FORBIDDEN` for a key that is called like a device.
pub fn check(e2ee: &E2ee, device: Device<'_>, upload: &Upload) -> Result<Need> {
    let new = rows(&e2ee.store, device, upload)?;
    need(&e2ee.store, device.number, &new)
}

/// Keeps the keys. `met` is what the client was asked for; if that is no longer enough, because other keys
/// came in between, nothing is kept.
pub async fn upload(e2ee: &E2ee, device: Device<'_>, upload: &Upload, met: Need) -> Result<()> {
    let ticket = decide(e2ee, device, upload, met)?;
    published(ticket).await
}

fn decide(e2ee: &E2ee, device: Device<'_>, upload: &Upload, met: Need) -> Result<Option<Ticket>> {
    let _deciding = e2ee.decide(device.number);
    let mut write = e2ee.store.write();
    device.check_there(&write)?;
    let new = rows(&write, device, upload)?;
    if met == Need::Nothing && need(&write, device.number, &new)? == Need::Authentication {
        return Err(Error::forbidden("another of your devices has just uploaded keys; try again"));
    }
    let replaced = match (new.get(&usage::MASTER), write.get(CROSS_SIGNING, &(device.number, usage::MASTER))?) {
        (Some(new), Some(old)) => new.json != old.json,
        (Some(_), None) => true,
        (None, _) => false,
    };
    if replaced {
        // Whatever the old master key has signed, or others have signed it with, means nothing any more.
        for (kind, _) in NAMES {
            write.delete(CROSS_SIGNING, &(device.number, kind));
        }
        super::delete_all(&mut write, MASTER_SIGNATURES, &device.number)?;
    }
    let mut changed = false;
    for (kind, mut row) in new {
        let place = (device.number, kind);
        if let Some(old) = write.get(CROSS_SIGNING, &place)?.filter(|old| old.json == row.json) {
            let before = old.signatures.clone();
            row.signatures.extend(old.signatures);
            if row.signatures == before {
                continue;
            }
        }
        write.put(CROSS_SIGNING, &place, &row);
        changed = true;
    }
    if !changed {
        return Ok(None);
    }
    device_lists::record_identity(&mut write, device.number)?;
    Ok(Some(write.commit()?))
}

fn need(rows: &impl Rows, user: UserNo, new: &BTreeMap<u8, SignedRow>) -> Result<Need> {
    if rows.row(CROSS_SIGNING, &(user, usage::MASTER))?.is_none() {
        return Ok(Need::Nothing);
    }
    for (kind, row) in new {
        if rows.row(CROSS_SIGNING, &(user, *kind))?.is_none_or(|old| old.json != row.json) {
            return Ok(Need::Authentication);
        }
    }
    Ok(Need::Nothing)
}

/// The uploaded keys as rows, checked.
fn rows(rows: &impl Rows, device: Device<'_>, upload: &Upload) -> Result<BTreeMap<u8, SignedRow>> {
    let given = [&upload.master, &upload.self_signing, &upload.user_signing];
    let mut checked = BTreeMap::new();
    let mut master = match &upload.master {
        Some(_) => None,
        None => rows.row(CROSS_SIGNING, &(device.number, usage::MASTER))?.and_then(|row| signed::ed25519(&row)),
    };
    for ((kind, name), object) in NAMES.into_iter().zip(given) {
        let Some(object) = object else { continue };
        let (id, key) = public_key(object, device, name)?;
        if rows.row(DEVICES, &(device.number, id["ed25519:".len()..].to_owned()))?.is_some() {
            return Err(Error::forbidden(format!("the {name} key is called like one of your devices")));
        }
        let signatures = if kind == usage::MASTER {
            master = Some((id, key));
            signed_by_devices(rows, device, object)?
        } else {
            let (by, public) = master.clone().ok_or_else(|| {
                Error::missing_param("there is no master key: upload one together with the keys that it signs")
            })?;
            let signatures = signed::checked_signatures(object, device.user, |id| (id == by).then(|| public.clone()))?;
            if signatures.is_empty() {
                return Err(signed::invalid_signature(format!("the master key has not signed the {name} key")));
            }
            signatures
        };
        checked.insert(kind, SignedRow { json: signed::without_signatures(object), signatures });
    }
    match checked.is_empty() {
        false => Ok(checked),
        true => Err(Error::missing_param("there are no keys in this upload")),
    }
}

/// The signatures of the user's devices on the master key. They are optional, but not to be forged.
fn signed_by_devices(rows: &impl Rows, device: Device<'_>, object: &Object) -> Result<BTreeMap<String, String>> {
    let mut keys = BTreeMap::new();
    for id in signed::signatures_of(object, device.user)?.into_keys() {
        let Some(name) = id.strip_prefix("ed25519:") else { continue };
        if let Some((_, key)) =
            rows.row(DEVICE_KEYS, &(device.number, name.to_owned()))?.and_then(|row| signed::ed25519(&row))
        {
            keys.insert(id, key);
        }
    }
    signed::checked_signatures(object, device.user, |id| keys.get(id).cloned())
}

/// Checks that an object is a cross-signing key of this user for this usage; gives its ID and the key.
fn public_key(object: &Object, device: Device<'_>, name: &str) -> Result<(String, PublicKey)> {
    if signed::text(object, "user_id")? != device.user.as_str() {
        return Err(Error::invalid_param("this is the key of another user"));
    }
    let usage = object.get("usage").and_then(Value::as_array).unwrap_or_default();
    if usage.len() != 1 || usage[0].as_str() != Some(name) {
        return Err(Error::invalid_param(format!("the {name} key must have the usage {name} alone")));
    }
    let keys = object.get("keys").and_then(Value::as_object);
    let key = keys.filter(|keys| keys.len() == 1).and_then(|keys| keys.iter().next());
    let (id, text) = key
        .and_then(|(id, key)| Some((id, key.as_str()?)))
        .ok_or_else(|| Error::invalid_param(format!("the {name} key must hold exactly one public key")))?;
    match PublicKey::from_base64(text) {
        Some(key) if id.strip_prefix("ed25519:") == Some(text) => Ok((id.clone(), key)),
        _ => Err(Error::invalid_param(format!("the {name} key is no Ed25519 key that is called by itself"))),
    }
}

/// Whether a name is the public part of one of a user's cross-signing keys.
///
/// Spec: client-server-api#key-and-signature-security
pub fn is_public_key(write: &Write, user: UserNo, name: &str) -> Result<bool> {
    for (kind, _) in NAMES {
        let id = write.get(CROSS_SIGNING, &(user, kind))?.and_then(|row| signed::ed25519(&row));
        if id.is_some_and(|(id, _)| id["ed25519:".len()..] == *name) {
            return Ok(true);
        }
    }
    Ok(false)
}
