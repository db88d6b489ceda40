//! Rows derived from an event, or from a change of a room's state, and written with it.
//!
//! State can change without a new event (resolution, a join that completes), so whatever depends on state
//! hangs on [`ON_STATE`] only. The order of a list is the order of its calls.

pub mod device_lists;
pub mod guests;
pub mod members;
pub mod outbox;
pub mod relations;
pub mod search;
pub mod timeline;
pub mod unread;

use super::append::{Appended, StateDelta};
use crate::{error::Result, store::Write};

/// Called for every event that becomes part of a room.
pub const ON_EVENT: &[fn(&mut Write, &Appended<'_>) -> Result<()>] =
    &[timeline::project, relations::project, search::project, unread::project, outbox::project];

/// Called for every entry of a room's current state that changes.
pub const ON_STATE: &[fn(&mut Write, &StateDelta<'_>) -> Result<()>] =
    &[members::project, device_lists::project, guests::project, unread::forget];
