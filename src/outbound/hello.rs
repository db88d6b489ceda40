//! Says hello to other servers when this one has started.
//!
//! Servers that could not reach this one leave it alone, some of them for hours, until they hear from it. An empty
//! transaction is enough. Those that share a small room come first: that is where somebody waits for somebody.
//!
//! Spec: server-server-api#transactions

use std::{collections::BTreeMap, sync::Arc};

use ruma::OwnedServerName;

use super::follow::Outbound;
use crate::{
    error::Result,
    remote::is_own,
    rooms::Rooms,
    store::schema::{RoomNo, rooms::ROOM_SERVERS},
};

/// How many servers are greeted.
const MOST_SERVERS: usize = 100;
/// How many rows of rooms and servers are looked at.
const MOST_ROWS: usize = 50_000;

impl Outbound {
    /// Greets the servers that share rooms with this one, with whatever else there is for them.
    pub(super) fn hello(self: &Arc<Self>) -> Result<()> {
        for server in neighbours(&self.rooms)? {
            self.now_or_never(server, |queue| queue.greet());
        }
        Ok(())
    }
}

/// The servers in rooms with this one, those in the smallest rooms first.
fn neighbours(rooms: &Rooms) -> Result<Vec<OwnedServerName>> {
    let mut by_room: BTreeMap<RoomNo, Vec<OwnedServerName>> = BTreeMap::new();
    for row in rooms.store.scan(ROOM_SERVERS, &()).take(MOST_ROWS) {
        let ((room, server), _) = row?;
        if let Ok(server) = OwnedServerName::try_from(server) {
            by_room.entry(room).or_default().push(server);
        }
    }
    let mut by_size: Vec<_> = by_room.into_values().collect();
    by_size.sort_by_key(Vec::len);
    let mut servers = Vec::new();
    for server in by_size.into_iter().flatten() {
        if servers.len() >= MOST_SERVERS {
            break;
        }
        if !is_own(&rooms.config, &server) && !servers.contains(&server) {
            servers.push(server);
        }
    }
    Ok(servers)
}
