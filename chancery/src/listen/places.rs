//! The places of a listener, each for one connection: when all are taken, whoever has kept us waiting longest gives its
//! place up to whoever comes next.
//!
//! A connection that is idle, or sends its handshake or request slowly, costs a stranger nothing. So it may stay only as
//! long as nobody else wants its place; otherwise a few thousand of them would keep everybody out until their time is up.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// So many places, and who in them is waited for.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// A wait has begun.
    began: Notify,
}

/// The connections whose far side owes us something, by how long it has done so.
#[derive(Debug, Default)]
struct Waiting {
    /// Counts the waits that have begun.
    count: u64,
    by_age: BTreeMap<u64, Arc<Notify>>,
}

impl Places {
    /// So many of them.
    #[must_use]
    pub fn new(number: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(number)),
            waiting: Mutex::default(),
            began: Notify::new(),
        })
    }

    /// A place at once if one is free.
    pub fn free(self: &Arc<Self>) -> Option<Place> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(self.place(permit))
    }

    /// A place: that of the connection waited for longest, or, while every one of them has a request to be answered, of
    /// the first that has its answer or ends.
    pub async fn vacated(self: &Arc<Self>) -> Option<Place> {
        let mut free = pin!(Arc::clone(&self.free).acquire_owned());
        let permit = loop {
            let longest = self.waiting().by_age.pop_first();
            if let Some((_, longest)) = longest {
                longest.notify_one();
                break free.await;
            }
            tokio::select! {
                permit = &mut free => break permit,
                () = self.began.notified() => {}
            }
        };
        Some(self.place(permit.ok()?))
    }

    fn place(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Place {
        let place = Place(Arc::new(Held {
            places: Arc::clone(self),
            wanted: Arc::default(),
            wait: Mutex::default(),
            _permit: permit,
        }));
        place.wait();
        place
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place. It is free again when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Place(Arc<Held>);

#[derive(Debug)]
struct Held {
    places: Arc<Places>,
    wanted: Arc<Notify>,
    /// Under which number it is waited for, if it is.
    wait: Mutex<Option<u64>>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// The far side is to send something: from now on others may want the place.
    pub fn wait(&self) {
        let mut wait = self.0.wait.lock().unwrap_or_else(PoisonError::into_inner);
        if wait.is_none() {
            let mut waiting = self.0.places.waiting();
            waiting.count += 1;
            *wait = Some(waiting.count);
            let number = waiting.count;
            waiting.by_age.insert(number, Arc::clone(&self.0.wanted));
            drop(waiting);
            self.0.places.began.notify_one();
        }
    }

    /// The far side has sent all of a request: nobody takes the place before it has its answer.
    pub fn keep(&self) {
        let mut wait = self.0.wait.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = wait.take() {
            self.0.places.waiting().by_age.remove(&number);
        }
    }

    /// Resolves when the place is wanted: the connection ends then, whatever it was about to send.
    pub async fn wanted(&self) {
        self.0.wanted.notified().await;
    }

    /// A request's body, whose end makes this place kept.
    pub fn keep_after(&self, body: Incoming) -> Arriving {
        if body.is_end_stream() {
            self.keep();
        }
        Arriving { body, place: self.clone() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(number) = self.wait.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            self.places.waiting().by_age.remove(&number);
        }
    }
}

/// A body on its way.
#[derive(Debug)]
pub struct Arriving {
    body: Incoming,
    place: Place,
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.place.keep();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Whether it resolves without anything else happening.
    async fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(Duration::from_millis(20), future).await.ok()
    }

    #[tokio::test]
    async fn the_one_that_was_waited_for_longest_gives_its_place_up() {
        let places = Places::new(3);
        let (answered, first, second) =
            (places.free().unwrap(), places.free().unwrap(), places.free().unwrap());
        answered.keep();
        assert!(places.free().is_none());
        // Its turn began anew: the second one is waited for longer now.
        first.keep();
        first.wait();
        let next = places.vacated();
        let next = async {
            let (next, ()) = tokio::join!(next, async {
                second.wanted().await;
                drop(second);
            });
            next
        };
        let next = now(next).await.expect("the second one is not wanted").unwrap();
        assert!(now(first.wanted()).await.is_none() && now(answered.wanted()).await.is_none());
        drop((first, answered, next));
        assert!(places.waiting().by_age.is_empty());
    }

    #[tokio::test]
    async fn while_every_request_is_complete_the_next_one_waits() {
        let places = Places::new(1);
        let answered = places.free().unwrap();
        answered.keep();
        assert!(now(places.vacated()).await.is_none());
        assert!(now(answered.wanted()).await.is_none());
        let next = async {
            let (next, ()) = tokio::join!(places.vacated(), async {
                // It has its answer.
                answered.wait();
                answered.wanted().await;
                drop(answered);
            });
            next
        };
        assert!(now(next).await.is_some());
    }
}
