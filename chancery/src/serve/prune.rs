//! The loop that deletes dead rows of ACME, in small commits with room for others between them. What is dead
//! `ca_core::acme::prune` says.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ca_core::acme::prune::{Fate, PruneAges, in_use_by};
use ca_core::acme::rate_limit::ArrivalTime;
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::{AccountId, AuthorizationId, OrderId};
use ca_core::store::{Change, Commit, Page, Prune, Store, StoreError};
use ca_core::time::{Clock, Stopwatch, Timestamp};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;

/// How many rows are looked at in one read.
const LOOK: u32 = 1000;
/// How many rows one commit deletes: other commits wait for it.
const CHUNK: usize = 250;

/// How many rows were deleted, by kind; clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct PruneMetrics {
    /// For the registry.
    pub rows: Family<KindLabels, Counter>,
}

/// The kind of a row.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct KindLabels {
    kind: &'static str,
}

/// What the loop works on.
pub struct Pruner {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// What is dead.
    pub ages: PruneAges,
    /// How often it is looked for.
    pub every: Duration,
    /// Where deleted rows are counted.
    pub metrics: PruneMetrics,
}

/// Up to where rows have been looked at of which none will die any more.
#[derive(Default)]
struct Settled {
    orders: Option<OrderId>,
    authorizations: Option<AuthorizationId>,
}

/// Deletes dead rows until `stop` says so.
pub async fn run(pruner: Pruner, mut stop: watch::Receiver<bool>) {
    let mut settled = Settled::default();
    while !*stop.borrow() {
        let pass = async {
            if let Err(error) = pruner.pass(&mut settled).await {
                tracing::warn!(%error, "dead rows can't be deleted now");
            }
            tokio::time::sleep(pruner.every).await;
        };
        tokio::select! {
            () = pass => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

impl Pruner {
    /// Looks at every row once that may be dead.
    async fn pass(&self, settled: &mut Settled) -> Result<(), StoreError> {
        let now = self.clock.now();
        // First the orders: they say which authorizations are in use.
        let in_use = self.orders(settled, now).await?;
        self.authorizations(settled, &in_use, now).await?;
        self.accounts(now).await?;
        self.failing(now).await?;
        self.buckets(now).await
    }

    /// Gives the authorizations that orders name which may still be worked on, as far as these are old enough to be
    /// looked at.
    async fn orders(
        &self,
        settled: &mut Settled,
        now: Timestamp,
    ) -> Result<HashSet<AuthorizationId>, StoreError> {
        let until = self.ages.orders_made_before(now);
        let (mut after, mut in_use, mut all_settled) = (settled.orders, HashSet::new(), true);
        loop {
            let page = self.store.orders_made_before(until, after, LOOK).await?;
            let mut dead = Vec::new();
            for order in &page.rows {
                match self.ages.order(order, now) {
                    Fate::Dead => dead.push((order.id, order.version)),
                    Fate::Kept => {}
                    Fate::Later => {
                        all_settled = false;
                        in_use.extend(in_use_by(order));
                    }
                }
            }
            let all = self.delete("orders", &dead, Prune::Orders, |(id, _)| id.to_string(), now).await?;
            if !all {
                // Somebody came first: nothing is known of what they name.
                let left = page.rows.iter().filter(|order| dead.iter().any(|(id, _)| *id == order.id));
                in_use.extend(left.flat_map(|order| order.authorizations.iter().copied()));
            }
            all_settled &= all;
            if all_settled {
                settled.orders = page.next.or(settled.orders);
            }
            after = page.next;
            if after.is_none() {
                return Ok(in_use);
            }
        }
    }

    async fn authorizations(
        &self,
        settled: &mut Settled,
        in_use: &HashSet<AuthorizationId>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let until = self.ages.authorizations_made_before(now);
        let (mut after, mut all_settled) = (settled.authorizations, true);
        loop {
            let page = self.store.authorizations_made_before(until, after, LOOK).await?;
            let is_dead = |authorization: &&ca_core::acme::Authorization| {
                self.ages.authorization(authorization, in_use, now) == Fate::Dead
            };
            let dead: Vec<_> = page.rows.iter().filter(is_dead).map(|row| (row.id, row.version)).collect();
            let kind = "authorizations";
            let all = self.delete(kind, &dead, Prune::Authorizations, |(id, _)| id.to_string(), now).await?;
            all_settled &= all && dead.len() == page.rows.len();
            if all_settled {
                settled.authorizations = page.next.or(settled.authorizations);
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn accounts(&self, now: Timestamp) -> Result<(), StoreError> {
        let until = self.ages.accounts_made_before(now);
        let mut after = None;
        loop {
            let Page { rows, next } = self.store.unused_accounts_made_before(until, after, LOOK).await?;
            let dead = rows.iter().filter(|account| self.ages.unused_account(account, now) == Fate::Dead);
            let dead: Vec<_> = dead.map(|account| (account.id, account.version)).collect();
            let id = |(id, _): &(AccountId, _)| id.to_string();
            self.delete("accounts", &dead, Prune::Accounts, id, now).await?;
            after = next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn failing(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let Page { rows, next } = self.store.failing_pairs(None, false, after, LOOK).await?;
            let dead = rows.iter().filter(|failing| self.ages.failing(failing, now) == Fate::Dead);
            let dead: Vec<_> = dead.map(|failing| (failing.id(), failing.version)).collect();
            self.delete("failures", &dead, Prune::Failing, |(id, _)| id.to_string(), now).await?;
            after = next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Buckets that are empty again: without them nothing is different.
    async fn buckets(&self, now: Timestamp) -> Result<(), StoreError> {
        let until = ArrivalTime::at(now);
        let mut after = None;
        loop {
            let Page { rows, next } = self.store.idle_buckets(until, after, LOOK).await?;
            let prune = |buckets| Prune::Buckets { buckets, until };
            self.delete("limit_buckets", &rows, prune, |_| String::new(), now).await?;
            after = next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Deletes rows in chunks, and gives whether all of them went; others wait for the next pass.
    async fn delete<T: Clone>(
        &self,
        kind: &'static str,
        rows: &[T],
        prune: impl Fn(Vec<T>) -> Prune,
        name: impl Fn(&T) -> String,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut all = true;
        for chunk in rows.chunks(CHUNK) {
            let stopwatch = Stopwatch::start();
            let count = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            let ends = chunk.first().zip(chunk.last()).map(|(first, last)| (name(first), name(last)));
            // What was nobody's work needs no entry in the log when it goes.
            let audit = ends.filter(|(first, _)| !first.is_empty()).map(|(first, last)| AuditEvent {
                at: now,
                actor: Actor::Authority,
                action: Action::RowsPruned { kind: kind.to_owned(), count, first, last },
            });
            let commit = Commit {
                changes: vec![Change::Prune(prune(chunk.to_vec()))],
                audit: audit.into_iter().collect(),
                ..Commit::default()
            };
            match self.store.commit(commit).await {
                Ok(()) => {
                    self.metrics.rows.get_or_create(&KindLabels { kind }).inc_by(count);
                    tracing::debug!(kind, count, "dead rows deleted");
                }
                Err(StoreError::Conflict) => all = false,
                Err(error) => return Err(error),
            }
            // As much time for others as this took.
            tokio::time::sleep(stopwatch.elapsed()).await;
        }
        Ok(all)
    }
}
