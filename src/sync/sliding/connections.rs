//! What clients were told on each of their connections, in memory.
//!
//! A connection remembers the answer that its client has, and those that were made of it since: until the
//! client comes with the `pos` of one, each may have been lost. There may be several, for a client that gave up
//! waiting and asked something else may be answered twice. What is remembered is cheap to lose: a client whose
//! `pos` is unknown begins again.
//!
//! Spec: MSC4186 (Connections)

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use imbl::OrdMap;
use parking_lot::Mutex;
use ruma::{OwnedDeviceId, events::room::member::MembershipState};

use super::request::Config;
use crate::{
    error::{Error, Result},
    rooms::token::SyncToken,
    store::{
        Position,
        schema::{RoomNo, UserNo},
    },
};

/// How many connections are remembered for all clients together.
const MOST_CONNECTIONS: usize = 1_000;
/// How many connections one device may have.
const MOST_OF_DEVICE: usize = 10;
/// How many answers are remembered of which it is not known whether they arrived.
const MOST_SENT: usize = 4;
/// How many rooms are remembered for all connections together.
const MOST_ROOMS: usize = 300_000;

/// Which connection: user, device, name.
pub type Name = (UserNo, OwnedDeviceId, String);

/// What a client was told with one answer and all before it.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// The moment of the answer; nothing before the first.
    pub now: Option<SyncToken>,
    /// The rooms.
    pub rooms: OrdMap<RoomNo, Room>,
    /// The rooms that matched the request.
    pub matched: Arc<BTreeSet<RoomNo>>,
    /// What was wanted of these.
    pub configs: Vec<Arc<Config>>,
    /// Where extensions told of what is besides rooms.
    pub covered: Covered,
    /// The request that was answered.
    pub request: u64,
    /// How many rooms there were in each list.
    pub counts: Vec<(String, usize)>,
}

/// The rooms in which each extension was wanted; nothing for one that was not enabled.
#[derive(Debug, Clone, Default)]
pub struct Covered {
    pub account_data: Option<Arc<BTreeSet<RoomNo>>>,
    pub receipts: Option<Arc<BTreeSet<RoomNo>>>,
    pub typing: Option<Arc<BTreeSet<RoomNo>>>,
}

/// What a client was told of a room.
#[derive(Debug, Clone)]
pub struct Room {
    /// Everything up to here was told.
    pub at: Position,
    /// What is besides the room (account data, receipts) was told up to here, unless the room still matches.
    pub besides: Position,
    /// The counter of what is ephemeral, likewise.
    pub live: u64,
    /// What was wanted then.
    pub config: Arc<Config>,
    /// Where the user stood.
    pub membership: MembershipState,
    /// Whether it was a direct chat.
    pub direct: bool,
}

/// All connections.
#[derive(Default)]
pub struct Connections {
    inner: Mutex<HashMap<Name, Connection>>,
    numbers: AtomicU64,
}

#[derive(Default)]
struct Connection {
    /// When it was used, as a number that grows.
    used: u64,
    /// The answer that the client has.
    has: (u64, Told),
    /// The answers that it may have, oldest first.
    sent: VecDeque<(u64, Told)>,
}

impl Connections {
    /// What a client was told that comes with this `pos`, or begins.
    ///
    /// Errors: 400 `M_UNKNOWN_POS`.
    pub fn find(&self, name: &Name, pos: Option<&str>) -> Result<Told> {
        let mut inner = self.inner.lock();
        let Some(pos) = pos else {
            inner.remove(name);
            return Ok(Told::default());
        };
        let number = pos.rsplit_once('~').and_then(|(_, number)| number.parse::<u64>().ok());
        let connection = inner.get_mut(name).ok_or_else(unknown)?;
        if let Some(at) = connection.sent.iter().position(|(sent, _)| Some(*sent) == number)
            && let Some(sent) = connection.sent.remove(at)
        {
            connection.has = sent;
            connection.sent.clear();
        }
        match Some(connection.has.0) == number {
            true => Ok(connection.has.1.clone()),
            false => Err(unknown()),
        }
    }

