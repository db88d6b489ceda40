//! Fallback keys: what is handed out when a device has no one-time keys left, any number of times.
//!
//! Spec: client-server-api#one-time-and-fallback-keys

use super::{Device, keys::split};
use crate::{
    error::Result,
    protocol::canonical::{self, Object},
    store::{
        Store, StoreError, Write,
        schema::{
            UserNo,
            e2ee::{FALLBACK_KEYS, FallbackKeyRow},
        },
    },
};

/// The algorithms of which a device has a fallback key that was never handed out: for `/sync`.
pub fn unused(store: &Store, user: UserNo, device: &str) -> Result<Vec<String>, StoreError> {
    let mut algorithms = Vec::new();
    for row in store.scan(FALLBACK_KEYS, &(user, device.to_owned())) {
        let ((_, _, algorithm), row) = row?;
        if !row.used {
            algorithms.push(algorithm);
        }
    }
    Ok(algorithms)
}

/// Keeps checked fallback keys instead of those that the device had. The caller holds the lock of the user.
pub(super) fn add(write: &mut Write, device: Device<'_>, keys: &[(String, Object)]) -> Result<()> {
    for (name, object) in keys {
        let (algorithm, id) = split(name);
        let place = (device.number, device.id.to_owned(), algorithm.to_owned());
        let row = FallbackKeyRow { id: id.to_owned(), json: canonical::write_object(object), used: false };
        let known = write.get(FALLBACK_KEYS, &place)?;
        // The same key once more is not an unused one.
        if known.is_none_or(|known| known.id != row.id || known.json != row.json) {
            write.put(FALLBACK_KEYS, &place, &row);
            write.wake(device.number);
        }
    }
    Ok(())
}

/// The ID and JSON text of a device's fallback key, which is used from now on.
pub(super) fn take(
    write: &mut Write,
    user: UserNo,
    device: &str,
    algorithm: &str,
    changed: &mut bool,
) -> Result<Option<(String, String)>> {
    let place = (user, device.to_owned(), algorithm.to_owned());
    let Some(mut row) = write.get(FALLBACK_KEYS, &place)? else { return Ok(None) };
    if !row.used {
        row.used = true;
        write.put(FALLBACK_KEYS, &place, &row);
        *changed = true;
    }
    Ok(Some((row.id, row.json)))
}
