//! The whole on-disk format: every table with its record, by area.
//!
//! Long identifiers are written once and stand as numbers everywhere else: rooms, users, events and
//! state keys. A number is never reused.

pub mod delayed;
pub mod devices;
pub mod e2ee;
pub mod events;
pub mod federation;
pub mod numbers;
pub mod push;
pub mod rooms;
pub mod search;
pub mod server;
pub mod users;

use crate::number;

number!(
    /// A room, by number.
    RoomNo
);
number!(
    /// A user of any server, by number.
    UserNo
);
number!(
    /// An event, by number. Also numbers the state after a state event.
    EventNo
);
number!(
    /// A pair of event type and state key, by number.
    StateKeyNo
);
number!(
    /// A snapshot of a room's state, by number.
    StateNo
);
