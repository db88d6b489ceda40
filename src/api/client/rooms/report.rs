//! Telling the admins that something is wrong.

use ruma::api::client::{
    reporting::report_user,
    room::{report_content, report_room},
};

use crate::{
    app::Ctx,
    error::Result,
    http::User,
    rooms::reports::{self, About},
};

/// Reports an event.
pub async fn event(ctx: Ctx, user: User, req: report_content::v3::Request) -> Result<report_content::v3::Response> {
    let about = About::Event(&req.room_id, &req.event_id);
    reports::add(&ctx.rooms, &user.id, about, req.reason).await?;
    Ok(report_content::v3::Response::new())
}

/// Reports a room.
pub async fn room(ctx: Ctx, user: User, req: report_room::v3::Request) -> Result<report_room::v3::Response> {
    reports::add(&ctx.rooms, &user.id, About::Room(&req.room_id), Some(req.reason)).await?;
    Ok(report_room::v3::Response::new())
}

/// Reports a user.
pub async fn user(ctx: Ctx, user: User, req: report_user::v3::Request) -> Result<report_user::v3::Response> {
    reports::add(&ctx.rooms, &user.id, About::User(&req.user_id), Some(req.reason)).await?;
    Ok(report_user::v3::Response::new())
}
