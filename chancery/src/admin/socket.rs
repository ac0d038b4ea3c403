//! The admin socket: a Unix socket that only the data's owner and root can use, carrying length-prefixed JSON.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use super::execute::Administration;
use super::{Answer, LONGEST_REQUEST_BYTES, Request};
use crate::failure::{Code, Failure};

/// How long a request may take to arrive, and an answer to be read.
const TRANSFER_WITHIN: Duration = Duration::from_secs(10);
/// How many administrators are served at a time.
const CONNECTIONS: usize = 32;

/// Binds the socket with mode 0600, in the place of one that a process which is gone left behind.
///
/// Only the holder of `ca.lock` may call this: the lock says that the old socket has no owner.
///
/// # Errors
/// If the path can't be bound.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The directory is not writable by others, so nobody gets in between; peers are checked besides.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves administrators until `stop` says so.
pub async fn serve(
    listener: UnixListener,
    administration: Arc<Administration>,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let administration = Arc::clone(&administration);
                tokio::spawn(async move {
                    let _place = place;
                    if let Err(error) = converse(stream, &administration).await {
                        tracing::debug!(%error, "an administrator's connection ended early");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept on the admin socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, administration: &Administration) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let owner = Uid::effective().as_raw();
    if uid != owner && uid != 0 {
        let refused = Failure::new(
            Code::Server,
            format!("user {uid} may not administer this CA"),
            "run it as the data's owner or as root",
        );
        return send(&mut stream, &Answer::Failed(refused)).await;
    }
    loop {
        let received =
            tokio::time::timeout(TRANSFER_WITHIN, receive(&mut stream, LONGEST_REQUEST_BYTES)).await;
        let Some(bytes) = received.map_err(|_| io::ErrorKind::TimedOut)?? else { return Ok(()) };
        let answer = match serde_json::from_slice::<Request>(&bytes) {
            Ok(request) => administration.execute(request, uid).await,
            Err(error) => Answer::Failed(Failure::new(
                Code::Usage,
                format!("the server does not understand the request: {error}"),
                "use the command line of the server's own version",
            )),
        };
        tokio::time::timeout(TRANSFER_WITHIN, send(&mut stream, &answer))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
    }
}

/// Reads one message; `None` at the end of the stream.
///
/// # Errors
/// `InvalidData` for a message longer than `longest`, before any of it is kept.
pub async fn receive(stream: &mut (impl AsyncRead + Unpin), longest: u32) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u32().await {
        Ok(length) => length,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    };
    if length > longest {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message of {length} bytes is over the limit"),
        ));
    }
    let mut bytes = Vec::new();
    // Grows with what arrives, not with what was announced.
    let read = stream.take(u64::from(length)).read_to_end(&mut bytes).await?;
    if read < usize::try_from(length).unwrap_or(usize::MAX) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(bytes))
}

/// Writes one message.
///
/// # Errors
/// If the stream breaks, or the message is longer than its length can say.
pub async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &impl serde::Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_u32(length).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}
