//! `ingle serve`: runs the server until it is told to stop.

use std::{net::SocketAddr, thread::available_parallelism, time::Duration};

use tokio::runtime;
use tracing::{error, info, warn};

use super::{Failure, Outcome, control, start};
use crate::{api, config::Config, http, observe::logs, server, tasks};

/// More threads would cost memory and answer a household no faster.
const MOST_WORKERS: usize = 4;
/// Reads that wait for the disk, and password hashes.
const BLOCKING: usize = 16;

/// From how many bytes on a piece of memory is one of its own, which goes back to the machine as soon as it is free.
#[cfg(target_env = "gnu")]
const OWN_PIECE: libc::c_int = 128 << 10;
/// How many heaps there are for the rest: with one for each thread, each keeps what its thread once needed.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

pub fn run(config: Config, accept_loss: bool) -> Outcome {
    give_memory_back();
    logs::start(&config.log).map_err(Failure::Usage)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(available_parallelism().map_or(1, usize::from).min(MOST_WORKERS))
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build()
        .map_err(|error| format!("the program cannot start: {error}"))?;
    let done = runtime.block_on(serve(config, accept_loss));
    // What is still being saved is saved; whoever only waits is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(5));
    if let Err(why) = &done {
        // For those who read the log alone; the terminal gets it from whoever called.
        server::notify(&format!("STATUS={why}"));
    }
    Ok(done?)
}

/// Keeps the C library from raising [`OWN_PIECE`] by itself: after the first password hash, the memory of all others
/// (19 MiB each) would come from heaps and stay there.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "there is no other way to tell the C library")]
fn give_memory_back() {
    // SAFETY: nothing is passed but two numbers, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PIECE);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

#[cfg(not(target_env = "gnu"))]
fn give_memory_back() {}

async fn serve(config: Config, accept_loss: bool) -> Result<(), String> {
    // Opened first: a port that is taken is said at once, and clients wait rather than fail meanwhile.
    let server = server::Server::bind(&config)?;
    let ctx = start::open(config, accept_loss).await?;
    for notice in ctx.store.notices() {
        warn!("{notice}");
    }
    let certificates = server.certificates();
    if let Some(certificates) = &certificates {
        certificates.warn();
    }
    tokio::spawn({
        let stop = ctx.stop.clone();
        async {
            if let Err(error) = server::signals(certificates, stop).await {
                error!("the program cannot hear signals: {error}");
            }
        }
    });
    tasks::start(&ctx);
    control::listen(ctx.clone());
    greet(&ctx, &server);
    invite(&ctx, &server)?;
    server::notify("READY=1");
    let service = http::service(api::http(ctx.clone()));
    let all = server.run(service, ctx.stop.clone()).await.map_err(|error| format!("TLS cannot be spoken: {error}"))?;
    info!("stopped{}", if all { "" } else { "; some requests were not answered" });
    Ok(())
}

fn greet(ctx: &crate::app::Ctx, server: &server::Server) {
    let config = &ctx.config;
    info!(
        "Ingle {} runs as {}. It listens at {} and keeps everything in {}",
        env!("CARGO_PKG_VERSION"),
        config.server_name,
        server.urls().join(" and "),
        config.data_dir.display(),
    );
}

/// Shows how to make the first account, if there is none.
fn invite(ctx: &crate::app::Ctx, server: &server::Server) -> Result<(), String> {
    let secret = ctx.invitation.issue(&ctx.users, &ctx.chance).map_err(|error| error.to_string())?;
    let Some(secret) = secret else { return Ok(()) };
    println!("\n  Nobody has an account here yet. Open this link to make yours; it works once:\n");
    for url in addresses(&ctx.config, server) {
        println!("    {url}/_ingle/set-up/{secret}");
    }
    println!();
    Ok(())
}

/// Where a browser finds the server: on this machine, and from elsewhere if that is known.
fn addresses(config: &Config, server: &server::Server) -> Vec<String> {
    let plain = server.urls().into_iter().filter_map(|url| Some(url.strip_prefix("http://")?.to_owned()));
    let here = plain.filter_map(|address| address.parse::<SocketAddr>().ok()).find_map(|address| {
        let reached = address.ip().is_loopback() || address.ip().is_unspecified();
        reached.then(|| format!("http://localhost:{}", address.port()))
    });
    let public = Some(config.public_url());
    let mut all: Vec<String> = here.into_iter().chain(public).collect();
    all.dedup();
    all
}
