//! One measurement: so many clients at once, each making one order after the other, until the work or the time is up.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use ca_core::time::Stopwatch;
use tokio::task::LocalSet;

use super::client::{Client, Directory, Steps};
use super::csr::SubscriberKey;
use super::http01::Http01;
use super::latency::Latencies;

/// When a measurement ends: after so many orders or this long, whichever comes first. Orders under way are finished.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most orders, over all clients.
    pub orders: u64,
    /// The longest time in which orders are begun.
    pub time: Duration,
    /// How many are begun a second; as many as can be without it.
    pub rate: Option<f64>,
}

/// What a measurement saw.
#[derive(Debug, Default)]
pub struct Outcome {
    /// From the first order to the end of the last.
    pub elapsed: Duration,
    /// Of the orders that succeeded; at a given rate, from when they were to begin.
    pub whole: Latencies,
    /// Their steps.
    pub steps: Steps,
    /// Why the others did not, and how often.
    pub failures: BTreeMap<String, u64>,
    /// Signed requests sent for all.
    pub requests: u64,
}

/// How many different reasons are kept; a server that fails in ever new words must not fill the memory.
const REASONS: usize = 100;

impl Outcome {
    /// How many orders failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn fail(&mut self, why: String, times: u64) {
        let why = if self.failures.len() < REASONS { why } else { "other reasons".to_owned() };
        *self.failures.entry(why).or_default() += times;
    }

    fn add(&mut self, other: Self) {
        self.whole.append(other.whole);
        self.steps.append(other.steps);
        self.requests += other.requests;
        for (why, times) in other.failures {
            self.fail(why, times);
        }
    }
}

impl Steps {
    fn append(&mut self, other: Self) {
        self.new_order.append(other.new_order);
        self.authorization.append(other.authorization);
        self.challenge.append(other.challenge);
        self.finalize.append(other.finalize);
        self.certificate.append(other.certificate);
    }
}

/// What is left of a measurement's bounds; its clients share it.
struct Budget {
    begun: Cell<u64>,
    bounds: Bounds,
    watch: Stopwatch,
}

impl Budget {
    /// Takes one order out, once it is its turn; gives the time since it was.
    async fn take(&self) -> Option<Stopwatch> {
        let number = self.begun.get();
        if number >= self.bounds.orders || self.watch.elapsed() >= self.bounds.time {
            return None;
        }
        self.begun.set(number + 1);
        if let Some(rate) = self.bounds.rate {
            #[allow(clippy::cast_precision_loss, reason = "orders of one run are far below 2^52")]
            let turn = Duration::from_secs_f64(number as f64 / rate);
            tokio::time::sleep(turn.saturating_sub(self.watch.elapsed())).await;
        }
        Some(Stopwatch::start())
    }
}

/// A client that orders, with the key that its certificates are for.
#[derive(Debug)]
pub struct Subscriber {
    client: Client,
    key: SubscriberKey,
    names: String,
    orders: u64,
}

impl Subscriber {
    /// Makes so many, each with a connection of its own, and with an account of its own unless they share one. They order
    /// `oN.cN.NAMES`, each name once, so that no authorization is used again.
    ///
    /// # Errors
    /// If an account is refused.
    pub async fn register(
        directory: &Directory,
        names: &str,
        count: usize,
        one_account: bool,
    ) -> Result<Vec<Self>> {
        let mut subscribers: Vec<Self> = Vec::new();
        for number in 0..count {
            let client = match subscribers.first() {
                Some(first) if one_account => first.client.another(),
                _ => Client::register(directory).await.context("cannot create an account")?,
            };
            let key = SubscriberKey::generate()?;
            subscribers.push(Self { client, key, names: format!("c{number}.{names}"), orders: 0 });
        }
        Ok(subscribers)
    }

    async fn order(&mut self, http01: &Http01, steps: &mut Steps) -> Result<()> {
        self.orders += 1;
        let name = format!("o{}.{}", self.orders, self.names);
        let csr = self.key.request(&name)?;
        self.client.issue(&name, &csr, http01, steps).await
    }
}

/// Orders with every subscriber at once; `ended` is told of each order.
pub async fn run(
    subscribers: &mut Vec<Subscriber>,
    http01: &Rc<Http01>,
    bounds: Bounds,
    ended: impl Fn() + 'static,
) -> Outcome {
    let budget = Rc::new(Budget { begun: Cell::new(0), bounds, watch: Stopwatch::start() });
    let ended = Rc::new(ended);
    let local = LocalSet::new();
    let tasks: Vec<_> = std::mem::take(subscribers)
        .into_iter()
        .map(|mut subscriber| {
            let (budget, http01, ended) = (Rc::clone(&budget), Rc::clone(http01), Rc::clone(&ended));
            local.spawn_local(async move {
                let mut outcome = Outcome::default();
                let before = subscriber.client.signed();
                while let Some(watch) = budget.take().await {
                    match subscriber.order(&http01, &mut outcome.steps).await {
                        Ok(()) => outcome.whole.add(watch.elapsed()),
                        Err(error) => outcome.fail(format!("{error:#}"), 1),
                    }
                    ended();
                }
                outcome.requests = subscriber.client.signed() - before;
                (subscriber, outcome)
            })
        })
        .collect();
    local
        .run_until(async {
            let mut whole = Outcome::default();
            for task in tasks {
                match task.await {
                    Ok((subscriber, outcome)) => {
                        subscribers.push(subscriber);
                        whole.add(outcome);
                    }
                    Err(error) => whole.fail(error.to_string(), 1),
                }
            }
            whole.elapsed = budget.watch.elapsed();
            whole
        })
        .await
}
