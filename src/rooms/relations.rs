//! Events that relate to another one: lists of them, and what is bundled with the event itself.
//!
//! Rows of relations are kept by [`super::projections::relations`]; here they are read for one viewer.
//!
//! Spec: client-server-api#forming-relationships-between-events

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use ruma::{EventId, RoomId};

use super::{
    Rooms,
    cache::Known,
    history::{self, Direction},
    projections::relations,
    read,
    token::Cursor,
    view::Viewer,
};
use crate::{
    error::Result,
    protocol::canonical::write_string,
    store::schema::{
        EventNo, RoomNo,
        events::{RELATIONS, RelationRow},
        numbers,
    },
};

/// How many events a page holds, unless the client says otherwise, and at most.
const USUAL: usize = 50;
const MOST: usize = 500;
/// How many steps away from the event are followed, and how many events are gathered.
const DEEPEST: u64 = 3;
const MOST_GATHERED: usize = 20_000;
/// How many references are bundled at most.
const MOST_REFERENCES: usize = 100;

/// What a client asks of `/relations`.
#[derive(Debug)]
pub struct Query {
    /// The relation type, if only one is wanted.
    pub rel_type: Option<String>,
    /// The event type, if only one is wanted.
    pub kind: Option<String>,
    /// Where to start.
    pub from: Option<String>,
    /// Where to stop.
    pub to: Option<String>,
    /// Which way.
    pub direction: Direction,
    /// How many at most.
    pub limit: Option<u64>,
    /// Whether to follow relations of relations.
    pub recurse: bool,
}

/// A page of related events.
#[derive(Debug)]
pub struct Page {
    /// The events.
    pub chunk: Vec<String>,
    /// Where the next page starts.
    pub next: Option<String>,
    /// How many steps were followed.
    pub depth: Option<u64>,
}

/// The events that relate to an event.
///
/// Spec: client-server-api#get_matrixclientv1roomsroomidrelationseventid
pub fn list(rooms: &Rooms, viewer: &Viewer<'_>, room: &RoomId, id: &EventId, query: &Query) -> Result<Page> {
    let parent = read::event(rooms, viewer, room, id)?;
    let cursor = |token: &Option<String>| -> Result<Option<Cursor>> {
        token.as_deref().map(|token| history::cursor(rooms, parent.room, token)).transpose()
    };
    let (from, to) = (cursor(&query.from)?, cursor(&query.to)?);
    let mut found = gather(rooms, parent.number, query)?;
    let (low, high) = match query.direction {
        Direction::Backward => (to, from),
        Direction::Forward => (from, to),
    };
    found.retain(|(depth, event)| {
        let here = Cursor { depth: *depth, event: *event };
        low.is_none_or(|low| here >= low) && high.is_none_or(|high| here < high)
    });
    found.sort_unstable();
    if query.direction == Direction::Backward {
        found.reverse();
    }
    let limit = query.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(USUAL).clamp(1, MOST);
    let mut page = Page { chunk: Vec::new(), next: None, depth: query.recurse.then_some(DEEPEST) };
    let mut last = None;
    for (depth, number) in found {
        if page.chunk.len() == limit {
            page.next = last.map(|cursor: Cursor| cursor.to_string());
            break;
        }
        last = Some(match query.direction {
            Direction::Backward => Cursor { depth, event: number },
            Direction::Forward => Cursor::after(depth, number),
        });
        let known = rooms.known(number)?;
        if viewer.may_see(&known)? && !viewer.ignores(&known)? {
            page.chunk.push(viewer.event(&known, true)?);
        }
    }
    Ok(page)
}

/// The places of all events that relate to an event, as far as they are wanted.
fn gather(rooms: &Rooms, parent: EventNo, query: &Query) -> Result<Vec<(u64, EventNo)>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::from([parent]);
    let mut level = vec![parent];
    for _ in 0..if query.recurse { DEEPEST } else { 1 } {
        let mut next = Vec::new();
        for parent in std::mem::take(&mut level) {
            for row in rooms.store.scan(RELATIONS, &(parent,)) {
                let ((_, rel_type, kind, child), row) = row?;
                // A child that does not fit leads nowhere either.
                let fits = query.rel_type.as_ref().is_none_or(|wanted| *wanted == rel_type)
                    && query.kind.as_ref().is_none_or(|wanted| *wanted == kind);
                if fits && found.len() < MOST_GATHERED && seen.insert(child) {
                    found.push((row.depth, child));
                    next.push(child);
                }
            }
        }
        level = next;
    }
    Ok(found)
}

/// The newest event of a thread, how many there are, and whether the viewer has a part in it.
pub struct Thread {
    /// The newest event that may be shown.
    pub latest: Arc<Known>,
    /// How many events.
    pub count: u64,
    /// Whether the viewer has begun the thread or said something in it.
    pub participated: bool,
}

/// What is known of the thread that an event has begun, if it has.
///
/// Spec: client-server-api#server-side-aggregation-of-mthread-relationships
pub fn thread(rooms: &Rooms, viewer: &Viewer<'_>, root: &Known) -> Result<Option<Thread>> {
    let mut count = 0;
    let mut participated = root.event.sender == viewer.user();
    let mut newest: Option<(u64, EventNo)> = None;
    let own = numbers::find_user(&rooms.store, viewer.user())?;
    let ignored = ignored(rooms, viewer)?;
    for row in rooms.store.scan(RELATIONS, &(root.number, "m.thread".to_owned())) {
        let ((.., child), RelationRow { sender, depth, .. }) = row?;
        if ignored.contains(&sender) {
            continue;
        }
        count += 1;
        participated |= own == Some(sender);
        newest = newest.max(Some((depth, child)));
    }
    let Some((_, newest)) = newest else { return Ok(None) };
    let latest = rooms.known(newest)?;
    match viewer.may_see(&latest)? {
        true => Ok(Some(Thread { latest, count, participated })),
        false => Ok(None),
    }
}

