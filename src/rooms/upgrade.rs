//! Upgrading a room: a new one of another version takes its place.
//!
//! The new room and a row that says what is left to do are one `Write`; then the names move, then the old room is
//! closed, and the row goes. A stop in the middle is made up for at the next start ([`resume`]). Whoever joins the new
//! room takes along how they had arranged the old one ([`carry_over`]).
//!
//! Spec: client-server-api#room-upgrades

use std::sync::Arc;

use ruma::{
    OwnedUserId, RoomId, RoomVersionId, UserId,
    api::client::room::create_room::v3::{CreationContent, Request, RoomPreset},
    serde::Raw,
};
use serde_json::{Value as Json, json, value::RawValue};

use super::{Room, Rooms, append::NewEvent, create, policy};
use crate::{
    error::{Error, Result},
    protocol::{
        auth::create::creators,
        canonical::{self, Numbers, Object, Value},
        version::{self, Rules},
    },
    store::{
        Ticket,
        schema::{
            RoomNo, UserNo, numbers,
            rooms::{ALIASES, PUBLISHED, ROOM_ALIASES, UPGRADES, UpgradeRow},
        },
    },
    users::account_data,
};

/// The state that moves to the new room, with an empty state key. Power levels come last: until then the creator
/// may do everything.
const MOVED: &[&str] = &[
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
];
/// How many children of a space move along.
const MOST_CHILDREN: usize = 150;

/// Replaces a room by a new one of this version and returns the new one.
///
/// Errors: 400 `M_UNSUPPORTED_ROOM_VERSION`; 403 `M_FORBIDDEN` for those who may not close the old room.
/// Spec: client-server-api#post_matrixclientv3roomsroomidupgrade
pub async fn upgrade(
    rooms: &Rooms,
    user: &UserId,
    old: &RoomId,
    version: &RoomVersionId,
    additional: &[OwnedUserId],
) -> Result<Arc<Room>> {
    let Some(rules) = version::rules(version) else {
        let message = format!("this server has no rooms of version {version}");
        return Err(Error::bad_request("M_UNSUPPORTED_ROOM_VERSION", message));
    };
    let old = rooms.joined(old, user)?;
    let state = rooms.current(old.number)?;
    if !rooms.power_levels(&old, &state)?.can_send(user, "m.room.tombstone", true) {
        return Err(Error::forbidden("you may not close this room, and so you cannot upgrade it"));
    }
    if let Some(begun) = rooms.store.get(UPGRADES, &old.number)? {
        finish(rooms, &old, &begun).await?;
        let new = rooms.open(begun.new)?.filter(|new| new.version == *version);
        if let Some(new) = new.filter(|_| begun.by == *user) {
            return Ok(new);
        }
    }
    let new = begin(rooms, &old, user, request(rooms, &old, user, rules, additional)?).await?;
    if let Some(begun) = rooms.store.get(UPGRADES, &old.number)? {
        finish(rooms, &old, &begun).await?;
    }
    Ok(new)
}

/// The new room, and what is to be done then.
async fn begin(rooms: &Rooms, old: &Room, user: &UserId, request: Request) -> Result<Arc<Room>> {
    let (new, ticket) = create::create_with(rooms, user, request, |write, new| {
        write.put(UPGRADES, &old.number, &UpgradeRow { new: new.number, by: user.to_owned() });
        Ok(())
    })?;
    ticket.published().await?;
    Ok(new)
}

/// Finishes what a stop of the server has interrupted.
pub async fn resume(rooms: &Rooms) -> Result<()> {
    let begun: Vec<_> = rooms.store.scan(UPGRADES, &()).collect::<Result<_, _>>()?;
    for (old, begun) in begun {
        let Some(old) = rooms.open(old)? else { continue };
        // The others are not to wait for this one.
        if let Err(error) = finish(rooms, &old, &begun).await {
            tracing::warn!(room = %old.id, "the upgrade of a room is not finished: {error}");
        }
    }
    Ok(())
}

/// Moves the names to the new room and closes the old one. What is done already is not done again.
async fn finish(rooms: &Rooms, old: &Room, begun: &UpgradeRow) -> Result<()> {
    let user = &begun.by;
    if let Some(new) = rooms.open(begun.new)? {
        if let Some(ticket) = move_names(rooms, old.number, new.number)? {
            ticket.published().await?;
        }
        let canonical = rooms.in_state(&rooms.current(old.number)?, "m.room.canonical_alias", "")?;
        if let Some(canonical) = canonical {
            let content = object(canonical.event.content())?;
            if !content.is_empty() {
                put(rooms, &new, user, "m.room.canonical_alias", content).await?;
                put(rooms, old, user, "m.room.canonical_alias", Object::new()).await?;
            }
        }
        close(rooms, old, &new, user).await?;
        if let Some(number) = numbers::find_user(&rooms.store, user)? {
            carry_over(rooms, number, &new).await?;
        }
    }
    let ticket = {
        let mut write = rooms.store.write();
        write.delete(UPGRADES, &old.number);
        write.commit()?
    };
    ticket.published().await?;
    Ok(())
}

