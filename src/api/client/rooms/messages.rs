//! Reading what was said: pages of messages, one event, and what surrounds it.

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, RoomId, UInt,
    api::{
        Direction,
        client::{
            context::get_context,
            message::get_message_events,
            room::{get_event_by_timestamp, get_room_event},
        },
    },
};

use super::{list, text};
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, Reply, User},
    rooms::{
        backfill,
        filter::EventFilter,
        history,
        read::{self, PageQuery},
        view::Viewer,
    },
    store::schema::events::Standing,
};

/// How often other servers are asked for more of the past before one page is answered.
const MOST_FILLS: usize = 5;

/// Answers one event.
pub async fn event(ctx: Ctx, user: User, req: get_room_event::v3::Request) -> Result<Reply> {
    look_elsewhere(&ctx, &user, &req.room_id, &req.event_id).await?;
    let viewer = Viewer::new(&ctx.rooms, &user.id, Some(&user.device))?;
    let known = read::event(&ctx.rooms, &viewer, &req.room_id, &req.event_id)?;
    Ok(Reply::json(viewer.event(&known, true)?))
}

/// Fetches an event that has no place in the history here from other servers, for somebody who is in the room.
async fn look_elsewhere(ctx: &Ctx, user: &User, room: &RoomId, event: &EventId) -> Result<()> {
    if ctx.rooms.by_id(event)?.is_none_or(|known| known.standing == Standing::Outlier)
        && let Ok(room) = ctx.rooms.joined(room, &user.id)
    {
        backfill::find(&ctx.rooms, &room, event).await?;
    }
    Ok(())
}

/// Answers a page of a room's history.
pub async fn page(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let filter = filter(&raw)?;
    let req: get_message_events::v3::Request = raw.typed().await?;
    let direction = match req.dir {
        Direction::Forward => history::Direction::Forward,
        Direction::Backward => history::Direction::Backward,
    };
    let query = PageQuery { from: req.from, to: req.to, direction, limit: req.limit.into(), filter };
    let read = || {
        let viewer = Viewer::new(&ctx.rooms, &user.id, Some(&user.device))?;
        read::messages(&ctx.rooms, &viewer, &req.room_id, &query)
    };
    let mut page = read()?;
    // What happened while this server was not in the room, or away, other servers may have.
    for _ in 0..MOST_FILLS {
        let Some(gap) = page.gap.take() else { break };
        if !backfill::fill(&ctx.rooms, &ctx.rooms.find(&req.room_id)?, &gap).await? {
            break;
        }
        page = read()?;
    }
    let mut out = format!("{{\"start\":{},\"chunk\":{}", text(&page.start), list(&page.chunk));
    if let Some(end) = page.end {
        out.push_str(&format!(",\"end\":{}", text(&end)));
    }
    if !page.state.is_empty() {
        out.push_str(&format!(",\"state\":{}", list(&page.state)));
    }
    out.push('}');
    Ok(Reply::json(out))
}

/// Answers an event with what happened around it.
pub async fn context(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let filter = filter(&raw)?;
    let req: get_context::v3::Request = raw.typed().await?;
    look_elsewhere(&ctx, &user, &req.room_id, &req.event_id).await?;
    let viewer = Viewer::new(&ctx.rooms, &user.id, Some(&user.device))?;
    let context = read::context(&ctx.rooms, &viewer, &req.room_id, &req.event_id, req.limit.into(), &filter)?;
    Ok(Reply::json(format!(
        "{{\"start\":{},\"end\":{},\"event\":{},\"events_before\":{},\"events_after\":{},\"state\":{}}}",
        text(&context.start),
        text(&context.end),
        context.event,
        list(&context.before),
        list(&context.after),
        list(&context.state),
    )))
}

/// Answers the event that is closest to a time.
pub async fn at_time(
    ctx: Ctx,
    user: User,
    req: get_event_by_timestamp::v1::Request,
) -> Result<get_event_by_timestamp::v1::Response> {
    let direction = match req.dir {
        Direction::Forward => history::Direction::Forward,
        Direction::Backward => history::Direction::Backward,
    };
    let moment = req.ts.get().into();
    let look = || {
        let viewer = Viewer::new(&ctx.rooms, &user.id, Some(&user.device))?;
        read::at_time(&ctx.rooms, &viewer, &req.room_id, moment, direction)
    };
    let mut found = look()?;
    if found.is_uncertain && backfill::find_at(&ctx.rooms, &ctx.rooms.find(&req.room_id)?, moment, direction).await? {
        found = look()?;
    }
    let not_found = || Error::not_found("there is no event at this time or beyond it that you may see");
    let known = found.event.ok_or_else(not_found)?;
    let time = MilliSecondsSinceUnixEpoch(UInt::new_saturating(known.event.origin_server_ts));
    Ok(get_event_by_timestamp::v1::Response::new(known.event.event_id.clone(), time))
}

/// The filter in the query. ruma's type does not know all of its fields.
fn filter(raw: &Raw) -> Result<EventFilter> {
    match raw.parameter("filter") {
        Some(json) if !json.is_empty() => EventFilter::parse(&json),
        _ => Ok(EventFilter::default()),
    }
}
