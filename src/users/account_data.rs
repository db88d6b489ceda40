//! What clients keep at the server for their user, for all rooms or for one.
//!
//! Each change gets a position, and the user's waiting syncs wake.

use serde_json::Value;

use super::Users;
use crate::{
    error::{Error, Result},
    store::{
        StoreError, Write,
        schema::{
            RoomNo, UserNo,
            users::{ACCOUNT_DATA, ACCOUNT_DATA_CHANGES, AccountDataRow, GLOBAL},
        },
    },
};

/// How large the content may be: a row is bounded.
const LARGEST: usize = 96 << 10;
/// How long a type may be, in bytes.
const LONGEST_TYPE: usize = 255;

/// The content of a type, as JSON text; without a room, that for all rooms.
pub fn find(users: &Users, user: UserNo, room: Option<RoomNo>, kind: &str) -> Result<Option<String>, StoreError> {
    let place = (user, room.unwrap_or(GLOBAL), kind.to_owned());
    Ok(users.store.get(ACCOUNT_DATA, &place)?.map(|row| row.json))
}

/// Sets the content of a type within a `Write`. The caller holds the user's lock.
pub fn put(write: &mut Write, user: UserNo, room: Option<RoomNo>, kind: &str, json: String) -> Result<()> {
    if json.len() > LARGEST {
        return Err(Error::too_large(format!("account data of one type may have at most {LARGEST} bytes")));
    }
    if kind.is_empty() || kind.len() > LONGEST_TYPE {
        return Err(Error::invalid_param(format!("a type has between 1 and {LONGEST_TYPE} bytes")));
    }
    let room = room.unwrap_or(GLOBAL);
    let place = (user, room, kind.to_owned());
    if let Some(before) = write.get(ACCOUNT_DATA, &place)? {
        write.delete(ACCOUNT_DATA_CHANGES, &(user, before.position));
    }
    let slot = write.slot();
    let kind = kind.to_owned();
    write.put_at(ACCOUNT_DATA_CHANGES, slot, move |position| ((user, position), (room, kind)));
    write.put_at(ACCOUNT_DATA, slot, move |position| (place, AccountDataRow { json, position }));
    write.wake(user);
    Ok(())
}

/// Sets the content of a type.
pub async fn set(users: &Users, user: UserNo, room: Option<RoomNo>, kind: &str, json: String) -> Result<()> {
    let done = {
        let _lock = users.lock(user);
        let mut write = users.store.write();
        put(&mut write, user, room, kind, json)?;
        users.commit(write, vec![])
    };
    done.await
}

/// Makes the new content of a type out of the old one.
pub async fn edit(
    users: &Users,
    user: UserNo,
    room: Option<RoomNo>,
    kind: &str,
    change: impl FnOnce(Option<Value>) -> Result<Value>,
) -> Result<()> {
    let done = {
        let _lock = users.lock(user);
        let mut write = users.store.write();
        let before = write.get(ACCOUNT_DATA, &(user, room.unwrap_or(GLOBAL), kind.to_owned()))?;
        let before = before.and_then(|row| serde_json::from_str(&row.json).ok());
        put(&mut write, user, room, kind, change(before)?.to_string())?;
        users.commit(write, vec![])
    };
    done.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chance::Chance, clock::Clock, config::Config, store::Store};

    #[tokio::test]
    async fn a_type_has_one_change_at_its_newest_position() {
        let store = Store::in_memory();
        let users = Users::new(Config::for_tests().into(), Clock::by_hand(0), Chance::seeded(1), store.clone());
        let user = UserNo(1);
        for content in ["1", "2"] {
            set(&users, user, None, "org.example", content.to_owned()).await.expect("a place");
        }
        set(&users, user, Some(RoomNo(9)), "org.example", "3".to_owned()).await.expect("a place");
        let changes: Vec<_> = store.scan(ACCOUNT_DATA_CHANGES, &user).map(|row| row.expect("a row")).collect();
        let [((_, one), at_one), ((_, two), at_two)] = &changes[..] else { panic!("{changes:?}") };
        assert!(one < two && *two == store.position());
        assert_eq!((at_one.0, at_two.0), (GLOBAL, RoomNo(9)));
        assert_eq!(find(&users, user, None, "org.example").expect("a row").as_deref(), Some("2"));
        assert_eq!(store.wakers().newest(user), store.position());
    }
}
