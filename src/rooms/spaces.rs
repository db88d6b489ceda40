//! Spaces: the rooms below a room, as far as somebody may know of them.
//!
//! Rooms that this server is not in are asked of others ([`outside`]); what they do not show is left out.
//!
//! Spec: client-server-api#spaces, server-server-api#spaces

use std::{collections::HashSet, sync::Arc};

use futures_util::{StreamExt as _, stream};
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId, events::room::member::MembershipState, room::RoomType,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Room, Rooms,
    cache::Known,
    doors, onlooker, outside,
    summary::{self, Summary},
};
use crate::{
    error::{Error, Result},
    protocol::event::stripped_format,
    store::schema::{
        numbers,
        rooms::{MEMBERS, ROOM_SERVERS},
    },
};

/// How many rooms a page holds, unless the client says otherwise, and at most.
const USUAL: usize = 50;
const MOST: usize = 100;
/// How many rooms are walked through at most, and how deep.
const MOST_WALKED: usize = 2_000;
const DEEPEST: u64 = 20;
/// How many rooms other servers are asked about for one page, and how many at the same time.
const MOST_ASKED: usize = 50;
const AT_ONCE: usize = 8;
/// How many servers an event may name through which its room is reached.
const MOST_VIA: usize = 5;

/// A room of a space.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// What is shown of it.
    #[serde(flatten)]
    pub summary: Summary,
    /// The events that name its children.
    pub children_state: Vec<Box<RawValue>>,
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
pub async fn hierarchy(rooms: &Rooms, user: &UserId, top: &RoomId, query: &Query) -> Result<Page> {
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
    let deepest = query.max_depth.unwrap_or(DEEPEST).min(DEEPEST);
    let mut walk = Walk { rooms, user, suggested_only: query.suggested_only, asked: 0 };
    let via = doors::helpers(rooms, top, user, Vec::new())?;
    let (mut walked, mut seen) = (0, HashSet::new());
    let mut page = Page { rooms: Vec::new(), next_batch: None };
    let mut stack = vec![Place { id: top.to_owned(), via, depth: 0, told: None, hidden: false }];
    while let Some(place) = stack.pop() {
        if walked >= MOST_WALKED || !seen.insert(place.id.clone()) {
            continue;
        }
        let Some((summary, children)) = walk.look(&place).await? else {
            match place.depth {
                0 => return Err(Error::forbidden("you may not know of this room")),
                _ => continue,
            }
        };
        if page.rooms.len() == limit {
            page.next_batch = Some(format!("h{question}.{walked}"));
            break;
        }
        let mut children_state = Vec::new();
        let mut below = Vec::new();
        for child in children {
            children_state.push(child.json);
            below.push(Place { depth: place.depth + 1, ..child.place });
        }
        if place.depth < deepest {
            // What this page has no room for is not asked about yet.
            walk.prepare(below.iter().take(limit - page.rooms.len())).await?;
            stack.extend(below.into_iter().rev());
        }
        if walked >= start {
            page.rooms.push(Entry { summary, children_state });
        }
        walked += 1;
    }
    Ok(page)
}

/// A room on the way through a space.
struct Place {
    id: OwnedRoomId,
    /// Servers that are in it.
    via: Vec<OwnedServerName>,
    depth: u64,
    /// What the server of the room above it shows of it.
    told: Option<Summary>,
    /// Whether that server knows the room and does not show it.
    hidden: bool,
}

/// A room below another one.
struct Child {
    place: Place,
    /// The event that names it, as spaces show it.
    json: Box<RawValue>,
}

/// Somebody's way through a space.
struct Walk<'a> {
    rooms: &'a Rooms,
    user: &'a UserId,
    suggested_only: bool,
    /// How many rooms were asked about.
    asked: usize,
}

