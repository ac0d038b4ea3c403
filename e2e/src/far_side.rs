//! The far side of an http-01 validation as an attacker runs it: it answers each request as a script says, also without end.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// A server that is asked for a host and a target and writes what it likes. It stops when it is dropped.
#[derive(Debug)]
pub struct FarSide {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl FarSide {
    /// On this address, with a thread for each connection. The script gets the host without its port, the target and the
    /// connection.
    ///
    /// # Errors
    /// If the address can't be had.
    pub fn start(
        address: SocketAddr,
        script: impl Fn(&str, &str, TcpStream) + Clone + Send + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        let (stopping, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ending, count) = (Arc::clone(&stopping), Arc::clone(&asked));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ending.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let script = script.clone();
                thread::spawn(move || {
                    if let Some((host, target)) = request(&stream) {
                        script(&host, &target, stream);
                    }
                });
            }
        });
        Ok(Self { address, stopping, asked, thread: Some(thread) })
    }

    /// On the port of `address` at another address of this machine: where nothing should ever arrive.
    ///
    /// # Errors
    /// If it can't be had.
    pub fn trap(at: IpAddr, address: SocketAddr) -> Result<Self> {
        Self::start(SocketAddr::new(at, address.port()), |_, _, _| {})
    }

    /// How many connections came.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for FarSide {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // The thread waits for a connection: give it one.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; it must not hide the test's own failure.
            let _ = thread.join();
        }
    }
}

/// The host, without its port, and the target of a request.
fn request(stream: &TcpStream) -> Option<(String, String)> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let target = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut host = String::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("host:") {
            host = value.trim().rsplit_once(':').map_or(value.trim(), |(host, _)| host).to_owned();
        }
    }
    Some((host, target))
}
