//! Keys of other servers' users: each server is asked for those of its own, all at the same time.
//!
//! Whoever does not answer in time is a failure in an answer that is otherwise good.
//!
//! Spec: server-server-api#end-to-end-encryption

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use ruma::{
    OwnedServerName, OwnedUserId,
    api::federation::keys::{claim_keys, get_keys},
    serde::Raw,
};

use crate::{
    app::Ctx,
    e2ee::{
        one_time_keys::Claimed,
        query::{Keys, Wanted},
    },
    remote::Patience,
};

/// How long other servers are waited for, unless the client says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The longest time that a client may wait.
const LONGEST: Duration = Duration::from_secs(60);
/// How many bytes an answer may have.
const LIMIT: usize = 20 * 1024 * 1024;

fn patience(timeout: Duration) -> Patience {
    Patience { timeout: timeout.min(LONGEST), limit: LIMIT, insist: false }
}

/// Adds to `keys` what other servers know, and returns those that did not answer.
pub async fn query(ctx: &Ctx, keys: &mut Keys, timeout: Duration) -> Vec<OwnedServerName> {
    let asked = std::mem::take(&mut keys.elsewhere).into_iter().map(|(server, wanted)| async move {
        let request = get_keys::v1::Request::new(wanted.clone());
        let answer = ctx.remote.ask_with(&server, request, patience(timeout)).await;
        (server, wanted, answer)
    });
    let mut failed = Vec::new();
    for (server, wanted, answer) in join_all(asked).await {
        match answer {
            Ok(answer) => add(keys, &wanted, answer),
            Err(error) => {
                tracing::debug!(%server, %error, "no keys of the users of {server}");
                failed.push(server);
            }
        }
    }
    failed
}

/// Takes over what was asked for, and nothing else: a server speaks for its own users.
fn add(keys: &mut Keys, wanted: &Wanted, answer: get_keys::v1::Response) {
    for (user, devices) in answer.device_keys {
        if wanted.contains_key(&user) {
            let devices = devices.into_iter().map(|(device, json)| (device, text(json)));
            keys.devices.insert(user, devices.collect());
        }
    }
    add_identities(&mut keys.master, wanted, answer.master_keys);
    add_identities(&mut keys.self_signing, wanted, answer.self_signing_keys);
}

fn add_identities<T>(keys: &mut BTreeMap<OwnedUserId, String>, wanted: &Wanted, found: BTreeMap<OwnedUserId, Raw<T>>) {
    for (user, json) in found {
        if wanted.contains_key(&user) {
            keys.insert(user, text(json));
        }
    }
}

fn text<T>(json: Raw<T>) -> String {
    json.into_json().get().to_owned()
}

/// Adds to `claimed` the keys that other servers hand out, and returns those that did not answer.
pub async fn claim(ctx: &Ctx, claimed: &mut Claimed, timeout: Duration) -> Vec<OwnedServerName> {
    let asked = std::mem::take(&mut claimed.elsewhere).into_iter().map(|(server, wanted)| async move {
        let request = claim_keys::v1::Request::new(wanted.clone());
        let answer = ctx.remote.ask_with(&server, request, patience(timeout)).await;
        (server, wanted, answer)
    });
    let mut failed = Vec::new();
    for (server, wanted, answer) in join_all(asked).await {
        match answer {
            Ok(answer) => {
                for (user, devices) in answer.one_time_keys {
                    if !wanted.contains_key(&user) {
                        continue;
                    }
                    let of_user = claimed.keys.entry(user).or_default();
                    for (device, keys) in devices {
                        if let Some((name, json)) = keys.into_iter().next() {
                            of_user.insert(device, (name.to_string(), text(json)));
                        }
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%server, %error, "no one-time keys of the users of {server}");
                failed.push(server);
            }
        }
    }
    failed
}
