//! What this server is.

use ruma::api::federation::discovery::get_server_version::v1::{Request, Response, Server};

use crate::{app::Ctx, error::Result};

/// The name and version of this program.
pub async fn version(_: Ctx, (): (), _: Request) -> Result<Response> {
    let mut server = Server::new();
    server.name = Some("Ingle".to_owned());
    server.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut response = Response::new();
    response.server = Some(server);
    Ok(response)
}
