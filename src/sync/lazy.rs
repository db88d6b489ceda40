//! Which member events a device has been sent already, so that lazy loading does not repeat them.
//!
//! An entry counts only for a reader whose token shows that the answer with it arrived: an answer that was
//! lost on the way is made again in full. Bounded; what is forgotten is sent once more.
//!
//! Spec: client-server-api#lazy-loading-room-members

use std::collections::HashMap;

use parking_lot::Mutex;
use ruma::OwnedDeviceId;

use crate::store::{
    Position,
    schema::{RoomNo, StateKeyNo, UserNo},
};

/// How many entries are kept for all devices together.
const MOST: usize = 100_000;

/// A stream of answers: user, device, and what makes streams of one device different.
pub type Stream = (UserNo, OwnedDeviceId, u64);

/// Member events that an answer holds.
#[derive(Debug, Default)]
pub struct Members {
    /// Which.
    pub keys: Vec<(RoomNo, StateKeyNo)>,
    /// The rooms whose state the answer tells from the beginning: what was sent of them before is void.
    pub begun: Vec<RoomNo>,
}

/// The memory.
#[derive(Default)]
pub struct Sent(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    streams: HashMap<Stream, Kept>,
    entries: usize,
    uses: u64,
}

#[derive(Default)]
struct Kept {
    used: u64,
    sent: HashMap<(RoomNo, StateKeyNo), Position>,
}

impl Sent {
    /// Whether a reader who has answers up to `since` has the newest member event of this key.
    pub fn has(&self, stream: &Stream, room: RoomNo, member: StateKeyNo, since: Position) -> bool {
        let inner = self.0.lock();
        let sent = inner.streams.get(stream).and_then(|members| members.sent.get(&(room, member)));
        sent.is_some_and(|at| *at <= since)
    }

    /// Notes what an answer up to `at` holds. An answer from the beginning makes all before it void.
    pub fn note(&self, stream: &Stream, members: &Members, at: Position, from_the_beginning: bool) {
        let mut inner = self.0.lock();
        if from_the_beginning {
            inner.forget(stream);
        }
        if members.keys.is_empty() && members.begun.is_empty() {
            return;
        }
        inner.uses += 1;
        let used = inner.uses;
        let entry = inner.streams.entry(stream.clone()).or_default();
        entry.used = used;
        let before = entry.sent.len();
        if !members.begun.is_empty() {
            entry.sent.retain(|(room, _), _| !members.begun.contains(room));
        }
        for key in &members.keys {
            entry.sent.entry(*key).or_insert(at);
        }
        let after = entry.sent.len();
        inner.entries = inner.entries + after - before;
        while inner.entries > MOST {
            let oldest = inner.streams.iter().min_by_key(|(_, members)| members.used).map(|(stream, _)| stream.clone());
            let Some(oldest) = oldest else { break };
            inner.forget(&oldest);
        }
    }
}

impl Inner {
    fn forget(&mut self, stream: &Stream) {
        if let Some(members) = self.streams.remove(stream) {
            self.entries -= members.sent.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: RoomNo = RoomNo(1);
    const BOB: StateKeyNo = StateKeyNo(3);

    fn bob() -> Members {
        Members { keys: vec![(ROOM, BOB)], begun: vec![] }
    }

    fn stream(device: &str) -> Stream {
        (UserNo(1), device.into(), 0)
    }

    #[test]
    fn what_was_sent_counts_once_it_has_arrived() {
        let sent = Sent::default();
        sent.note(&stream("A"), &bob(), Position(5), false);
        assert!(!sent.has(&stream("A"), ROOM, BOB, Position(4)));
        assert!(sent.has(&stream("A"), ROOM, BOB, Position(5)));
        assert!(!sent.has(&stream("B"), ROOM, BOB, Position(5)));
    }

    #[test]
    fn who_begins_again_has_nothing() {
        let sent = Sent::default();
        sent.note(&stream("A"), &bob(), Position(5), false);
        sent.note(&stream("A"), &Members::default(), Position(6), true);
        assert!(!sent.has(&stream("A"), ROOM, BOB, Position(6)));
    }

    #[test]
    fn a_room_that_begins_again_has_nothing() {
        let sent = Sent::default();
        sent.note(&stream("A"), &bob(), Position(5), false);
        sent.note(&stream("A"), &Members { keys: vec![], begun: vec![ROOM] }, Position(6), false);
        assert!(!sent.has(&stream("A"), ROOM, BOB, Position(6)));
    }

    #[test]
    fn memory_is_bounded() {
        let sent = Sent::default();
        let keys = (0..60_000).map(|key| (ROOM, StateKeyNo(key))).collect();
        let members = Members { keys, begun: vec![] };
        for device in ["A", "B", "C"] {
            sent.note(&stream(device), &members, Position(1), false);
        }
        assert_eq!(sent.0.lock().entries, 60_000);
        assert!(sent.has(&stream("C"), ROOM, BOB, Position(1)));
        assert!(!sent.has(&stream("A"), ROOM, BOB, Position(1)));
    }
}
