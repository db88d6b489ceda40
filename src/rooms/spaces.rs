//! Spaces: the rooms below a room, as far as somebody may know of them.
//!
//! Rooms that this server does not know are left out.
//!
//! Spec: client-server-api#spaces

use std::{collections::HashSet, sync::Arc};

use ruma::{OwnedRoomId, RoomId, UserId, events::room::member::MembershipState};
use serde::Serialize;

use super::{
    Room, Rooms,
    cache::Known,
    summary::{self, Summary},
};
use crate::{
    error::{Error, Result},
    protocol::event::stripped_format,
    store::schema::numbers,
};

/// How many rooms a page holds, unless the client says otherwise, and at most.
const USUAL: usize = 50;
const MOST: usize = 100;
/// How many rooms are walked through at most, and how deep.
const MOST_WALKED: usize = 2_000;
const DEEPEST: u64 = 20;

/// A room of a space.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// What is shown of it.
    #[serde(flatten)]
    pub summary: Summary,
    /// The events that name its children.
    pub children_state: Vec<Box<serde_json::value::RawValue>>,
}

/// A page of a space.
#[derive(Debug, Serialize)]
pub struct Page {
    /// The rooms, each followed by those below it.
    pub rooms: Vec<Entry>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
}

/// What a client asks of `/hierarchy`.
#[derive(Debug, Default)]
pub struct Query {
    /// Only children that are marked as suggested.
    pub suggested_only: bool,
    /// How deep to go.
    pub max_depth: Option<u64>,
    /// How many rooms at most.
    pub limit: Option<u64>,
    /// Where an earlier page ended.
    pub from: Option<String>,
}

/// The rooms of a space, from the top down.
///
/// Errors: 403 `M_FORBIDDEN` for a space that the user may not know of; 400 `M_INVALID_PARAM` for a bad token.
/// Spec: client-server-api#get_matrixclientv1roomsroomidhierarchy
pub fn hierarchy(rooms: &Rooms, user: &UserId, top: &RoomId, query: &Query) -> Result<Page> {
    // A token holds for the question that it was given for.
    let question = format!("{}.{}", u8::from(query.suggested_only), query.max_depth.unwrap_or(DEEPEST).min(DEEPEST));
    let start = match &query.from {
        None => 0,
        Some(token) => token
            .strip_prefix(&format!("h{question}."))
            .and_then(|start| start.parse::<usize>().ok())
            .ok_or_else(|| Error::invalid_param("this token was given for another question"))?,
    };
    let limit = query.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(USUAL).clamp(1, MOST);
    let forbidden = || Error::forbidden("you may not know of this room");
    let top = numbers::find_room(&rooms.store, top)?.map(|number| rooms.open(number)).transpose()?.flatten();
    let top = top.ok_or_else(forbidden)?;
    if visible(rooms, &top, Some(user))?.is_none() {
        return Err(forbidden());
    }
    let deepest = query.max_depth.unwrap_or(DEEPEST).min(DEEPEST);
    let (mut walked, mut seen) = (0, HashSet::new());
    let mut page = Page { rooms: Vec::new(), next_batch: None };
    let mut stack = vec![(top, 0)];
    while let Some((room, depth)) = stack.pop() {
        if walked >= MOST_WALKED || !seen.insert(room.number) {
            continue;
        }
        let Some(summary) = visible(rooms, &room, Some(user))? else { continue };
        if page.rooms.len() == limit {
            page.next_batch = Some(format!("h{question}.{walked}"));
            break;
        }
        let children = match summary.room_type.as_deref() {
            Some("m.space") => children(rooms, &room, query.suggested_only)?,
            _ => Vec::new(),
        };
        if depth < deepest {
            for child in children.iter().rev() {
                let id = child.event.state_key.as_deref().and_then(|id| <&RoomId>::try_from(id).ok());
                let number = id.map(|id| numbers::find_room(&rooms.store, id)).transpose()?.flatten();
                stack.extend(
                    number.map(|number| rooms.open(number)).transpose()?.flatten().map(|room| (room, depth + 1)),
                );
            }
        }
        if walked >= start {
            page.rooms
                .push(Entry { summary, children_state: children.iter().filter_map(|child| json(child)).collect() });
        }
        walked += 1;
    }
    Ok(page)
}

/// A child event as spaces show it: stripped, with its time.
fn json(child: &Known) -> Option<Box<serde_json::value::RawValue>> {
    let stripped = stripped_format(&child.event);
    let json = format!("{{\"origin_server_ts\":{},{}", child.event.origin_server_ts, stripped.strip_prefix('{')?);
    serde_json::value::RawValue::from_string(json).ok()
}

/// The child events of a space, in the order in which they are shown.
fn children(rooms: &Rooms, room: &Room, suggested_only: bool) -> Result<Vec<Arc<Known>>> {
    let mut children = Vec::new();
    for (_, number) in rooms.current(room.number)?.iter() {
        let known = rooms.known(number)?;
        let via = known.event.content_value("via");
        let valid = known.event.kind == "m.space.child"
            && via.as_ref().and_then(|via| via.as_array()).is_some_and(|via| !via.is_empty());
        if valid && (!suggested_only || known.event.content_field("suggested") == Some(true)) {
            children.push(known);
        }
    }
    children.sort_by_cached_key(|known| {
        let order = known.event.content_field::<String>("order");
        let order = order.filter(|order| order.len() <= 50 && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
        (order.is_none(), order, known.event.origin_server_ts, known.event.state_key.clone())
    });
    Ok(children)
}

/// What is shown of a room to somebody who may know of it: who is in it, or invited, or may join or knock, or
/// anybody if the world may read it.
pub fn visible(rooms: &Rooms, room: &Room, user: Option<&UserId>) -> Result<Option<Summary>> {
    let summary = summary::of(rooms, room)?;
    if summary.world_readable || matches!(summary.join_rule.as_str(), "public" | "knock" | "knock_restricted") {
        return Ok(Some(summary));
    }
    let Some(user) = user else { return Ok(None) };
    if matches!(rooms.membership(room.number, user)?, MembershipState::Join | MembershipState::Invite) {
        return Ok(Some(summary));
    }
    if summary.join_rule == "restricted" {
        for allowed in &summary.allowed_room_ids {
            if let Some(number) = numbers::find_room(&rooms.store, allowed)?
                && rooms.membership(number, user)? == MembershipState::Join
            {
                return Ok(Some(summary));
            }
        }
    }
    Ok(None)
}

/// What is shown of one room; 404 `M_NOT_FOUND` if the caller may not know of it.
///
/// Spec: client-server-api#get_matrixclientv1room_summaryroomidoralias
pub fn summary_for(
    rooms: &Rooms,
    id: &OwnedRoomId,
    user: Option<&UserId>,
) -> Result<(Summary, Option<MembershipState>)> {
    let not_found = || Error::not_found("there is no such room, or you may not know of it");
    let room = numbers::find_room(&rooms.store, id)?.map(|number| rooms.open(number)).transpose()?.flatten();
    let room = room.ok_or_else(not_found)?;
    let summary = visible(rooms, &room, user)?.ok_or_else(not_found)?;
    let membership = user.map(|user| rooms.membership(room.number, user)).transpose()?;
    Ok((summary, membership))
}
