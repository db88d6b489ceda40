//! Where an event stands: in the order of arrival for `/sync`, by depth for `/messages`.

use crate::{
    error::Result,
    rooms::append::Appended,
    store::{
        Write,
        schema::events::{HISTORY, TIMELINE},
    },
};

/// Gives the event its place.
pub fn project(write: &mut Write, appended: &Appended<'_>) -> Result<()> {
    let (room, number, depth) = (appended.room.number, appended.number, appended.event.depth);
    write.put_at(TIMELINE, appended.slot, move |at| ((room, at), number));
    write.put_at(HISTORY, appended.slot, move |at| ((room, depth, number), at));
    Ok(())
}
