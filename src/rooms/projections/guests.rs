//! That a room no longer welcomes guests: a row for whoever sees them out.

use crate::{
    error::Result,
    rooms::{append::StateDelta, guests},
    store::{Write, schema::rooms::GUESTS_TO_GO},
};

/// Leaves a row where guests were welcome and are not any more.
pub fn project(write: &mut Write, delta: &StateDelta<'_>) -> Result<()> {
    let is_it = delta.kind == "m.room.guest_access" && delta.state_key.is_empty();
    if is_it && guests::welcome(delta.old) && !guests::welcome(delta.new) {
        write.put(GUESTS_TO_GO, &delta.room.number, &());
    }
    Ok(())
}
