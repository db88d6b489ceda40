//! Replacing a room by one of another version.

use ruma::api::client::room::upgrade_room;

use crate::{
    app::Ctx,
    error::Result,
    http::User,
    rooms::{partial, upgrade},
};

/// Upgrades a room.
pub async fn upgrade(ctx: Ctx, user: User, req: upgrade_room::v3::Request) -> Result<upgrade_room::v3::Response> {
    user.may_act()?;
    partial::whole_by_id(&ctx.rooms, &req.room_id).await?;
    let new = upgrade::upgrade(&ctx.rooms, &user.id, &req.room_id, &req.new_version, &req.additional_creators).await?;
    Ok(upgrade_room::v3::Response::new(new.id.clone()))
}
