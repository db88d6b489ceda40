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
    to.raw(Method::GET, "/.well-known/matrix/support", support);
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

/// Whom to write to when something is wrong with this server.
///
/// Spec: client-server-api#getwell-knownmatrixsupport
async fn support(ctx: Ctx, (): (), _: Raw) -> Result<Reply> {
    let support = &ctx.config.support;
    let mut file = json!({});
    if support.matrix_id.is_some() || support.email.is_some() {
        let mut contact = json!({ "role": "m.role.admin" });
        support.matrix_id.iter().for_each(|id| contact["matrix_id"] = json!(id));
        support.email.iter().for_each(|email| contact["email_address"] = json!(email));
        file["contacts"] = json!([contact]);
    }
    support.page.iter().for_each(|page| file["support_page"] = json!(page.as_str()));
    match file.as_object().is_some_and(serde_json::Map::is_empty) {
        false => Reply::value(&file),
        true => Err(Error::not_found("whoever looks after this server does not say how to be reached")),
    }
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
