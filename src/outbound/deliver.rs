//! One transaction after the other to each server, until it has arrived.
//!
//! Thousands of servers may be told something at once: so many are sent something at the same time, and those in small
//! rooms do not wait behind a crowd.
//!
//! Spec: server-server-api#transactions

use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    sync::atomic::Ordering,
    time::Duration,
};

use ruma::ServerName;
use serde_json::value::RawValue;
use tokio::{
    sync::{SemaphorePermit, futures::Notified},
    time::timeout,
};

use super::{
    edus,
    follow::{Destination, Outbound},
    queue::{self, Batch},
};
use crate::{
    error::Result,
    remote::{self, Patience, back_off},
    store::{Position, schema::federation::OUTBOX},
};

/// The longest pause before a server that did not answer is tried again, if nothing else happens.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// After so many refusals the pauses between two attempts grow no more: a server may be mended.
const GROWING: u32 = 10;
/// How patient a transaction is.
const TRANSACTION: Patience = Patience { timeout: Duration::from_secs(60), limit: 1024 * 1024, insist: false };

/// What became of an attempt to send a transaction.
enum Attempt {
    Arrived,
    Refused(http::StatusCode),
    /// The server wants to be left alone, this long if it says so.
    TooMany(Duration),
    Silence,
}

impl Outbound {
    pub(super) async fn send_all(&self, server: &ServerName, destination: &Destination) {
        loop {
            let next = destination.queue.lock().take();
            let Some(batch) = next else {
                let mut busy = destination.busy.lock();
                if destination.queue.lock().is_empty() {
                    *busy = false;
                    return;
                }
                continue;
            };
            let up_to = batch.up_to;
            let mut open = vec![batch];
            let mut is_part = false;
            while let Some(batch) = open.pop() {
                if let Some(refused) = self.deliver(server, destination, batch, is_part).await {
                    // Whatever it is that the server does not take, the rest is not lost with it.
                    open.extend(refused.parts().into_iter().flat_map(|[one, other]| [other, one]));
                    is_part = true;
                }
            }
            if let Some(up_to) = up_to
                && let Err(error) = self.delivered(server, destination, up_to)
            {
                tracing::warn!(%server, ?error, "cannot save how far {server} has got");
            }
        }
    }

    /// Sends one transaction until it has arrived; returns it if the server does not take what is in it.
    async fn deliver(
        &self,
        server: &ServerName,
        destination: &Destination,
        mut batch: Batch,
        is_part: bool,
    ) -> Option<Batch> {
        let back_off = &self.rooms.remote.back_off;
        let count = self.transactions.fetch_add(1, Ordering::Relaxed);
        let uri = format!("/_matrix/federation/v1/send/{}-{count}", self.run);
        let (mut silent, mut refusals) = (false, 0);
        loop {
            // Listened for from before the attempt on: the server may show itself at any moment.
            let mut shown = pin!(back_off.returned().notified());
            shown.as_mut().enable();
            let attempt = match back_off.until(server, self.rooms.clock.now()) {
                Some(_) => Attempt::Silence,
                None => self.attempt(server, destination, &uri, &batch).await,
            };
            let now = self.rooms.clock.now();
            let until = back_off.until(server, now);
            let pause = Duration::from_millis(until.map_or(1_000, |until| until.saturating_sub(now).max(50)));
            let arrived = matches!(attempt, Attempt::Arrived);
            if !arrived && !drop_passing(destination, &mut batch) {
                return None;
            }
            match attempt {
                Attempt::Arrived => {
                    if silent {
                        tracing::info!(%server, "{server} is back and gets what waited for it");
                    }
                    return None;
                }
                Attempt::Refused(status) => {
                    refusals += 1;
                    if !queue::is_worth_another_try(status, refusals, is_part) {
                        let outcome = if is_part { "some of it is given up" } else { "it is sent in parts" };
                        tracing::warn!(%server, %status, refusals, "{server} refuses what it is sent; {outcome}");
                        return Some(batch);
                    }
                    if refusals == 1 {
                        tracing::warn!(%server, %status, "{server} refuses what it is sent; it is tried again later");
                    }
                    // That it talks to us does not mean that it listens.
                    tokio::time::sleep(pause.max(self.grown(refusals))).await;
                }
                Attempt::TooMany(wanted) => tokio::time::sleep(pause.max(wanted)).await,
                Attempt::Silence => {
                    if !std::mem::replace(&mut silent, true) {
                        tracing::debug!(%server, "{server} does not answer; what is for it waits");
                    }
                    match refusals {
                        0 => self.rest(server, pause.min(LONGEST_PAUSE), shown).await,
                        _ => tokio::time::sleep(pause.min(LONGEST_PAUSE)).await,
                    }
                }
            }
        }
    }

    /// The pause after so many refusals.
    fn grown(&self, refusals: u32) -> Duration {
        let jitter = u64::from_le_bytes(self.rooms.remote.chance.bytes());
        Duration::from_millis(back_off::pause(refusals.min(GROWING), jitter))
    }