fn object(json: &str) -> Result<Object> {
    canonical::parse_object(json.as_bytes(), Numbers::Lax).map_err(Error::internal)
}

/// Sends a state event if the user may, and if it is not there.
async fn put(rooms: &Rooms, room: &Room, user: &UserId, kind: &str, content: Object) -> Result<()> {
    let attempt = || {
        let mut deciding = rooms.decide(room);
        if let Some(known) = deciding.state(kind, "")?
            && object(known.event.content())? == content
        {
            return Ok(None);
        }
        deciding.send(NewEvent::state(user, kind, "", content.clone()))?;
        deciding.commit().map(Some)
    };
    match policy::approved(rooms, attempt).await {
        Ok(Some(ticket)) => drop(ticket.published().await?),
        Ok(None) => {}
        Err(error) if error.errcode == "M_FORBIDDEN" => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The wish for the new room.
fn request(rooms: &Rooms, old: &Room, user: &UserId, rules: &Rules, additional: &[OwnedUserId]) -> Result<Request> {
    let head = rooms.published(old.number)?;
    let state = rooms.state(head.state)?;
    let create = rooms.in_state(&state, "m.room.create", "")?;
    let create = create.ok_or_else(|| Error::internal(format!("room {} has no create event", old.id)))?;
    let mut predecessor = json!({ "room_id": old.id });
    if !rules.room_id_is_hash
        && let Some(last) = head.extremities.last()
    {
        predecessor["event_id"] = json!(rooms.known(*last)?.event.event_id);
    }
    let mut creation = json!({ "predecessor": predecessor });
    for field in ["type", "m.federate"] {
        if let Some(value) = create.event.content_value(field) {
            creation[field] = serde_json::to_value(&value).map_err(Error::internal)?;
        }
    }
    if rules.privileged_creators && !additional.is_empty() {
        creation["additional_creators"] = json!(additional);
    }
    let mut initial = Vec::new();
    for kind in MOVED {
        if let Some(known) = rooms.in_state(&state, kind, "")? {
            initial.push(event(kind, "", known.event.content()));
        }
    }
    for (_, number) in state.iter() {
        let known = rooms.known(number)?;
        if let Some(("m.space.child", child)) = known.event.key()
            && known.event.content_value("via").is_some()
            && initial.len() < MOVED.len() + MOST_CHILDREN
        {
            initial.push(event("m.space.child", child, known.event.content()));
        }
    }
    if let Some(levels) = rooms.in_state(&state, "m.room.power_levels", "")? {
        let mut levels = object(levels.event.content())?;
        if let Some(Value::Object(users)) = levels.get_mut("users") {
            let old_creators = creators(old.rules, &create.event);
            if rules.privileged_creators {
                users.retain(|named, _| named != user.as_str() && !additional.iter().any(|other| other == named));
            } else if old.rules.privileged_creators {
                // Power that was unlimited gets a number again.
                users.extend(old_creators.iter().map(|creator| (creator.to_string(), Value::Int(100))));
            }
        } else if old.rules.privileged_creators && !rules.privileged_creators {
            levels.insert("users".to_owned(), Object::from([(user.to_string(), Value::Int(100))]).into());
        }
        if old.rules.privileged_creators && !rules.privileged_creators {
            within_reach(&mut levels);
        }
        initial.push(event("m.room.power_levels", "", &canonical::write_object(&levels)));
    }
    let mut request = Request::new();
    request.room_version = Some(rules.id());
    request.preset = Some(RoomPreset::PrivateChat);
    request.creation_content = Some(Raw::<CreationContent>::from_json(raw(&creation.to_string())?));
    request.initial_state = initial.iter().map(|event| Ok(Raw::from_json(raw(event)?))).collect::<Result<Vec<_>>>()?;
    Ok(request)
}

/// Where nobody has unlimited power, a level above the creator's would be out of everybody's reach.
fn within_reach(levels: &mut Object) {
    for value in levels.values_mut() {
        match value {
            Value::Int(level) => *level = (*level).min(100),
            Value::Object(inner) => within_reach(inner),
            _ => {}
        }
    }
}

fn event(kind: &str, state_key: &str, content: &str) -> String {
    format!("{{\"type\":{},\"state_key\":{},\"content\":{content}}}", json!(kind), json!(state_key))
}

fn raw(json: &str) -> Result<Box<RawValue>> {
    RawValue::from_string(json.to_owned()).map_err(Error::internal)
}

/// The names and the place in the directory go to the new room.
fn move_names(rooms: &Rooms, old: RoomNo, new: RoomNo) -> Result<Option<Ticket>> {
    let _one_at_a_time = rooms.aliases.lock();
    let mut write = rooms.store.write();
    let mut moved = false;
    for ((_, alias), ()) in write.scan(ROOM_ALIASES, &(old,))? {
        if let Some(mut row) = write.get(ALIASES, &alias)? {
            row.room = new;
            write.put(ALIASES, &alias, &row);
            write.delete(ROOM_ALIASES, &(old, alias.clone()));
            write.put(ROOM_ALIASES, &(new, alias), &());
            moved = true;
        }
    }
    if write.get(PUBLISHED, &old)?.is_some() {
        write.delete(PUBLISHED, &old);
        write.put(PUBLISHED, &new, &());
        moved = true;
    }
    moved.then(|| write.commit()).transpose().map_err(Into::into)
}

/// Says in the old room where the new one is, and lets nobody talk there any more who has no power.
async fn close(rooms: &Rooms, old: &Room, new: &Room, user: &UserId) -> Result<()> {
    let tombstone = json!({ "body": "This room has been replaced", "replacement_room": new.id });
    let tombstone = canonical::to_object(&tombstone).map_err(Error::internal)?;
    put(rooms, old, user, "m.room.tombstone", tombstone).await?;
    let state = rooms.current(old.number)?;
    let Some(levels) = rooms.in_state(&state, "m.room.power_levels", "")? else { return Ok(()) };
    let mut content = object(levels.event.content())?;
    let level = |name: &str| content.get(name).and_then(Value::as_int).unwrap_or(0);
    let closed = 50.max(level("users_default") + 1);
    let (events, invite) = (level("events_default").max(closed), level("invite").max(closed));
    content.insert("events_default".to_owned(), Value::Int(events));
    content.insert("invite".to_owned(), Value::Int(invite));
    put(rooms, old, user, "m.room.power_levels", content).await
}

/// Gives a local user who has joined a room that replaces another one their tags and push rules of the old one.
pub async fn carry_over(rooms: &Rooms, user: UserNo, room: &Room) -> Result<()> {
    let state = rooms.current(room.number)?;
    let create = rooms.in_state(&state, "m.room.create", "")?;
    let old = create.and_then(|known| known.event.content_value("predecessor"));
    let old = old.as_ref().and_then(|old| old.get("room_id")?.as_str()).and_then(|id| <&RoomId>::try_from(id).ok());
    let Some(old) = old else { return Ok(()) };
    let Some(number) = numbers::find_room(&rooms.store, old)? else { return Ok(()) };
    let tags = account_data::find(&rooms.users, user, Some(number), "m.tag")?;
    if let Some(tags) = tags
        && account_data::find(&rooms.users, user, Some(room.number), "m.tag")?.is_none()
    {
        account_data::set(&rooms.users, user, Some(room.number), "m.tag", tags).await?;
    }
    let rules = account_data::find(&rooms.users, user, None, "m.push_rules")?;
    let rules: Option<Json> = rules.and_then(|rules| serde_json::from_str(&rules).ok());
    if let Some(mut rules) = rules
        && copy_rules(&mut rules, old.as_str(), room.id.as_str())
    {
        account_data::set(&rooms.users, user, None, "m.push_rules", rules.to_string()).await?;
    }
    Ok(())
}

/// Copies the push rule of a room, if it has one, to another that has none. Returns whether there is anything new.
fn copy_rules(rules: &mut Json, old: &str, new: &str) -> bool {
    let Some(list) = rules.get_mut("global").and_then(|global| global.get_mut("room")?.as_array_mut()) else {
        return false;
    };
    let find = |list: &[Json], id: &str| list.iter().find(|rule| rule["rule_id"] == id).cloned();
    match (find(list, old), find(list, new)) {
        (Some(mut rule), None) => {
            rule["rule_id"] = json!(new);
            list.insert(0, rule);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rooms::tests::{new_room, rooms, user};

    #[tokio::test]
    async fn an_upgrade_that_a_stop_has_interrupted_is_finished_once() {
        let rooms = rooms();
        let ann = user(&rooms, "ann");
        let mut wish = Request::new();
        wish.room_alias_name = Some("kitchen".to_owned());
        let old = new_room(&rooms, &ann, wish);
        let rules = version::rules(&RoomVersionId::V11).unwrap();
        let new = begin(&rooms, &old, &ann, request(&rooms, &old, &ann, rules, &[]).unwrap()).await.unwrap();
        let names = |room: &Room| rooms.store.scan(ROOM_ALIASES, &(room.number,)).count();
        let replaced_by = || {
            let tombstone = rooms.in_state(&rooms.current(old.number).unwrap(), "m.room.tombstone", "").unwrap();
            tombstone.and_then(|known| known.event.content_field::<String>("replacement_room"))
        };
        assert_eq!((names(&old), names(&new), replaced_by()), (1, 0, None));
        resume(&rooms).await.unwrap();
        assert_eq!((names(&old), names(&new), replaced_by()), (0, 1, Some(new.id.to_string())));
        let (state, depth) = (rooms.current(old.number).unwrap().number, rooms.published(new.number).unwrap().depth);
        // The row is gone; and if it were not, nothing would happen twice.
        assert_eq!(rooms.store.scan(UPGRADES, &()).count(), 0);
        finish(&rooms, &old, &UpgradeRow { new: new.number, by: ann }).await.unwrap();
        assert_eq!(rooms.current(old.number).unwrap().number, state);
        assert_eq!(rooms.published(new.number).unwrap().depth, depth);
    }
}
