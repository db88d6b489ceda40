//! Which rooms a request wants to hear of, and what of each.
//!
//! Spec: MSC4186 (Lists and subscriptions)

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ptr,
    sync::Arc,
};

use ruma::events::room::member::MembershipState;
use serde::{Deserialize, de::IgnoredAny};

use super::{
    super::{Look, places::Place},
    connections::Told,
    request::{Config, Filters, Request},
    roster::Roster,
};
use crate::{
    error::Result,
    store::schema::{
        RoomNo, numbers,
        users::{ACCOUNT_DATA, GLOBAL},
    },
};

/// A room that a request wants to hear of.
#[derive(Debug)]
pub struct Match<'a> {
    /// The lists in whose ranges it is.
    pub lists: Vec<&'a str>,
    /// Whether the request names it.
    pub subscribed: bool,
    /// What is wanted of it.
    pub config: Arc<Config>,
}

/// What a request wants.
#[derive(Debug, Default)]
pub struct Matches<'a> {
    /// The rooms.
    pub rooms: BTreeMap<RoomNo, Match<'a>>,
    /// How many rooms there are in each list, whatever its ranges.
    pub counts: Vec<(&'a str, usize)>,
    /// What is wanted of rooms, each once.
    pub configs: Vec<Arc<Config>>,
    /// The rooms that are direct chats.
    pub direct: BTreeSet<String>,
}

impl<'a> Matches<'a> {
    /// Finds the rooms for the lists and subscriptions of a request.
    pub fn find(look: &Look<'_>, request: &'a Request, roster: &mut Roster, told: &Told) -> Result<Self> {
        let mut matches = Self { direct: direct(look)?, ..Self::default() };
        let mut wants = BTreeMap::<RoomNo, (Vec<&'a str>, bool, Vec<&'a Config>)>::new();
        let order: Vec<_> = roster.order().collect();
        for (name, list) in &request.lists {
            let (filters, children) = (&list.filters, children(look, &list.filters)?);
            let chosen = Chosen { look, filters, direct: &matches.direct, children };
            let mut count = 0;
            for room in &order {
                if !listed(look, roster, told, *room)? || !chosen.holds(roster, *room)? {
                    continue;
                }
                let place = count as u64;
                count += 1;
                if list.ranges.iter().any(|(first, last)| (*first..=*last).contains(&place)) {
                    let want = wants.entry(*room).or_default();
                    want.0.push(name);
                    want.2.push(&list.config);
                }
            }
            matches.counts.push((name, count));
        }
        for (id, config) in &request.subscriptions {
            let Ok(id) = <&ruma::RoomId>::try_from(id.as_str()) else { continue };
            let Some(room) = numbers::find_room(look.store(), id)? else { continue };
            if listed(look, roster, told, room)? || was_in(look, roster, room)? {
                let want = wants.entry(room).or_default();
                want.1 = true;
                want.2.push(config);
            }
        }
        // Of most rooms the same is wanted, which is then made and kept once, also from answer to answer.
        let mut made = HashMap::<Vec<*const Config>, Arc<Config>>::new();
        for (room, (lists, subscribed, configs)) in wants {
            let parts = configs.iter().map(|config| ptr::from_ref(*config)).collect();
            let config = Arc::clone(made.entry(parts).or_insert_with(|| matches.config(&configs, told)));
            matches.rooms.insert(room, Match { lists, subscribed, config });
        }
        Ok(matches)
    }

    /// Everything that these want.
    fn config(&mut self, parts: &[&Config], told: &Told) -> Arc<Config> {
        let config = parts.iter().fold(Config::default(), |all, part| all.union(part));
        let known = told.configs.iter().chain(&self.configs).find(|known| ***known == config);
        let config = known.map_or_else(|| Arc::new(config), Arc::clone);
        if !self.configs.iter().any(|kept| Arc::ptr_eq(kept, &config)) {
            self.configs.push(Arc::clone(&config));
        }
        config
    }
}

/// Whether a room is among those of which the user hears at all: a room that they left themselves is only
/// if the connection has told of it.
fn listed(look: &Look<'_>, roster: &mut Roster, told: &Told, room: RoomNo) -> Result<bool> {
    let Some(entry) = roster.get(room) else { return Ok(false) };
    match entry.row.membership {
        MembershipState::Join | MembershipState::Knock => Ok(true),
        MembershipState::Invite => {
            let sender = &look.rooms.known(entry.row.event)?.event.sender;
            Ok(look.ignored.is_empty() || !look.ignored.contains(sender))
        }
        _ if entry.row.forgotten => Ok(false),
        _ => Ok(told.rooms.contains_key(&room) || entry.removed(look)?),
    }
}

