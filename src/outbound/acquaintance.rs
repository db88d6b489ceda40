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
/// was noted earlier, and with whom one is shared again, ask for the devices.
pub fn moved(rooms: &Rooms, write: &mut Write, room: RoomNo, mover: &Mover) -> Result<()> {
    match mover {
        Mover::User(user) => user_moved(rooms, write, room, *user),
        Mover::Server(server) => {
            for user in ephemeral::locals(rooms, room)? {
                server_moved(rooms, write, (user, server.clone()))?;
            }
            Ok(())
        }
    }
}

fn user_moved(rooms: &Rooms, write: &mut Write, room: RoomNo, user: UserNo) -> Result<()> {
    if rooms.store.get(STREAMS, &user)?.is_none() {
        return Ok(());
    }
    let sharing: BTreeSet<String> = edus::sharing(rooms, user, usize::MAX)?.into_iter().map(Into::into).collect();
    for server in remote::candidates(&rooms.config, forks::servers(rooms, room)?) {
        if !sharing.contains(server.as_str()) {
            write.put(PARTED, &(user, server.into()), &0);
        }
    }
    for (place, met) in write.scan(PARTED, &user)? {
        if met == 0 && sharing.contains(&place.1) {
            write.put(PARTED, &place, &rooms.clock.now());
            tell(rooms, write, place)?;
        }
    }
    Ok(())
}

/// A server that comes is told a little later: we know of its join before it has taken in the room.
fn server_moved(rooms: &Rooms, write: &mut Write, place: (UserNo, String)) -> Result<()> {
    if rooms.store.get(STREAMS, &place.0)?.is_none() {
        return Ok(());
    }
    let mut shares = false;
    for room in access::rooms_of(rooms, place.0, &MembershipState::Join)? {
        shares |= rooms.store.contains(ROOM_SERVERS, &(room, place.1.clone()))?;
    }
    match shares {
        false => write.put(PARTED, &place, &0),
        true if write.get(PARTED, &place)? == Some(0) => write.put(PARTED, &place, &rooms.clock.now()),
        true => {}
    }
    Ok(())
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
