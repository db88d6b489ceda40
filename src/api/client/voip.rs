//! Calls.

use ruma::api::client::voip::get_turn_server_info::v3::{Request, Response};

use crate::{app::Ctx, error::Result, http::User};

/// Lists the servers through which calls are relayed: none, calls go from person to person.
///
/// Spec: client-server-api#voice-over-ip
pub async fn turn_server(_: Ctx, _: User, _: Request) -> Result<Response> {
    Ok(Response::new(String::new(), String::new(), vec![], std::time::Duration::from_secs(24 * 3600)))
}
