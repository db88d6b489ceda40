//! Who is there.
//!
//! Spec: client-server-api#presence

use std::time::Duration;

use ruma::{
    api::client::presence::{get_presence, set_presence},
    presence::PresenceState,
};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::User,
    protocol::presence::State,
    rooms::presence,
};

/// Says where the caller is.
pub async fn set(ctx: Ctx, user: User, req: set_presence::v3::Request) -> Result<set_presence::v3::Response> {
    if user.id != req.user_id {
        return Err(Error::forbidden("you can only say of yourself where you are"));
    }
    let state = State::parse(req.presence.as_str())
        .ok_or_else(|| Error::invalid_param("presence is online, unavailable or offline"))?;
    presence::set(&ctx.rooms, user.number, &user.device, state, req.status_msg)?;
    Ok(set_presence::v3::Response::new())
}

/// Shows where somebody is.
pub async fn get(ctx: Ctx, user: User, req: get_presence::v3::Request) -> Result<get_presence::v3::Response> {
    let found = presence::find(&ctx.rooms, user.number, &req.user_id)?;
    let mut shown = get_presence::v3::Response::new(PresenceState::from(found.state.name()));
    shown.status_msg = found.status;
    shown.currently_active = (found.state == State::Online).then_some(found.is_active);
    if found.active_at > 0 {
        shown.last_active_ago = Some(Duration::from_millis(ctx.clock.now().saturating_sub(found.active_at)));
    }
    Ok(shown)
}
