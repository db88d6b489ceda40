//! The state of a room: all of it, one event of it, and changing it.

use std::borrow::Cow;

use ruma::api::client::state::{
    get_state_event_for_key::{self, v3::StateEventFormat},
    get_state_events, send_state_event,
};
use serde::Deserialize;

use super::list;
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Reply, User},
    rooms::{guests, partial, policy, read, send, view::Viewer},
};

/// Answers all state that the caller may look at.
pub async fn all(ctx: Ctx, user: User, req: get_state_events::v3::Request) -> Result<Reply> {
    partial::whole_by_id(&ctx.rooms, &req.room_id).await?;
    let viewer = Viewer::new(&ctx.rooms, &user.id, Some(&user.device))?;
    Ok(Reply::json(list(&read::state(&ctx.rooms, &viewer, &req.room_id)?)))
}

/// Answers the content of a state event, or the whole event.
pub async fn get(ctx: Ctx, user: User, req: get_state_event_for_key::v3::Request) -> Result<Reply> {
    let kind = req.event_type.to_string();
    if !matches!(req.format, StateEventFormat::Content | StateEventFormat::Event) {
        return Err(Error::invalid_param("format is content or event"));
    }
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
    let kind = req.event_type.to_string();
    if user.guest && kind == "m.room.member" && joins(req.body.json().get()) {
        guests::check_may_join(&ctx.rooms, &*ctx.rooms.find(&req.room_id)?)?;
    }
    let key = (&*kind, &*req.state_key);
    let attempt = || send::state(&ctx.rooms, &user.id, &req.room_id, key, req.body.json().get(), None);
    let (id, ticket) = policy::approved(&ctx.rooms, attempt).await?;
    ticket.published().await?;
    if kind == "m.room.guest_access" {
        guests::see_out(&ctx.rooms).await?;
    }
    Ok(send_state_event::v3::Response::new(id))
}

/// Whether the content of a member event is that of a join.
fn joins(content: &str) -> bool {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        membership: Option<Cow<'a, str>>,
    }
    serde_json::from_str::<Content<'_>>(content).is_ok_and(|content| content.membership.as_deref() == Some("join"))
}
