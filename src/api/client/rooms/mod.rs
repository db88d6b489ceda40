//! Rooms: creating, joining, talking, reading, finding.

mod aliases;
mod create;
mod directory;
mod members;
mod membership;
mod messages;
mod receipts;
mod relations;
mod report;
mod send;
mod spaces;
mod state;
mod typing;
mod upgrade;

use http::Method;

use crate::{error::Result, http::Routes, store::Ticket};

/// The endpoints of rooms, in the order of the specification.
pub fn routes(to: &mut Routes) {
    to.add(messages::event).guests();
    to.add(members::joined);
    to.add(members::list).guests();
    to.add(state::all).guests();
    to.add(state::get).guests().also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}");
    to.also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}");
    to.raw(Method::GET, "/_matrix/client/r0/rooms/{room_id}/messages", messages::page).guests();
    to.also("/_matrix/client/v3/rooms/{room_id}/messages");
    to.add(state::put).guests().also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}");
    to.also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}");
    to.add(send::message).guests();
    to.add(send::redact);
    to.add(relations::all);
    to.add(relations::of_type);
    to.add(relations::of_types);
    to.add(relations::threads);
    to.add(messages::at_time);
    to.add(create::create);
    to.add(aliases::put);
    to.add(aliases::get);
    to.add(aliases::delete);
    to.add(aliases::of_room);
    to.add(membership::joined_rooms);
    to.add(membership::invite);
    to.add(membership::join).guests();
    to.add(membership::join_by_id).guests();
    to.add(membership::knock);
    to.add(membership::forget);
    to.add(membership::leave).guests();
    to.add(membership::kick);
    to.add(membership::ban);
    to.add(membership::unban);
    to.add(directory::is_listed);
    to.raw(Method::PUT, "/_matrix/client/r0/directory/list/room/{room_id}", directory::list);
    to.also("/_matrix/client/v3/directory/list/room/{room_id}");
    to.raw(Method::GET, "/_matrix/client/r0/publicRooms", directory::rooms).guests();
    to.also("/_matrix/client/v3/publicRooms");
    to.add(directory::search).guests();
    to.add(spaces::summary).guests();
    to.add(spaces::hierarchy);
    to.add(upgrade::upgrade);
    to.add(report::room);
    to.add(report::event);
    to.add(report::user);
    to.raw(Method::PUT, "/_matrix/client/r0/rooms/{room_id}/typing/{user_id}", typing::set);
    to.also("/_matrix/client/v3/rooms/{room_id}/typing/{user_id}").rate_limited();
    to.raw(Method::POST, "/_matrix/client/r0/rooms/{room_id}/receipt/{receipt_type}/{event_id}", receipts::receive);
    to.also("/_matrix/client/v3/rooms/{room_id}/receipt/{receipt_type}/{event_id}").rate_limited();
    to.add(receipts::read_markers);
    to.raw(Method::GET, "/_matrix/client/r0/rooms/{room_id}/context/{event_id}", messages::context).guests();
    to.also("/_matrix/client/v3/rooms/{room_id}/context/{event_id}");
}

/// Waits until a change is on the disk, if there is one.
async fn done(ticket: Option<Ticket>) -> Result<()> {
    if let Some(ticket) = ticket {
        ticket.published().await?;
    }
    Ok(())
}

/// A JSON list of what is JSON already.
pub(super) fn list(items: &[String]) -> String {
    format!("[{}]", items.join(","))
}

/// A text as JSON.
pub(super) fn text(text: &str) -> String {
    let mut out = String::new();
    crate::protocol::canonical::write_string(&mut out, text);
    out
}
