//! Accepts connections and serves HTTP/1.1 on them: bounded in number and in time, and ended gracefully.
//!
//! ACME clients ask one thing after the other, so HTTP/2 would only add state that a stranger can make us keep.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use acme_server::client_address::Peer;
use axum::body::Body;
use bytes::Bytes;
use ca_core::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::HttpService;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::places::{Arriving, Place, Places};
use super::progress::Progress;
use super::tls::Tls;

/// The bounds of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How many connections are open at a time. One more takes the place of the one that has kept us waiting longest.
    pub connections: usize,
    /// How long a TLS handshake, or a request's header, may take; also how long an idle connection is kept.
    pub header: Duration,
    /// How long a request may take from its header to its answer, its body's arrival included.
    pub request: Duration,
    /// How long a client may take not one byte of an answer that is on its way.
    pub stall: Duration,
}

/// How the far side's request is answered.
#[derive(Clone)]
pub enum Answers {
    /// An axum router.
    Router(axum::Router),
    /// A bare function.
    Http1(Arc<Answer>),
}

/// Answers one request; what goes wrong is an answer too.
pub type Answer = dyn Fn(Request<Arriving>) -> BoxFuture<'static, Response<Full<Bytes>>> + Send + Sync;

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Router(_) => "Router",
            Self::Http1(_) => "Http1",
        })
    }
}

/// A listener with what it needs to serve.
#[derive(Debug)]
pub struct Listener {
    /// Its name, for messages.
    pub name: &'static str,
    /// The socket.
    pub socket: TcpListener,
    /// TLS, or plain HTTP.
    pub tls: Option<Tls>,
    /// Its bounds.
    pub bounds: Bounds,
    /// What answers.
    pub answers: Answers,
}

impl Listener {
    /// Serves until `stop` says so, then lets the requests in flight finish.
    ///
    /// Connections without a request in flight are closed at once; the caller bounds the wait for the others.
    pub async fn serve(self, mut stop: watch::Receiver<bool>) {
        let places = Places::new(self.bounds.connections);
        let mut connections = JoinSet::new();
        loop {
            // Ended connections are let go of as new ones come.
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = stopped(&mut stop) => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let place = match places.free() {
                        Some(place) => Some(place),
                        None => tokio::select! {
                            place = places.vacated() => place,
                            () = stopped(&mut stop) => None,
                        },
                    };
                    let Some(place) = place else { break };
                    let (tls, bounds, answers, stop) =
                        (self.tls.clone(), self.bounds, self.answers.clone(), stop.clone());
                    connections.spawn(async move {
                        tokio::select! {
                            () = connection((stream, peer), &place, tls, bounds, answers, stop) => {}
                            () = place.wanted() => tracing::debug!("a connection gave its place up"),
                        }
                    });
                }
                Err(error) => {
                    // Out of files: accepting at once again would only burn CPU.
                    tracing::warn!(listener = self.name, %error, "can't accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.socket);
        while connections.join_next().await.is_some() {}
    }
}

async fn connection(
    (stream, peer): (TcpStream, SocketAddr),
    place: &Place,
    tls: Option<Tls>,
    bounds: Bounds,
    answers: Answers,
    stop: watch::Receiver<bool>,
) {
    // Answers are small and written whole: waiting to fill a packet would only delay them.
    let _ = stream.set_nodelay(true);
    let stream = Progress::new(stream, bounds.stall);
    match tls {
        None => serve((stream, peer), place, bounds, answers, stop).await,
        Some(tls) => {
            let mut stopping = stop.clone();
            let handshake = tokio::select! {
                handshake = tokio::time::timeout(bounds.header, tls.accept(stream)) => handshake,
                // Nothing was asked yet, so nothing is lost.
                () = stopped(&mut stopping) => return,
            };
            match handshake {
                Ok(Ok(stream)) => serve((stream, peer), place, bounds, answers, stop).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        }
    }
}

async fn serve(
    (stream, peer): (impl AsyncRead + AsyncWrite + Unpin, SocketAddr),
    place: &Place,
    bounds: Bounds,
    answers: Answers,
    stop: watch::Receiver<bool>,
) {
    let ended = match answers {
        Answers::Router(router) => {
            let service = service_fn(move |mut request: Request<Incoming>| {
                let router = router.clone();
                request.extensions_mut().insert(Peer(peer));
                async move {
                    let request = request.map(|body| Body::new(place.keep_after(body)));
                    let answer = tokio::time::timeout(bounds.request, router.oneshot(request)).await;
                    place.wait();
                    Ok::<_, Infallible>(match answer {
                        Ok(Ok(response)) => response,
                        Ok(Err(never)) => match never {},
                        Err(_) => too_slow().map(Body::new),
                    })
                }
            });
            http1(stream, bounds, service, stop).await
        }
        Answers::Http1(answer) => {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(request.map(|body| place.keep_after(body)));
                async move {
                    let answer = tokio::time::timeout(bounds.request, answer).await;
                    place.wait();
                    Ok::<_, Infallible>(answer.unwrap_or_else(|_| too_slow()))
                }
            });
            http1(stream, bounds, service, stop).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Serves HTTP/1.1 on one connection. A request's header must arrive within its bound also when nothing was sent yet,
/// so a silent connection does not keep its place.
async fn http1<B: hyper::body::Body<Error: Into<Box<dyn Error + Send + Sync>>> + 'static>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    bounds: Bounds,
    service: impl HttpService<Incoming, ResBody = B, Error = Infallible>,
    mut stop: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// Resolves when the listener is to stop, or whoever could say so is gone; holds no lock.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn too_slow() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"the request took too long\n")));
    *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
    response
}
