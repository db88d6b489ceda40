//! What a message leaves in the store, roughly: a compressed event and a dozen small rows around it.

use ingle::store::{Store, StoreError, Table, Ticket};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub struct Event {
    id: String,
    room: u64,
    json: String,
}

pub const EVENTS: Table<u64, Event> = Table::new("events");
pub const NUMBERS: Table<String, u64> = Table::new("event_numbers");
pub const TIMELINE: Table<(u64, u64), u64> = Table::new("timeline");
pub const HISTORY: Table<(u64, u64, u64), u64> = Table::new("history");
pub const HEADS: Table<u64, (u64, u64)> = Table::new("heads");
pub const TRANSACTIONS: Table<(u64, String), u64> = Table::new("transactions");
pub const UNREAD: Table<(u64, u64, u64), bool> = Table::new("unread");

/// A source of chance that is the same each time.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn base64(&mut self, length: usize) -> String {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        (0..length).map(|_| char::from(alphabet[usize::try_from(self.next() >> 58).unwrap_or(0)])).collect()
    }
}

/// The PDU of a message.
pub fn pdu(chance: &mut Chance) -> String {
    let ids: Vec<String> = (0..4).map(|_| format!("${}", chance.base64(43))).collect();
    let (words, hash, signature) = (chance.base64(60), chance.base64(43), chance.base64(86));
    serde_json::json!({
        "auth_events": ids[..3],
        "content": { "body": words, "m.mentions": {}, "msgtype": "m.text" },
        "depth": chance.next() % 100_000,
        "hashes": { "sha256": hash },
        "origin_server_ts": 1_700_000_000_000u64 + chance.next() % 1_000_000_000,
        "prev_events": ids[3..],
        "room_id": "!hXbUvGOzPcXTCpRtqPvGDqVpVnpTQoMwHYYjRQYbuvM",
        "sender": "@somebody:household.example.org",
        "signatures": { "household.example.org": { "ed25519:a_x7f2": signature } },
        "type": "m.room.message",
    })
    .to_string()
}

/// Puts the rows of one message into a Write of its own.
pub fn send(store: &Store, chance: &mut Chance) -> Result<Ticket, StoreError> {
    let mut write = store.write();
    message(&mut write, chance);
    write.commit()
}

/// Puts the rows of one message into a Write.
pub fn message(write: &mut ingle::store::Write, chance: &mut Chance) -> usize {
    let (room, number) = (chance.next() % 20, write.number());
    let id = format!("${}", chance.base64(43));
    let json = pdu(chance);
    let length = json.len();
    write.put(NUMBERS, &id, &number);
    write.put(EVENTS, &number, &Event { id, room, json });
    write.put(TRANSACTIONS, &(number % 8, chance.base64(20)), &number);
    write.put(HEADS, &room, &(number, number));
    let slot = write.slot();
    write.put_at(TIMELINE, slot, move |position| ((room, position.0), number));
    write.put_at(HISTORY, slot, move |position| ((room, position.0, number), position.0));
    for user in 0..7 {
        write.put_at(UNREAD, slot, move |position| ((user, room, position.0), true));
    }
    length
}
