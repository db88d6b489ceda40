//! End-to-end encryption, as far as the server has a part in it: it keeps public keys, hands each one-time
//! key to one person, carries messages between devices, and stores backups that it cannot read.
//!
//! [`E2ee`] is the context. [`keys`] takes what a device uploads, [`query`] tells whose keys are what,
//! [`one_time_keys`] and [`fallback_keys`] are claimed, [`cross_signing`] and [`signatures`] tie devices to
//! people, [`inbox`] holds messages for devices, [`device_lists`] says whose keys a client has to ask for
//! again, [`elsewhere`] keeps what other servers said of their users, and [`backup`] and [`dehydrated`] are what their names say. What is asked of other servers'
//! users is returned apart, by server, for whoever can ask there.
//!
//! Nothing here knows of rooms or of sessions: who shares a room is read from the rows of `rooms`, and
//! when a device goes, `users` calls [`E2ee::forget_device`].

pub mod backup;
pub mod cross_signing;
pub mod dehydrated;
pub mod device_lists;
pub mod elsewhere;
pub mod fallback_keys;
pub mod inbox;
pub mod keys;
pub mod one_time_keys;
pub mod query;
pub mod signatures;
mod signed;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use ruma::{OwnedServerName, UserId};
use tokio::sync::Notify;

use crate::{
    clock::Clock,
    error::{Error, Result},
    store::{
        Key, Store, StoreError, Table, Ticket, Write,
        schema::{
            UserNo,
            devices::DEVICES,
            e2ee::{
                BACKUP_COUNTS, BACKUPS, BackupRow, CROSS_SIGNING, DEHYDRATED, DEVICE_KEYS, FALLBACK_KEYS, INBOX,
                MASTER_SIGNATURES, ONE_TIME_KEY_IDS, ONE_TIME_KEYS, ONE_TIME_KEYS_ISSUED, SENT, SENT_AT, SUPPLY, usage,
            },
        },
    },
};

pub use self::signed::object;

/// How many locks there are for all users together.
const LOCKS: usize = 64;

/// The context of this module. Cheap to clone; clones share their locks.
#[derive(Clone)]
pub struct E2ee {
    /// Where keys and messages are kept.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// The name of this server.
    pub server_name: OwnedServerName,
    /// Told when the devices of another server's user must be asked for again.
    pub lost: Arc<Notify>,
    locks: Arc<Locks>,
}

struct Locks {
    /// Shared by all who write to a device, held alone by who removes one: what is written to a device
    /// is removed with it.
    devices: RwLock<()>,
    /// Held by who decides about the keys of a user.
    users: [Mutex<()>; LOCKS],
    hasher: RandomState,
}

/// The right to decide about the keys of one user.
pub(crate) struct Deciding<'a> {
    _devices: RwLockReadGuard<'a, ()>,
    _user: MutexGuard<'a, ()>,
}

/// The right to remove devices. Keep it until the `Write` that removes them is committed, and do not wait
/// for anything else while you have it.
pub struct Removing<'a>(#[allow(dead_code)] RwLockWriteGuard<'a, ()>);

/// A device of a local user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device<'a> {
    /// Whose it is.
    pub user: &'a UserId,
    /// The same as a number.
    pub number: UserNo,
    /// Its ID.
    pub id: &'a str,
}

impl Device<'_> {
    /// The key of this device in tables that have one row per device.
    fn place(&self) -> (UserNo, String) {
        (self.number, self.id.to_owned())
    }

    /// An error unless somebody is logged in on the device, in the order in which things are decided.
    fn check_there(&self, write: &Write) -> Result<()> {
        match write.get(DEVICES, &self.place())? {
            Some(_) => Ok(()),
            None => Err(Error::unknown_token(false)),
        }
    }
}

/// What is asked of other servers' users, by server.
pub type Elsewhere<T> = BTreeMap<OwnedServerName, T>;

