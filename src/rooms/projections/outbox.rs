//! Events of this server's users go to the other servers in the room.

use crate::{
    error::Result,
    rooms::{Rooms, append::Appended},
    store::{
        Ticket, Write,
        schema::{
            EventNo, RoomNo,
            e2ee::STREAMS,
            federation::{Mover, OUTBOX, OutboxRow},
            rooms::{LOCAL_MEMBERS, ROOM_SERVERS},
        },
    },
};

/// Puts the event out if there is anybody to send it to.
pub fn project(write: &mut Write, appended: &Appended<'_>) -> Result<()> {
    let event = appended.event;
    let rooms = appended.rooms;
    if !rooms.config.federation.enabled || !rooms.is_local(&event.sender) {
        return Ok(());
    }
    let guest = event.state_key.as_deref().and_then(|key| <&ruma::UserId>::try_from(key).ok());
    let about_a_guest = event.kind == "m.room.member" && guest.is_some_and(|guest| !rooms.is_local(guest));
    if about_a_guest || is_shared(write, rooms, appended.room.number)? {
        let number = appended.number;
        write.put_at(OUTBOX, appended.slot, move |at| (at, OutboxRow::Pdu(number)));
    }
    Ok(())
}

/// Puts out an event that a user of another server has brought into the room through this one, for the servers
/// that are in it besides.
pub fn relay(rooms: &Rooms, room: RoomNo, event: EventNo) -> Result<Option<Ticket>> {
    let mut write = rooms.store.write();
    if !is_shared(&write, rooms, room)? {
        return Ok(None);
    }
    let slot = write.slot();
    write.put_at(OUTBOX, slot, move |at| (at, OutboxRow::Pdu(event)));
    Ok(Some(write.commit()?))
}

/// Puts an ephemeral event, as JSON text, out for all other servers in a room, if there are any.
pub fn to_room(write: &mut Write, rooms: &Rooms, room: RoomNo, edu: String) -> Result<()> {
    if rooms.config.federation.enabled && is_shared(write, rooms, room)? {
        let slot = write.slot();
        write.put_at(OUTBOX, slot, move |at| (at, OutboxRow::ToRoom(room, edu)));
    }
    Ok(())
}

/// Puts out that somebody has come into a room or left it, for servers that know the devices of users of this one.
pub fn moved(write: &mut Write, rooms: &Rooms, room: RoomNo, mover: Mover) -> Result<()> {
    let concerns = match &mover {
        Mover::User(user) => write.get(STREAMS, user)?.is_some(),
        // Of a room that is just being entered the users of this server are not yet there.
        Mover::Server(_) => rooms.store.scan(LOCAL_MEMBERS, &(room,)).next().is_some(),
    };
    if concerns && rooms.config.federation.enabled {
        let slot = write.slot();
        write.put_at(OUTBOX, slot, move |at| (at, OutboxRow::Moved(room, mover)));
    }
    Ok(())
}

/// Whether other servers are in a room. One that is just leaving may count as well.
fn is_shared(write: &Write, rooms: &Rooms, room: RoomNo) -> Result<bool> {
    let own = rooms.config.server_name.as_str();
    // Large rooms are in thousands of servers; one of the first two rows answers, unless it is only queued.
    for row in rooms.store.scan(ROOM_SERVERS, &(room,)).take(2) {
        if row?.0.1 != own {
            return Ok(true);
        }
    }
    Ok(write.scan(ROOM_SERVERS, &(room,))?.iter().any(|((_, server), _)| server != own))
}
