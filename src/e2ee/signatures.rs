//! Signatures that devices and people give to each other's keys.
//!
//! A signature is kept if it was made by a key of the caller that may sign such a thing: the self-signing
//! key signs the caller's devices, a device signs the caller's master key, the user-signing key signs
//! other people's master keys. Each key is a case of its own: one that fails does not keep others out.
//!
//! Spec: client-server-api#post_matrixclientv3keyssignaturesupload

use std::collections::BTreeMap;

use ruma::{OwnedUserId, UserId};

use super::{Device, E2ee, device_lists, elsewhere, published, signed};
use crate::{
    error::{Error, Result},
    protocol::{canonical::Object, sign::PublicKey},
    store::{
        Ticket, Write,
        schema::{
            UserNo,
            e2ee::{CROSS_SIGNING, DEVICE_KEYS, MASTER_SIGNATURES, SignedRow, usage},
            numbers,
        },
    },
};

/// How many keys one upload may be about.
const MOST_KEYS: usize = 1_000;

/// What is signed: by user and key ID (a device ID, or a public key), the object or what is wrong with it.
pub type Upload = BTreeMap<OwnedUserId, BTreeMap<String, Result<Object>>>;

/// The keys for which nothing was kept, and why.
pub type Failures = BTreeMap<OwnedUserId, BTreeMap<String, Error>>;

/// Keeps signatures by the caller's keys, and says which could not be kept.
pub async fn upload(e2ee: &E2ee, device: Device<'_>, upload: Upload) -> Result<Failures> {
    if upload.values().map(BTreeMap::len).sum::<usize>() > MOST_KEYS {
        return Err(Error::too_large(format!("at most {MOST_KEYS} keys can be signed at once")));
    }
    let mut failures = Failures::new();
    let mut tickets = Vec::new();
    for (user, keys) in upload {
        let (failed, ticket) = match user == *device.user {
            true => own(e2ee, device, keys)?,
            false => others(e2ee, device, &user, keys)?,
        };
        tickets.extend(ticket);
        if !failed.is_empty() {
            failures.insert(user, failed);
        }
    }
    published(tickets).await?;
    Ok(failures)
}

type Keys = BTreeMap<String, Result<Object>>;
type Outcome = (BTreeMap<String, Error>, Option<Ticket>);

/// Signatures on the caller's own devices and master key: everybody sees them.
fn own(e2ee: &E2ee, device: Device<'_>, keys: Keys) -> Result<Outcome> {
    let _deciding = e2ee.decide(device.number);
    let mut write = e2ee.store.write();
    device.check_there(&write)?;
    let mut failures = BTreeMap::new();
    let mut changed = Vec::new();
    for (id, object) in keys {
        match object.and_then(|object| own_key(&mut write, device, &id, &object)) {
            Ok(true) => changed.push(id),
            Ok(false) => {}
            Err(error) if error.status.is_client_error() => {
                failures.insert(id, error);
            }
            Err(error) => return Err(error),
        }
    }
    if changed.is_empty() {
        return Ok((failures, None));
    }
    for id in changed {
        match write.get(DEVICE_KEYS, &(device.number, id.clone()))? {
            Some(_) => device_lists::record_device(&mut write, device.number, &id)?,
            None => device_lists::record_identity(&mut write, device.number)?,
        }
    }
    Ok((failures, Some(write.commit()?)))
}

/// Returns whether there is a new signature.
fn own_key(write: &mut Write, device: Device<'_>, id: &str, object: &Object) -> Result<bool> {
    let place = (device.number, id.to_owned());
    if let Some(mut row) = write.get(DEVICE_KEYS, &place)? {
        let signers = [signer(write, device.number, usage::SELF_SIGNING)?, signed::ed25519(&row)];
        let new = merge(&mut row, device.user, object, |by| find(&signers, by))?;
        if new {
            write.put(DEVICE_KEYS, &place, &row);
        }
        return Ok(new);
    }
    let place = (device.number, usage::MASTER);
    let Some(mut row) = write.get(CROSS_SIGNING, &place)?.filter(|row| is_called(row, id)) else {
        return Err(Error::not_found("you have no device and no master key of this ID"));
    };
    let mut signers = vec![signed::ed25519(&row)];
    for by in signed::signatures_of(object, device.user)?.into_keys() {
        let name = by.strip_prefix("ed25519:").unwrap_or_default().to_owned();
        signers.push(write.get(DEVICE_KEYS, &(device.number, name))?.and_then(|row| signed::ed25519(&row)));
    }
    let new = merge(&mut row, device.user, object, |by| find(&signers, by))?;
    if new {
        write.put(CROSS_SIGNING, &place, &row);
    }
    Ok(new)
}

