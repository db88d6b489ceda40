//! Who is typing, who has read what, and how much is unread.
//!
//! Spec: client-server-api#typing-notifications, client-server-api#receipts,
//! client-server-api#receiving-notifications

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use ruma::OwnedUserId;

use super::Look;
use crate::{
    error::Result,
    protocol::canonical::write_string,
    store::{
        Position,
        schema::{
            EventNo, RoomNo, UserNo, numbers,
            rooms::{RECEIPTS, ReceiptRow},
        },
    },
};

/// The users who are typing, as an event; nothing if that is what the reader knows.
///
/// `since` is the counter that the reader has seen in this boot. One who comes from another boot may
/// believe in people who were typing then, and `corrects` that.
pub fn typing(look: &Look<'_>, room: RoomNo, since: u64, corrects: bool) -> Result<Option<String>> {
    let typing = match look.store().live().typing_since(room, since) {
        None if corrects => Vec::new(),
        None => return Ok(None),
        Some(typing) if typing.is_empty() && since == 0 && !corrects => return Ok(None),
        Some(typing) => typing,
    };
    let mut out = String::from("{\"type\":\"m.typing\",\"content\":{\"user_ids\":[");
    let mut first = true;
    for user in typing {
        if let Some(user) = numbers::user_id(look.store(), user)? {
            comma(&mut out, &mut first);
            write_string(&mut out, user.as_str());
        }
    }
    out.push_str("]}}");
    Ok(Some(out))
}

/// Receipts that came after a position.
#[derive(Default)]
pub struct Receipts {
    rows: Vec<ReceiptRow>,
    /// Whether the reader has read something, maybe on another device.
    pub own: bool,
}

/// The receipts of a room that came after `since`: everybody's, but private ones only to their own user.
pub fn receipts(look: &Look<'_>, room: RoomNo, since: Position) -> Result<Receipts> {
    let after = Position(since.0.saturating_add(1));
    let mut receipts = Receipts::default();
    for row in look.store().range(RECEIPTS, &(room, after), &(RoomNo(room.0 + 1),)) {
        let (_, row) = row?;
        let own = row.user == look.reader.number;
        receipts.own |= own;
        if own || row.kind != "m.read.private" {
            receipts.rows.push(row);
        }
    }
    Ok(receipts)
}

impl Receipts {
    /// Leaves out all but the newest, and those of one user.
    pub fn keep_newest(&mut self, most: usize, own: UserNo) {
        let first = self.rows.len().saturating_sub(most);
        let mut at = 0;
        self.rows.retain(|row| {
            at += 1;
            at > first || row.user == own
        });
    }

    /// The receipts as events. Mostly it is one; but where somebody has read the same event in several
    /// threads, an object has place for one of them only.
    pub fn events(&self, look: &Look<'_>) -> Result<Vec<String>> {
        type Of<'a> = BTreeMap<&'a str, BTreeMap<&'a str, BTreeMap<OwnedUserId, &'a ReceiptRow>>>;
        let mut users = HashMap::<UserNo, Option<OwnedUserId>>::new();
        let mut events: Vec<Of<'_>> = Vec::new();
        for row in &self.rows {
            let user = match users.get(&row.user) {
                Some(user) => user.clone(),
                None => {
                    let user = numbers::user_id(look.store(), row.user)?;
                    users.entry(row.user).or_insert(user).clone()
                }
            };
            let Some(user) = user else { continue };
            let taken = |of: &Of<'_>| {
                let kinds = of.get(row.event.as_str()).and_then(|kinds| kinds.get(row.kind.as_str()));
                kinds.is_some_and(|users| users.contains_key(&user))
            };
            let place = match events.iter().position(|of| !taken(of)) {
                Some(place) => place,
                None => {
                    events.push(Of::new());
                    events.len() - 1
                }
            };
            events[place].entry(row.event.as_str()).or_default().entry(&row.kind).or_default().insert(user, row);
        }
        Ok(events.iter().map(write_receipts).collect())
    }
}

fn write_receipts(of: &BTreeMap<&str, BTreeMap<&str, BTreeMap<OwnedUserId, &ReceiptRow>>>) -> String {
    let out = &mut String::from("{\"type\":\"m.receipt\",\"content\":{");
    let mut first = true;
    for (event, kinds) in of {
        comma(out, &mut first);
        write_string(out, event);
        out.push_str(":{");
        let mut first = true;
        for (kind, users) in kinds {
            comma(out, &mut first);
            write_string(out, kind);
            out.push_str(":{");
            let mut first = true;
            for (user, row) in users {
                comma(out, &mut first);
                write_string(out, user.as_str());
                let _ = write!(out, ":{{\"ts\":{}", row.ts);
                if let Some(thread) = &row.thread {
                    out.push_str(",\"thread_id\":");
                    write_string(out, thread);
                }
                out.push('}');
            }
            out.push('}');
        }
        out.push('}');
    }
    out.push_str("}}");
    std::mem::take(out)
}

/// How many events notify, and how many of them highlight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub notify: u64,
    pub highlight: u64,
}

/// What is unread in a room: outside of threads, and by thread.
pub fn unread(look: &Look<'_>, room: RoomNo) -> Result<(Count, BTreeMap<EventNo, Count>)> {
    let (mut main, mut threads) = (Count::default(), BTreeMap::<EventNo, Count>::new());
    let tally = look.rooms.unread.of(look.store(), look.reader.number, room)?;
    for item in tally.items() {
        let count = match item.thread {
            Some(thread) => threads.entry(thread).or_default(),
            None => &mut main,
        };
        count.notify += 1;
        count.highlight += u64::from(item.highlight);
    }
    Ok((main, threads))
}

/// Writes `,"unread_notifications":…`, split by thread or all in one.
pub fn write_unread(look: &Look<'_>, room: RoomNo, by_thread: bool, out: &mut String) -> Result<()> {
    let (mut main, threads) = unread(look, room)?;
    if !by_thread {
        for count in threads.values() {
            main.notify += count.notify;
            main.highlight += count.highlight;
        }
    }
    out.push_str(",\"unread_notifications\":");
    write_count(out, main);
    if !by_thread {
        return Ok(());
    }
    out.push_str(",\"unread_thread_notifications\":{");
    let mut first = true;
    for (thread, count) in threads.into_iter().filter(|(_, count)| count.notify + count.highlight > 0) {
        if let Some(thread) = numbers::event_id(look.store(), thread)? {
            comma(out, &mut first);
            write_string(out, thread.as_str());
            out.push(':');
            write_count(out, count);
        }
    }
    out.push('}');
    Ok(())
}

fn write_count(out: &mut String, count: Count) {
    let _ = write!(out, "{{\"highlight_count\":{},\"notification_count\":{}}}", count.highlight, count.notify);
}

/// Appends a comma, but not before the first of a list.
pub fn comma(out: &mut String, first: &mut bool) {
    if !std::mem::take(first) {
        out.push(',');
    }
}