/// Whether the user was in a room before they left it, as who asks for it by its ID wants to know.
fn was_in(look: &Look<'_>, roster: &mut Roster, room: RoomNo) -> Result<bool> {
    let Some(entry) = roster.get(room).filter(|entry| !entry.row.forgotten) else { return Ok(false) };
    let place = Place { room, id: entry.id.clone(), row: entry.row.clone() };
    Ok(place.departure(look)?.is_some())
}

/// The filters of a list with what they need to know.
struct Chosen<'a> {
    look: &'a Look<'a>,
    filters: &'a Filters,
    direct: &'a BTreeSet<String>,
    children: Option<BTreeSet<String>>,
}

impl Chosen<'_> {
    fn holds(&self, roster: &mut Roster, room: RoomNo) -> Result<bool> {
        let Self { look, filters, .. } = *self;
        let Some(entry) = roster.get(room) else { return Ok(false) };
        let invited = entry.row.membership == MembershipState::Invite;
        if filters.is_invited.is_some_and(|wanted| wanted != invited)
            || filters.is_dm.is_some_and(|wanted| wanted != self.direct.contains(entry.id.as_str()))
            || self.children.as_ref().is_some_and(|children| !children.contains(entry.id.as_str()))
        {
            return Ok(false);
        }
        if let Some(wanted) = filters.is_encrypted
            && entry.encrypted(look, room)? != wanted
        {
            return Ok(false);
        }
        let listed = |list: &Option<Vec<Option<String>>>, kind: Option<&str>| {
            list.as_ref().map(|list| list.iter().any(|listed| listed.as_deref() == kind))
        };
        if filters.room_types.is_some() || filters.not_room_types.is_some() {
            let kind = entry.kind(look, room)?;
            // A client that names no type means all of them.
            let named = filters.room_types.as_ref().is_none_or(Vec::is_empty);
            if !(named || listed(&filters.room_types, kind) == Some(true))
                || listed(&filters.not_room_types, kind) == Some(true)
            {
                return Ok(false);
            }
        }
        if filters.tags.is_none() && filters.not_tags.is_none() {
            return Ok(true);
        }
        let tags = tags(look, room)?;
        let any = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.iter().any(|tag| tags.contains(tag)));
        Ok(any(&filters.tags) != Some(false) && any(&filters.not_tags) != Some(true))
    }
}

/// The IDs of the rooms that are direct chats.  Spec: client-server-api#mdirect
pub fn direct(look: &Look<'_>) -> Result<BTreeSet<String>> {
    let row = look.store().get(ACCOUNT_DATA, &(look.reader.number, GLOBAL, "m.direct".to_owned()))?;
    let rooms = row.and_then(|row| serde_json::from_str::<BTreeMap<String, Vec<String>>>(&row.json).ok());
    Ok(rooms.into_iter().flatten().flat_map(|(_, rooms)| rooms).collect())
}

/// The tags of a room.
fn tags(look: &Look<'_>, room: RoomNo) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Tags {
        tags: BTreeMap<String, IgnoredAny>,
    }
    let row = look.store().get(ACCOUNT_DATA, &(look.reader.number, room, "m.tag".to_owned()))?;
    let tags = row.and_then(|row| serde_json::from_str::<Tags>(&row.json).ok());
    Ok(tags.map(|tags| tags.tags.into_keys().collect()).unwrap_or_default())
}

/// The rooms in the spaces that a filter names, if it names any and the user is in them.
fn children(look: &Look<'_>, filters: &Filters) -> Result<Option<BTreeSet<String>>> {
    let Some(spaces) = &filters.spaces else { return Ok(None) };
    let mut children = BTreeSet::new();
    for space in spaces {
        let Ok(space) = <&ruma::RoomId>::try_from(space.as_str()) else { continue };
        let Ok(space) = look.rooms.joined(space, &look.reader.user) else { continue };
        for (key, number) in look.rooms.current(space.number)?.iter().filter(|(key, _)| !key.is_member()) {
            let _ = key;
            let event = &look.rooms.known(number)?.event;
            // A child without servers was taken out.
            if event.kind == "m.space.child" && event.content_field::<Vec<String>>("via").is_some() {
                children.extend(event.state_key.clone());
            }
        }
    }
    Ok(Some(children))
}
