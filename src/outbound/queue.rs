//! What one server is still to be sent, and what goes out next.
//!
//! A queue is bounded. A server that was away for long does not get the flood: of each room it gets the newest
//! event, and asks for what is between if it cares.
//!
//! Spec: server-server-api#put_matrixfederationv1sendtxnid

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use http::StatusCode;

use crate::store::{
    Position,
    schema::{EventNo, RoomNo},
};

/// How many events a transaction may hold.
pub const MOST_PDUS: usize = 50;
/// How many ephemeral events a transaction may hold.
const MOST_EDUS: usize = 100;
/// How many events wait before only the newest of each room is kept.
const LONGEST: usize = 200;
/// How many ephemeral events that must arrive wait; the oldest beyond that are dropped.
const MOST_WAITING: usize = 5_000;
/// How many receipts wait; the oldest beyond that are dropped.
const MOST_RECEIPTS: usize = 100;
/// How many things are to be said by the way; the oldest beyond that are dropped.
const MOST_ASIDES: usize = 5;

/// After how many refusals a transaction is given up whose content the other server does not take.
const MOST_REFUSALS: u32 = 5;

/// Whether a transaction that a server has refused this often, the last time with `status`, is sent again as it is.
/// Some refusals are about what is in it: then it is sent in parts, and what comes after it must not wait for ever.
/// Others pass, such as that our keys cannot be had at the moment.
pub fn is_worth_another_try(status: StatusCode, refusals: u32, is_part: bool) -> bool {
    let about_the_content = [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY];
    // What is too large does not become smaller.
    let most = if is_part || status == StatusCode::PAYLOAD_TOO_LARGE { 1 } else { MOST_REFUSALS };
    refusals < most || !about_the_content.contains(&status)
}

/// Something for one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// An event of a room.
    Pdu(RoomNo, EventNo),
    /// An ephemeral event that must arrive: the row of the outbox at its position.
    Edu,
    /// An ephemeral event that is worth little when it is old, likewise.
    Receipt,
}

/// What one server is to be sent.
#[derive(Debug, Default)]
pub struct Queue {
    pdus: VecDeque<(Position, RoomNo, EventNo)>,
    /// After how many events the newest of each room are looked for again.
    many: usize,
    edus: VecDeque<Position>,
    receipts: VecDeque<Position>,
    /// Ephemeral events that may be lost, such as typing: not sent after a failure.
    passing: VecDeque<Arc<str>>,
    /// Ephemeral events that go out with whatever goes out next, likewise.
    asides: VecDeque<Arc<str>>,
    /// Whether the server is to hear that this one is there, likewise.
    greeting: bool,
    /// Whether something of it is of a small room.
    hurries: bool,
}

/// What goes into one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The events.
    pub pdus: Vec<EventNo>,
    /// The ephemeral events that are rows of the outbox.
    pub edus: Vec<Position>,
    /// Those that are not, as JSON texts.
    pub passing: Vec<Arc<str>>,
    /// Whether it goes out before what crowds are told.
    pub hurries: bool,
    /// Everything up to here has been sent once this batch has.
    pub up_to: Option<Position>,
}

impl Batch {
    /// Drops what is worth sending only at once; false if nothing is left.
    pub fn fade(&mut self) -> bool {
        self.passing.clear();
        !(self.pdus.is_empty() && self.edus.is_empty())
    }

    /// The same in two parts, if it has any.
    pub fn parts(mut self) -> Option<[Self; 2]> {
        let mut other = Self { hurries: self.hurries, ..Self::default() };
        match (self.pdus.len(), self.edus.len()) {
            (0, 0 | 1) | (1, 0) => return None,
            (0, edus) => other.edus = self.edus.split_off(edus / 2),
            (pdus, 0) => other.pdus = self.pdus.split_off(pdus / 2),
            _ => other.edus = std::mem::take(&mut self.edus),
        }
        self.passing.clear();
        Some([self, other])
    }
}

impl Queue {
    /// Puts something at the end. What has a position comes in the order of positions.
    pub fn push(&mut self, at: Position, item: Item) {
        match item {
            Item::Pdu(room, event) => self.pdus.push_back((at, room, event)),
            Item::Edu => self.edus.push_back(at),
            Item::Receipt => self.receipts.push_back(at),
        }
        if self.pdus.len() > self.many.max(LONGEST) {
            self.keep_newest();
            self.many = 2 * self.pdus.len();
        }
        if self.edus.len() > MOST_WAITING {
            self.edus.pop_front();
        }
        if self.receipts.len() > MOST_RECEIPTS {
            self.receipts.pop_front();
        }
    }

    /// Adds something that is worth sending now or never.
    pub fn pass(&mut self, json: Arc<str>) {
        if self.passing.len() < MOST_EDUS {
            self.passing.push_back(json);
        }
    }

    /// Adds something that is worth no transaction of its own.
    pub fn add_aside(&mut self, json: Arc<str>) {
        self.asides.push_back(json);
        if self.asides.len() > MOST_ASIDES {
            self.asides.pop_front();
        }
    }

    /// Lets the server know that this one is there, now or never.
    pub fn greet(&mut self) {
        self.greeting = true;
    }

    /// What waits does not go out behind what crowds are told.
    pub fn hurry(&mut self) {
        self.hurries = true;
    }

    /// Whether it does not.
    pub fn hurries(&self) -> bool {
        self.hurries
    }

