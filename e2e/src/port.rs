//! Ports for programs that bind them themselves and can't take a socket from us, such as certbot.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

/// Below the kernel's ephemeral range (32768 and up), so that no outgoing connection takes a port between its
/// reservation and its use.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A free TCP port of 127.0.0.1, kept from this user's other tests, also in other processes, until it is
/// dropped.
#[derive(Debug)]
pub struct ReservedPort {
    number: u16,
    _lock: File,
}

impl ReservedPort {
    /// Finds a port that nobody listens on and no other test has.
    ///
    /// # Errors
    /// If there is none.
    pub fn new() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("chancery-e2e-ports-{}", geteuid()));
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        // Test processes start at different places, so that they seldom meet.
        let start = u16::try_from(std::process::id().wrapping_mul(61) % u32::from(COUNT))?;
        for offset in 0..COUNT {
            let number = FIRST + (start + offset) % COUNT;
            let lock = directory.join(number.to_string());
            let lock = File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no port is free between {FIRST} and {}", FIRST + COUNT)
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}
