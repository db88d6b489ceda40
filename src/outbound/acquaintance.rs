//! Servers that share a room again with somebody of this one. In between they have heard of no change of that user's
//! devices, and some of them go on from what they knew before.
//!
//! Spec: server-server-api#device-management

use std::collections::BTreeSet;

use ruma::events::room::member::MembershipState;

use super::edus;
use crate::{
    error::Result,
    remote,
    rooms::{Rooms, access, ephemeral, forks},
    store::{
        Write,
        schema::{
            RoomNo, UserNo,
            e2ee::STREAMS,
            federation::{Mover, OUTBOX, OutboxRow, PARTED},
            rooms::ROOM_SERVERS,
        },
    },
};

/// How long a server may take to enter a room, in milliseconds.
const AGAIN: u64 = 10_000;

/// Notes with whom no room is shared any more after somebody has come into one or left it, and lets those of whom that
/// was noted earlier, and with whom one is shared again, ask for the devices. Returns whether there are any: [`again`]
/// has something to do, then.
pub fn moved(rooms: &Rooms, write: &mut Write, room: RoomNo, mover: &Mover) -> Result<bool> {
    match mover {
        Mover::User(user) => user_moved(rooms, write, room, *user),
        Mover::Server(server) => {
            let mut met = false;
            for user in ephemeral::locals(rooms, room)? {
                met |= server_moved(rooms, write, (user, server.clone()))?;
            }
            Ok(met)
        }
    }
}

fn user_moved(rooms: &Rooms, write: &mut Write, room: RoomNo, user: UserNo) -> Result<bool> {
    if rooms.store.get(STREAMS, &user)?.is_none() {
        return Ok(false);
    }
    let sharing: BTreeSet<String> = edus::sharing(rooms, user, usize::MAX)?.into_iter().map(Into::into).collect();
    for server in remote::candidates(&rooms.config, forks::servers(rooms, room)?) {
        if !sharing.contains(server.as_str()) {
            write.put(PARTED, &(user, server.into()), &0);
        }
    }
    let mut any = false;
    for (place, met) in write.scan(PARTED, &user)? {
        if met == 0 && sharing.contains(&place.1) {
            write.put(PARTED, &place, &rooms.clock.now());
            tell(rooms, write, place)?;
            any = true;
        }
    }
    Ok(any)
}

/// A server that comes is told a little later: we know of its join before it has taken in the room.
fn server_moved(rooms: &Rooms, write: &mut Write, place: (UserNo, String)) -> Result<bool> {
    if rooms.store.get(STREAMS, &place.0)?.is_none() {
        return Ok(false);
    }
    let mut shares = false;
    for room in access::rooms_of(rooms, place.0, &MembershipState::Join)? {
        shares |= rooms.store.contains(ROOM_SERVERS, &(room, place.1.clone()))?;
    }
    let meets = shares && write.get(PARTED, &place)? == Some(0);
    if meets || !shares {
        write.put(PARTED, &place, &if meets { rooms.clock.now() } else { 0 });
    }
    Ok(meets)
}

/// Tells those whom somebody has met a little while ago, now that everybody has taken in what they know of the room.
/// Returns whether others are to be told later.
pub fn again(rooms: &Rooms) -> Result<bool> {
    let now = rooms.clock.now();
    let mut write = rooms.store.write();
    let (mut is_due, mut more) = (false, false);
    for row in rooms.store.scan(PARTED, &()) {
        let (place, met) = row?;
        if met > 0 && met + AGAIN <= now && write.get(PARTED, &place)? == Some(met) {
            write.delete(PARTED, &place);
            tell(rooms, &mut write, place)?;
            is_due = true;
        } else {
            more |= met > 0;
        }
    }
    if is_due {
        drop(write.commit()?);
    }
    Ok(more)
}

fn tell(rooms: &Rooms, write: &mut Write, (user, server): (UserNo, String)) -> Result<()> {
    if let Some(edu) = edus::all_devices(rooms, user)? {
        let slot = write.slot();
        write.put_at(OUTBOX, slot, move |at| (at, OutboxRow::ToServers(vec![server], edu)));
    }
    Ok(())
}
