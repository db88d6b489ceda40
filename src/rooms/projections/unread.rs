//! What people are told of: the push rules of every local member are evaluated once, with the event.
//!
//! An event that notifies somebody is one row for all of them ([`NOTIFIED`]), from where `push` takes it; it is unread
//! until they have read past it. Whoever sends an event has read up to it. The reading side is [`crate::rooms::unread`].
//!
//! Spec: client-server-api#receiving-notifications

use std::collections::HashSet;

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};
use serde::{Deserialize, de::IgnoredAny};

use crate::{
    error::{Error, Result},
    protocol::{
        event::Event,
        push::{Actions, Context, Subject, evaluate},
    },
    rooms::{
        Rooms,
        append::{Appended, StateDelta},
        cache::power_levels,
        projections::relations,
    },
    store::{
        Position, Slot, StoreError, Table, Write,
        schema::{
            EventNo, RoomNo, UserNo, numbers,
            push::{EVERY_THREAD, MAIN_TIMELINE, NOTIFIED, NotifiedRow, SPOKE_AT, Told},
            users::{ACCOUNT_DATA, GLOBAL},
        },
    },
    users::push_rules,
};

/// How many relations lead from an event to its thread at most.  Spec: client-server-api#receiving-notifications
const MOST_STEPS: usize = 3;

/// Notes the event for those whom it concerns.
pub fn project(write: &mut Write, appended: &Appended<'_>) -> Result<()> {
    let event = appended.event;
    let sender = numbers::user(write, &event.sender)?;
    let mut thread = None;
    if appended.rooms.is_local(&event.sender) {
        // Who talks in a thread has not read what was said beside it, and the other way round.
        let own = *thread.get_or_insert(thread_of(write, appended)?);
        spoke(write, appended, sender, own)?;
    }
    let subject = Subject::new(event);
    let mut levels = None;
    let mut told = Vec::new();
    for user in concerned(write, appended)?.into_iter().filter(|user| *user != sender) {
        let Some(id) = write.get(numbers::USERS, &user)? else { continue };
        let rules = push_rules::of(&appended.rooms.users, user, &id)?;
        if levels.is_none() && (rules.asks.power_levels || mentions_the_room(event)) {
            levels = Some(power_levels(appended.room.rules, |kind| appended.state(write, kind, ""))?);
        }
        let name = if rules.asks.display_name { display_name(write, appended, &id)? } else { None };
        let context = Context {
            user: &id,
            display_name: name.as_deref(),
            member_count: appended.head.members.0,
            power_levels: levels.as_ref(),
        };
        let actions = evaluate(&rules, &subject, &context);
        if actions.notify() && !ignores(write, user, &event.sender)? {
            tell(&mut told, user, &actions)?;
        }
    }
    if told.is_empty() {
        return Ok(());
    }
    let thread = thread.map_or_else(|| thread_of(write, appended), Ok)?;
    let (place, number) = ((appended.room.number, appended.slot), appended.number);
    let (ts, call) = (appended.rooms.clock.now(), event.kind == "m.call.invite");
    note(write, place, NotifiedRow { event: number, ts, thread, call, told });
    Ok(())
}

/// The local users whose push rules are asked: those in the room, and whoever is invited by the event.
fn concerned(write: &mut Write, appended: &Appended<'_>) -> Result<Vec<UserNo>> {
    let mut users: Vec<UserNo> = appended.head.locals.iter().copied().collect();
    if appended.event.kind == "m.room.member"
        && appended.event.membership() == Some(MembershipState::Invite)
        && let Some(guest) = appended.event.state_key.as_deref().and_then(|key| <&UserId>::try_from(key).ok())
        && appended.rooms.is_local(guest)
    {
        users.push(numbers::user(write, guest)?);
    }
    Ok(users)
}

/// Notifies a local user of an invite into a room that this server is not in.
pub fn invited(
    write: &mut Write,
    rooms: &Rooms,
    user: UserNo,
    invite: (RoomNo, EventNo, &Event),
    slot: Slot,
) -> Result<()> {
    let (room, number, event) = invite;
    let Some(id) = write.get(numbers::USERS, &user)? else { return Ok(()) };
    if event.membership() != Some(MembershipState::Invite) || ignores(write, user, &event.sender)? {
        return Ok(());
    }
    let rules = push_rules::of(&rooms.users, user, &id)?;
    let subject = Subject::new(event);
    let context = Context { user: &id, display_name: None, member_count: 0, power_levels: None };
    let actions = evaluate(&rules, &subject, &context);
    if actions.notify() {
        let mut told = Vec::new();
        tell(&mut told, user, &actions)?;
        let ts = rooms.clock.now();
        note(write, (room, slot), NotifiedRow { event: number, ts, thread: None, call: false, told });
    }
    Ok(())
}

