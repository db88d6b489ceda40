//! The log: one line per event on the standard error, as text for people or JSON for machines.

use std::{
    any::Any,
    io::{self, IsTerminal},
    panic,
};

use tracing::error;
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Log, LogFormat};

/// Reads what is to be written.
pub fn filter(log: &Log) -> Result<EnvFilter, String> {
    EnvFilter::try_new(&log.filter).map_err(|error| {
        format!("log.filter cannot be read ({error}); write \"info\", or \"info,ingle::server=debug\"")
    })
}

/// Begins to write the log. Panics are part of it from now on, with the place where they happened.
pub fn start(log: &Log) -> Result<(), String> {
    let filter = filter(log)?;
    let lines = match log.format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed(),
        LogFormat::Text => {
            let text = fmt::layer().with_writer(io::stderr).with_target(false).with_ansi(io::stderr().is_terminal());
            match std::env::var_os("JOURNAL_STREAM") {
                // The journal of systemd writes the time itself.
                Some(_) => text.without_time().boxed(),
                None => text.boxed(),
            }
        }
    };
    let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
    started.map_err(|error| format!("the log cannot be started: {error}"))?;
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let said = said(panic.payload());
        error!(place, "a fault in the program: {said}");
    }));
    Ok(())
}

fn said(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}
