//! Opening the addresses at which the server listens.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, Protocol, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::config::{Address, Listen};

/// How many connections may wait for being accepted.
const BACKLOG: i32 = 1024;

/// An open address.
#[derive(Debug)]
pub struct Socket {
    /// The kind of socket.
    pub kind: Kind,
    /// Whether TLS is spoken on it.
    pub tls: bool,
}

/// The kind of socket.
#[derive(Debug)]
pub enum Kind {
    /// A TCP port.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener, SocketFile),
}

/// The file of a unix socket, which goes when the socket does.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If it is gone already, all the better.
        _ = fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Opens what a `[[listen]]` table names. The error says what to do.
    pub fn open(listen: &Listen) -> Result<Self, String> {
        let kind = match &listen.address {
            // Whoever may reach the machine's ports may reach this one: rights are the folder's matter.
            Address::Unix(path) => unix(path, 0o666).map(|(socket, file)| Kind::Unix(socket, file))?,
            Address::Tcp(address) => Kind::Tcp(tcp(*address).map_err(|error| refused(*address, &error))?),
        };
        Ok(Self { kind, tls: listen.tls })
    }

    /// The address as a person would type it into a client.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        match &self.kind {
            Kind::Unix(_, SocketFile(path)) => format!("unix:{}", path.display()),
            Kind::Tcp(socket) => match socket.local_addr() {
                Ok(address) => format!("{scheme}://{address}"),
                Err(_) => format!("{scheme}://?"),
            },
        }
    }

    /// The TCP address, with the port that was chosen if none was asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(socket) => socket.local_addr().ok(),
            Kind::Unix(..) => None,
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let opened = bind(address);
    match opened {
        // A machine without IPv6: "all addresses" then means those of IPv4.
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && no_such_family(&error) => {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        opened => opened,
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restart must not wait for the last connections of the run before to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn no_such_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn refused(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "{address} is in use: is Ingle, or another server, already running? Stop it, or choose another port"
            )
        }
        io::ErrorKind::PermissionDenied => format!(
            "{address} may not be used: ports below 1024 need a right. Run `sudo setcap cap_net_bind_service=+ep` on \
             the program, use the systemd unit, or choose a port from 1024"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("{address} is no address of this machine; write \"*:{}\" for all it has", address.port())
        }
        _ => format!("{address} cannot be opened: {error}"),
    }
}

/// Opens a unix socket, in the place of one that a dead program left behind.
pub fn unix(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), String> {
    let file = path.display();
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("the folder of the socket {file} does not exist; make it first"),
        io::ErrorKind::PermissionDenied => format!("the socket {file} may not be made in that folder"),
        io::ErrorKind::InvalidInput => format!("the path of the socket {file} is too long; choose a shorter one"),
        _ => format!("the socket {file} cannot be opened: {error}"),
    };
    match UnixStream::connect(path) {
        Ok(_) => return Err(format!("the socket {file} is in use by a program that is running")),
        // A file that is no socket refuses as well; that one is left alone.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
            fs::remove_file(path).map_err(refused)?;
        }
        // No such file, or no right to ask: binding finds out.
        Err(_) => {}
    }
    let socket = UnixListener::bind(path).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("{file} is there, but is no socket; remove it or choose another path"),
        _ => refused(error),
    })?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(refused)?;
    Ok((socket, SocketFile(path.to_owned())))
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(address: &str) -> Listen {
        let address = match address.strip_prefix("unix:") {
            Some(path) => Address::Unix(path.into()),
            None => Address::Tcp(address.parse().expect("an address")),
        };
        Listen { address, tls: false }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let first = Socket::open(&listen("127.0.0.1:0")).expect("a free port");
        let address = first.address().expect("a TCP socket");
        let error = Socket::open(&listen(&address.to_string())).expect_err("taken");
        assert!(error.contains(&address.to_string()) && error.contains("in use"), "{error}");
    }

    #[tokio::test]
    async fn all_addresses_are_those_of_ipv4_too() {
        let socket = Socket::open(&listen("[::]:0")).expect("a free port");
        let port = socket.address().expect("a TCP socket").port();
        std::net::TcpStream::connect(("127.0.0.1", port)).expect("IPv4 reaches it");
    }

    #[tokio::test]
    async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("http.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        assert!(path.exists(), "the dead program's file");
        let at = listen(&format!("unix:{}", path.display()));
        let socket = Socket::open(&at).expect("the file is replaced");
        assert!(Socket::open(&at).expect_err("somebody listens").contains("in use"));
        drop(socket);
        assert!(!path.exists(), "the file goes with the socket");
        fs::write(&path, "a letter").expect("a file");
        assert!(Socket::open(&at).expect_err("no socket").contains("is no socket"));
    }
}
