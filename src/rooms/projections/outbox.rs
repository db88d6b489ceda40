//! Events of this server's users go to the other servers in the room.

use crate::{
    error::Result,
    rooms::append::Appended,
    store::{
        Write,
        schema::{
            federation::{OUTBOX, OutboxRow},
            rooms::ROOM_SERVERS,
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
    let own = rooms.config.server_name.as_str();
    let guest = event.state_key.as_deref().and_then(|key| <&ruma::UserId>::try_from(key).ok());
    let about_a_guest = event.kind == "m.room.member" && guest.is_some_and(|guest| !rooms.is_local(guest));
    let others = write.scan(ROOM_SERVERS, &(appended.room.number,))?;
    if about_a_guest || others.iter().any(|((_, server), _)| server != own) {
        let number = appended.number;
        write.put_at(OUTBOX, appended.slot, move |at| (at, OutboxRow::Pdu(number)));
    }
    Ok(())
}
