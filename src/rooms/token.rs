//! Places that clients come back to: in the log, and in the history of a room.
//!
//! Spec: client-server-api#get_matrixclientv3sync (`next_batch`), client-server-api#pagination

use std::fmt;

use crate::store::{Position, Store, schema::EventNo};

/// What `/sync` had told when it answered: `s` epoch `.` position `.` boot `.` live, and `.` inbox where
/// that is not the position.
///
/// Positions of another epoch mean nothing here: such a client gets a full answer. The live counter of
/// another boot means nothing either: what is ephemeral is told again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncToken {
    /// The epoch of the store.
    pub epoch: u64,
    /// Everything up to here was told.
    pub position: Position,
    /// The start of the server that counted `live`.
    pub boot: u64,
    /// Everything ephemeral up to here was told.
    pub live: u64,
    /// Messages to the device up to here were told. It lags behind while more wait than fit into an answer.
    pub inbox: Position,
}

impl SyncToken {
    /// The token of this moment.
    pub fn now(store: &Store) -> Self {
        let live = store.live().counter();
        let position = store.position();
        Self { epoch: store.epoch(), position, boot: store.boot(), live, inbox: position }
    }

    /// Reads a token, also a `pos` of sliding sync, which is one with a number behind it; `None` for what never
    /// was one.
    pub fn parse(text: &str) -> Option<Self> {
        let text = match text.split_once('~') {
            Some((token, number)) => number.parse::<u64>().ok().map(|_| token)?,
            None => text,
        };
        let mut parts = text.strip_prefix('s')?.split('.').map(|part| part.parse().ok());
        let (epoch, position) = (parts.next()??, Position(parts.next()??));
        let (boot, live) = (parts.next()??, parts.next()??);
        let inbox = match parts.next() {
            Some(inbox) => Position(inbox?),
            None => position,
        };
        let token = Self { epoch, position, boot, live, inbox };
        parts.next().is_none().then_some(token)
    }

    /// Whether this token was given by this store: positions of another epoch mean nothing here, and neither
    /// do those that this one has not reached.
    pub fn is_of(&self, store: &Store) -> bool {
        self.epoch == store.epoch() && self.position <= store.position()
    }

    /// The live counter that this token has reached in the present boot.
    pub fn live_now(&self, store: &Store) -> u64 {
        if self.boot == store.boot() { self.live } else { 0 }
    }
}

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}.{}.{}.{}", self.epoch, self.position, self.boot, self.live)?;
        match self.inbox == self.position {
            true => Ok(()),
            false => write!(f, ".{}", self.inbox),
        }
    }
}

/// A place between two events of a room's history: right before the event with this depth and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The depth of the event that comes next.
    pub depth: u64,
    /// Its number.
    pub event: EventNo,
}

impl Cursor {
    /// Before all events.
    pub const START: Self = Self { depth: 0, event: EventNo(0) };
    /// After all events.
    pub const END: Self = Self { depth: u64::MAX, event: EventNo(u64::MAX) };

    /// The place right after this event.
    pub fn after(depth: u64, event: EventNo) -> Self {
        Self { depth, event: EventNo(event.0.saturating_add(1)) }
    }

    /// Reads a cursor; `None` for what never was one.
    pub fn parse(text: &str) -> Option<Self> {
        let (depth, event) = text.strip_prefix('t')?.split_once('-')?;
        Some(Self { depth: depth.parse().ok()?, event: EventNo(event.parse().ok()?) })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}-{}", self.depth, self.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let token = SyncToken { epoch: 1, position: Position(22), boot: 333, live: 4, inbox: Position(22) };
        assert_eq!(token.to_string(), "s1.22.333.4");
        assert_eq!(SyncToken::parse("s1.22.333.4"), Some(token));
        let behind = SyncToken { inbox: Position(7), ..token };
        assert_eq!(behind.to_string(), "s1.22.333.4.7");
        assert_eq!(SyncToken::parse("s1.22.333.4.7"), Some(behind));
        assert_eq!(SyncToken::parse("s1.22.333.4~5"), Some(token));
        for wrong in ["", "s", "s1.2.3", "s1.2.3.4.", "s1.2.3.4~x", "s1.2.3.4.5.6", "1.2.3.4", "s1.2.3.x", "t1-2"] {
            assert_eq!(SyncToken::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let cursor = Cursor { depth: 7, event: EventNo(9) };
        assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        assert_eq!(Cursor::parse("t7"), None);
    }
}
