//! What one server is still to be sent, and what goes out next.
//!
//! A queue is bounded. A server that was away for long does not get the flood: of each room it gets the newest
//! event, and asks for what is between if it cares.
//!
//! Spec: server-server-api#put_matrixfederationv1sendtxnid

use std::collections::VecDeque;

use crate::store::{
    Position,
    schema::{EventNo, RoomNo},
};

/// How many events a transaction may hold.
const MOST_PDUS: usize = 50;
/// How many ephemeral events a transaction may hold.
const MOST_EDUS: usize = 100;
/// How many events wait before only the newest of each room is kept.
const LONGEST: usize = 200;
/// How many ephemeral events that are rows wait; the oldest beyond that are dropped.
const MOST_WAITING: usize = 5_000;

/// Something for one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// An event of a room.
    Pdu(RoomNo, EventNo),
    /// An ephemeral event that must arrive: the row of the outbox at its position.
    Edu,
}

/// What one server is to be sent.
#[derive(Debug, Default)]
pub struct Queue {
    pdus: VecDeque<(Position, RoomNo, EventNo)>,
    edus: VecDeque<Position>,
    /// Ephemeral events that may be lost, such as typing: not sent after a failure.
    passing: VecDeque<String>,
}

/// What goes into one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The events.
    pub pdus: Vec<EventNo>,
    /// The ephemeral events that are rows of the outbox.
    pub edus: Vec<Position>,
    /// Those that are not, as JSON texts.
    pub passing: Vec<String>,
    /// Everything up to here has been sent once this batch has.
    pub up_to: Option<Position>,
}

impl Queue {
    /// Puts something at the end. What has a position comes in the order of positions.
    pub fn push(&mut self, at: Position, item: Item) {
        match item {
            Item::Pdu(room, event) => self.pdus.push_back((at, room, event)),
            Item::Edu => self.edus.push_back(at),
        }
        if self.pdus.len() > LONGEST {
            self.keep_newest();
        }
        if self.edus.len() > MOST_WAITING {
            self.edus.pop_front();
        }
    }

    /// Adds something that is worth sending now or never.
    pub fn pass(&mut self, json: String) {
        if self.passing.len() < MOST_EDUS {
            self.passing.push_back(json);
        }
    }

    /// Keeps the newest event of each room.
    fn keep_newest(&mut self) {
        let mut seen = Vec::new();
        let mut newest: VecDeque<_> = VecDeque::new();
        for entry in self.pdus.drain(..).rev() {
            if !seen.contains(&entry.1) {
                seen.push(entry.1);
                newest.push_front(entry);
            }
        }
        self.pdus = newest;
    }

    /// What is worth sending only now is dropped: the server does not answer.
    pub fn drop_passing(&mut self) {
        self.passing.clear();
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.pdus.is_empty() && self.edus.is_empty() && self.passing.is_empty()
    }

    /// Takes what goes out next.
    pub fn take(&mut self) -> Option<Batch> {
        if self.is_empty() {
            return None;
        }
        let pdus: Vec<_> = self.pdus.drain(..self.pdus.len().min(MOST_PDUS)).collect();
        let edus: Vec<_> = self.edus.drain(..self.edus.len().min(MOST_EDUS)).collect();
        let room = MOST_EDUS - edus.len();
        let passing: Vec<_> = self.passing.drain(..self.passing.len().min(room)).collect();
        let taken = pdus.last().map(|(at, ..)| *at).max(edus.last().copied());
        // What still waits was put out before: only up to there everything has been sent.
        let waiting = [self.pdus.front().map(|(at, ..)| *at), self.edus.front().copied()];
        let before = waiting.into_iter().flatten().min().map(|at| Position(at.0.saturating_sub(1)));
        Some(Batch {
            pdus: pdus.into_iter().map(|(_, _, event)| event).collect(),
            edus,
            passing,
            up_to: taken.map(|taken| before.map_or(taken, |before| taken.min(before))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pdu(room: u64, event: u64) -> Item {
        Item::Pdu(RoomNo(room), EventNo(event))
    }

    #[test]
    fn a_transaction_is_no_larger_than_it_may_be() {
        let mut queue = Queue::default();
        for n in 1..=120 {
            queue.push(Position(n), pdu(1, n));
        }
        let sizes: Vec<_> = std::iter::from_fn(|| queue.take()).map(|batch| batch.pdus.len()).collect();
        assert_eq!(sizes, [50, 50, 20]);
    }

    #[test]
    fn after_a_long_silence_only_the_newest_of_each_room_is_sent() {
        let mut queue = Queue::default();
        for n in 1..=201 {
            queue.push(Position(n), pdu(n % 3, n));
        }
        let batch = queue.take().unwrap();
        assert_eq!(batch.pdus, [EventNo(199), EventNo(200), EventNo(201)]);
        assert_eq!(batch.up_to, Some(Position(201)));
    }

    #[test]
    fn what_still_waits_is_not_counted_as_sent() {
        let mut queue = Queue::default();
        for n in 1..=60 {
            queue.push(Position(n), pdu(1, n));
        }
        queue.push(Position(61), Item::Edu);
        assert_eq!(queue.take().unwrap().up_to, Some(Position(50)));
        assert_eq!(queue.take().unwrap().up_to, Some(Position(60)));
    }

    #[test]
    fn typing_is_dropped_when_nobody_answers() {
        let mut queue = Queue::default();
        queue.pass("{}".to_owned());
        queue.drop_passing();
        assert!(queue.is_empty());
    }
}
