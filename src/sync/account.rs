//! What the reader's clients keep at the server, for the whole account and by room; and whom they ignore.
//!
//! Spec: client-server-api#client-config, client-server-api#ignoring-users

use std::collections::{BTreeMap, HashSet};

use ruma::OwnedUserId;
use serde::{Deserialize, de::IgnoredAny};

use super::{Look, filter::EventFilter};
use crate::{
    error::Result,
    protocol::canonical::write_string,
    rooms::Rooms,
    store::{
        Position,
        schema::{
            RoomNo, UserNo,
            users::{ACCOUNT_DATA, ACCOUNT_DATA_CHANGES, GLOBAL},
        },
    },
};

/// Types and contents of account data.
pub type Data = Vec<(String, String)>;

/// Everything that changed after `since`, or everything there is; [`GLOBAL`] stands for no room.
pub fn data(look: &Look<'_>, since: Option<Position>) -> Result<BTreeMap<RoomNo, Data>> {
    let mut all = BTreeMap::<RoomNo, Data>::new();
    let (store, user) = (look.store(), look.reader.number);
    let Some(since) = since else {
        for row in store.scan(ACCOUNT_DATA, &(user,)) {
            let ((_, room, kind), row) = row?;
            all.entry(room).or_default().push((kind, row.json));
        }
        return Ok(all);
    };
    let after = Position(since.0.saturating_add(1));
    for row in store.range(ACCOUNT_DATA_CHANGES, &(user, after), &(UserNo(user.0 + 1),)) {
        let (_, (room, kind)) = row?;
        if let Some(row) = store.get(ACCOUNT_DATA, &(user, room, kind.clone()))? {
            all.entry(room).or_default().push((kind, row.json));
        }
    }
    Ok(all)
}

/// Everything that is kept about one room.
pub fn of_room(look: &Look<'_>, room: RoomNo) -> Result<Data> {
    let rows = look.store().scan(ACCOUNT_DATA, &(look.reader.number, room));
    rows.map(|row| row.map(|((_, _, kind), row)| (kind, row.json)).map_err(Into::into)).collect()
}

/// Writes those events that the filter wants, without brackets; returns whether there are any.
pub fn write(out: &mut String, data: &Data, filter: &EventFilter) -> bool {
    let before = out.len();
    for (kind, json) in data.iter().filter(|(kind, _)| filter.wants_type(kind)) {
        if out.len() > before {
            out.push(',');
        }
        out.push_str("{\"type\":");
        write_string(out, kind);
        out.push_str(",\"content\":");
        out.push_str(json);
        out.push('}');
    }
    out.len() > before
}

/// Whom a user ignores.
pub fn ignored(rooms: &Rooms, user: UserNo) -> Result<HashSet<OwnedUserId>> {
    #[derive(Deserialize)]
    struct Ignored {
        ignored_users: BTreeMap<OwnedUserId, IgnoredAny>,
    }
    let row = rooms.store.get(ACCOUNT_DATA, &(user, GLOBAL, "m.ignored_user_list".to_owned()))?;
    // Whatever else a client keeps there means nobody.
    let ignored = row.and_then(|row| serde_json::from_str::<Ignored>(&row.json).ok());
    Ok(ignored.map(|ignored| ignored.ignored_users.into_keys().collect()).unwrap_or_default())
}
