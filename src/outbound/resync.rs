//! Asks again for the devices of other servers' users of which a change was missed.
//!
//! One user of a server after the other, several servers at the same time. A server that does not answer is
//! asked again when it is back; what is still to be asked is a row, so a restart forgets nothing.
//!
//! Spec: server-server-api#device-management

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use ruma::{OwnedServerName, ServerName, UserId, api::federation::device::get_devices};
use tokio::time::Instant;

use crate::{
    e2ee::elsewhere::{self, Kept, List},
    error::Result,
    heavy,
    remote::{Patience, RemoteError},
    rooms::Rooms,
    store::schema::{UserNo, e2ee::usage, numbers},
};

/// How many servers are asked at the same time.
const AT_ONCE: usize = 8;
/// How often a list is asked for that changes while it is on its way.
const TRIES: usize = 3;
/// How patient a question is.
const ASK: Patience = Patience { timeout: Duration::from_secs(20), limit: 4 * 1024 * 1024, insist: false };
/// How often to look at what is lost if nothing happens, and at what nobody needs any more.
const PAUSE: Duration = Duration::from_secs(600);

/// Works until the task is dropped.
pub async fn run(rooms: Arc<Rooms>) -> Result<()> {
    if !rooms.config.federation.enabled {
        return Ok(());
    }
    // However often something is lost, what nobody needs goes one day.
    let mut sweeping = tokio::time::interval_at(Instant::now() + PAUSE, PAUSE);
    loop {
        let (lost, returned) = (rooms.users.e2ee.lost.notified(), rooms.remote.back_off.returned().notified());
        ask_all(&rooms).await?;
        tokio::select! {
            () = lost => {}
            () = returned => {}
            _ = sweeping.tick() => {
                let e2ee = rooms.users.e2ee.clone();
                let sweep = heavy::run(move || elsewhere::sweep(&e2ee));
                sweep.await??;
            }
        }
    }
}

async fn ask_all(rooms: &Rooms) -> Result<()> {
    let lost = elsewhere::lost(&rooms.store)?;
    let asking = lost.into_iter().filter_map(|(server, users)| Some((OwnedServerName::try_from(server).ok()?, users)));
    let mut asking = stream::iter(asking.map(|(server, users)| async move {
        for user in users {
            if !ask(rooms, &server, user).await? {
                break;
            }
        }
        Result::<()>::Ok(())
    }))
    .buffer_unordered(AT_ONCE);
    while let Some(done) = asking.next().await {
        done?;
    }
    Ok(())
}

/// Asks for one list; false if the server does not answer.
async fn ask(rooms: &Rooms, server: &ServerName, number: UserNo) -> Result<bool> {
    let e2ee = &rooms.users.e2ee;
    let Some(user) = numbers::user_id(&rooms.store, number)? else { return Ok(true) };
    for _ in 0..TRIES {
        let asked = rooms.store.position();
        let request = get_devices::v1::Request::new(user.clone());
        match rooms.remote.ask_with(server, request, ASK).await {
            Ok(answer) => {
                let stream = answer.stream_id.into();
                match elsewhere::keep(e2ee, &user, &list(&user, answer), Some(stream), asked)? {
                    Kept::Here(ticket) => return Ok(ticket.published().await.map(|_| true)?),
                    Kept::Needless => return Ok(true),
                    Kept::Outdated => {}
                }
            }
            Err(RemoteError::Refused { status, .. }) if status.is_client_error() && status.as_u16() != 429 => {
                // There is no such user any more; who needs the keys hears it from the server.
                elsewhere::forget(e2ee, &user, number)?;
                return Ok(true);
            }
            Err(error) => {
                tracing::debug!(%server, %user, %error, "no devices of {user}");
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn list(user: &UserId, answer: get_devices::v1::Response) -> List {
    let mut list = List::default();
    for device in answer.devices {
        list.add_device(
            user,
            device.device_id.as_str(),
            device.device_display_name.as_deref(),
            device.keys.json().get(),
        );
    }
    if let Some(key) = answer.master_key {
        list.add_identity(user, usage::MASTER, key.json().get());
    }
    if let Some(key) = answer.self_signing_key {
        list.add_identity(user, usage::SELF_SIGNING, key.json().get());
    }
    list
}
