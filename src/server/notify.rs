//! Telling systemd how things stand (`Type=notify`): one datagram per word.

use std::os::unix::{ffi::OsStrExt, net::UnixDatagram};

use tracing::debug;

/// Says `state`, such as `READY=1`, if systemd wants to hear it.
pub fn say(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        #[cfg(target_os = "linux")]
        if let Some(name) = path.as_bytes().strip_prefix(b"@") {
            use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
            return socket.send_to_addr(state.as_bytes(), &SocketAddr::from_abstract_name(name)?);
        }
        socket.send_to(state.as_bytes(), &path)
    });
    if let Err(error) = sent {
        debug!("systemd could not be told {state}: {error}");
    }
}
