//! What an answer of sliding sync brings besides rooms: messages for the device, keys, account data, receipts
//! and typing.
//!
//! A room that matches the request is told of what happened since the answer before. One that did not match
//! for a while is told of everything since then, and one that is new of everything there is.
//!
//! Spec: MSC3885 (to-device), MSC3884 (end-to-end encryption), MSC3959 (account data), MSC3960 (receipts),
//! MSC3961 (typing)

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use super::{
    super::{
        Look, account, devices,
        ephemeral::{self, comma},
        filter::EventFilter,
        places::Place,
    },
    connections::{Covered, Told},
    lists::Matches,
    request::{InRooms, Request},
};
use crate::{
    e2ee::inbox,
    error::Result,
    protocol::canonical::write_string,
    rooms::token::SyncToken,
    store::{
        Position, Store,
        schema::{RoomNo, users::GLOBAL},
    },
};

/// How many receipts are told of a room that is new to the client.
const MOST_RECEIPTS: usize = 100;

/// What is needed to tell what is besides rooms.
pub struct Ask<'a> {
    /// The look.
    pub look: &'a Look<'a>,
    /// What is asked.
    pub request: &'a Request,
    /// The rooms that match.
    pub matches: &'a Matches<'a>,
    /// The same with their IDs.
    pub places: &'a BTreeMap<RoomNo, Place>,
    /// What the client has.
    pub told: &'a Told,
}

/// The extensions of an answer.
pub struct Besides {
    /// The JSON object.
    pub text: String,
    /// Whether anything in it is news.
    pub news: bool,
    /// Where it was looked for.
    pub covered: Covered,
}

/// Where a client stands that comes with `since`; from the beginning if that is of another store.
pub fn inbox_position(store: &Store, since: Option<&str>) -> Position {
    let parse = |text: &str| {
        let (epoch, position) = text.split_once('.')?;
        (epoch.parse() == Ok(store.epoch())).then(|| position.parse().ok().map(Position))?
    };
    since.and_then(parse).filter(|position| *position <= store.position()).unwrap_or_default()
}

