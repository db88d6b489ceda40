//! Filters that clients have stored. A filter's ID is made of its content: the same filter twice is one row.

use xxhash_rust::xxh3::xxh3_64;

use super::Users;
use crate::{
    error::{Error, Result},
    store::{
        StoreError,
        schema::{UserNo, users::FILTERS},
    },
};

/// How many filters a user may store.
const MOST: usize = 1000;
/// How large one may be.
const LARGEST: usize = 64 << 10;

/// Stores a filter; gives its ID.
pub async fn store(users: &Users, user: UserNo, json: String) -> Result<String> {
    if json.len() > LARGEST {
        return Err(Error::too_large(format!("a filter may have at most {LARGEST} bytes")));
    }
    let hash = xxh3_64(json.as_bytes());
    let done = {
        let _lock = users.lock(user);
        let mut write = users.store.write();
        if write.get(FILTERS, &(user, hash))?.is_some() {
            return Ok(name(hash));
        }
        if users.store.scan(FILTERS, &user).take(MOST).count() >= MOST {
            return Err(Error::bad_request("M_RESOURCE_LIMIT_EXCEEDED", "this account has too many filters"));
        }
        write.put(FILTERS, &(user, hash), &json);
        users.commit(write, vec![])
    };
    done.await?;
    Ok(name(hash))
}

/// A stored filter, as JSON text.
pub fn find(users: &Users, user: UserNo, id: &str) -> Result<Option<String>, StoreError> {
    let Ok(hash) = u64::from_str_radix(id, 16) else { return Ok(None) };
    users.store.get(FILTERS, &(user, hash))
}

fn name(hash: u64) -> String {
    format!("{hash:x}")
}
