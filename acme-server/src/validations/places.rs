//! Places for validation: so many attempts at a time in all, and of these each account its share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ca_core::id::AccountId;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::problem::Problem;

/// How many attempts run at a time; more wait.
const AT_ONCE: usize = 256;

/// How many of them one account's can be. It queues for the others' places with as many at most, so that an account
/// that has thousands to do keeps nobody waiting for longer than these take.
const AT_ONCE_EACH: usize = 64;

/// How many validations run or wait; more are refused.
const MAX: usize = 20_000;

/// How many of them one account's can be: the names of fifty of the largest orders.
const MAX_EACH: usize = 5_000;

/// The places, and who has something to do.
#[derive(Clone)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    shares: Arc<Mutex<Shares>>,
}

#[derive(Default)]
struct Shares {
    /// How many validations run or wait.
    count: usize,
    accounts: HashMap<AccountId, Own>,
}

/// An account's part of that.
struct Own {
    count: usize,
    places: Arc<Semaphore>,
}

/// The right of one validation to wait for places, until dropped.
pub(crate) struct Share {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    account: AccountId,
    shares: Arc<Mutex<Shares>>,
}

/// A place, until dropped. The share that it is of outlives it, or the account would be forgotten with a place taken.
pub(crate) struct Place<'a> {
    _own: Option<SemaphorePermit<'a>>,
    _of_all: Option<SemaphorePermit<'a>>,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(AT_ONCE)), shares: Arc::default() }
    }
}

impl Places {
    /// A share for one more validation of an account.
    ///
    /// # Errors
    /// If too many run or wait.
    pub(super) fn share(&self, account: AccountId) -> Result<Share, Problem> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.count >= MAX {
            return Err(Problem::unavailable("too many validations are waiting; try again", 10));
        }
        let own = shares
            .accounts
            .entry(account)
            .or_insert_with(|| Own { count: 0, places: Arc::new(Semaphore::new(AT_ONCE_EACH)) });
        if own.count >= MAX_EACH {
            let detail =
                format!("{MAX_EACH} validations of this account are waiting; try again when some are over");
            return Err(Problem::rate_limited(detail, 10));
        }
        own.count += 1;
        let own = own.places.clone();
        shares.count += 1;
        Ok(Share { all: self.all.clone(), own, account, shares: self.shares.clone() })
    }
}

impl Share {
    /// Waits for a place: first for one of the account's own, then, behind those of others who came before, for one of
    /// all.
    pub(crate) async fn place(&self) -> Place<'_> {
        // Neither semaphore is ever closed, so each gives a permit.
        let own = self.own.acquire().await.ok();
        Place { _own: own, _of_all: self.all.acquire().await.ok() }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.count = shares.count.saturating_sub(1);
        if let Some(own) = shares.accounts.get_mut(&self.account) {
            own.count = own.count.saturating_sub(1);
            if own.count == 0 {
                shares.accounts.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ca_core::random::SystemRandom;
    use ca_core::time::Timestamp;
    use http::StatusCode;
    use tokio::task::JoinSet;

    use super::*;

    fn account() -> AccountId {
        AccountId::generate(Timestamp::from_millis(0), &mut SystemRandom)
    }

    /// Takes places until one has to be waited for, and gives how many there were.
    async fn fill(places: &Places, account: AccountId) -> (usize, JoinSet<()>, Vec<Place<'static>>) {
        let mut held = Vec::new();
        let mut waiting = JoinSet::new();
        loop {
            // Its places outlive this function.
            let share: &'static Share = Box::leak(Box::new(places.share(account).unwrap()));
            // The runtime would have a task that took so many places pause.
            let mut place = Box::pin(tokio::task::unconstrained(share.place()));
            match std::future::poll_fn(|cx| std::task::Poll::Ready(place.as_mut().poll(cx))).await {
                std::task::Poll::Ready(place) => held.push(place),
                std::task::Poll::Pending => {
                    waiting.spawn(async move { drop(place.await) });
                    return (held.len(), waiting, held);
                }
            }
        }
    }

    #[tokio::test]
    async fn an_account_has_its_share_of_the_places_and_no_more() {
        let places = Places::default();
        let mut held = Vec::new();
        for _ in 0..AT_ONCE / AT_ONCE_EACH {
            let filled = fill(&places, account()).await;
            assert_eq!(filled.0, AT_ONCE_EACH);
            held.push(filled);
        }
        let (free, mut waiting, _) = fill(&places, account()).await;
        assert_eq!(free, 0, "all places are taken");
        drop(held);
        waiting.join_next().await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_waits_is_bounded_for_each_account_and_in_all_and_forgotten_at_its_end() {
        let places = Places::default();
        let mut shares = Vec::new();
        for _ in 0..MAX / MAX_EACH {
            let account = account();
            shares.extend((0..MAX_EACH).map(|_| places.share(account).ok().unwrap()));
            let refused = places.share(account).err().unwrap();
            let full = shares.len() == MAX;
            assert_eq!(refused.kind() == crate::ProblemType::RateLimited, !full);
        }
        let status =
            axum::response::IntoResponse::into_response(places.share(account()).err().unwrap()).status();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        drop(shares);
        let state = places.shares.lock().unwrap();
        assert_eq!((state.count, state.accounts.len()), (0, 0));
    }
}
