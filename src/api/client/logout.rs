//! Logging out.

use ruma::api::client::session::{logout, logout_all};

use crate::{app::Ctx, error::Result, http::User, users::devices};

/// Logs this device out and forgets it.
pub async fn this_device(ctx: Ctx, user: User, _: logout::v3::Request) -> Result<logout::v3::Response> {
    devices::remove(&ctx.users, user.number, &[user.device]).await?;
    Ok(logout::v3::Response::new())
}

/// Logs all devices out and forgets them.
pub async fn all_devices(ctx: Ctx, user: User, _: logout_all::v3::Request) -> Result<logout_all::v3::Response> {
    devices::remove_all(&ctx.users, user.number).await?;
    Ok(logout_all::v3::Response::new())
}
