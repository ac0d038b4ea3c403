//! The command line's side of the admin socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;

use super::socket::{receive, send};
use super::{Answer, LONGEST_ANSWER_BYTES, Request};
use crate::failure::{Code, Failure};

/// Longer than any request takes, a revocation with a late CRL included.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A connection to a running server.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects, or finds that no server runs.
    ///
    /// # Errors
    /// [`Code::Server`] if one runs that this user may not talk to.
    pub async fn connect(socket: &Path) -> Result<Option<Self>, Failure> {
        match UnixStream::connect(socket).await {
            Ok(stream) => Ok(Some(Self { stream })),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(e) => Err(Failure::new(
                Code::Server,
                format!("can't connect to the running server at {}: {e}", socket.display()),
                "run it as the user that owns the data directory, or as root",
            )),
        }
    }

    /// Asks the server.
    ///
    /// # Errors
    /// [`Code::Server`] if the connection breaks or the answer can't be read.
    pub async fn ask(&mut self, request: &Request) -> Result<Answer, Failure> {
        let conversation = async {
            send(&mut self.stream, request).await?;
            receive(&mut self.stream, LONGEST_ANSWER_BYTES)
                .await?
                .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        let bytes = tokio::time::timeout(ANSWER_WITHIN, conversation)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|e: io::Error| {
                Failure::new(
                    Code::Server,
                    format!("the running server did not answer: {e}"),
                    "look at its log",
                )
            })?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Failure::new(
                Code::Server,
                format!("the running server's answer can't be read: {e}"),
                "use the command line of the server's own version",
            )
        })
    }
}
