//! Making accounts with the shared secret of the configuration, the way scripts know it from Synapse.
//!
//! `GET` gives a nonce; `POST` sends it back with the account and the HMAC-SHA1 of both under the secret.

use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::json;
use sha1::Sha1;

use super::login::welcome;
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, Reply},
    users::{
        accounts::{self, NewAccount},
        profiles,
        sessions::NewDevice,
    },
};

#[derive(Deserialize)]
struct Body {
    nonce: String,
    username: String,
    displayname: Option<String>,
    password: String,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
    mac: String,
}

/// Gives a nonce for one account.
pub async fn nonce(ctx: Ctx, (): (), _: Raw) -> Result<Reply> {
    secret(&ctx)?;
    Reply::value(&json!({ "nonce": ctx.users.nonces().issue(&ctx.chance, ctx.clock.now(), ()) }))
}

/// Makes an account.
pub async fn register(ctx: Ctx, (): (), raw: Raw) -> Result<Reply> {
    let secret = secret(&ctx)?.to_owned();
    let body: Body = raw.json().await?;
    let known = ctx.users.nonces().take(ctx.clock.now(), &body.nonce);
    known.ok_or_else(|| Error::bad_request("M_UNKNOWN", "this nonce is not known, or was used; get another"))?;
    if !is_signed(&body, &secret) {
        return Err(Error::forbidden("the mac does not fit: it is made of nonce, username, password and admin"));
    }
    let id = accounts::new_id(&ctx.users, &body.username)?;
    let account = NewAccount { password: Some(body.password), admin: body.admin, ..Default::default() };
    let device = (!body.inhibit_login).then(NewDevice::default);
    let name = json!(body.displayname.unwrap_or(body.username));
    let also = |write: &mut crate::store::Write| {
        let number = crate::store::schema::numbers::user(write, &id)?;
        profiles::put(write, number, "displayname", Some(&name))
    };
    let login = accounts::create(&ctx.users, &id, account, device, also).await?;
    Reply::value(&welcome(&ctx, &id, login))
}

fn secret(ctx: &Ctx) -> Result<&str> {
    let secret = ctx.config.registration.shared_secret.as_deref().filter(|secret| !secret.is_empty());
    secret.ok_or_else(|| Error::bad_request("M_UNKNOWN", "this server has no shared secret for registration"))
}

/// Whether the MAC is that of the fields, each behind a zero byte but the first.
fn is_signed(body: &Body, secret: &str) -> bool {
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else { return false };
    let admin = if body.admin { "admin" } else { "notadmin" };
    mac.update([&body.nonce, &body.username, &body.password, admin].join("\0").as_bytes());
    if let Some(kind) = &body.user_type {
        mac.update(&[b"\0", kind.as_bytes()].concat());
    }
    unhex(&body.mac).is_some_and(|shown| mac.verify_slice(&shown).is_ok())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok().filter(|_| pair.len() == 2)).collect()
}