    /// Keeps the newest event of each room.
    fn keep_newest(&mut self) {
        let mut seen = HashSet::new();
        let newest = self.pdus.drain(..).rev().filter(|(_, room, _)| seen.insert(*room));
        self.pdus = newest.collect();
        self.pdus.make_contiguous().reverse();
    }

    /// What is worth sending only now is dropped: the server does not answer.
    pub fn drop_passing(&mut self) {
        self.passing.clear();
        self.asides.clear();
        self.greeting = false;
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.owes_nothing() && self.passing.is_empty() && !self.greeting
    }

    /// Whether there is nothing that has to arrive.
    pub fn owes_nothing(&self) -> bool {
        self.pdus.is_empty() && self.edus.is_empty() && self.receipts.is_empty()
    }

    /// Takes what goes out next.
    pub fn take(&mut self) -> Option<Batch> {
        if self.is_empty() {
            return None;
        }
        let pdus: Vec<_> = self.pdus.drain(..self.pdus.len().min(MOST_PDUS)).collect();
        let mut edus: Vec<_> = self.edus.drain(..self.edus.len().min(MOST_EDUS)).collect();
        let room = MOST_EDUS - edus.len();
        edus.extend(self.receipts.drain(..self.receipts.len().min(room)));
        let room = MOST_EDUS - edus.len();
        let mut passing: Vec<_> = self.passing.drain(..self.passing.len().min(room)).collect();
        let room = room - passing.len();
        passing.extend(self.asides.drain(..self.asides.len().min(room)));
        let taken = pdus.last().map(|(at, ..)| *at).max(edus.iter().max().copied());
        // What still waits was put out before: only up to there everything has been sent.
        let waiting =
            [self.pdus.front().map(|(at, ..)| *at), self.edus.front().copied(), self.receipts.front().copied()];
        let before = waiting.into_iter().flatten().min().map(|at| Position(at.0.saturating_sub(1)));
        self.greeting = false;
        let hurries = self.hurries;
        self.hurries &= !self.owes_nothing();
        Some(Batch {
            pdus: pdus.into_iter().map(|(_, _, event)| event).collect(),
            edus,
            passing,
            hurries,
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
    fn only_what_nobody_takes_is_given_up() {
        let tries = |status| (1..100).take_while(|refusals| is_worth_another_try(status, *refusals, false)).count();
        assert_eq!(tries(StatusCode::BAD_REQUEST), 4);
        assert_eq!(tries(StatusCode::PAYLOAD_TOO_LARGE), 0);
        assert_eq!(tries(StatusCode::UNAUTHORIZED), 99);
        assert_eq!(tries(StatusCode::NOT_FOUND), 99);
    }

    #[test]
    fn the_parts_of_a_transaction_are_all_of_it() {
        let whole = Batch {
            pdus: (1..=5).map(EventNo).collect(),
            edus: (1..=3).map(Position).collect(),
            passing: vec!["{}".into()],
            ..Batch::default()
        };
        let (mut open, mut single) = (vec![whole], Vec::new());
        while let Some(batch) = open.pop() {
            match batch.clone().parts() {
                Some([one, other]) => open.extend([other, one]),
                None => single.push(batch),
            }
        }
        let pdus: Vec<_> = single.iter().flat_map(|batch| &batch.pdus).map(|event| event.0).collect();
        let edus: Vec<_> = single.iter().flat_map(|batch| &batch.edus).map(|at| at.0).collect();
        assert_eq!((single.len(), pdus, edus), (8, vec![1, 2, 3, 4, 5], vec![1, 2, 3]));
    }

    #[test]
    fn what_is_said_by_the_way_waits_for_something_else() {
        let mut queue = Queue::default();
        queue.add_aside("{}".into());
        assert!(queue.is_empty());
        queue.push(Position(1), pdu(1, 1));
        assert_eq!(queue.take().unwrap().passing, ["{}".into()]);
    }

    #[test]
    fn a_greeting_is_sent_alone_or_with_anything_else() {
        let mut queue = Queue::default();
        queue.greet();
        assert_eq!(queue.take(), Some(Batch::default()));
        queue.greet();
        queue.push(Position(1), pdu(1, 1));
        assert!(queue.take().is_some() && queue.is_empty());
    }

    #[test]
    fn many_rooms_each_keep_their_newest() {
        let mut queue = Queue::default();
        for n in 1..=2_000 {
            queue.push(Position(n), pdu(n % 300, n));
        }
        let sent: Vec<_> = std::iter::from_fn(|| queue.take()).flat_map(|batch| batch.pdus).collect();
        assert!(sent.len() <= 600, "{} events", sent.len());
        assert_eq!(sent[sent.len() - 300..], (1_701..=2_000).map(EventNo).collect::<Vec<_>>());
    }

    #[test]
    fn receipts_are_the_last_to_go_out_and_the_first_to_be_lost() {
        let mut queue = Queue::default();
        for n in 1..=300 {
            queue.push(Position(n), Item::Receipt);
        }
        queue.push(Position(301), Item::Edu);
        let batch = queue.take().unwrap();
        assert_eq!((batch.edus[0], batch.edus[1], batch.edus.len()), (Position(301), Position(201), 100));
        assert_eq!(batch.up_to, Some(Position(299)));
        assert_eq!(queue.take().unwrap().edus, [Position(300)]);
        assert!(queue.is_empty());
    }

    #[test]
    fn typing_is_dropped_when_nobody_answers() {
        let mut queue = Queue::default();
        queue.pass("{}".into());
        queue.drop_passing();
        assert!(queue.is_empty());
    }
}