    /// Sends a transaction once. It is made anew for each attempt, so that a silent server costs no memory.
    async fn attempt(&self, server: &ServerName, destination: &Destination, uri: &str, batch: &Batch) -> Attempt {
        let _turn = self.turn(destination, batch.hurries).await;
        let body = match self.transaction(batch) {
            Ok(body) => body,
            Err(error) => {
                tracing::error!(%server, ?error, "a transaction for {server} cannot be made");
                return Attempt::Silence;
            }
        };
        let (remote, method) = (&self.rooms.remote, http::Method::PUT);
        match remote.send(server, method, uri.to_owned(), Some(body), TRANSACTION, true).await {
            Ok(answer) if answer.status().is_success() => {
                tell_refusals(server, answer.body());
                Attempt::Arrived
            }
            Ok(answer) if answer.status() == http::StatusCode::TOO_MANY_REQUESTS => {
                Attempt::TooMany(remote::asked_to_wait(&answer).unwrap_or_default())
            }
            Ok(answer) if answer.status().is_client_error() => Attempt::Refused(answer.status()),
            Ok(_) | Err(_) => Attempt::Silence,
        }
    }

    /// Waits until a server may be sent something.
    async fn turn(&self, destination: &Destination, hurries: bool) -> Option<SemaphorePermit<'_>> {
        let hurry = async {
            while !hurries && !destination.queue.lock().hurries() {
                destination.wake.notified().await;
            }
        };
        tokio::select! {
            biased;
            () = hurry => self.few.acquire().await.ok(),
            turn = self.crowd.acquire() => turn.ok(),
        }
    }

    /// Waits until a server is worth another try: after the pause, or as soon as it has shown itself.
    async fn rest<'a>(&'a self, server: &ServerName, pause: Duration, mut shown: Pin<&mut Notified<'a>>) {
        let back_off = &self.rooms.remote.back_off;
        let wait = async {
            loop {
                shown.as_mut().await;
                shown.set(back_off.returned().notified());
                shown.as_mut().enable();
                if back_off.until(server, self.rooms.clock.now()).is_none() {
                    return;
                }
            }
        };
        // Both ends of the pause lead to the same: another try.
        drop(timeout(pause, wait).await);
    }

    fn transaction(&self, batch: &Batch) -> Result<Vec<u8>> {
        #[derive(serde::Serialize)]
        struct Transaction<'a> {
            origin: &'a ServerName,
            origin_server_ts: u64,
            pdus: Vec<Box<RawValue>>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            edus: Vec<Box<RawValue>>,
        }
        // What cannot be read is left out: it must not keep back everything else.
        let readable = |what: Result<Option<Box<RawValue>>>| {
            what.unwrap_or_else(|error| {
                tracing::error!(?error, "something for other servers cannot be read and is not sent");
                None
            })
        };
        let pdu = |number| Ok(Some(self.rooms.known(number)?.event.to_pdu()));
        let edu = |at| {
            let Some(row) = self.rooms.store.get(OUTBOX, at)? else { return Ok(None) };
            Ok(edus::write(&self.rooms, &row)?.and_then(edus::raw))
        };
        let pdus = batch.pdus.iter().filter_map(|number| readable(pdu(*number)));
        let edus = batch.edus.iter().filter_map(|at| readable(edu(at)));
        let transaction = Transaction {
            origin: &self.rooms.config.server_name,
            origin_server_ts: self.rooms.clock.now(),
            pdus: pdus.collect(),
            edus: edus.chain(batch.passing.iter().filter_map(|json| edus::raw(json.to_string()))).collect(),
        };
        serde_json::to_vec(&transaction).map_err(crate::error::Error::internal)
    }

    /// Notes how far a server has got, and forgets what nobody waits for any more.
    fn delivered(&self, server: &ServerName, destination: &Destination, up_to: Position) -> Result<()> {
        let store = &self.rooms.store;
        let mut progress = self.progress.lock();
        let mut write = store.write();
        // A server for which nothing waits holds up nothing.
        let is_done = destination.queue.lock().owes_nothing();
        progress.advance(&mut write, server.as_str(), up_to, is_done);
        progress.forget(&mut write, store)?;
        drop(write.commit()?);
        Ok(())
    }
}

/// What is worth sending only at once is dropped; false if nothing is left of the transaction.
fn drop_passing(destination: &Destination, batch: &mut Batch) -> bool {
    destination.queue.lock().drop_passing();
    batch.fade()
}

/// Says which events of a transaction another server has not taken.
fn tell_refusals(server: &ServerName, answer: &[u8]) {
    #[derive(serde::Deserialize)]
    struct Answer {
        pdus: BTreeMap<String, Outcome>,
    }
    #[derive(serde::Deserialize)]
    struct Outcome {
        error: Option<String>,
    }
    let Ok(Answer { pdus }) = serde_json::from_slice(answer) else { return };
    for (event, outcome) in pdus.iter().take(queue::MOST_PDUS) {
        if let Some(error) = &outcome.error {
            tracing::info!(%server, event, error, "{server} does not take an event");
        }
    }
}
