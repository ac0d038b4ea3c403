//! Where sockets come from: handed over by name (systemd's socket activation), or bound by configuration.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use listenfd::ListenFd;

use crate::failure::{Code, Failure};

/// The sockets that the process was started with, by the names in `LISTEN_FDNAMES`.
#[derive(Debug, Default)]
pub struct Handed(HashMap<String, TcpListener>);

impl Handed {
    /// Takes them from the environment; call once, before other files are opened.
    ///
    /// # Errors
    /// [`Code::Address`] if one is no TCP listener or has a name that no listener has.
    pub fn from_environment() -> Result<Self, Failure> {
        // Before listenfd takes the variables away.
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut handed = ListenFd::from_env();
        let mut names = names.split(':').map(str::to_owned);
        let mut sockets = HashMap::new();
        for index in 0..handed.len() {
            let name = names.next().unwrap_or_default();
            if !["acme", "pki", "ocsp", "crl", "metrics"].contains(&name.as_str()) {
                return Err(Failure::new(
                    Code::Address,
                    format!("a socket was handed over under the name '{name}'"),
                    "name it acme, pki, ocsp, crl or metrics: FileDescriptorName= in the socket unit",
                ));
            }
            let socket = handed.take_tcp_listener(index).map_err(|e| {
                Failure::new(
                    Code::Address,
                    format!("the socket '{name}' that was handed over can't be used: {e}"),
                    "hand over a listening TCP socket: ListenStream= with a port",
                )
            })?;
            if let Some(socket) = socket {
                sockets.insert(name, socket);
            }
        }
        Ok(Self(sockets))
    }

    /// The handed socket of this name, or else one bound to `address`, ready for the runtime.
    ///
    /// # Errors
    /// [`Code::Address`] with what to do, if the address can't be had.
    pub fn take_or_bind(
        &mut self,
        name: &str,
        address: SocketAddr,
    ) -> Result<tokio::net::TcpListener, Failure> {
        let socket = match self.0.remove(name) {
            Some(socket) => socket,
            None => bind(address).map_err(|e| refused(name, address, &e))?,
        };
        socket
            .set_nonblocking(true)
            .and_then(|()| tokio::net::TcpListener::from_std(socket))
            .map_err(|e| refused(name, address, &e))
    }
}

/// Binds `address`; all addresses of both families fall back to those of IPv4 where the machine has no IPv6.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    // std sets SO_REUSEADDR, so a restart is not refused for connections that are still closing.
    match TcpListener::bind(address) {
        Err(e)
            if address.is_ipv6()
                && address.ip().is_unspecified()
                && matches!(e.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        }
        // EAFNOSUPPORT has no kind of its own.
        Err(e) if address.is_ipv6() && address.ip().is_unspecified() && e.raw_os_error() == Some(97) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        }
        bound => bound,
    }
}

/// Whether an address can be had now.
///
/// # Errors
/// [`Code::Address`] with what to do.
pub fn probe(name: &str, address: SocketAddr) -> Result<(), Failure> {
    bind(address).map(drop).map_err(|e| refused(name, address, &e))
}

fn refused(name: &str, address: SocketAddr, error: &io::Error) -> Failure {
    let variable = format!("CHANCERY__LISTEN__{}", name.to_ascii_uppercase());
    let (detail, fix) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            format!("port {} of {} is in use, so listen.{name} can't have it", address.port(), address.ip()),
            format!(
                "stop what uses it (`ss -ltnp 'sport = :{}'` names it), or set listen.{name} in chancery.toml or {variable}",
                address.port()
            ),
        ),
        io::ErrorKind::PermissionDenied => (
            format!("this user may not listen on port {}, which listen.{name} names", address.port()),
            format!(
                "choose a port from 1024 up with listen.{name} or {variable}, or let systemd hand the socket over"
            ),
        ),
        io::ErrorKind::AddrNotAvailable => (
            format!("{} is no address of this machine, but listen.{name} names it", address.ip()),
            format!("set listen.{name} in chancery.toml or {variable} to an address that `ip address` shows"),
        ),
        _ => (
            format!("can't listen on {address} for listen.{name}: {error}"),
            format!("set listen.{name} or {variable}"),
        ),
    };
    Failure::new(Code::Address, detail, fix)
}
