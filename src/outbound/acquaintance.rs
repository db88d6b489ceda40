//! Servers that share a room again with somebody of this one. In between they have heard of no change of that user's
//! devices, and some of them go on from what they knew before.
//!
//! Spec: server-server-api#device-management

use std::collections::BTreeSet;

use ruma::OwnedServerName;

use super::edus;
use crate::{
    error::Result,
    remote,
    rooms::{Rooms, ephemeral, forks},
    store::{
        Write,
        schema::{
            RoomNo, UserNo,
            e2ee::STREAMS,
            federation::{Mover, OUTBOX, OutboxRow, PARTED},
        },
    },
};

/// How long a server may take to enter a room, in milliseconds.
const AGAIN: u64 = 10_000;

/// Notes with whom no room is shared any more after somebody has come into one or left it, and lets those of whom that
/// was noted earlier, and with whom one is shared again, ask for the devices.
pub fn moved(rooms: &Rooms, write: &mut Write, room: RoomNo, mover: &Mover) -> Result<()> {
    match mover {
        Mover::User(user) => {
            for place in look(rooms, write, *user, forks::servers(rooms, room)?)? {
                tell(rooms, write, place)?;
            }
            Ok(())
        }
        Mover::Server(server) => {
            let Ok(server) = OwnedServerName::try_from(server.as_str()) else { return Ok(()) };
            for user in ephemeral::locals(rooms, room)? {
                // It is told a little later: we know of its join before it has taken in the room.
                look(rooms, write, user, vec![server.clone()])?;
            }
            Ok(())
        }
    }
}

/// Notes which of these servers share no room with a user, and returns those that do again.
fn look(
    rooms: &Rooms,
    write: &mut Write,
    user: UserNo,
    servers: Vec<OwnedServerName>,
) -> Result<Vec<(UserNo, String)>> {
    let mut met_again = Vec::new();
    if rooms.store.get(STREAMS, &user)?.is_none() {
        return Ok(met_again);
    }
    let sharing: BTreeSet<_> = edus::sharing(rooms, user, usize::MAX)?.into_iter().collect();
    for server in remote::candidates(&rooms.config, servers) {
        if !sharing.contains(&server) {
            write.put(PARTED, &(user, server.into()), &0);
        }
    }
    for (place, met) in write.scan(PARTED, &user)? {
        if met == 0 && sharing.iter().any(|server| *server == *place.1) {
            write.put(PARTED, &place, &rooms.clock.now());
            met_again.push(place);
        }
    }
    Ok(met_again)
}

/// Tells those whom somebody has met a little while ago, now that everybody has taken in what they know of the room.
pub fn again(rooms: &Rooms) -> Result<()> {
    let now = rooms.clock.now();
    let mut write = rooms.store.write();
    let mut is_due = false;
    for row in rooms.store.scan(PARTED, &()) {
        let (place, met) = row?;
        if met > 0 && met + AGAIN <= now && write.get(PARTED, &place)? == Some(met) {
            write.delete(PARTED, &place);
            tell(rooms, &mut write, place)?;
            is_due = true;
        }
    }
    if is_due {
        drop(write.commit()?);
    }
    Ok(())
}

fn tell(rooms: &Rooms, write: &mut Write, (user, server): (UserNo, String)) -> Result<()> {
    if let Some(edu) = edus::all_devices(rooms, user)? {
        let slot = write.slot();
        write.put_at(OUTBOX, slot, move |at| (at, OutboxRow::ToServers(vec![server], edu)));
    }
    Ok(())
}
