//! A server that answers http-01 challenges (RFC 8555 §8.3) for clients that have none: those that run inside a test, and
//! those that leave files in a web server's directory.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// The server. It stops when it is dropped.
#[derive(Debug)]
pub struct Http01 {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    answers: Mutex<HashMap<String, String>>,
    directory: TempDir,
    stopping: AtomicBool,
}

impl Http01 {
    /// Starts it on this address, which knows no token yet.
    ///
    /// # Errors
    /// If the address can't be had.
    pub fn start(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        let directory = tempfile::Builder::new().prefix("chancery-http01-").tempdir()?;
        let shared =
            Arc::new(Shared { answers: Mutex::default(), directory, stopping: AtomicBool::new(false) });
        let serving = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&serving);
                thread::spawn(move || {
                    // A client that went away misses its answer; there is nobody to tell.
                    let _ = answer(stream, &shared);
                });
            }
        });
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// What stands for `/.well-known/acme-challenge/`: a file here answers for the token that is its name.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.shared.directory.path()
    }

    /// Answers for this token with this key authorization from now on.
    pub fn add(&self, token: &str, key_authorization: &str) {
        let mut answers = self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(token.to_owned(), key_authorization.to_owned());
    }
}

impl Drop for Http01 {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The thread waits for a connection: give it one.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; it must not hide the test's own failure.
            let _ = thread.join();
        }
    }
}

fn answer(stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let token = request.split(' ').nth(1).and_then(|path| path.strip_prefix("/.well-known/acme-challenge/"));
    let known = {
        let answers = shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
        token.and_then(|token| answers.get(token).cloned())
    };
    let known = known.or_else(|| {
        // A token is base64url (RFC 8555 §8.3), so it leads out of no directory.
        let token = token.filter(|token| !token.contains(['.', '/']))?;
        fs::read_to_string(shared.directory.path().join(token)).ok()
    });
    let (status, body) = match known {
        Some(key_authorization) => ("200 OK", key_authorization),
        None => ("404 Not Found", String::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    reader.get_mut().write_all((head + &body).as_bytes())?;
    Ok(())
}
