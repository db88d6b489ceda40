//! Reports: what people tell the admins about events, rooms and other people.
//!
//! Spec: client-server-api#reporting-content

use ruma::{EventId, RoomId, UserId};

use super::{Rooms, read, view::Viewer};
use crate::{
    error::{Error, Result},
    store::schema::{
        numbers,
        rooms::{REPORTS, ReportRow},
    },
    users::accounts,
};

/// The longest reason, in bytes.
const LONGEST: usize = 4_000;

/// What a report is about.
#[derive(Debug, Clone, Copy)]
pub enum About<'a> {
    /// An event.
    Event(&'a RoomId, &'a EventId),
    /// A room.
    Room(&'a RoomId),
    /// A user.
    User(&'a UserId),
}

/// Keeps a report for the admins.
///
/// Errors: 404 `M_NOT_FOUND` for what the user cannot know, 413 `M_TOO_LARGE` for a novel.
pub async fn add(rooms: &Rooms, by: &UserId, about: About<'_>, reason: Option<String>) -> Result<()> {
    let reason = reason.unwrap_or_default();
    if reason.len() > LONGEST {
        return Err(Error::too_large(format!("the reason of a report has at most {LONGEST} bytes")));
    }
    let mut row = ReportRow { by: by.to_owned(), room: None, event: None, user: None, reason, at: rooms.clock.now() };
    match about {
        About::Event(room, event) => {
            rooms.joined(room, by).map_err(|_| Error::not_found("there is no such event in a room that you are in"))?;
            let viewer = Viewer::new(rooms, by, None)?;
            let known = read::event(rooms, &viewer, room, event)?;
            row.room = Some(room.to_owned());
            row.event = Some(event.to_owned());
            row.user = Some(known.event.sender.clone());
        }
        About::Room(room) => {
            rooms.find(room)?;
            row.room = Some(room.to_owned());
        }
        About::User(user) => {
            // Whether a local user exists is not for everybody to find out: such a report is as good as any.
            let known = !rooms.is_local(user) || accounts::by_id(&rooms.users, user)?.is_some();
            if !known || numbers::find_user(&rooms.store, user)?.is_none() {
                return Ok(());
            }
            row.user = Some(user.to_owned());
        }
    }
    let ticket = {
        let mut write = rooms.store.write();
        let number = write.number();
        write.put(REPORTS, &number, &row);
        write.commit()?
    };
    ticket.published().await?;
    Ok(())
}
