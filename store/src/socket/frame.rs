//! Frames on the commit socket: four octets of length, big-endian, then that many of JSON.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest frame: more than any role's commit needs.
pub(super) const MAX_FRAME: usize = 4 * 1024 * 1024;

/// The longest first frame, from a peer whose role is not known yet.
pub(super) const MAX_HELLO: usize = 1024;

/// A message as a whole frame.
///
/// # Errors
/// If it is longer than [`MAX_FRAME`] or can't be written as JSON.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    let prefix = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {length} octets is longer than {MAX_FRAME}"),
        )
    })?;
    frame[..4].copy_from_slice(&prefix.to_be_bytes());
    Ok(frame)
}

/// Reads one frame; `None` if the peer closed the connection between frames.
///
/// # Errors
/// Those of the connection; `InvalidData` if the frame is longer than `limit` or is not such a message.
pub(super) async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> io::Result<Option<T>> {
    let mut prefix = [0; 4];
    if stream.read(&mut prefix[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut prefix[1..]).await?;
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > limit {
        let what = format!("a frame of {length} octets is longer than {limit}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// Writes one message and sends it off.
///
/// # Errors
/// Those of [`encode`] and of the connection.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    stream.write_all(&encode(message)?).await?;
    stream.flush().await
}