    /// The number of an answer that is about to be made.
    pub fn next(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Remembers an answer, in place of what it would have been before.
    pub fn keep(&self, name: &Name, number: u64, told: Told) {
        let mut inner = self.inner.lock();
        let connection = inner.entry(name.clone()).or_default();
        connection.used = number;
        connection.sent.retain(|(sent, _)| *sent != number);
        connection.sent.push_back((number, told));
        if connection.sent.len() > MOST_SENT {
            connection.sent.pop_front();
        }
        let of_device = |other: &Name| (other.0, &other.1) == (name.0, &name.1);
        while inner.keys().filter(|other| of_device(other)).count() > MOST_OF_DEVICE {
            forget(&mut inner, name, of_device);
        }
        while inner.len() > MOST_CONNECTIONS || inner.values().map(Connection::rooms).sum::<usize>() > MOST_ROOMS {
            if !forget(&mut inner, name, |_| true) {
                break;
            }
        }
    }
}

impl Connection {
    fn rooms(&self) -> usize {
        // What is remembered several times is shared.
        self.sent.back().map_or(self.has.1.rooms.len(), |(_, told)| told.rooms.len())
    }
}

/// Forgets the connection that was not used for the longest time, except one.
fn forget(all: &mut HashMap<Name, Connection>, except: &Name, of: impl Fn(&Name) -> bool) -> bool {
    let others = all.iter().filter(|(name, _)| *name != except && of(name));
    let Some(oldest) = others.min_by_key(|(_, connection)| connection.used).map(|(name, _)| name.clone()) else {
        return false;
    };
    all.remove(&oldest).is_some()
}

fn unknown() -> Error {
    Error::bad_request("M_UNKNOWN_POS", "this server does not remember this pos; begin again without one")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(connection: &str) -> Name {
        (UserNo(1), "DEVICE".into(), connection.to_owned())
    }

    fn told(request: u64) -> Told {
        Told { request, ..Told::default() }
    }

    #[test]
    fn an_answer_that_was_lost_is_made_again_from_the_one_before() {
        let connections = Connections::default();
        connections.keep(&name("a"), 1, told(1));
        assert_eq!(connections.find(&name("a"), Some("s1.2.3.4~1")).unwrap().request, 1);
        connections.keep(&name("a"), 2, told(2));
        assert_eq!(connections.find(&name("a"), Some("s1.2.3.4~1")).unwrap().request, 1);
        assert_eq!(connections.find(&name("a"), Some("s1.2.3.4~2")).unwrap().request, 2);
        assert_eq!(connections.find(&name("a"), Some("s1.2.3.4~1")).unwrap_err().errcode, "M_UNKNOWN_POS");
    }

    #[test]
    fn the_answer_to_a_request_that_was_given_up_is_not_in_the_way() {
        let connections = Connections::default();
        connections.keep(&name("a"), 1, told(1));
        connections.find(&name("a"), Some("s1.2.3.4~1")).unwrap();
        connections.keep(&name("a"), 2, told(2));
        connections.keep(&name("a"), 3, told(3));
        assert_eq!(connections.find(&name("a"), Some("s1.2.3.4~2")).unwrap().request, 2);
        assert_eq!(connections.find(&name("a"), Some("s1.2.3.4~3")).unwrap_err().errcode, "M_UNKNOWN_POS");
    }

    #[test]
    fn who_begins_again_has_nothing() {
        let connections = Connections::default();
        connections.keep(&name("a"), 1, told(1));
        assert_eq!(connections.find(&name("a"), None).unwrap().request, 0);
        assert!(connections.find(&name("a"), Some("s1.2.3.4~1")).is_err());
    }

    #[test]
    fn memory_is_bounded() {
        let connections = Connections::default();
        for n in 0..50 {
            connections.keep(&name(&n.to_string()), n, told(n));
        }
        assert_eq!(connections.inner.lock().len(), MOST_OF_DEVICE);
        assert!(connections.find(&name("49"), Some("s~49")).is_ok());
    }
}