/// Adds the signatures of an uploaded object to the stored one.
fn merge(
    row: &mut SignedRow,
    user: &UserId,
    object: &Object,
    public_key: impl Fn(&str) -> Option<PublicKey>,
) -> Result<bool> {
    check_same(row, object)?;
    let signatures = signed::checked_signatures(object, user, public_key)?;
    if signatures.is_empty() {
        return Err(signed::invalid_signature("none of your keys that may sign this has signed it"));
    }
    let before = row.signatures.clone();
    row.signatures.extend(signatures);
    Ok(row.signatures != before)
}

fn check_same(row: &SignedRow, object: &Object) -> Result<()> {
    match row.json == signed::without_signatures(object) {
        true => Ok(()),
        false => Err(signed::invalid_signature("what was signed is not the key that this server knows")),
    }
}

/// A signature on somebody else's master key: only the caller sees it.
fn others(e2ee: &E2ee, device: Device<'_>, user: &UserId, keys: Keys) -> Result<Outcome> {
    let mut failures = BTreeMap::new();
    let Some(signer) = signer(&e2ee.store.write(), device.number, usage::USER_SIGNING)? else {
        let error = || signed::invalid_signature("you have no user-signing key to sign other people's keys with");
        return Ok((keys.into_keys().map(|id| (id, error())).collect(), None));
    };
    let Some(number) = numbers::find_user(&e2ee.store, user)? else {
        let error = || Error::not_found("this server knows no keys of this user");
        return Ok((keys.into_keys().map(|id| (id, error())).collect(), None));
    };
    // The lock is that of the signed user: a signature must not outlive the master key that it is on.
    let _deciding = e2ee.decide(number);
    let mut write = e2ee.store.write();
    let mut changed = false;
    for (id, object) in keys {
        match object.and_then(|object| others_key(&mut write, device, (user, number), &signer, &id, &object)) {
            Ok(new) => changed |= new,
            Err(error) if error.status.is_client_error() => {
                failures.insert(id, error);
            }
            Err(error) => return Err(error),
        }
    }
    if !changed {
        return Ok((failures, None));
    }
    device_lists::record_signature(&mut write, number, device.number);
    Ok((failures, Some(write.commit()?)))
}

fn others_key(
    write: &mut Write,
    device: Device<'_>,
    (user, number): (&UserId, UserNo),
    signer: &(String, PublicKey),
    id: &str,
    object: &Object,
) -> Result<bool> {
    let master = match write.get(CROSS_SIGNING, &(number, usage::MASTER))? {
        None => elsewhere::master(write, user, number)?,
        own => own,
    };
    let Some(row) = master.filter(|row| is_called(row, id)) else {
        return Err(Error::not_found("this user has no master key of this ID"));
    };
    check_same(&row, object)?;
    let key = |by: &str| (by == signer.0).then(|| signer.1.clone());
    let Some(signature) = signed::checked_signatures(object, device.user, key)?.into_iter().next() else {
        return Err(signed::invalid_signature("your user-signing key has not signed this"));
    };
    let place = (number, device.number);
    let new = write.get(MASTER_SIGNATURES, &place)?.as_ref() != Some(&signature);
    if new {
        write.put(MASTER_SIGNATURES, &place, &signature);
    }
    Ok(new)
}

/// A cross-signing key that signs, with its ID.
fn signer(write: &Write, user: UserNo, usage: u8) -> Result<Option<(String, PublicKey)>> {
    Ok(write.get(CROSS_SIGNING, &(user, usage))?.and_then(|row| signed::ed25519(&row)))
}

fn find(signers: &[Option<(String, PublicKey)>], id: &str) -> Option<PublicKey> {
    signers.iter().flatten().find(|(known, _)| known == id).map(|(_, key)| key.clone())
}

/// Whether the public part of a cross-signing key is this.
fn is_called(row: &SignedRow, public: &str) -> bool {
    signed::ed25519(row).is_some_and(|(id, _)| id.strip_prefix("ed25519:") == Some(public))
}
