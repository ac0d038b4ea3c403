//! Signed single-CertID responses kept in memory, bounded in number.
//!
//! An entry carries the revision of the certificate row that it speaks of and the responder certificate that signed
//! it, and is found only with the same two: a committed revocation overrides it at once.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};

use ca_core::id::IssuerId;
use ca_core::pkix::ocsp::{CertIdHash, Window};
use ca_core::pkix::serial::SerialNumber;
use ca_core::time::Timestamp;

use crate::message::Answer;

/// Enough that cores rarely meet.
const SHARDS: u64 = 16;

/// What a response is kept under: everything in its CertID.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub issuer: IssuerId,
    pub hash: CertIdHash,
    /// Whether the hash algorithm came with NULL parameters, which the response repeats.
    pub null_parameters: bool,
    pub serial: SerialNumber,
}

/// A response, and what it was made from.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The certificate row's revision.
    pub revision: u64,
    /// Counts the responder's signers; another one's responses are not served.
    pub signer: u64,
    pub answer: Arc<Answer>,
}

/// How much of its window a response may use up before another is signed: a half.
pub(crate) fn is_fresh(window: Window, now: Timestamp) -> bool {
    let half = window.next_update.since(window.this_update) / 2;
    window.this_update <= now && now < window.this_update.plus(half)
}

/// Two generations per shard: a full young one becomes the old one, and what is used moves back.
#[derive(Debug)]
pub(crate) struct Cache {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    /// The most entries of one generation of one shard.
    generation: usize,
}

#[derive(Debug, Default)]
struct Shard {
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
}

impl Cache {
    /// At most `entries`, rounded up to a multiple of twice the shards; none at all if 0.
    pub(crate) fn new(entries: usize) -> Self {
        let shards: Vec<_> = (0..SHARDS).map(|_| Mutex::default()).collect();
        let generation = entries.div_ceil(2 * shards.len());
        Self { shards, hasher: RandomState::new(), generation }
    }

    pub(crate) fn find(&self, key: &Key, revision: u64, signer: u64) -> Option<Arc<Answer>> {
        let mut shard = self.shard(key)?;
        let entry = match shard.young.get(key) {
            Some(entry) => entry.clone(),
            None => {
                let entry = shard.old.remove(key)?;
                shard.put(key.clone(), entry.clone(), self.generation);
                entry
            }
        };
        (entry.revision == revision && entry.signer == signer).then_some(entry.answer)
    }

    pub(crate) fn keep(&self, key: Key, entry: Entry) {
        if self.generation > 0
            && let Some(mut shard) = self.shard(&key)
        {
            shard.put(key, entry, self.generation);
        }
    }

    fn shard(&self, key: &Key) -> Option<std::sync::MutexGuard<'_, Shard>> {
        let index = usize::try_from(self.hasher.hash_one(key) % SHARDS).unwrap_or(0);
        // A panic while the lock was held can't have left a map half changed: entries are whole values.
        self.shards.get(index).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shard {
    fn put(&mut self, key: Key, entry: Entry, generation: usize) {
        if self.young.len() >= generation && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(serial: u32) -> Key {
        Key {
            issuer: "issuing-1".parse().unwrap(),
            hash: CertIdHash::Sha1,
            null_parameters: true,
            serial: SerialNumber::from_be_bytes(&(serial + 1).to_be_bytes()).unwrap(),
        }
    }

    fn entry(revision: u64) -> Entry {
        let at = Timestamp::from_seconds(0);
        let window = Window { this_update: at, next_update: at };
        Entry {
            revision,
            signer: 1,
            answer: Arc::new(Answer::new(Vec::new(), window, crate::metrics::Outcome::Good)),
        }
    }

    #[test]
    fn another_revision_or_signer_is_not_found() {
        let cache = Cache::new(100);
        cache.keep(key(1), entry(7));
        assert!(cache.find(&key(1), 7, 1).is_some());
        assert!(cache.find(&key(1), 8, 1).is_none(), "the row changed");
        assert!(cache.find(&key(1), 7, 2).is_none(), "the responder certificate changed");
        assert!(cache.find(&key(2), 7, 1).is_none());
    }

    #[test]
    fn it_never_holds_more_than_its_bound_and_keeps_what_is_used() {
        let cache = Cache::new(320);
        for serial in 0..10_000 {
            cache.keep(key(serial), entry(1));
            assert!(cache.find(&key(0), 1, 1).is_some(), "the busiest entry went at {serial}");
        }
        let held: usize =
            cache.shards.iter().map(|s| s.lock().map(|s| s.young.len() + s.old.len()).unwrap()).sum();
        assert!(held <= 320, "{held} entries");
        let none = Cache::new(0);
        none.keep(key(1), entry(1));
        assert!(none.find(&key(1), 1, 1).is_none());
    }

    #[test]
    fn half_of_the_window_is_used() {
        let at = Timestamp::from_seconds;
        let window = Window { this_update: at(100), next_update: at(200) };
        assert!(is_fresh(window, at(149)));
        assert!(!is_fresh(window, at(150)));
        assert!(!is_fresh(window, at(99)), "the clock went back");
    }
}
