//! Sockets, TLS, HTTP: bytes in, bytes out. Knows no endpoint.
//!
//! [`Server::bind`] opens the addresses, which makes clients wait rather than fail while the rest of
//! the program starts; [`Server::run`] answers until it is told to stop, and then finishes what is in
//! flight. [`signals()`] turns what the machine says into a stop or a reload.

mod accept;
mod certificate;
mod limits;
mod listen;
mod notify;
mod patience;
mod signals;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

pub use self::{
    accept::{Answers, Sends},
    certificate::Certificates,
    limits::Limits,
    listen::{Socket, unix as unix_socket},
    notify::say as notify,
    patience::Upload,
    signals::signals,
};
use crate::config::Config;

/// Open addresses, ready to answer.
#[derive(Debug)]
pub struct Server {
    sockets: Vec<Socket>,
    certificates: Option<Arc<Certificates>>,
    limits: Limits,
}

impl Server {
    /// Reads the certificates and opens the addresses of the configuration. Needs a tokio runtime.
    pub fn bind(config: &Config) -> Result<Self, String> {
        let certificates = Certificates::load(config)?;
        let sockets = config.listen.iter().map(Socket::open).collect::<Result<_, _>>()?;
        Ok(Self { sockets, certificates, limits: Limits::new(&config.limits) })
    }

    /// The same with other limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The addresses as one would type them into a client.
    pub fn urls(&self) -> Vec<String> {
        self.sockets.iter().map(Socket::url).collect()
    }

    /// The TCP addresses, with the ports that were chosen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(Socket::address).collect()
    }

    /// The certificates, to reload them.
    pub fn certificates(&self) -> Option<Arc<Certificates>> {
        self.certificates.clone()
    }

    /// Answers with `service` until `stop` is cancelled, then waits a while for what is in flight.
    /// Returns whether everything was answered.
    pub async fn run<S: Answers<B>, B: Sends>(
        self,
        service: S,
        stop: CancellationToken,
    ) -> Result<bool, rustls::Error> {
        let tls = self.certificates.as_ref().map(Certificates::server_config).transpose()?;
        raise_file_limit();
        let tasks = TaskTracker::new();
        let grace = self.limits.stop;
        let gate = limits::Gate::new(&self.limits);
        let house = Arc::new(accept::House { service, tls, limits: self.limits, gate, stop, tasks: tasks.clone() });
        for socket in self.sockets {
            tasks.spawn(accept::accept(socket, Arc::clone(&house)));
        }
        house.stop.cancelled().await;
        tasks.close();
        debug!(connections = tasks.len(), "no more connections are accepted");
        let all = timeout(grace, tasks.wait()).await.is_ok();
        if !all {
            warn!("{} connections were cut: their requests took longer than {} s", tasks.len(), grace.as_secs());
        }
        Ok(all)
    }
}

/// A connection is a file, and so are media: take as many as the machine lets this program have.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        debug!("the limit on open files stays at {:?}: {error}", limit.current);
    }
}
