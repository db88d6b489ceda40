//! Calls: where they are relayed.
//!
//! Spec: client-server-api#voice-over-ip, MSC4143

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use ruma::api::client::voip::get_turn_server_info;
use serde_json::{Value, json};
use sha1::Sha1;

use crate::{
    app::Ctx,
    config::Config,
    error::{Error, Result},
    http::{Raw, Reply, User},
};

/// Lists the TURN servers with a name and password for the caller; nothing if there are none for them.
///
/// Spec: client-server-api#get_matrixclientv3voipturnserver
pub async fn turn_server(ctx: Ctx, user: User, _: get_turn_server_info::v3::Request) -> Result<Reply> {
    let turn = &ctx.config.turn;
    if turn.uris.is_empty() || (user.guest && !turn.guests) {
        return Reply::value(&json!({}));
    }
    let ttl = turn.lifetime.as_secs();
    let (username, password) = match (&turn.shared_secret, &turn.username, &turn.password) {
        (Some(secret), ..) => {
            // Until when it holds, and whose it is: what coturn and others check against the secret.
            let username = format!("{}:{}", ctx.clock.now() / 1000 + ttl, user.id);
            let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).map_err(Error::internal)?;
            mac.update(username.as_bytes());
            (username, STANDARD.encode(mac.finalize().into_bytes()))
        }
        (None, Some(username), Some(password)) => (username.clone(), password.clone()),
        _ => return Reply::value(&json!({})),
    };
    Reply::value(&json!({ "username": username, "password": password, "uris": turn.uris, "ttl": ttl }))
}

/// Lists what calls of several people go through. It says no more than the well-known file, so anybody may
/// ask.
///
/// Spec: MSC4143
pub async fn transports(ctx: Ctx, (): (), _: Raw) -> Result<Reply> {
    Reply::value(&json!({ "rtc_transports": rtc(&ctx.config) }))
}

/// What calls of several people go through.
pub fn rtc(config: &Config) -> Vec<Value> {
    let url = config.rtc.livekit_service_url.iter();
    url.map(|url| json!({ "type": "livekit", "livekit_service_url": url.as_str() })).collect()
}
