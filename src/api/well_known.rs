//! The files under `/.well-known/matrix` that lead clients and other servers here.
//!
//! Spec: client-server-api#well-known-uris, server-server-api#resolving-server-names

use http::{Method, Uri};
use serde_json::json;

use super::client::voip;
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, Reply, Routes},
};

/// The files.
pub fn routes(to: &mut Routes) {
    to.raw(Method::GET, "/.well-known/matrix/client", client);
    to.raw(Method::GET, "/.well-known/matrix/server", server);
}

/// Where clients find this server.
async fn client(ctx: Ctx, (): (), _: Raw) -> Result<Reply> {
    let mut file = json!({ "m.homeserver": { "base_url": ctx.config.public_url() } });
    let calls = voip::rtc(&ctx.config);
    if !calls.is_empty() {
        // Spec: MSC4143
        file["org.matrix.msc4143.rtc_foci"] = calls.into();
    }
    Reply::value(&file)
}

/// Where other servers find this server.
async fn server(ctx: Ctx, (): (), _: Raw) -> Result<Reply> {
    let url: Option<Uri> = ctx.config.public_url().parse().ok();
    let address = url.as_ref().and_then(|url| Some((url.host()?, url.port_u16().unwrap_or(443))));
    match address {
        Some((host, port)) if ctx.config.federation.enabled => {
            Reply::value(&json!({ "m.server": format!("{host}:{port}") }))
        }
        _ => Err(Error::not_found("this server does not talk to other servers")),
    }
}
