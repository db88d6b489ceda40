//! What is unread: the push rules of every local member are evaluated once, with the event.
//!
//! Whoever sends an event has read the room up to it.
//!
//! Spec: client-server-api#receiving-notifications

use crate::{
    error::Result,
    protocol::{
        auth::power::PowerLevels,
        push::{Context, Subject, evaluate},
    },
    rooms::{append::Appended, projections::relations},
    store::{
        Write,
        schema::{
            EventNo, UserNo, numbers,
            rooms::{UNREAD, UnreadRow},
        },
    },
    users::push_rules,
};

/// Counts the event for those whom it concerns.
pub fn project(write: &mut Write, appended: &Appended<'_>) -> Result<()> {
    let event = appended.event;
    let sender = numbers::user(write, &event.sender)?;
    if appended.head.locals.contains(&sender) {
        for (key, _) in write.scan(UNREAD, &(sender, appended.room.number))? {
            write.delete(UNREAD, &key);
        }
    }
    let subject = Subject::new(event);
    let levels = power_levels(write, appended)?;
    let thread = thread(write, appended)?;
    for &user in appended.head.locals.iter().filter(|user| **user != sender) {
        let Some(id) = write.get(numbers::USERS, &user)? else { continue };
        let rules = push_rules::of(&appended.rooms.users, user, &id)?;
        let context = Context {
            user: &id,
            display_name: None,
            member_count: appended.head.members.0,
            power_levels: levels.as_ref(),
        };
        let actions = evaluate(&rules, &subject, &context);
        if actions.notify() {
            count(write, appended, user, actions.highlight(), thread);
        }
    }
    Ok(())
}

fn count(write: &mut Write, appended: &Appended<'_>, user: UserNo, highlight: bool, thread: Option<EventNo>) {
    let (room, event) = (appended.room.number, appended.number);
    let row = UnreadRow { notify: true, highlight, thread, event };
    write.put_at(UNREAD, appended.slot, move |at| ((user, room, at), row));
}

/// The power levels, for an event that wants to notify everybody; no rule asks for them otherwise.
fn power_levels(write: &Write, appended: &Appended<'_>) -> Result<Option<PowerLevels>> {
    #[derive(serde::Deserialize)]
    struct Mentions {
        #[serde(default)]
        room: bool,
    }
    let mentions: Option<Mentions> = appended.event.content_field("m.mentions");
    if !mentions.is_some_and(|mentions| mentions.room) {
        return Ok(None);
    }
    let create = appended.state(write, "m.room.create", "")?;
    let levels = appended.state(write, "m.room.power_levels", "")?;
    let event = |known: &Option<std::sync::Arc<crate::rooms::cache::Known>>| {
        known.as_ref().map(|known| std::sync::Arc::clone(&known.event))
    };
    Ok(Some(PowerLevels::new(appended.room.rules, event(&create).as_deref(), event(&levels).as_deref())))
}

/// The root of the thread that the event is part of.
fn thread(write: &Write, appended: &Appended<'_>) -> Result<Option<EventNo>> {
    match relations::of(appended.event) {
        Some(relation) if relation.rel_type == "m.thread" => {
            Ok(write.get(numbers::EVENT_NUMBERS, &relation.event_id.as_str().to_owned())?)
        }
        _ => Ok(None),
    }
}
