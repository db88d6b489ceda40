//! One-time keys: each is handed to one person, in the order of upload, and never again.
//!
//! A claim is decided under the lock of the keys' owner, sees what earlier claims have queued, and is
//! answered when the removal is on the disk. A key whose answer is lost is lost with it. Names of keys
//! that were handed out are remembered, so that an upload that a client sends a second time does not
//! bring them back.
//!
//! Spec: client-server-api#one-time-and-fallback-keys

use std::collections::BTreeMap;

use ruma::{OneTimeKeyAlgorithm, OwnedDeviceId, OwnedUserId};
use serde::{Serialize, de::DeserializeOwned};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Device, E2ee, Elsewhere, fallback_keys,
    keys::{SIGNED_CURVE25519, split},
    published,
};
use crate::{
    error::{Error, Result},
    protocol::canonical::{self, Object},
    store::{
        Key, Rows, Store, StoreError, Table, Ticket, Write,
        schema::{
            UserNo,
            e2ee::{
                ONE_TIME_KEY_IDS, ONE_TIME_KEYS, ONE_TIME_KEYS_EPOCH, ONE_TIME_KEYS_ISSUED, OneTimeKeyIdRow,
                OneTimeKeyRow, SUPPLY, SupplyRow,
            },
            numbers,
        },
    },
};

/// How many keys a device may have waiting here, and how many names of those handed out are remembered.
/// The first is not more than the second: then no upload can be repeated and bring a key back.
const MOST_KEYS: u64 = 1_000;
/// How many rows are removed in one `Write`.
const REMOVED_AT_ONCE: usize = 1_000;

/// How many one-time keys of a device nobody has claimed, by algorithm: for `/sync`. The algorithm that
/// clients use is always there, also with 0: some upload nothing unless they are told that there is nothing.
pub fn counts(store: &Store, user: UserNo, device: &str) -> Result<BTreeMap<String, u64>, StoreError> {
    counts_in(store, user, device)
}

pub(super) fn counts_in(rows: &impl Rows, user: UserNo, device: &str) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut counts = rows.row(SUPPLY, &(user, device.to_owned()))?.unwrap_or_default().counts;
    counts.entry(SIGNED_CURVE25519.to_owned()).or_default();
    Ok(counts)
}

/// Forgets all one-time keys of a store that was restored from an archive, or rebuilt with a loss. Which of
/// them were handed out since is unknown, and none may be handed out twice. To be run at every start,
/// before anybody can claim.
pub fn sweep(store: &Store) -> Result<(), StoreError> {
    if store.get(ONE_TIME_KEYS_EPOCH, &())? == Some(store.epoch()) {
        return Ok(());
    }
    clear(store, ONE_TIME_KEYS)?;
    clear(store, ONE_TIME_KEY_IDS)?;
    clear(store, ONE_TIME_KEYS_ISSUED)?;
    clear(store, SUPPLY)?;
    let mut write = store.write();
    write.put(ONE_TIME_KEYS_EPOCH, &(), &store.epoch());
    let last = write.commit()?;
    // Nobody reads the old counts any more. Whoever opens the store may be in a runtime, where one must not wait.
    let waits = std::thread::scope(|scope| scope.spawn(|| last.wait()).join());
    waits.map_err(|_| StoreError::Engine("the wait for a row broke off".into()))?.map(drop)
}

fn clear<K: Key, V: Serialize + DeserializeOwned>(store: &Store, table: Table<K, V>) -> Result<(), StoreError> {
    let mut rows = store.scan(table, &()).peekable();
    while rows.peek().is_some() {
        let mut write = store.write();
        for row in rows.by_ref().take(REMOVED_AT_ONCE) {
            write.delete(table, &row?.0);
        }
        drop(write.commit()?);
    }
    Ok(())
}

/// Adds checked keys. The caller holds the lock of the user.
pub(super) fn add(e2ee: &E2ee, write: &mut Write, device: Device<'_>, keys: &[(String, Object)]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut supply = write.get(SUPPLY, &device.place())?.unwrap_or_default();
    for (name, object) in keys {
        let (algorithm, id) = split(name);
        let json = canonical::write_object(object);
        let hash = xxh3_64(json.as_bytes());
        let by_name = (device.number, device.id.to_owned(), name.clone());
        match write.get(ONE_TIME_KEY_IDS, &by_name)? {
            // Sent once more, because the answer got lost.
            Some(known) if known.hash == hash => continue,
            Some(known) => return Err(taken(write, device, name, &known, &json)?),
            None => {}
        }
        let number = write.number();
        let place = (device.number, device.id.to_owned(), algorithm.to_owned(), number);
        write.put(ONE_TIME_KEYS, &place, &OneTimeKeyRow { id: id.to_owned(), json });
        write.put(ONE_TIME_KEY_IDS, &by_name, &OneTimeKeyIdRow { number, hash, issued: false });
        *supply.counts.entry(algorithm.to_owned()).or_default() += 1;
    }
    if supply.counts.values().sum::<u64>() > MOST_KEYS {
        return Err(Error::too_large(format!("a device has at most {MOST_KEYS} one-time keys waiting")));
    }
    forget_oldest(e2ee, write, device.number, device.id, &mut supply)?;
    write.put(SUPPLY, &device.place(), &supply);
    // The other requests of the user's devices see the new count.
    write.wake(device.number);
    Ok(())
}