impl Ask<'_> {
    /// Writes all extensions that the request enables. `supply` is what the client knows of its keys.
    pub fn write(&self, supply: &str) -> Result<Besides> {
        let mut besides = Besides { text: String::from("{"), news: false, covered: Covered::default() };
        self.to_device(&mut besides)?;
        self.e2ee(supply, &mut besides)?;
        self.account_data(&mut besides)?;
        self.receipts(&mut besides)?;
        self.typing(&mut besides)?;
        besides.text.push('}');
        Ok(besides)
    }

    fn to_device(&self, besides: &mut Besides) -> Result<()> {
        let wanted = &self.request.extensions.to_device;
        if wanted.enabled != Some(true) {
            return Ok(());
        }
        let Look { reader, now, .. } = self.look;
        let store = self.look.store();
        let from = inbox_position(store, wanted.since.as_deref());
        let limit = usize::try_from(wanted.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).clamp(1, inbox::LIMIT);
        let batch = inbox::read(store, reader.number, reader.device.as_str(), from, now.position, limit)?;
        besides.news |= !batch.events.is_empty();
        let (epoch, through) = (store.epoch(), batch.through);
        let events = batch.events.join(",");
        besides.put("to_device", &format!("{{\"next_batch\":\"{epoch}.{through}\",\"events\":[{events}]}}"));
        Ok(())
    }

    fn e2ee(&self, supply: &str, besides: &mut Besides) -> Result<()> {
        if self.request.extensions.e2ee.enabled != Some(true) {
            return Ok(());
        }
        let store = self.look.store();
        let mut out = String::new();
        if let Some(since) = self.told.now {
            let lists = devices::lists(store, self.look.reader, since.position, self.look.now.position)?;
            besides.news |= lists.is_some();
            lists.into_iter().for_each(|lists| out = format!(",\"device_lists\":{lists}"));
        }
        let now = devices::supply(store, self.look.reader)?;
        besides.news |= now != supply;
        out.push_str(&now);
        besides.put("e2ee", &format!("{{{}}}", out.trim_start_matches(',')));
        Ok(())
    }

    fn account_data(&self, besides: &mut Besides) -> Result<()> {
        let wanted = &self.request.extensions.account_data;
        if !wanted.enabled() {
            return Ok(());
        }
        let all = EventFilter::default();
        let before = &self.told.covered.account_data;
        let since = self.told.now.filter(|_| before.is_some());
        let mut changed = account::data(self.look, since.map(|now| now.position))?;
        let mut parts = Vec::new();
        let mut global = String::new();
        if account::write(&mut global, &changed.remove(&GLOBAL).unwrap_or_default(), &all) {
            parts.push(format!("\"global\":[{global}]"));
        }
        let rooms = self.each(wanted, before, &mut besides.covered.account_data, |place, since| {
            let data = match since.is_fresh {
                true => account::of_room(self.look, place.room)?,
                false => changed.remove(&place.room).unwrap_or_default(),
            };
            let mut events = String::new();
            Ok(account::write(&mut events, &data, &all).then(|| format!("[{events}]")))
        })?;
        parts.extend(rooms.map(|rooms| format!("\"rooms\":{rooms}")));
        besides.put_news("account_data", parts);
        Ok(())
    }

    fn receipts(&self, besides: &mut Besides) -> Result<()> {
        let wanted = &self.request.extensions.receipts;
        if !wanted.enabled() {
            return Ok(());
        }
        let store = self.look.store();
        let before = &self.told.covered.receipts;
        let rooms = self.each(wanted, before, &mut besides.covered.receipts, |place, since| {
            if store.wakers().newest_in(place.room) <= since.position {
                return Ok(None);
            }
            let mut receipts = ephemeral::receipts(self.look, place.room, since.position)?;
            if since.position == Position(0) {
                receipts.keep_newest(MOST_RECEIPTS, self.look.reader.number);
            }
            // There is place for one event.
            Ok(receipts.events(self.look)?.into_iter().next())
        })?;
        besides.put_news("receipts", rooms.map(|rooms| format!("\"rooms\":{rooms}")));
        Ok(())
    }

    fn typing(&self, besides: &mut Besides) -> Result<()> {
        let wanted = &self.request.extensions.typing;
        if !wanted.enabled() {
            return Ok(());
        }
        let before = &self.told.covered.typing;
        let rooms = self.each(wanted, before, &mut besides.covered.typing, |place, since| {
            ephemeral::typing(self.look, place.room, since.live, false)
        })?;
        besides.put_news("typing", rooms.map(|rooms| format!("\"rooms\":{rooms}")));
        Ok(())
    }

    /// Writes something for each room in which an extension is wanted; nothing if there is nothing. `before` is
    /// where it was wanted until now, and `covered` learns where it is.
    fn each(
        &self,
        wanted: &InRooms,
        before: &Option<Arc<BTreeSet<RoomNo>>>,
        covered: &mut Option<Arc<BTreeSet<RoomNo>>>,
        mut write: impl FnMut(&Place, Since) -> Result<Option<String>>,
    ) -> Result<Option<String>> {
        let mut out = String::new();
        let mut first = true;
        let mut rooms = Vec::new();
        for (room, matched) in &self.matches.rooms {
            let Some(place) = self.places.get(room) else { continue };
            if !wanted.covers(place.id.as_str(), &matched.lists, matched.subscribed) {
                continue;
            }
            rooms.push(*room);
            if let Some(text) = write(place, self.since(*room, before.as_deref()))? {
                comma(&mut out, &mut first);
                write_string(&mut out, place.id.as_str());
                out.push(':');
                out.push_str(&text);
            }
        }
        *covered = Some(match before {
            Some(before) if before.iter().eq(&rooms) => Arc::clone(before),
            _ => Arc::new(rooms.into_iter().collect()),
        });
        Ok((!first).then(|| format!("{{{out}}}")))
    }

    /// What the client knows of what is besides a room, where an extension told of it in the rooms `before`.
    fn since(&self, room: RoomNo, before: Option<&BTreeSet<RoomNo>>) -> Since {
        let known = |now: SyncToken| (now.position, now.live_now(self.look.store()));
        match (self.told.now, self.told.rooms.get(&room), before) {
            (Some(now), _, Some(before)) if before.contains(&room) => {
                let (position, live) = known(now);
                Since { position, live, is_fresh: false }
            }
            (_, Some(told), Some(_)) if !self.told.matched.contains(&room) => {
                Since { position: told.besides, live: told.live, is_fresh: true }
            }
            _ => Since { position: Position(0), live: 0, is_fresh: true },
        }
    }
}

/// What a client knows of what is besides a room.
#[derive(Clone, Copy)]
struct Since {
    position: Position,
    live: u64,
    /// Whether the room did not match when the answer before was made.
    is_fresh: bool,
}

impl Besides {
    fn put(&mut self, name: &str, text: &str) {
        let comma = if self.text.len() > 1 { "," } else { "" };
        let _ = write!(self.text, "{comma}\"{name}\":{text}");
    }

    /// Puts an object of these parts, if there are any.
    fn put_news(&mut self, name: &str, parts: impl IntoIterator<Item = String>) {
        let parts: Vec<_> = parts.into_iter().collect();
        if !parts.is_empty() {
            self.news = true;
            self.put(name, &format!("{{{}}}", parts.join(",")));
        }
    }
}
