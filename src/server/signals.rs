//! What the machine tells the program: stop, or read the certificates again.

use std::{io, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Certificates, notify};

/// Follows signals until one of them stops the server: SIGTERM and SIGINT cancel `stop` (a second one
/// ends the program at once), SIGHUP reloads the certificates.
pub async fn signals(certificates: Option<Arc<Certificates>>, stop: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {
                match &certificates {
                    Some(certificates) => certificates.reload(),
                    None => info!("there are no certificates to read again"),
                }
                continue;
            }
        }
        if stop.is_cancelled() {
            warn!("stopped at once, without waiting for what is in flight");
            std::process::exit(130);
        }
        info!("stopping; what is in flight is finished first");
        notify("STOPPING=1");
        stop.cancel();
    }
}
