//! What waits to be taken in, in memory: the rows are the truth, and this says where to look.
//!
//! Servers take turns: whoever sends much that nobody can complete waits longer for it, and others do not. Where
//! there is no more space, whoever has taken most of it gives way.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedServerName, ServerName};
use tokio::sync::Notify;

use crate::{
    error::{Error, Result},
    store::schema::RoomNo,
};

/// The rooms in which something waits.
#[derive(Default)]
pub(super) struct Queues {
    rooms: Mutex<HashMap<RoomNo, Queue>>,
    pub news: Notify,
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub in_room: usize,
    pub in_all: usize,
    /// How many rows give way at a time.
    pub give_way: usize,
}

/// What waits in one room.
#[derive(Default)]
struct Queue {
    rows: BTreeMap<u64, Waiting>,
    /// The rows, by event.
    by_id: HashMap<OwnedEventId, u64>,
    /// Rows that are left alone, by an event that they are waiting for.
    waits: HashMap<OwnedEventId, Vec<u64>>,
    /// When to look at the room.
    due: Option<u64>,
    /// Whether somebody does so now.
    busy: bool,
}

/// A row: an event that has been promised.
struct Waiting {
    id: OwnedEventId,
    origin: OwnedServerName,
    /// When to try it again.
    retry: u64,
}

/// A row that has to give way.
pub(super) type GivesWay = (RoomNo, u64);

impl Queue {
    /// Takes a row out, and lets those be tried that have waited for its event.
    fn take_out(&mut self, id: &OwnedEventId) {
        if let Some(row) = self.by_id.remove(id) {
            self.rows.remove(&row);
        }
        for row in self.waits.remove(id).unwrap_or_default() {
            if let Some(waiting) = self.rows.get_mut(&row) {
                waiting.retry = 0;
                self.due = Some(0);
            }
        }
    }
}

impl Queues {
    /// Makes space for an event of `origin`: returns the rows that give way for it, and whose they are.
    ///
    /// Errors: 429 `M_LIMIT_EXCEEDED` if nobody has taken more of the space than this server.
    pub fn make_space(
        &self,
        room: RoomNo,
        origin: &ServerName,
        bounds: Bounds,
        later: std::time::Duration,
    ) -> Result<Option<(OwnedServerName, Vec<GivesWay>)>> {
        let mut rooms = self.rooms.lock();
        let here = rooms.get(&room).map_or(0, |queue| queue.rows.len());
        let all: usize = rooms.values().map(|queue| queue.rows.len()).sum();
        if here < bounds.in_room && all < bounds.in_all {
            return Ok(None);
        }
        let counts = |number: &RoomNo| here < bounds.in_room || *number == room;
        let mut taken = BTreeMap::<&ServerName, usize>::new();
        let queues = rooms.iter().filter(|(number, _)| counts(number));
        for waiting in queues.flat_map(|(_, queue)| queue.rows.values()) {
            *taken.entry(&waiting.origin).or_default() += 1;
        }
        let most = taken.iter().max_by_key(|(_, count)| **count).map(|(server, _)| (*server).to_owned());
        let Some(most) = most.filter(|most| *most != *origin) else { return Err(Error::limit_exceeded(later)) };
        let mut gone = Vec::new();
        for (number, queue) in rooms.iter_mut().filter(|(number, _)| counts(number)) {
            // What has waited for long is the likeliest to be completed.
            let newest = queue.rows.iter().rev().filter(|(_, waiting)| waiting.origin == most);
            let rows: Vec<_> =
                newest.take(bounds.give_way - gone.len()).map(|(row, it)| (*row, it.id.clone())).collect();
            for (row, id) in rows {
                queue.take_out(&id);
                gone.push((*number, row));
            }
        }
        Ok(Some((most, gone)))
    }

    /// Notes a row; false if the event has one already.
    pub fn add(&self, room: RoomNo, id: &OwnedEventId, origin: &ServerName, row: u64) -> bool {
        let mut rooms = self.rooms.lock();
        let queue = rooms.entry(room).or_default();
        let new = !queue.by_id.contains_key(id);
        if new {
            queue.by_id.insert(id.clone(), row);
            queue.rows.insert(row, Waiting { id: id.clone(), origin: origin.to_owned(), retry: 0 });
        }
        new
    }

    /// An event is in the room, or gone for good: it has no row, and nobody waits for it.
    pub fn done(&self, room: RoomNo, id: &OwnedEventId) {
        let mut rooms = self.rooms.lock();
        let Some(queue) = rooms.get_mut(&room) else { return };
        queue.take_out(id);
        if queue.due == Some(0) {
            self.news.notify_one();
        }
    }

    /// A row that is no more.
    pub fn drop_row(&self, room: RoomNo, row: u64) {
        let mut rooms = self.rooms.lock();
        let Some(queue) = rooms.get_mut(&room) else { return };
        if let Some(waiting) = queue.rows.remove(&row) {
            queue.by_id.remove(&waiting.id);
        }
    }

    /// Leaves a row alone until its time has come, or one of these events; false if it is no more.
    pub fn put_off(&self, room: RoomNo, row: u64, retry: u64, waits_for: Vec<OwnedEventId>) -> bool {
        let mut rooms = self.rooms.lock();
        let Some(queue) = rooms.get_mut(&room) else { return false };
        let Some(waiting) = queue.rows.get_mut(&row) else { return false };
        waiting.retry = retry;
        for id in waits_for {
            let waiting = queue.waits.entry(id).or_default();
            if !waiting.contains(&row) {
                waiting.push(row);
            }
        }
        true
    }

