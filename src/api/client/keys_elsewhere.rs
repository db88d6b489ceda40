//! Keys of other servers' users: each server is asked for those of its own, all at the same time.
//!
//! Whoever does not answer in time is a failure in an answer that is otherwise good. Nobody is asked for the keys
//! of users of whom every change is told to this server anyway.
//!
//! Spec: server-server-api#end-to-end-encryption

use std::time::Duration;

use futures_util::future::join_all;
use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId, UserId,
    api::federation::keys::{claim_keys, get_keys},
    serde::Raw,
};

use crate::{
    app::Ctx,
    e2ee::{
        elsewhere::{self, Kept, List},
        one_time_keys::Claimed,
        query::{Keys, Wanted},
    },
    error::Result,
    remote::Patience,
    store::schema::{UserNo, e2ee::usage},
};

/// How long other servers are waited for, unless the client says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The longest time that a client may wait, and the shortest: whoever does not answer in it is left alone for a while.
const LONGEST: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_secs(2);
/// How many bytes an answer may have.
const LIMIT: usize = 20 * 1024 * 1024;

fn patience(timeout: Duration) -> Patience {
    Patience { timeout: timeout.clamp(SHORTEST, LONGEST), limit: LIMIT, insist: false }
}

/// Adds to `keys` what other servers know, and returns those that did not answer.
pub async fn query(
    ctx: &Ctx,
    asker: (&UserId, UserNo),
    keys: &mut Keys,
    timeout: Duration,
) -> Result<Vec<OwnedServerName>> {
    let mut wanted = std::mem::take(&mut keys.elsewhere);
    for users in wanted.values_mut() {
        for user in users.keys().cloned().collect::<Vec<_>>() {
            if let Some(mut list) = elsewhere::fresh(&ctx.e2ee, &user)? {
                elsewhere::add_own_signature(&ctx.e2ee, &user, &mut list, asker)?;
                let devices = users.remove(&user).unwrap_or_default();
                show(keys, &user, list, &devices);
            }
        }
    }
    wanted.retain(|_, users| !users.is_empty());
    let asked = ctx.store.position();
    let asking = wanted.into_iter().map(|(server, wanted)| async move {
        let request = get_keys::v1::Request::new(wanted.clone());
        let answer = ctx.remote.ask_with(&server, request, patience(timeout)).await;
        (server, wanted, answer)
    });
    let (mut failed, mut last) = (Vec::new(), None);
    for (server, wanted, answer) in join_all(asking).await {
        match answer {
            Ok(answer) => {
                for (user, mut list) in lists(&wanted, answer) {
                    let devices = &wanted[&user];
                    // What changes meanwhile is told, and asked for again.
                    if devices.is_empty()
                        && let Kept::Here(ticket) = elsewhere::keep(&ctx.e2ee, &user, &list, None, asked)?
                    {
                        last = Some(ticket);
                    }
                    elsewhere::add_own_signature(&ctx.e2ee, &user, &mut list, asker)?;
                    show(keys, &user, list, devices);
                }
            }
            Err(error) => {
                tracing::debug!(%server, %error, "no keys of the users of {server}");
                failed.push(server);
            }
        }
    }
    // What was written before is on the disk before: hundreds of lists wait for it once.
    if let Some(ticket) = last {
        ticket.published().await?;
    }
    Ok(failed)
}

/// What was asked for, and nothing else: a server speaks for its own users.
fn lists(wanted: &Wanted, mut answer: get_keys::v1::Response) -> Vec<(OwnedUserId, List)> {
    let mut lists = Vec::new();
    for user in wanted.keys() {
        let devices = answer.device_keys.remove(user);
        let (master, self_signing) = (answer.master_keys.remove(user), answer.self_signing_keys.remove(user));
        if devices.is_none() && master.is_none() {
            continue;
        }
        let mut list = List::default();
        for (device, json) in devices.unwrap_or_default() {
            list.add_device(user, device.as_str(), None, json.json().get());
        }
        if let Some(json) = master {
            list.add_identity(user, usage::MASTER, json.json().get());
        }
        if let Some(json) = self_signing {
            list.add_identity(user, usage::SELF_SIGNING, json.json().get());
        }
        lists.push((user.clone(), list));
    }
    lists
}

/// Puts a list into an answer: the devices that are wanted, or all.
fn show(keys: &mut Keys, user: &UserId, list: List, wanted: &[OwnedDeviceId]) {
    let wanted = |device: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == device);
    let devices = list.devices.into_iter().filter(|(device, _)| wanted(device));
    keys.devices.insert(user.to_owned(), devices.map(|(device, json)| (device.into(), json)).collect());
    keys.master.extend(list.master.map(|json| (user.to_owned(), json)));
    keys.self_signing.extend(list.self_signing.map(|json| (user.to_owned(), json)));
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
                    let Some(wanted) = wanted.get(&user) else { continue };
                    let of_user = claimed.keys.entry(user).or_default();
                    for (device, keys) in devices {
                        let Some(algorithm) = wanted.get(&device) else { continue };
                        let mut keys = keys.into_iter();
                        if let Some((name, json)) = keys.find(|(name, _)| name.algorithm() == *algorithm) {
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
