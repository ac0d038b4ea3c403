//! Answers http-01 challenges (RFC 8555 §8.3) for every client of a load, on the thread that drives them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATH: &[u8] = b"GET /.well-known/acme-challenge/";
/// How long a request may take to come.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

type Answers = Arc<Mutex<HashMap<String, String>>>;

/// The server. It stops when it is dropped.
#[derive(Debug)]
pub struct Http01 {
    answers: Answers,
    task: JoinHandle<()>,
}

impl Http01 {
    /// Listens on this address; it knows no token yet.
    ///
    /// # Errors
    /// If the address can't be had.
    pub async fn start(address: SocketAddr) -> Result<Self> {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let answers = Answers::default();
        let known = Arc::clone(&answers);
        let task = tokio::spawn(async move {
            // Without a connection to accept there is none to answer: a lack of descriptors shows as failed orders.
            while let Ok((stream, _)) = listener.accept().await {
                let known = Arc::clone(&known);
                tokio::spawn(async move {
                    // A validator that went away misses its answer; there is nobody to tell.
                    let _ = timeout(REQUEST_WITHIN, answer(stream, &known)).await;
                });
            }
        });
        Ok(Self { answers, task })
    }

    /// Answers for this token with this key authorization until [`Http01::remove`].
    pub fn add(&self, token: &str, key_authorization: String) {
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token.to_owned(), key_authorization);
    }

    /// Forgets the token.
    pub fn remove(&self, token: &str) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
    }
}

impl Drop for Http01 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, answers: &Answers) -> Result<()> {
    let mut request = [0; 2048];
    let mut length = 0;
    while !request[..length].ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut request[length..]).await?;
        if read == 0 {
            return Ok(());
        }
        length += read;
    }
    let token =
        request[..length].strip_prefix(PATH).and_then(|rest| rest.split(|octet| *octet == b' ').next());
    let known = token
        .and_then(|token| std::str::from_utf8(token).ok())
        .and_then(|token| answers.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned());
    let (status, body) = match &known {
        Some(key_authorization) => ("200 OK", key_authorization.as_str()),
        None => ("404 Not Found", ""),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\nConnection: close\r\n\r\n\
         {body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    Ok(stream.shutdown().await?)
}
