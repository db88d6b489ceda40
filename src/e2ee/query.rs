//! Whose keys are what: the answer to `keys/query`.
//!
//! Everybody may see everybody's device keys, master and self-signing keys with the signatures of their
//! owner. Signatures by a user-signing key, and that key itself, are for their owner alone.
//!
//! Spec: client-server-api#post_matrixclientv3keysquery, client-server-api#key-and-signature-security

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::{E2ee, Elsewhere, signed};
use crate::{
    error::Result,
    store::schema::{
        UserNo,
        devices::DEVICES,
        e2ee::{CROSS_SIGNING, DEVICE_KEYS, MASTER_SIGNATURES, SignedRow, usage},
        numbers,
    },
};

/// Whose keys are wanted: of the listed devices, or of all if none is listed.
pub type Wanted = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;

/// Keys as JSON texts.
#[derive(Debug, Default)]
pub struct Keys {
    /// The identity keys by user and device. Every known user is there, also one without keys.
    pub devices: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, String>>,
    /// The master keys.
    pub master: BTreeMap<OwnedUserId, String>,
    /// The self-signing keys.
    pub self_signing: BTreeMap<OwnedUserId, String>,
    /// The user-signing key of whoever asks.
    pub user_signing: BTreeMap<OwnedUserId, String>,
    /// What has to be asked of other servers.
    pub elsewhere: Elsewhere<Wanted>,
}

/// Looks keys up, as far as this server knows them, for a local user or (`None`) another server.
pub fn query(e2ee: &E2ee, asker: Option<(&UserId, UserNo)>, wanted: Wanted) -> Result<Keys> {
    let mut keys = Keys::default();
    for (user, devices) in wanted {
        if !e2ee.is_local(&user) {
            let server = keys.elsewhere.entry(user.server_name().to_owned()).or_default();
            server.insert(user, devices);
            continue;
        }
        let Some(number) = numbers::find_user(&e2ee.store, &user)? else { continue };
        add_user(e2ee, asker, &user, number, &devices, &mut keys)?;
    }
    Ok(keys)
}

fn add_user(
    e2ee: &E2ee,
    asker: Option<(&UserId, UserNo)>,
    user: &OwnedUserId,
    number: UserNo,
    wanted: &[OwnedDeviceId],
    keys: &mut Keys,
) -> Result<()> {
    let store = &e2ee.store;
    let mut devices = BTreeMap::new();
    let mut add = |device: String, row: &SignedRow| -> Result<()> {
        let named = store.get(DEVICES, &(number, device.clone()))?.and_then(|row| row.name);
        devices.insert(device.into(), signed::show(row, user, None, named.as_deref()));
        Ok(())
    };
    if wanted.is_empty() {
        for row in store.scan(DEVICE_KEYS, &number) {
            let ((_, device), row) = row?;
            add(device, &row)?;
        }
    }
    for device in wanted {
        if let Some(row) = store.get(DEVICE_KEYS, &(number, device.to_string()))? {
            add(device.to_string(), &row)?;
        }
    }
    keys.devices.insert(user.clone(), devices);
    let asks_for_self = asker.is_some_and(|(_, asker)| asker == number);
    if let Some(row) = store.get(CROSS_SIGNING, &(number, usage::MASTER))? {
        let seen = match asker.filter(|_| !asks_for_self) {
            Some((id, asker)) => store.get(MASTER_SIGNATURES, &(number, asker))?.map(|signature| (id, signature)),
            None => None,
        };
        let seen = seen.as_ref().map(|(id, signature)| (*id, signature));
        keys.master.insert(user.clone(), signed::show(&row, user, seen, None));
    }
    if let Some(row) = store.get(CROSS_SIGNING, &(number, usage::SELF_SIGNING))? {
        keys.self_signing.insert(user.clone(), signed::show(&row, user, None, None));
    }
    if asks_for_self && let Some(row) = store.get(CROSS_SIGNING, &(number, usage::USER_SIGNING))? {
        keys.user_signing.insert(user.clone(), signed::show(&row, user, None, None));
    }
    Ok(())
}