impl Walk<'_> {
    /// What is shown of a room, and of its children; nothing if the user may not know of it, or nobody says.
    async fn look(&mut self, place: &Place) -> Result<Option<(Summary, Vec<Child>)>> {
        let here = numbers::find_room(&self.rooms.store, &place.id)?.map(|number| self.rooms.open(number));
        let here = here.transpose()?.flatten();
        if let Some(room) = here.filter(|_| !self.is_elsewhere(place).unwrap_or(true)) {
            let Some(summary) = visible(self.rooms, &room, Some(self.user))? else { return Ok(None) };
            let children = match is_space(&summary) {
                true => {
                    children(self.rooms, &room, self.suggested_only)?.iter().filter_map(|child| own(child)).collect()
                }
                false => Vec::new(),
            };
            return Ok(Some((summary, children)));
        }
        if let Some(told) = place.told.as_ref().filter(|told| !is_space(told)) {
            let visible = visible_elsewhere(self.rooms, told, Some(self.user))?;
            return Ok(visible.then(|| (told.clone(), Vec::new())));
        }
        if !self.may_ask(place) {
            return Ok(None);
        }
        let Some(shown) = outside::ask(self.rooms, &place.id, &place.via, self.suggested_only).await else {
            return Ok(None);
        };
        if !visible_elsewhere(self.rooms, &shown.room, Some(self.user))? {
            return Ok(None);
        }
        let children = match is_space(&shown.room) {
            true => shown.children_state.iter().take(MOST_WALKED).filter_map(|json| theirs(&shown, json)).collect(),
            false => Vec::new(),
        };
        Ok(Some((shown.room.clone(), children)))
    }

    /// Asks about several rooms at the same time, so that the answers are there when they are needed.
    async fn prepare<'p>(&mut self, places: impl Iterator<Item = &'p Place>) -> Result<()> {
        let mut wanted = Vec::new();
        for place in places {
            let told = place.told.as_ref().is_some_and(|told| !is_space(told));
            if self.is_elsewhere(place)? && !told && self.may_ask(place) {
                wanted.push((place.id.clone(), place.via.clone()));
            }
        }
        let (rooms, suggested_only) = (self.rooms, self.suggested_only);
        let ask = |(id, via): (OwnedRoomId, Vec<OwnedServerName>)| async move {
            // What is heard is remembered.
            drop(outside::ask(rooms, &id, &via, suggested_only).await);
        };
        stream::iter(wanted.into_iter().map(ask)).buffer_unordered(AT_ONCE).collect::<()>().await;
        Ok(())
    }

    /// Whether a room is another server's to show.
    fn is_elsewhere(&self, place: &Place) -> Result<bool> {
        Ok(doors::inside(self.rooms, &place.id)?.is_none() && !place.via.is_empty())
    }

    /// Whether it is worth asking about a room, and there are not too many questions already.
    fn may_ask(&mut self, place: &Place) -> bool {
        if place.hidden || place.via.is_empty() {
            return false;
        }
        if outside::heard(self.rooms, &place.id, self.suggested_only).is_some() {
            return true;
        }
        self.asked += 1;
        self.asked <= MOST_ASKED
    }
}

fn is_space(summary: &Summary) -> bool {
    summary.room_type.as_deref() == Some(RoomType::Space.as_str())
}

/// A child of a room that is here.
fn own(child: &Known) -> Option<Child> {
    let id = child.event.state_key.as_deref().and_then(|id| OwnedRoomId::try_from(id).ok())?;
    let via = child.event.content_field::<Vec<String>>("via").unwrap_or_default();
    Some(Child { place: place(id, via), json: json(child)? })
}

fn place(id: OwnedRoomId, via: Vec<String>) -> Place {
    let via = via.into_iter().filter_map(|server| server.try_into().ok()).take(MOST_VIA).collect();
    Place { id, via, depth: 0, told: None, hidden: false }
}

/// A child of a room that another server shows.
fn theirs(shown: &outside::Shown, json: &RawValue) -> Option<Child> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "type")]
        kind: String,
        state_key: OwnedRoomId,
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        via: Vec<String>,
    }
    let event: Event = serde_json::from_str(json.get()).ok()?;
    if event.kind != "m.space.child" || event.content.via.is_empty() {
        return None;
    }
    let mut place = place(event.state_key, event.content.via);
    place.told = shown.children.iter().find(|child| child.room_id == place.id).cloned();
    place.hidden = shown.inaccessible.contains(&place.id);
    Some(Child { place, json: json.to_owned() })
}

/// A child event as spaces show it: stripped, with its time.
fn json(child: &Known) -> Option<Box<RawValue>> {
    let stripped = stripped_format(&child.event);
    let json = format!("{{\"origin_server_ts\":{},{}", child.event.origin_server_ts, stripped.strip_prefix('{')?);
    RawValue::from_string(json).ok()
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
    if is_open(&summary) {
        return Ok(Some(summary));
    }
    let Some(user) = user else { return Ok(None) };
    if matches!(rooms.membership(room.number, user)?, MembershipState::Join | MembershipState::Invite) {
        return Ok(Some(summary));
    }
    Ok(is_let_in(rooms, &summary, user)?.then_some(summary))
}

