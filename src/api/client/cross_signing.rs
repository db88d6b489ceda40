//! Cross-signing keys and the signatures made with them.
//!
//! Spec: client-server-api#cross-signing

use std::collections::BTreeMap;

use ruma::{
    api::client::keys::{upload_signatures, upload_signing_keys},
    encryption::CrossSigningKey,
    serde::Raw,
};
use serde_json::{Value, json};

use super::{account::confirm, keys::device, uia::Guarded};
use crate::{
    app::Ctx,
    e2ee::{
        self,
        cross_signing::{self, Need},
        signatures,
    },
    error::Result,
    http::{Reply, User},
    protocol::canonical::Object,
};

/// Keeps the caller's cross-signing keys. The first ones need no more than an access token.
pub async fn upload_keys(
    ctx: Ctx,
    user: User,
    asked: Guarded<upload_signing_keys::v3::Request>,
) -> Result<upload_signing_keys::v3::Response> {
    let key = |key: Option<Raw<CrossSigningKey>>| -> Result<Option<Object>> {
        key.map(|key| e2ee::object(key.json().get())).transpose()
    };
    let upload = cross_signing::Upload {
        master: key(asked.request.master_key)?,
        self_signing: key(asked.request.self_signing_key)?,
        user_signing: key(asked.request.user_signing_key)?,
    };
    let need = cross_signing::check(&ctx.e2ee, device(&user), &upload)?;
    if need == Need::Authentication {
        confirm(&ctx, "keys/device_signing/upload", &user, asked.subject, asked.proof).await?;
    }
    cross_signing::upload(&ctx.e2ee, device(&user), &upload, need).await?;
    Ok(upload_signing_keys::v3::Response::new())
}

/// Keeps signatures by the caller's keys, and says of each that was not kept why.
pub async fn upload_signatures(ctx: Ctx, user: User, req: upload_signatures::v3::Request) -> Result<Reply> {
    let upload = req.signed_keys.into_iter().map(|(user, keys)| {
        let keys = keys.iter().map(|(id, key)| (id.to_owned(), e2ee::object(key.get())));
        (user, keys.collect())
    });
    let failures = signatures::upload(&ctx.e2ee, device(&user), upload.collect()).await?;
    let failures: BTreeMap<_, BTreeMap<String, Value>> = failures
        .into_iter()
        .map(|(user, keys)| (user, keys.into_iter().map(|(id, error)| (id, error.body())).collect()))
        .collect();
    Reply::value(&json!({ "failures": failures }))
}