/// Adds a user to those who are told of an event.
fn tell(told: &mut Vec<Told>, user: UserNo, actions: &Actions<'_>) -> Result<()> {
    let plain = actions.list.len() == 1;
    let text = (!plain).then(|| serde_json::to_string(actions.list)).transpose().map_err(Error::internal)?;
    let highlight = actions.highlight();
    match told.iter_mut().find(|told| told.highlight == highlight && told.actions == text) {
        Some(told) => told.users.push(user),
        None => told.push(Told { users: vec![user], highlight, actions: text }),
    }
    Ok(())
}

fn note(write: &mut Write, (room, slot): (RoomNo, Slot), row: NotifiedRow) {
    write.put_at(NOTIFIED, slot, move |at| ((room, at), row));
}

/// Notes that a user has said something in a thread, or outside of all, and so has read what was said there.
fn spoke(write: &mut Write, appended: &Appended<'_>, user: UserNo, thread: Option<EventNo>) -> Result<()> {
    let room = appended.room.number;
    let place = thread.unwrap_or(MAIN_TIMELINE);
    write.put_at(SPOKE_AT, appended.slot, move |at| ((user, room, place), at));
    if let Some(read) = appended.rooms.unread.all_read(user, room, |item| item.thread == thread) {
        let everything = (user, room, EVERY_THREAD);
        if write.get(SPOKE_AT, &everything)?.is_none_or(|before| before < read) {
            write.put(SPOKE_AT, &everything, &read);
            drop_older(write, SPOKE_AT, (user, room), read)?;
        }
    }
    Ok(())
}

/// Removes the marks of threads that one of every thread has passed.
pub fn drop_older(
    write: &mut Write,
    marks: Table<(UserNo, RoomNo, EventNo), Position>,
    place: (UserNo, RoomNo),
    read: Position,
) -> Result<(), StoreError> {
    for (key, at) in write.scan(marks, &place)? {
        if at < read {
            write.delete(marks, &key);
        }
    }
    Ok(())
}

/// Whatever a user was told of in a room up to now is no news any more.
pub fn clear(write: &mut Write, user: UserNo, room: RoomNo, slot: Slot) -> Result<(), StoreError> {
    drop_older(write, SPOKE_AT, (user, room), Position(u64::MAX))?;
    write.put_at(SPOKE_AT, slot, move |at| ((user, room, EVERY_THREAD), at));
    write.wake(user);
    Ok(())
}

/// Whoever is not in a room any more, nor invited, has nothing unread there.
pub fn forget(write: &mut Write, delta: &StateDelta<'_>) -> Result<()> {
    let Some(user) = <&UserId>::try_from(delta.state_key).ok().filter(|_| delta.kind == "m.room.member") else {
        return Ok(());
    };
    let membership = delta.new.and_then(|known| known.event.membership()).unwrap_or(MembershipState::Leave);
    if delta.rooms.is_local(user) && !matches!(membership, MembershipState::Join | MembershipState::Invite) {
        let user = numbers::user(write, user)?;
        clear(write, user, delta.room.number, delta.slot)?;
    }
    Ok(())
}

/// Whether a user does not want to hear of another one.  Spec: client-server-api#ignoring-users
fn ignores(write: &Write, user: UserNo, sender: &UserId) -> Result<bool> {
    #[derive(Deserialize)]
    struct Ignored {
        ignored_users: std::collections::HashMap<OwnedUserId, IgnoredAny>,
    }
    let row = write.get(ACCOUNT_DATA, &(user, GLOBAL, "m.ignored_user_list".to_owned()))?;
    let ignored = row.and_then(|row| serde_json::from_str::<Ignored>(&row.json).ok());
    Ok(ignored.is_some_and(|ignored| ignored.ignored_users.contains_key(sender)))
}

fn mentions_the_room(event: &Event) -> bool {
    #[derive(Deserialize)]
    struct Mentions {
        #[serde(default)]
        room: bool,
    }
    event.content_field::<Mentions>("m.mentions").is_some_and(|mentions| mentions.room)
}

/// What a user is called in the room.
fn display_name(write: &Write, appended: &Appended<'_>, user: &UserId) -> Result<Option<String>> {
    let member = appended.state(write, "m.room.member", user.as_str())?;
    Ok(member.and_then(|known| known.event.content_field("displayname")))
}

/// The root of the thread that the event is part of, by itself or by what it relates to.
fn thread_of(write: &Write, appended: &Appended<'_>) -> Result<Option<EventNo>> {
    let mut relation = relations::of(appended.event);
    let mut seen = HashSet::new();
    for _ in 0..MOST_STEPS {
        let Some(found) = relation else { return Ok(None) };
        let Some(parent) = write.get(numbers::EVENT_NUMBERS, &found.event_id.as_str().to_owned())? else {
            return Ok(None);
        };
        if found.rel_type == "m.thread" {
            return Ok(Some(parent));
        }
        if !seen.insert(parent) || write.get(crate::store::schema::events::EVENTS, &parent)?.is_none() {
            return Ok(None);
        }
        relation = relations::of(&appended.known(write, parent)?.event);
    }
    Ok(None)
}