/// The words are those that clients look for when they report that their keys got out of step.
fn taken(write: &Write, device: Device<'_>, name: &str, known: &OneTimeKeyIdRow, new: &str) -> Result<Error> {
    let place = (device.number, device.id.to_owned(), split(name).0.to_owned(), known.number);
    let old = write.get(ONE_TIME_KEYS, &place)?.map_or_else(|| "already claimed".to_owned(), |row| row.json);
    let message = format!("One time key {name} already exists. Old key: {old}; new key: {new}");
    Ok(Error::bad_request("M_UNKNOWN", message))
}

/// What is asked for: of each device one key of an algorithm.
pub type Wanted = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>;

/// The answer to a claim.
#[derive(Debug, Default)]
pub struct Claimed {
    /// By user and device: the key's `algorithm:id` and its JSON text.
    pub keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, (String, String)>>,
    /// What has to be asked of other servers.
    pub elsewhere: Elsewhere<Wanted>,
}

/// Hands out keys of devices, as far as there are any.
pub async fn claim(e2ee: &E2ee, wanted: Wanted) -> Result<Claimed> {
    let mut claimed = Claimed::default();
    let mut tickets = Vec::new();
    for (user, devices) in wanted {
        if !e2ee.is_local(&user) {
            let server = claimed.elsewhere.entry(user.server_name().to_owned()).or_default();
            server.insert(user, devices);
            continue;
        }
        let Some(number) = numbers::find_user(&e2ee.store, &user)? else { continue };
        let (keys, ticket) = take_all(e2ee, number, devices)?;
        tickets.extend(ticket);
        if !keys.is_empty() {
            claimed.keys.insert(user, keys);
        }
    }
    published(tickets).await?;
    Ok(claimed)
}

type Taken = BTreeMap<OwnedDeviceId, (String, String)>;

fn take_all(
    e2ee: &E2ee,
    user: UserNo,
    devices: BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>,
) -> Result<(Taken, Option<Ticket>)> {
    let _deciding = e2ee.decide(user);
    let mut write = e2ee.store.write();
    let mut keys = BTreeMap::new();
    let mut changed = false;
    for (device, algorithm) in devices {
        let algorithm = algorithm.as_str();
        let key = match take(e2ee, &mut write, user, device.as_str(), algorithm)? {
            Some(key) => {
                changed = true;
                Some(key)
            }
            None => fallback_keys::take(&mut write, user, device.as_str(), algorithm, &mut changed)?,
        };
        if let Some((id, json)) = key {
            keys.insert(device, (format!("{algorithm}:{id}"), json));
        }
    }
    if !changed {
        return Ok((keys, None));
    }
    write.wake(user);
    Ok((keys, Some(write.commit()?)))
}

/// Takes the oldest key out of the supply.
fn take(
    e2ee: &E2ee,
    write: &mut Write,
    user: UserNo,
    device: &str,
    algorithm: &str,
) -> Result<Option<(String, String)>> {
    let Some((place, row)) = oldest(e2ee, write, user, device, algorithm)? else { return Ok(None) };
    let name = format!("{algorithm}:{}", row.id);
    let by_name = (user, device.to_owned(), name.clone());
    let number = place.3;
    write.delete(ONE_TIME_KEYS, &place);
    if let Some(known) = write.get(ONE_TIME_KEY_IDS, &by_name)? {
        write.put(ONE_TIME_KEY_IDS, &by_name, &OneTimeKeyIdRow { issued: true, ..known });
    }
    write.put(ONE_TIME_KEYS_ISSUED, &(user, device.to_owned(), number), &name);
    let mut supply = write.get(SUPPLY, &(user, device.to_owned()))?.unwrap_or_default();
    supply.issued += 1;
    if let Some(count) = supply.counts.get_mut(algorithm) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            supply.counts.remove(algorithm);
        }
    }
    write.put(SUPPLY, &(user, device.to_owned()), &supply);
    Ok(Some((row.id, row.json)))
}

type Place = (UserNo, String, String, u64);

fn oldest(
    e2ee: &E2ee,
    write: &Write,
    user: UserNo,
    device: &str,
    algorithm: &str,
) -> Result<Option<(Place, OneTimeKeyRow)>> {
    let prefix = (user, device.to_owned(), algorithm.to_owned());
    // Mostly the first published key is still there; what is queued behind it is newer.
    for row in e2ee.store.scan(ONE_TIME_KEYS, &prefix) {
        let (place, _) = row?;
        if let Some(row) = write.get(ONE_TIME_KEYS, &place)? {
            return Ok(Some((place, row)));
        }
    }
    Ok(write.scan(ONE_TIME_KEYS, &prefix)?.into_iter().next())
}

/// Forgets the oldest names of keys that were handed out, when there are too many.
fn forget_oldest(e2ee: &E2ee, write: &mut Write, user: UserNo, device: &str, supply: &mut SupplyRow) -> Result<()> {
    let mut spare = supply.issued.saturating_sub(MOST_KEYS);
    for row in e2ee.store.scan(ONE_TIME_KEYS_ISSUED, &(user, device.to_owned())) {
        if spare == 0 {
            break;
        }
        let (place, name) = row?;
        if write.get(ONE_TIME_KEYS_ISSUED, &place)?.is_some() {
            write.delete(ONE_TIME_KEYS_ISSUED, &place);
            write.delete(ONE_TIME_KEY_IDS, &(user, device.to_owned(), name));
            supply.issued -= 1;
            spare -= 1;
        }
    }
    Ok(())
}
