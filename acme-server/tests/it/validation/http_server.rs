//! An HTTP server that sends exactly the bytes that a test wants to send.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What a connection gets for its request.
pub enum Reply {
    /// These bytes, then the connection is closed.
    Close(Vec<u8>),
    /// These bytes, and then nothing for ever.
    Hold(Vec<u8>),
    /// These bytes, and then the second ones again and again.
    Endless(Vec<u8>, Vec<u8>),
}

type Script = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

/// Requests are answered by a script that sees their heads. It stops when it is dropped.
pub struct HttpServer {
    pub port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl HttpServer {
    /// On a free port of 127.0.0.1.
    pub async fn start(script: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    pub fn on(listener: TcpListener, script: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let port = listener.local_addr().unwrap().port();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (script, seen): (Script, _) = (Arc::new(script), Arc::clone(&heads));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        Self { port, heads, _tasks: tasks }
    }

    /// The heads of all requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    pub fn address(&self) -> String {
        SocketAddr::from(([127, 0, 0, 1], self.port)).to_string()
    }
}

pub async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: Script,
    heads: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    heads.lock().unwrap().push(head.clone());
    // The client may hang up at any time; that is its right.
    match script(&head) {
        Reply::Close(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            // Closing with unread data would reset the connection and lose what was sent.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        Reply::Hold(bytes) => {
            let _ = stream.write_all(&bytes).await;
            pending::<()>().await;
        }
        Reply::Endless(first, again) => {
            let mut sent = stream.write_all(&first).await;
            while sent.is_ok() {
                sent = stream.write_all(&again).await;
            }
        }
    }
}

/// A whole response.
pub fn response(status: &str, body: &str) -> Reply {
    Reply::Close(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

/// A redirect.
pub fn redirect(location: &str) -> Reply {
    Reply::Close(
        format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 3\r\n\r\nno\n").into_bytes(),
    )
}

/// The request target of a request's head.
pub fn target(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
}

/// Listeners on one free port of ::1 and 127.0.0.1.
pub async fn both_families() -> (TcpListener, TcpListener) {
    for _ in 0..64 {
        let v6 = TcpListener::bind("[::1]:0").await.unwrap();
        if let Ok(v4) = TcpListener::bind(("127.0.0.1", v6.local_addr().unwrap().port())).await {
            return (v6, v4);
        }
    }
    panic!("no port is free in both families");
}
