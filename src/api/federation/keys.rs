//! The keys of this server, and those of others as this server has seen them.
//!
//! Spec: server-server-api#retrieving-server-keys

use std::collections::BTreeMap;

use ruma::{
    OwnedServerName,
    api::federation::discovery::{get_remote_server_keys, get_remote_server_keys_batch, get_server_keys},
    serde::Raw,
};

use crate::{
    app::Ctx,
    error::{Error, Result},
    protocol::canonical::{self, Object},
};

/// How many servers one request may ask about.
const MOST_SERVERS: usize = 100;

/// The keys of this server, signed by itself.
pub async fn own(ctx: Ctx, (): (), _: get_server_keys::v2::Request) -> Result<get_server_keys::v2::Response> {
    Ok(get_server_keys::v2::Response::new(raw(&ctx.remote.own_keys())?))
}

fn raw<T>(object: &Object) -> Result<Raw<T>> {
    let json = canonical::write_object(object);
    Ok(Raw::from_json(serde_json::value::RawValue::from_string(json).map_err(Error::internal)?))
}

/// The keys of one server, vouched for by this one.
pub async fn notary_one(
    ctx: Ctx,
    (): (),
    request: get_remote_server_keys::v2::Request,
) -> Result<get_remote_server_keys::v2::Response> {
    let valid_until = request.minimum_valid_until_ts.get().into();
    let keys = vouched(&ctx, vec![(request.server_name, valid_until)]).await?;
    let keys = keys.iter().map(raw).collect::<Result<_>>()?;
    Ok(get_remote_server_keys::v2::Response::new(keys))
}

/// The keys of several servers.
pub async fn notary_many(
    ctx: Ctx,
    (): (),
    request: get_remote_server_keys_batch::v2::Request,
) -> Result<get_remote_server_keys_batch::v2::Response> {
    if request.server_keys.len() > MOST_SERVERS {
        return Err(Error::invalid_param(format!("one request may ask about {MOST_SERVERS} servers")));
    }
    let now = ctx.clock.now();
    let wanted: BTreeMap<OwnedServerName, u64> = request
        .server_keys
        .into_iter()
        .map(|(server, keys)| {
            let until = keys.values().filter_map(|key| key.minimum_valid_until_ts).map(|ts| ts.get().into()).max();
            (server, until.unwrap_or(now))
        })
        .collect();
    let keys = vouched(&ctx, wanted.into_iter().collect()).await?;
    let keys = keys.iter().map(raw).collect::<Result<_>>()?;
    Ok(get_remote_server_keys_batch::v2::Response::new(keys))
}

async fn vouched(ctx: &Ctx, wanted: Vec<(OwnedServerName, u64)>) -> Result<Vec<Object>> {
    let asked = wanted.iter().map(|(server, valid_until)| ctx.remote.vouch(server, *valid_until));
    let found = futures_util::future::join_all(asked).await;
    found.into_iter().filter_map(Result::transpose).collect()
}
