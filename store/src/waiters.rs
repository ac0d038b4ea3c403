//! Who waits for which topic: a keyed map, so that a commit wakes only those who wait for what it changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ca_core::BoxFuture;
use ca_core::store::TopicKey;
use tokio::sync::oneshot;

/// The waiters of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiters(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    by_topic: HashMap<TopicKey, HashMap<u64, oneshot::Sender<()>>>,
    last: u64,
}

/// One waiter's place in the map, given back when its future is dropped.
struct Registration {
    waiters: Waiters,
    topic: TopicKey,
    number: u64,
    woken: oneshot::Receiver<()>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut waiting = self.waiters.lock();
        if let Some(of_topic) = waiting.by_topic.get_mut(&self.topic) {
            of_topic.remove(&self.number);
            if of_topic.is_empty() {
                waiting.by_topic.remove(&self.topic);
            }
        }
    }
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // The map is whole between any two statements, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers at once; the future resolves at the first [`Waiters::wake`] of the topic after this call.
    pub(crate) fn watch(&self, topic: TopicKey) -> BoxFuture<'static, ()> {
        let (wake, woken) = oneshot::channel();
        let mut waiting = self.lock();
        waiting.last = waiting.last.wrapping_add(1);
        let number = waiting.last;
        waiting.by_topic.entry(topic.clone()).or_default().insert(number, wake);
        drop(waiting);
        let mut registration = Registration { waiters: self.clone(), topic, number, woken };
        Box::pin(async move {
            // An error would mean that the sender is gone, which counts as being woken.
            let _ = (&mut registration.woken).await;
        })
    }

    /// Wakes those who wait for these topics.
    pub(crate) fn wake<'a>(&self, topics: impl IntoIterator<Item = &'a TopicKey>) {
        let mut waiting = self.lock();
        for topic in topics {
            for (_, wake) in waiting.by_topic.remove(topic).into_iter().flatten() {
                // Nobody listens any more: fine.
                let _ = wake.send(());
            }
        }
    }

    /// Wakes everybody: changes may have been missed.
    pub(crate) fn wake_all(&self) {
        let all = std::mem::take(&mut self.lock().by_topic);
        for (_, wake) in all.into_values().flatten() {
            let _ = wake.send(());
        }
    }

    /// How many wait.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().by_topic.values().map(HashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> TopicKey {
        TopicKey(name.to_owned())
    }

    #[tokio::test]
    async fn a_topic_wakes_those_who_wait_for_it_and_nobody_else() {
        let waiters = Waiters::default();
        let (a, b) = (waiters.watch(topic("a")), waiters.watch(topic("b")));
        waiters.wake([&topic("a")]);
        a.await;
        assert_eq!(waiters.len(), 1);
        waiters.wake_all();
        b.await;
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn a_dropped_waiter_leaves_nothing_behind() {
        let waiters = Waiters::default();
        let never_polled = waiters.watch(topic("a"));
        let other = waiters.watch(topic("a"));
        drop(never_polled);
        assert_eq!(waiters.len(), 1);
        drop(other);
        assert!(waiters.lock().by_topic.is_empty());
    }
}
