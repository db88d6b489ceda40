//! Where the notifications of a user go: pushers, which belong to the device that set them.
//!
//! Who sends to them is `push`, which follows the rows.  Spec: client-server-api#push-notifications

use std::sync::atomic::Ordering;

use super::Users;
use crate::{
    error::{Error, Result},
    store::{
        Store, StoreError, Write,
        schema::{
            UserNo,
            push::{PUSHED, PUSHERS, PUSHKEYS, PushedRow, PusherRow},
        },
    },
};

/// How many pushers a user may have.
const MOST: usize = 100;

/// What a pusher is known by: its application and the key that the application has with its gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The application ID.
    pub app_id: String,
    /// The push key.
    pub pushkey: String,
}

/// The pushers of a user.
pub fn of_user(store: &Store, user: UserNo) -> Result<Vec<(Key, PusherRow)>, StoreError> {
    let rows = store.scan(PUSHERS, &(user,));
    rows.map(|row| row.map(|((_, app_id, pushkey), row)| (Key { app_id, pushkey }, row))).collect()
}

/// Makes a pusher, or changes it. Unless it is one `more`, other users lose theirs with the same key: somebody else
/// uses the device now.
///
/// Errors: 400 `M_INVALID_PARAM` for too many.
pub async fn set(users: &Users, user: UserNo, key: Key, row: PusherRow, more: bool) -> Result<()> {
    let done = {
        let _lock = users.lock(user);
        let mut write = users.store.write();
        let place = (user, key.app_id.clone(), key.pushkey.clone());
        if write.get(PUSHERS, &place)?.is_none() {
            if write.scan(PUSHERS, &(user,))?.len() >= MOST {
                return Err(Error::invalid_param(format!("you have {MOST} pushers already; remove one first")));
            }
            let slot = write.slot();
            let pushed = place.clone();
            // What came before is not told.
            write.put_at(PUSHED, slot, move |at| (pushed, PushedRow { at, ..PushedRow::default() }));
        }
        if !more {
            for ((app_id, pushkey, other), ()) in write.scan(PUSHKEYS, &(key.app_id.clone(), key.pushkey.clone()))? {
                if other != user {
                    delete(&mut write, other, &Key { app_id, pushkey });
                }
            }
        }
        write.put(PUSHERS, &place, &row);
        write.put(PUSHKEYS, &(key.app_id, key.pushkey, user), &());
        write.wake(user);
        users.commit(write, vec![])
    };
    done.await?;
    users.inner.pushers.fetch_add(1, Ordering::AcqRel);
    Ok(())
}

impl Users {
    /// Another number whenever somebody has set a pusher: whoever follows them looks for new ones.
    pub fn pushers_version(&self) -> u64 {
        self.inner.pushers.load(Ordering::Acquire)
    }
}

/// Removes a pusher; one that is not there is gone already.
pub async fn remove(users: &Users, user: UserNo, key: &Key) -> Result<()> {
    let done = {
        let _lock = users.lock(user);
        let mut write = users.store.write();
        if write.get(PUSHERS, &(user, key.app_id.clone(), key.pushkey.clone()))?.is_none() {
            return Ok(());
        }
        delete(&mut write, user, key);
        users.commit(write, vec![])
    };
    done.await
}

/// Notes how far a pusher has got, if it is still there.
pub fn advance(users: &Users, user: UserNo, key: &Key, pushed: &PushedRow) -> Result<()> {
    let _lock = users.lock(user);
    let mut write = users.store.write();
    let place = (user, key.app_id.clone(), key.pushkey.clone());
    if write.get(PUSHERS, &place)?.is_some() {
        write.put(PUSHED, &place, pushed);
        // If it is lost, something is told twice.
        drop(write.commit()?);
    }
    Ok(())
}

/// Removes the pushers of a device, within a `Write`.
pub(super) fn forget_device(write: &mut Write, user: UserNo, device: &str) -> Result<(), StoreError> {
    for ((_, app_id, pushkey), row) in write.scan(PUSHERS, &(user,))? {
        if row.device == device {
            delete(write, user, &Key { app_id, pushkey });
        }
    }
    Ok(())
}

fn delete(write: &mut Write, user: UserNo, key: &Key) {
    let place = (user, key.app_id.clone(), key.pushkey.clone());
    write.delete(PUSHERS, &place);
    write.delete(PUSHED, &place);
    write.delete(PUSHKEYS, &(key.app_id.clone(), key.pushkey.clone(), user));
}
