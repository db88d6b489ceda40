//! Finding people: by name, and by the rooms that two of them share.
//!
//! Spec: client-server-api#user-directory, client-server-api#mutual-rooms

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId, UserId, events::room::member::MembershipState};

use super::{Rooms, access};
use crate::{
    error::Result,
    store::schema::{
        EventNo, RoomNo, UserNo, numbers,
        rooms::{MEMBERS, ROOMS},
        users::ACCOUNTS,
    },
};

/// How many people are looked at for one search.
const MOST_LOOKED_AT: usize = 20_000;
/// How many are found at most.
const MOST_FOUND: usize = 50;

/// Somebody who was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Who it is.
    pub id: OwnedUserId,
    /// The display name.
    pub name: Option<String>,
    /// The avatar.
    pub avatar: Option<String>,
}

/// The people in rooms with the searcher, and in rooms that everybody may join or read, whose ID or words of whose name
/// begin with the words of the term; everybody of this server as well, if the configuration says so. Returns whether
/// there were more than `limit`.
pub fn search(rooms: &Rooms, searcher: UserNo, term: &str, limit: u64) -> Result<(Vec<Person>, bool)> {
    let term = term.trim().trim_start_matches('@').to_lowercase();
    let limit = usize::try_from(limit).unwrap_or(MOST_FOUND).min(MOST_FOUND);
    let mut search = Search { rooms, term, found: Vec::new(), seen: BTreeSet::new() };
    for room in access::rooms_of(rooms, searcher, &MembershipState::Join)? {
        search.look_into(room)?;
    }
    for row in rooms.store.scan(ROOMS, &()) {
        let (room, _) = row?;
        if is_open(rooms, room)? {
            search.look_into(room)?;
        }
    }
    if rooms.config.directory.find_everyone {
        for row in rooms.store.scan(ACCOUNTS, &()).take(MOST_LOOKED_AT) {
            let (number, _) = row?;
            search.look_at(number, None)?;
        }
    }
    let Search { mut found, .. } = search;
    let limited = found.len() > limit;
    found.truncate(limit);
    Ok((found, limited))
}

/// Whether everybody may join or read a room.
fn is_open(rooms: &Rooms, room: RoomNo) -> Result<bool> {
    let state = rooms.current(room)?;
    let rule = rooms.in_state(&state, "m.room.join_rules", "")?;
    let rule = rule.and_then(|known| known.event.content_field::<String>("join_rule"));
    Ok(rule.as_deref() == Some("public") || access::is_world_readable(rooms, room)?)
}

/// A search under way.
struct Search<'a> {
    rooms: &'a Rooms,
    term: String,
    found: Vec<Person>,
    seen: BTreeSet<UserNo>,
}

impl Search<'_> {
    fn look_into(&mut self, room: RoomNo) -> Result<()> {
        for row in self.rooms.store.scan(MEMBERS, &(room,)) {
            let ((_, number), row) = row?;
            if row.membership == MembershipState::Join {
                self.look_at(number, Some(row.event))?;
            }
        }
        Ok(())
    }

    /// Looks at a person, once. What a room says of people of other servers stands in their `member` event.
    fn look_at(&mut self, number: UserNo, member: Option<EventNo>) -> Result<()> {
        if self.seen.len() >= MOST_LOOKED_AT || !self.seen.insert(number) {
            return Ok(());
        }
        let rooms = self.rooms;
        let Some(id) = numbers::user_id(&rooms.store, number)? else { return Ok(()) };
        let person = match (rooms.is_local(&id), member) {
            (true, _) => {
                let account = rooms.store.get(ACCOUNTS, &number)?;
                if account.is_none_or(|account| account.deactivated || account.guest || account.locked) {
                    return Ok(());
                }
                let profile = rooms.users.profile(&id)?;
                let avatar = profile.avatar_url.map(|avatar| avatar.to_string());
                Person { id, name: profile.displayname, avatar }
            }
            (false, Some(member)) => {
                let event = &rooms.known(member)?.event;
                Person { id, name: event.content_field("displayname"), avatar: event.content_field("avatar_url") }
            }
            (false, None) => return Ok(()),
        };
        if fits(&person, &self.term) {
            self.found.push(person);
        }
        Ok(())
    }
}

/// Every word of the term begins the ID, or the name or one of its words.
fn fits(person: &Person, term: &str) -> bool {
    let name = person.name.as_deref().unwrap_or_default().to_lowercase();
    let id = person.id.as_str().to_lowercase();
    let begins = |part: &str| id[1..].starts_with(part) || name.split_whitespace().any(|word| word.starts_with(part));
    !term.is_empty() && term.split_whitespace().all(begins)
}

/// The rooms that two users are both in.
pub fn mutual_rooms(rooms: &Rooms, one: UserNo, other: &UserId) -> Result<Vec<OwnedRoomId>> {
    let Some(other) = numbers::find_user(&rooms.store, other)? else { return Ok(Vec::new()) };
    let of_other: BTreeSet<_> = access::rooms_of(rooms, other, &MembershipState::Join)?.into_iter().collect();
    let mut shared = Vec::new();
    for room in access::rooms_of(rooms, one, &MembershipState::Join)? {
        if of_other.contains(&room) {
            shared.extend(numbers::room_id(&rooms.store, room)?);
        }
    }
    Ok(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_found_by_the_beginnings_of_words() {
        let name = Some("Bob the Great".to_owned());
        let person = Person { id: "@builder:b.example".try_into().unwrap(), name, avatar: None };
        for term in ["bob", "the great", "great bo", "build", "builder:b.example"] {
            assert!(fits(&person, term), "{term}");
        }
        for term in ["", "reat", "bob the small", "example"] {
            assert!(!fits(&person, term), "{term}");
        }
    }
}