/// Whether a restricted room lets the user in.
fn is_let_in(rooms: &Rooms, summary: &Summary, user: &UserId) -> Result<bool> {
    if summary.join_rule == "restricted" {
        for allowed in &summary.allowed_room_ids {
            if let Some(number) = numbers::find_room(&rooms.store, allowed)?
                && rooms.membership(number, user)? == MembershipState::Join
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether a user may know of a room that another server shows to this one.
fn visible_elsewhere(rooms: &Rooms, summary: &Summary, user: Option<&UserId>) -> Result<bool> {
    if is_open(summary) {
        return Ok(true);
    }
    let Some(user) = user else { return Ok(false) };
    let standing = outside::standing(rooms, &summary.room_id, user)?;
    Ok(matches!(standing, MembershipState::Join | MembershipState::Invite) || is_let_in(rooms, summary, user)?)
}

/// Whether everybody may know of a room.
fn is_open(summary: &Summary) -> bool {
    summary.world_readable || matches!(summary.join_rule.as_str(), "public" | "knock" | "knock_restricted")
}

/// What is shown of one room, which other servers are asked about if this one is not in it; 404 `M_NOT_FOUND` if
/// the caller may not know of it.
///
/// Spec: client-server-api#get_matrixclientv1room_summaryroomidoralias
pub async fn summary_for(
    rooms: &Rooms,
    id: &OwnedRoomId,
    user: Option<&UserId>,
    mut via: Vec<OwnedServerName>,
) -> Result<(Summary, Option<MembershipState>)> {
    let not_found = || Error::not_found("there is no such room, or you may not know of it");
    let membership = user.map(|user| outside::standing(rooms, id, user)).transpose()?;
    if let Some(user) = user {
        via = doors::helpers(rooms, id, user, via)?;
    }
    if doors::inside(rooms, id)?.is_none() && !via.is_empty() {
        // Strangers do not choose whom this server asks.
        user.ok_or_else(not_found)?;
        let shown = outside::ask(rooms, id, &via, false).await.ok_or_else(not_found)?;
        return match visible_elsewhere(rooms, &shown.room, user)? {
            true => Ok((shown.room.clone(), membership)),
            false => Err(not_found()),
        };
    }
    let room = numbers::find_room(&rooms.store, id)?.map(|number| rooms.open(number)).transpose()?.flatten();
    let room = room.ok_or_else(not_found)?;
    let summary = visible(rooms, &room, user)?.ok_or_else(not_found)?;
    Ok((summary, membership))
}

/// What another server is shown of a space and the rooms just below it.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The space, or any other room.
    pub room: Entry,
    /// Those of its children that the server may know of.
    pub children: Vec<Summary>,
    /// Those that are known here and that the server may not know of.
    pub inaccessible_children: Vec<OwnedRoomId>,
}

/// Shows another server a room and those just below it.
///
/// Errors: 404 `M_NOT_FOUND` if nobody of that server may know of the room.
/// Spec: server-server-api#get_matrixfederationv1hierarchyroomid
pub fn for_server(rooms: &Rooms, server: &ServerName, room: &Room, suggested_only: bool) -> Result<Shown> {
    let not_found = || Error::not_found("there is no such room, or your server may not know of it");
    let summary = visible_to(rooms, room, server)?.ok_or_else(not_found)?;
    let mut shown = Shown {
        room: Entry { summary, children_state: Vec::new() },
        children: Vec::new(),
        inaccessible_children: Vec::new(),
    };
    if !is_space(&shown.room.summary) {
        return Ok(shown);
    }
    for child in children(rooms, room, suggested_only)? {
        let Some(Child { place, json }) = own(&child) else { continue };
        shown.room.children_state.push(json);
        if shown.children.len() >= MOST {
            continue;
        }
        let Some(below) = doors::inside(rooms, &place.id)? else { continue };
        match visible_to(rooms, &below, server)? {
            Some(summary) => shown.children.push(summary),
            None => shown.inaccessible_children.push(place.id),
        }
    }
    Ok(shown)
}

/// What is shown of a room to a server one of whose users may know of it.
fn visible_to(rooms: &Rooms, room: &Room, server: &ServerName) -> Result<Option<Summary>> {
    if !onlooker::is_open_to(rooms, room, server)? {
        return Ok(None);
    }
    let summary = summary::of(rooms, room)?;
    if is_open(&summary) || is_in(rooms, room.number, server)? {
        return Ok(Some(summary));
    }
    if summary.join_rule == "restricted" {
        for allowed in &summary.allowed_room_ids {
            if let Some(number) = numbers::find_room(&rooms.store, allowed)?
                && is_in(rooms, number, server)?
            {
                return Ok(Some(summary));
            }
        }
    }
    for row in rooms.store.scan(MEMBERS, &(room.number,)) {
        let ((_, user), row) = row?;
        if row.membership == MembershipState::Invite
            && numbers::user_id(&rooms.store, user)?.is_some_and(|user| user.server_name() == server)
        {
            return Ok(Some(summary));
        }
    }
    Ok(None)
}

fn is_in(rooms: &Rooms, room: crate::store::schema::RoomNo, server: &ServerName) -> Result<bool> {
    Ok(rooms.store.contains(ROOM_SERVERS, &(room, server.as_str().to_owned()))?)
}
