//! Says hello to other servers when this one has started.
//!
//! Servers that could not reach this one leave it alone, some of them for hours, until they hear from it. An empty
//! transaction is enough. Those that share a small room come first: that is where somebody waits for somebody.
//!
//! Spec: server-server-api#transactions

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use ruma::OwnedServerName;

use crate::{
    error::Result,
    remote::{Patience, is_own},
    rooms::Rooms,
    store::schema::{RoomNo, rooms::ROOM_SERVERS},
};

/// How many servers are greeted.
const MOST_SERVERS: usize = 100;
/// How many of them at the same time.
const AT_ONCE: usize = 4;
/// How many rows of rooms and servers are looked at.
const MOST_ROWS: usize = 50_000;
/// How patient a hello is.
const HELLO: Patience = Patience { timeout: Duration::from_secs(20), limit: 64 * 1024, insist: false };

/// Greets the servers that share rooms with this one, once.
pub async fn run(rooms: Arc<Rooms>) -> Result<()> {
    if !rooms.config.federation.enabled {
        return Ok(());
    }
    let (run, count) = (rooms.remote.chance.word(12), std::sync::atomic::AtomicU64::new(0));
    let greet = |server: OwnedServerName| {
        let count = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let uri = format!("/_matrix/federation/v1/send/hello-{run}-{count}");
        let body = serde_json::json!({
            "origin": rooms.config.server_name,
            "origin_server_ts": rooms.clock.now(),
            "pdus": [],
        });
        let rooms = &rooms;
        async move {
            let body = Some(body.to_string().into_bytes());
            if let Err(error) = rooms.remote.send(&server, http::Method::PUT, uri, body, HELLO, true).await {
                tracing::debug!(%server, %error, "{server} cannot be greeted");
            }
        }
    };
    stream::iter(neighbours(&rooms)?).map(greet).buffer_unordered(AT_ONCE).collect::<()>().await;
    Ok(())
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