impl E2ee {
    /// The keys in this store.
    pub fn new(server_name: OwnedServerName, clock: Clock, store: Store) -> Self {
        let locks = Locks {
            devices: RwLock::new(()),
            users: std::array::from_fn(|_| Mutex::new(())),
            hasher: RandomState::new(),
        };
        Self { store, clock, server_name, lost: Arc::default(), locks: Arc::new(locks) }
    }

    /// Whether a user is of this server.
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name
    }

    /// Begins to decide about the keys of a user. Nobody decides about two users at once.
    pub(crate) fn decide(&self, user: UserNo) -> Deciding<'_> {
        let devices = self.locks.devices.read();
        let place = self.locks.hasher.hash_one(user) % LOCKS as u64;
        let user = self.locks.users[usize::try_from(place).unwrap_or(0)].lock();
        Deciding { _devices: devices, _user: user }
    }

    /// Begins to remove devices. Whoever holds the lock of an account takes it first.
    pub fn removing(&self) -> Removing<'_> {
        Removing(self.locks.devices.write())
    }

    /// Removes, within a `Write`, everything that belongs to a device: its keys, its signatures, the
    /// messages that wait for it. People who could see its keys are told that they are gone.
    pub fn forget_device(&self, _: &Removing<'_>, write: &mut Write, user: UserNo, device: &str) -> Result<()> {
        let place = (user, device.to_owned());
        let had_keys = write.get(DEVICE_KEYS, &place)?.is_some();
        write.delete(DEVICE_KEYS, &place);
        write.delete(SUPPLY, &place);
        delete_all(write, ONE_TIME_KEYS, &place)?;
        delete_all(write, ONE_TIME_KEY_IDS, &place)?;
        delete_all(write, ONE_TIME_KEYS_ISSUED, &place)?;
        delete_all(write, FALLBACK_KEYS, &place)?;
        delete_all(write, INBOX, &place)?;
        delete_all(write, SENT, &place)?;
        delete_all(write, SENT_AT, &place)?;
        if write.get(DEHYDRATED, &user)?.is_some_and(|row| row.device == device) {
            write.delete(DEHYDRATED, &user);
        }
        if had_keys {
            // What the device said of the master key ends with it: another may get its ID.
            let master = (user, usage::MASTER);
            if let Some(mut row) = write.get(CROSS_SIGNING, &master)?
                && row.signatures.remove(&format!("ed25519:{device}")).is_some()
            {
                write.put(CROSS_SIGNING, &master, &row);
            }
            device_lists::record_device(write, user, device)?;
        }
        Ok(())
    }

    /// Removes, within the `Write` that ends an account, what belongs to its user and to no device.
    /// [`backup::sweep`] does the rest afterwards.
    pub fn forget_user(&self, _: &Removing<'_>, write: &mut Write, user: UserNo) -> Result<()> {
        if !write.scan(CROSS_SIGNING, &user)?.is_empty() {
            delete_all(write, CROSS_SIGNING, &user)?;
            delete_all(write, MASTER_SIGNATURES, &user)?;
            device_lists::record_identity(write, user)?;
        }
        for ((_, version), row) in write.scan(BACKUPS, &user)? {
            write.put(BACKUPS, &(user, version), &BackupRow { deleted: true, ..row });
            write.delete(BACKUP_COUNTS, &(user, version));
        }
        Ok(())
    }
}

/// Deletes, within a `Write`, all rows whose key begins with `prefix`.
fn delete_all<K: Key, V: serde::Serialize + serde::de::DeserializeOwned>(
    write: &mut Write,
    table: Table<K, V>,
    prefix: &impl Key,
) -> Result<(), StoreError> {
    for (key, _) in write.scan(table, prefix)? {
        write.delete(table, &key);
    }
    Ok(())
}

/// Waits until everything is on the disk.
async fn published(tickets: impl IntoIterator<Item = Ticket>) -> Result<()> {
    for ticket in tickets {
        ticket.published().await?;
    }
    Ok(())
}