fn ignored(rooms: &Rooms, viewer: &Viewer<'_>) -> Result<BTreeSet<crate::store::schema::UserNo>> {
    let mut numbers = BTreeSet::new();
    for user in viewer.ignored()? {
        if let Ok(user) = <&ruma::UserId>::try_from(user.as_str()) {
            numbers.extend(numbers::find_user(&rooms.store, user)?);
        }
    }
    Ok(numbers)
}

/// What is bundled with an event: the `m.relations` of its `unsigned`, as JSON.
///
/// Spec: client-server-api#aggregations-of-child-events
pub fn bundle(rooms: &Rooms, viewer: &Viewer<'_>, known: &Known) -> Result<Option<String>> {
    // State events get none, and most events have none.
    if known.event.is_state() || rooms.store.scan(RELATIONS, &(known.number,)).next().is_none() {
        return Ok(None);
    }
    let mut parts = Vec::new();
    if let Some(edit) = newest_edit(rooms, viewer, known)? {
        parts.push(format!("\"m.replace\":{}", viewer.bare(&edit)?));
    }
    let references = references(rooms, viewer, known)?;
    if !references.is_empty() {
        parts.push(format!("\"m.reference\":{{\"chunk\":[{}]}}", references.join(",")));
    }
    let is_child = relations::of(&known.event).is_some();
    if !is_child && let Some(thread) = thread(rooms, viewer, known)? {
        // The newest event of a thread is itself a child, so this goes one step deep.
        let latest = viewer.event(&thread.latest, true)?;
        let mut part = format!("\"m.thread\":{{\"latest_event\":{latest}");
        let _ = write!(part, ",\"count\":{},\"current_user_participated\":{}}}", thread.count, thread.participated);
        parts.push(part);
    }
    Ok((!parts.is_empty()).then(|| format!("{{{}}}", parts.join(","))))
}

/// The most recent valid edit of an event.  Spec: client-server-api#validity-of-replacement-events
pub fn newest_edit(rooms: &Rooms, viewer: &Viewer<'_>, original: &Known) -> Result<Option<Arc<Known>>> {
    let is_edit = relations::of(&original.event).is_some_and(|relation| relation.rel_type == "m.replace");
    if original.redacted_by.is_some() || is_edit {
        return Ok(None);
    }
    let author = numbers::find_user(&rooms.store, &original.event.sender)?;
    let encrypted = original.event.kind == "m.room.encrypted";
    let mut newest: Option<Arc<Known>> = None;
    let edits = (original.number, "m.replace".to_owned(), original.event.kind.clone());
    for row in rooms.store.scan(RELATIONS, &edits) {
        let ((.., child), row) = row?;
        if Some(row.sender) != author {
            continue;
        }
        let edit = rooms.known(child)?;
        let event = &edit.event;
        let whole = encrypted || event.content_value("m.new_content").is_some();
        let is_newer = newest.as_ref().is_none_or(|newest| {
            (event.origin_server_ts, &event.event_id) > (newest.event.origin_server_ts, &newest.event.event_id)
        });
        if whole && is_newer && !event.is_state() && viewer.may_see(&edit)? {
            newest = Some(edit);
        }
    }
    Ok(newest)
}

fn references(rooms: &Rooms, viewer: &Viewer<'_>, known: &Known) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for row in rooms.store.scan(RELATIONS, &(known.number, "m.reference".to_owned())).take(MOST_REFERENCES) {
        let ((.., child), _) = row?;
        let child = rooms.known(child)?;
        if viewer.may_see(&child)? && !viewer.ignores(&child)? {
            let mut part = "{\"event_id\":".to_owned();
            write_string(&mut part, child.event.event_id.as_str());
            part.push('}');
            out.push(part);
        }
    }
    Ok(out)
}

/// The events that have begun threads in a room, those with the newest replies first.
///
/// Spec: client-server-api#get_matrixclientv1roomsroomidthreads
pub fn threads(
    rooms: &Rooms,
    viewer: &Viewer<'_>,
    room: &RoomId,
    only_own: bool,
    from: Option<&str>,
    limit: Option<u64>,
) -> Result<Page> {
    let (room, _) = super::access::look(rooms, room, viewer.user())?;
    let from = from.map(|token| history::cursor(rooms, room.number, token)).transpose()?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(USUAL).clamp(1, MOST);
    let mut found = Vec::new();
    for root in roots(rooms, room.number)? {
        let root = rooms.known(root)?;
        if viewer.ignores(&root)? || !viewer.may_see(&root)? {
            continue;
        }
        if let Some(thread) = thread(rooms, viewer, &root)?
            && (thread.participated || !only_own)
        {
            let newest = Cursor { depth: thread.latest.event.depth, event: thread.latest.number };
            if from.is_none_or(|from| newest < from) {
                found.push((newest, root));
            }
        }
    }
    found.sort_by_key(|(newest, _)| std::cmp::Reverse(*newest));
    let next = found.get(limit).map(|_| found[limit - 1].0.to_string());
    found.truncate(limit);
    let chunk = found.iter().map(|(_, root)| viewer.event(root, true)).collect::<Result<_>>()?;
    Ok(Page { chunk, next, depth: None })
}

fn roots(rooms: &Rooms, room: RoomNo) -> Result<Vec<EventNo>> {
    use crate::store::schema::events::THREADS;
    rooms.store.scan(THREADS, &(room,)).map(|row| Ok(row?.0.1)).collect()
}