    /// The rows of a room whose time has come, of every server its oldest first and then the next, and when the time
    /// of another row comes.
    pub fn due(&self, room: RoomNo, now: u64) -> (Vec<u64>, Option<u64>) {
        let rooms = self.rooms.lock();
        let Some(queue) = rooms.get(&room) else { return (Vec::new(), None) };
        let mut turns = HashMap::<&ServerName, usize>::new();
        let (mut due, mut next) = (Vec::new(), None::<u64>);
        for (row, waiting) in &queue.rows {
            if waiting.retry > now {
                next = Some(next.map_or(waiting.retry, |next| next.min(waiting.retry)));
                continue;
            }
            let turn = turns.entry(&waiting.origin).or_default();
            due.push((*turn, *row));
            *turn += 1;
        }
        due.sort_unstable();
        (due.into_iter().map(|(_, row)| row).collect(), next)
    }

    /// Lets somebody look at the room, now or later.
    pub fn wake(&self, room: RoomNo, when: u64) {
        let mut rooms = self.rooms.lock();
        let queue = rooms.entry(room).or_default();
        queue.due = Some(queue.due.map_or(when, |due| due.min(when)));
        drop(rooms);
        self.news.notify_one();
    }

    /// A room to look at, for the caller alone until [`Queues::rest`].
    pub fn next(&self, now: u64) -> Option<RoomNo> {
        let mut rooms = self.rooms.lock();
        let due = |queue: &Queue| !queue.busy && queue.due.is_some_and(|due| due <= now);
        let (room, queue) = rooms.iter_mut().find(|(_, queue)| due(queue))?;
        queue.busy = true;
        queue.due = None;
        Some(*room)
    }

    /// Nobody looks at the room any more; at `next` somebody should.
    pub fn rest(&self, room: RoomNo, next: Option<u64>) {
        let mut rooms = self.rooms.lock();
        let Some(queue) = rooms.get_mut(&room) else { return };
        queue.busy = false;
        queue.due = queue.due.into_iter().chain(next).min();
        if queue.rows.is_empty() {
            rooms.remove(&room);
        }
    }

    /// When the next room is to be looked at that nobody looks at.
    pub fn next_due(&self) -> Option<u64> {
        self.rooms.lock().values().filter(|queue| !queue.busy).filter_map(|queue| queue.due).min()
    }

    /// Begins with what an earlier run has left. What was missing may have come while nobody looked.
    pub fn load(&self, rows: impl IntoIterator<Item = (RoomNo, u64, OwnedEventId, OwnedServerName)>) {
        self.rooms.lock().values_mut().for_each(|queue| queue.busy = false);
        for (room, row, id, origin) in rows {
            self.add(room, &id, &origin, row);
            self.wake(room, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ROOM: RoomNo = RoomNo(1);
    const BOUNDS: Bounds = Bounds { in_room: 4, in_all: 100, give_way: 2 };

    fn id(row: u64) -> OwnedEventId {
        format!("${row}").try_into().unwrap()
    }

    fn server(name: &str) -> &ServerName {
        name.try_into().unwrap()
    }

    /// Rows of these servers, numbered from 1.
    fn queues(origins: &str) -> Queues {
        let queues = Queues::default();
        for (row, origin) in (1..).zip(origins.split_whitespace()) {
            assert!(queues.add(ROOM, &id(row), server(origin), row));
        }
        queues
    }

    #[test]
    fn servers_take_turns() {
        assert_eq!(queues("a a a b a c b").due(ROOM, 0).0, [1, 4, 6, 2, 7, 3, 5]);
    }

    #[test]
    fn a_row_waits_for_its_time_or_for_what_it_needs() {
        let queues = queues("a a");
        assert!(queues.put_off(ROOM, 1, 50, vec![id(9)]));
        assert_eq!(queues.due(ROOM, 10), (vec![2], Some(50)));
        assert_eq!(queues.due(ROOM, 50), (vec![1, 2], None));
        queues.done(ROOM, &id(9));
        assert_eq!(queues.due(ROOM, 10), (vec![1, 2], None));
        queues.done(ROOM, &id(1));
        queues.drop_row(ROOM, 2);
        assert_eq!(queues.due(ROOM, 10), (vec![], None));
    }

    #[test]
    fn whoever_has_taken_most_of_the_space_gives_way() {
        let space = |queues: &Queues, origin| queues.make_space(ROOM, server(origin), BOUNDS, Duration::ZERO);
        assert_eq!(space(&queues("a a a"), "b").unwrap(), None);
        let full = queues("a a a b");
        assert!(space(&full, "a").is_err());
        let (whose, gone) = space(&full, "b").unwrap().unwrap();
        assert_eq!((whose.as_str(), gone), ("a", vec![(ROOM, 3), (ROOM, 2)]));
        assert_eq!(full.due(ROOM, 0).0, [1, 4]);
        // Where all rooms together hold too much, it is the same in all of them.
        let bounds = Bounds { in_room: 100, in_all: 4, ..BOUNDS };
        let full = queues("a b");
        (5..=8).for_each(|row| assert!(full.add(RoomNo(2), &id(row), server("a"), row)));
        let (whose, gone) = full.make_space(ROOM, server("b"), bounds, Duration::ZERO).unwrap().unwrap();
        assert_eq!((whose.as_str(), gone.len()), ("a", 2));
    }
}
