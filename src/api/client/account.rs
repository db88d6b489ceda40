//! Accounts: who am I, passwords, deactivation.

use ruma::api::client::account::whoami;

use crate::{app::Ctx, error::Result, http::User};

/// Says whose token this is.
pub async fn whoami(_: Ctx, user: User, _: whoami::v3::Request) -> Result<whoami::v3::Response> {
    let mut answer = whoami::v3::Response::new(user.id, user.guest);
    answer.device_id = Some(user.device);
    Ok(answer)
}
