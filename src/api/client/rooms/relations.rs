//! Events that relate to another, and threads.

use ruma::{
    EventId, RoomId,
    api::{
        Direction,
        client::{
            relations::{
                get_relating_events, get_relating_events_with_rel_type,
                get_relating_events_with_rel_type_and_event_type,
            },
            threads::get_threads::{self, v1::IncludeThreads},
        },
    },
};

use super::{list, text};
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Reply, User},
    rooms::{
        history,
        relations::{self, Page, Query},
        view::Viewer,
    },
};

/// Lists everything that relates to an event.
pub async fn all(ctx: Ctx, user: User, req: get_relating_events::v1::Request) -> Result<Reply> {
    let query = Query {
        rel_type: None,
        kind: None,
        from: req.from,
        to: req.to,
        direction: direction(req.dir),
        limit: req.limit.map(Into::into),
        recurse: req.recurse,
    };
    answer(&ctx, &user, &req.room_id, &req.event_id, &query)
}

/// Lists what relates to an event in one way.
pub async fn of_type(ctx: Ctx, user: User, req: get_relating_events_with_rel_type::v1::Request) -> Result<Reply> {
    let query = Query {
        rel_type: Some(req.rel_type.to_string()),
        kind: None,
        from: req.from,
        to: req.to,
        direction: direction(req.dir),
        limit: req.limit.map(Into::into),
        recurse: req.recurse,
    };
    answer(&ctx, &user, &req.room_id, &req.event_id, &query)
}

/// Lists the events of one type that relate to an event in one way.
pub async fn of_types(
    ctx: Ctx,
    user: User,
    req: get_relating_events_with_rel_type_and_event_type::v1::Request,
) -> Result<Reply> {
    let query = Query {
        rel_type: Some(req.rel_type.to_string()),
        kind: Some(req.event_type.to_string()),
        from: req.from,
        to: req.to,
        direction: direction(req.dir),
        limit: req.limit.map(Into::into),
        recurse: req.recurse,
    };
    answer(&ctx, &user, &req.room_id, &req.event_id, &query)
}

/// Lists the threads of a room.
pub async fn threads(ctx: Ctx, user: User, req: get_threads::v1::Request) -> Result<Reply> {
    let viewer = Viewer::new(&ctx.rooms, &user.id, Some(&user.device))?;
    let only_own = match req.include {
        IncludeThreads::All => false,
        IncludeThreads::Participated => true,
        other => return Err(Error::invalid_param(format!("include is all or participated, not {other}"))),
    };
    if req.limit.is_some_and(|limit| u64::from(limit) == 0) {
        return Err(Error::invalid_param("limit must be greater than zero"));
    }
    let limit = req.limit.map(Into::into);
    let page = relations::threads(&ctx.rooms, &viewer, &req.room_id, only_own, req.from.as_deref(), limit)?;
    Ok(Reply::json(json(&page)))
}

fn direction(direction: Direction) -> history::Direction {
    match direction {
        Direction::Forward => history::Direction::Forward,
        Direction::Backward => history::Direction::Backward,
    }
}

fn answer(ctx: &Ctx, user: &User, room: &RoomId, event: &EventId, query: &Query) -> Result<Reply> {
    let viewer = Viewer::new(&ctx.rooms, &user.id, Some(&user.device))?;
    Ok(Reply::json(json(&relations::list(&ctx.rooms, &viewer, room, event, query)?)))
}

fn json(page: &Page) -> String {
    let mut out = format!("{{\"chunk\":{}", list(&page.chunk));
    if let Some(next) = &page.next {
        out.push_str(&format!(",\"next_batch\":{}", text(next)));
    }
    if let Some(depth) = page.depth {
        out.push_str(&format!(",\"recursion_depth\":{depth}"));
    }
    out.push('}');
    out
}
