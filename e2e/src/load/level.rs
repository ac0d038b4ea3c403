//! One measurement: so many clients at once, each doing one thing after the other, until the work or the time is up.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Method;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio::task::LocalSet;

use super::acme::{Client, Directory};
use super::clock::Stopwatch;
use super::connection::{Connection, Endpoint};
use super::http01::Http01;
use super::latency::Latencies;
use super::ocsp::Question;

/// How many errors and certificates a measurement keeps.
const KEEP: usize = 64;

/// When a measurement ends: after so many pieces of work or this long, whichever comes first. Work in flight is
/// finished.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most pieces of work, over all clients.
    pub count: u64,
    /// The longest time in which work is begun.
    pub time: Duration,
}

/// What a measurement saw.
#[derive(Debug, Default)]
pub struct Outcome {
    /// From the first piece of work to the end of the last.
    pub elapsed: Duration,
    /// Of the work that succeeded.
    pub latencies: Latencies,
    /// Work that did not.
    pub failed: u64,
    /// The first errors.
    pub errors: Vec<String>,
    /// Requests sent for it.
    pub requests: u64,
    /// For orders: some of the chains issued, PEM.
    pub chains: Vec<Bytes>,
}

impl Outcome {
    fn took(&mut self, span: Duration, result: Result<()>) {
        match result {
            Ok(()) => self.latencies.add(span),
            Err(error) => {
                self.failed += 1;
                if self.errors.len() < KEEP {
                    self.errors.push(format!("{error:#}"));
                }
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.latencies.append(other.latencies);
        self.failed += other.failed;
        self.requests += other.requests;
        self.errors.extend(other.errors);
        self.chains.extend(other.chains);
        self.errors.truncate(KEEP);
        self.chains.truncate(KEEP);
    }
}

/// What is left of a measurement's bounds; its clients share it.
#[derive(Clone)]
struct Budget {
    left: Rc<Cell<u64>>,
    time: Duration,
    watch: Stopwatch,
}

impl Budget {
    fn new(bounds: Bounds) -> Self {
        Self { left: Rc::new(Cell::new(bounds.count)), time: bounds.time, watch: Stopwatch::start() }
    }

    /// Takes one piece of work out, if there is one.
    fn take(&self) -> bool {
        let left = self.left.get();
        let any = left > 0 && self.watch.elapsed() < self.time;
        if any {
            self.left.set(left - 1);
        }
        any
    }
}

/// A client that orders, with the key that its certificates are for.
#[derive(Debug)]
pub struct Subscriber {
    client: Client,
    key: KeyPair,
    label: String,
    orders: u64,
}

impl Subscriber {
    /// Makes so many, each with an account and a connection of its own. `label` keeps their names apart from others':
    /// they order `oN.cN.LABEL.load.localhost`, each name once, so that no authorization is used again.
    ///
    /// # Errors
    /// If an account is refused.
    pub async fn register(directory: &Directory, label: &str, count: usize) -> Result<Vec<Self>> {
        let mut subscribers = Vec::new();
        for number in 0..count {
            let client = Client::register(directory).await.context("cannot create an account")?;
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            subscribers.push(Self { client, key, label: format!("c{number}.{label}"), orders: 0 });
        }
        Ok(subscribers)
    }

    async fn order(&mut self, http01: &Http01) -> Result<Bytes> {
        self.orders += 1;
        let name = format!("o{}.{}.load.localhost", self.orders, self.label);
        let mut parameters = CertificateParams::new([name.clone()])?;
        parameters.distinguished_name = DistinguishedName::new();
        let csr = parameters.serialize_request(&self.key)?;
        self.client.issue(&name, csr.der(), http01).await
    }
}

/// Orders with every subscriber at once.
pub async fn orders(subscribers: Vec<Subscriber>, http01: Rc<Http01>, bounds: Bounds) -> Outcome {
    let budget = Budget::new(bounds);
    let clients = subscribers.into_iter().map(|mut subscriber| {
        let (budget, http01) = (budget.clone(), Rc::clone(&http01));
        async move {
            let mut outcome = Outcome::default();
            let before = subscriber.client.sent();
            while budget.take() {
                let watch = Stopwatch::start();
                let result = subscriber.order(&http01).await;
                let result = result.map(|chain| outcome.chains.push(chain));
                outcome.chains.truncate(KEEP);
                outcome.took(watch.elapsed(), result);
            }
            outcome.requests = subscriber.client.sent() - before;
            outcome
        }
    });
    all(clients, budget.watch).await
}

/// Asks these questions, in turns, over so many connections at once.
pub async fn ocsp(
    endpoint: &Endpoint,
    questions: Rc<[Question]>,
    method: &Method,
    connections: usize,
    bounds: Bounds,
) -> Outcome {
    let budget = Budget::new(bounds);
    let clients = (0..connections).map(|number| {
        let (budget, questions) = (budget.clone(), Rc::clone(&questions));
        let (mut connection, method) = (Connection::new(endpoint.clone()), method.clone());
        async move {
            let mut outcome = Outcome::default();
            // Each begins elsewhere, so that they don't ask the same at once.
            for question in questions.iter().cycle().skip(number) {
                if !budget.take() {
                    break;
                }
                let watch = Stopwatch::start();
                let result = question.ask(&mut connection, &method).await;
                outcome.took(watch.elapsed(), result);
                outcome.requests += 1;
            }
            outcome
        }
    });
    all(clients, budget.watch).await
}

/// Runs the clients side by side on this thread.
async fn all(
    clients: impl Iterator<Item = impl Future<Output = Outcome> + 'static>,
    watch: Stopwatch,
) -> Outcome {
    let local = LocalSet::new();
    let tasks: Vec<_> = clients.map(|client| local.spawn_local(client)).collect();
    local
        .run_until(async move {
            let mut whole = Outcome::default();
            for task in tasks {
                match task.await {
                    Ok(outcome) => whole.add(outcome),
                    Err(error) => whole.took(Duration::ZERO, Err(error.into())),
                }
            }
            whole.elapsed = watch.elapsed();
            whole
        })
        .await
}
