//! The state of a room: all of it, one event of it, and changing it.

use ruma::api::client::state::{
    get_state_event_for_key::{self, v3::StateEventFormat},
    get_state_events, send_state_event,
};

use super::list;
use crate::{
    app::Ctx,
    error::Result,
    http::{Reply, User},
    rooms::{read, send, view::Viewer},
};

/// Answers all state that the caller may look at.
pub async fn all(ctx: Ctx, user: User, req: get_state_events::v3::Request) -> Result<Reply> {
    let viewer = Viewer::new(&ctx.rooms, &user.id, Some(&user.device))?;
    Ok(Reply::json(list(&read::state(&ctx.rooms, &viewer, &req.room_id)?)))
}

/// Answers the content of a state event, or the whole event.
pub async fn get(ctx: Ctx, user: User, req: get_state_event_for_key::v3::Request) -> Result<Reply> {
    let kind = req.event_type.to_string();
    let known = read::state_event(&ctx.rooms, &user.id, &req.room_id, &kind, &req.state_key)?;
    match req.format {
        StateEventFormat::Event => {
            let viewer = Viewer::new(&ctx.rooms, &user.id, Some(&user.device))?;
            Ok(Reply::json(viewer.event(&known, true)?))
        }
        _ => Ok(Reply::json(known.event.content().to_owned())),
    }
}

/// Changes the state.
pub async fn put(ctx: Ctx, user: User, req: send_state_event::v3::Request) -> Result<send_state_event::v3::Response> {
    user.may_act()?;
    let key = (&*req.event_type.to_string(), &*req.state_key);
    let (id, ticket) = send::state(&ctx.rooms, &user.id, &req.room_id, key, req.body.json().get(), None)?;
    ticket.published().await?;
    Ok(send_state_event::v3::Response::new(id))
}
