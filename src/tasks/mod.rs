//! What runs beside the requests: the followers of the log, and what is done from time to time.
//!
//! A task that fails is started again after a pause, with one line in the log; all of them end when the server
//! stops.

use std::{future::Future, time::Duration};

use crate::{
    app::Ctx,
    error::Result,
    outbound, push,
    rooms::{
        completing, delayed, early, ephemeral, guests, inbox, late, presence, profile, retention, send, staged, upgrade,
    },
    store::StoreError,
};

/// How long to wait before a task that failed is started again.
const PAUSE: Duration = Duration::from_secs(5);
/// How often to look for what has ended because time has passed.
const PASSING: Duration = Duration::from_secs(1);
/// How often to look for rooms that no longer welcome guests.
const GUESTS: Duration = Duration::from_secs(5);
/// How long the task that sends delayed events sleeps at most, in milliseconds.
const LONGEST_WAIT: u64 = 30_000;
/// How often to look for messages whose time is over.
const RETENTION: Duration = Duration::from_secs(3600);
/// How many removed messages are worth a copy of the store without them.
const WORTH_COPYING: u64 = 5_000;
/// How often to look whether the store wants an archive or less dead space.
const UPKEEP: Duration = Duration::from_secs(600);

/// Starts everything. The tasks end with `ctx.stop`.
pub fn start(ctx: &Ctx) {
    keep_up(ctx, "sending to other servers", |ctx| outbound::follow::run(ctx.rooms.clone()));
    keep_up(ctx, "taking in events of other servers", |ctx| inbox::run(ctx.rooms.clone()));
    keep_up(ctx, "asking for device lists", |ctx| outbound::resync::run(ctx.rooms.clone()));
    keep_up(ctx, "fetching the members of rooms", |ctx| completing::run(ctx.rooms.clone()));
    keep_up(ctx, "asking again for what was missing in rooms", |ctx| late::run(ctx.rooms.clone()));
    keep_up(ctx, "sending push notifications", |ctx| push::follow::run(ctx.rooms.clone()));
    keep_up(ctx, "ending typing notices and presence", passing);
    keep_up(ctx, "looking after the store", upkeep);
    keep_up(ctx, "sending delayed events", delayed);
    keep_up(ctx, "finishing what a stop has interrupted", resume);
    keep_up(ctx, "seeing guests out", guests);
    keep_up(ctx, "removing old messages", retention);
}

fn keep_up<F>(ctx: &Ctx, name: &'static str, task: fn(Ctx) -> F)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let ctx = ctx.clone();
    tokio::spawn(async move {
        let stop = ctx.stop.clone();
        let again = async {
            loop {
                match tokio::spawn(task(ctx.clone())).await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => tracing::error!(?error, "{name} failed and is started again"),
                    Err(error) => tracing::error!(%error, "{name} broke off and is started again"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = again => {}
        }
    });
}

/// Removes what nobody needs any more, and lets the store make archives and give dead space back when that is worth
/// its while.
async fn upkeep(ctx: Ctx) -> Result<()> {
    loop {
        tokio::time::sleep(UPKEEP).await;
        send::forget_transactions(&ctx.rooms).await?;
        let store = ctx.store.clone();
        let look = move || -> Result<(), StoreError> {
            if store.wants_compaction()? {
                store.compact()?;
            }
            if store.wants_archive()? {
                store.archive()?;
            }
            Ok(())
        };
        crate::heavy::run(look).await??;
    }
}

/// Finishes what a stop has interrupted, once.
async fn resume(ctx: Ctx) -> Result<()> {
    staged::sweep(&ctx.rooms).await?;
    early::resume(&ctx.rooms).await?;
    upgrade::resume(&ctx.rooms).await?;
    profile::resume(&ctx.rooms).await
}

/// Removes messages whose time is over, and gives the space back that they took.
async fn retention(ctx: Ctx) -> Result<()> {
    let mut removed = 0;
    loop {
        tokio::time::sleep(RETENTION).await;
        let (rooms, store) = (ctx.rooms.clone(), ctx.store.clone());
        let work = move || -> Result<u64> {
            let count = removed + retention::purge(&rooms)?;
            if count < WORTH_COPYING {
                return Ok(count);
            }
            // The copy is without them, and so is the archive that is made of it.
            store.compact()?;
            store.archive()?;
            Ok(0)
        };
        removed = crate::heavy::run(work).await??;
    }
}

/// Sees guests out of rooms that other servers have closed to them.
async fn guests(ctx: Ctx) -> Result<()> {
    loop {
        guests::see_out(&ctx.rooms).await?;
        tokio::time::sleep(GUESTS).await;
    }
}

/// Sends what was to be sent later, when its time has come.
async fn delayed(ctx: Ctx) -> Result<()> {
    let rooms = &ctx.rooms;
    loop {
        let next = delayed::send_due(rooms).await?;
        // The clock may be turned: nobody sleeps for long.
        let wait = next.map_or(u64::MAX, |next| next.saturating_sub(rooms.clock.now())).clamp(10, LONGEST_WAIT);
        tokio::select! {
            () = rooms.delayed.news.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
        }
    }
}

/// Ends typing notices, and the presence of those who are gone, when their time is over.
async fn passing(ctx: Ctx) -> Result<()> {
    loop {
        ephemeral::expire_typing(&ctx.rooms)?;
        presence::expire(&ctx.rooms)?;
        tokio::time::sleep(PASSING).await;
    }
}
