//! Finding people: by name, and by the rooms that two of them share.
//!
//! Spec: client-server-api#user-directory, client-server-api#mutual-rooms

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId, UserId, events::room::member::MembershipState};

use super::{Rooms, access};
use crate::{
    error::Result,
    store::schema::{UserNo, numbers, rooms::MEMBERS, users::ACCOUNTS},
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

/// The people of this server, and those in rooms with the searcher, whose ID or words of whose name begin with the
/// words of the term. Returns whether there were more than `limit`.
pub fn search(rooms: &Rooms, searcher: UserNo, term: &str, limit: u64) -> Result<(Vec<Person>, bool)> {
    let term = term.trim().trim_start_matches('@').to_lowercase();
    let limit = usize::try_from(limit).unwrap_or(MOST_FOUND).min(MOST_FOUND);
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for row in rooms.store.scan(ACCOUNTS, &()).take(MOST_LOOKED_AT) {
        let (number, account) = row?;
        if account.deactivated || account.guest || account.locked || !seen.insert(number) {
            continue;
        }
        let Some(id) = numbers::user_id(&rooms.store, number)? else { continue };
        let profile = rooms.users.profile(&id)?;
        let person =
            Person { id, name: profile.displayname, avatar: profile.avatar_url.map(|avatar| avatar.to_string()) };
        found.extend(Some(person).filter(|person| fits(person, &term)));
    }
    for room in access::rooms_of(rooms, searcher, &MembershipState::Join)? {
        for row in rooms.store.scan(MEMBERS, &(room,)) {
            let ((_, number), row) = row?;
            if row.membership != MembershipState::Join || seen.len() >= MOST_LOOKED_AT || !seen.insert(number) {
                continue;
            }
            let Some(id) = numbers::user_id(&rooms.store, number)?.filter(|id| !rooms.is_local(id)) else { continue };
            let event = &rooms.known(row.event)?.event;
            let person =
                Person { id, name: event.content_field("displayname"), avatar: event.content_field("avatar_url") };
            found.extend(Some(person).filter(|person| fits(person, &term)));
        }
    }
    let limited = found.len() > limit;
    found.truncate(limit);
    Ok((found, limited))
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
