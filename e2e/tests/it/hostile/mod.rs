//! Hostile and unlucky surroundings of a running server: garbage, forgeries, crowds, names that point inwards, a full
//! disk, a clock that went back. Each is answered clearly; nothing panics, hangs or is a 500, and others go on.

mod accounts;
mod answers;
mod crowds;
mod csr;
mod jose;
mod listeners;
mod surroundings;
mod targets;

use std::fs;
use std::time::Duration;

use e2e::acme::{self, Challenge, Client, Order, csr};
use e2e::chancery::{Chancery, Settings};
use e2e::dns::{Data, Dns};
use e2e::eventually;
use e2e::http::{self, Response};
use e2e::judges::Status;
use serde_json::Value;

use crate::verdicts::Kept;

/// A running Chancery with one account.
struct Scene {
    dns: Dns,
    client: Client,
    chancery: Chancery,
}

impl Scene {
    fn new(settings: Settings) -> Self {
        let dns = Dns::start().unwrap();
        let chancery = Chancery::start(&settings.dns(dns.address())).unwrap();
        Self::with(chancery, dns)
    }

    fn with(chancery: Chancery, dns: Dns) -> Self {
        let ready = chancery.ready().unwrap();
        let client = Client::registered(&ready.acme_directory, &ready.roots_pem).unwrap();
        Self { dns, client, chancery }
    }

    fn ready_order(&self, name: &str) -> Order {
        let order = self.client.order(&[("dns", name)]).unwrap();
        for challenge in self.client.challenges(&order, "dns-01").unwrap() {
            self.dns.add(&format!("_acme-challenge.{}", challenge.name), Data::Txt(challenge.dns_value()));
            self.client.respond(&challenge).unwrap();
        }
        self.client.settled(&order, &["ready"]).unwrap()
    }

    fn issue(&self, name: &str) -> (Kept, Vec<u8>) {
        let order = self.ready_order(name);
        let (csr, key) = csr(&[name]).unwrap();
        self.client.finalize(&order, &csr).unwrap();
        self.download(&order, &key)
    }

    fn download(&self, order: &Order, key: &str) -> (Kept, Vec<u8>) {
        let order = self.client.settled(order, &["valid"]).unwrap();
        let chain = self.client.download(&order).unwrap();
        (Kept::new(&self.chancery.ready().unwrap().roots_pem, &chain, key), chain[0].clone())
    }

    /// An account of its own, so that what others do to the first one is not in its way.
    fn another(&self) -> Client {
        let ready = self.chancery.ready().unwrap();
        Client::registered(&ready.acme_directory, &ready.roots_pem).unwrap()
    }

    /// An order of this identifier, whose challenge of this type the server is told to look at.
    fn attempt(&self, client: &Client, identifier: (&str, &str), kind: &str) -> (Order, Challenge) {
        let order = client.order(&[identifier]).unwrap();
        let challenge = client.challenges(&order, kind).unwrap().remove(0);
        client.respond(&challenge).unwrap();
        (order, challenge)
    }

    /// Why the challenge of an order failed: the type of its error, without the prefix, and its detail.
    fn failure(&self, client: &Client, order: &Order, challenge: &Challenge) -> (String, String) {
        self.failure_at(client, order, &challenge.url)
    }

    /// As [`Scene::attempt`] by a challenge that has no token; gives its URL.
    fn attempt_without_token(&self, client: &Client, name: &str, kind: &str) -> (Order, String) {
        let order = client.order(&[("dns", name)]).unwrap();
        let authorization = client.read(order.body["authorizations"][0].as_str().unwrap()).unwrap();
        let offered = authorization["challenges"].as_array().unwrap();
        let challenge = offered.iter().find(|challenge| challenge["type"] == kind).unwrap();
        let url = challenge["url"].as_str().unwrap().to_owned();
        acme::body(&client.post(&url, "{}").unwrap(), 200).unwrap();
        (order, url)
    }

    /// As [`Scene::failure`], by the challenge's URL.
    fn failure_at(&self, client: &Client, order: &Order, challenge: &str) -> (String, String) {
        let error = eventually("the challenge to be decided", Duration::from_secs(40), || {
            let challenge = client.read(challenge)?;
            Ok((challenge["status"] == "invalid").then(|| challenge["error"].clone()))
        })
        .unwrap();
        client.settled(order, &["invalid"]).unwrap();
        let text = |member: &str| error[member].as_str().unwrap_or_default().to_owned();
        (text("type").replace("urn:ietf:params:acme:error:", ""), text("detail"))
    }

    /// The memory that the server's process keeps (`VmRSS` of `proc_pid_status(5)`), in bytes.
    fn memory_bytes(&self) -> u64 {
        let status = format!("/proc/{}/status", self.chancery.process_id().unwrap());
        let status = fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    fn resource(&self, name: &str) -> String {
        self.client.resource(name).unwrap()
    }

    fn readiness(&self) -> (u16, String) {
        let response = http::get(&format!("{}/readyz", self.chancery.metrics_url().unwrap())).unwrap();
        (response.status, String::from_utf8(response.body).unwrap())
    }

    /// After whatever was done to it, the server is alive and has not even stumbled.
    fn expect_unharmed(&self) {
        let health = http::get(&format!("{}/healthz", self.chancery.metrics_url().unwrap())).unwrap();
        assert_eq!(health.status, 200);
        let log = self.chancery.log();
        assert!(!log.contains("panicked") && !log.contains("\"ERROR\""), "the log shows trouble");
        let (kept, _) = self.issue("afterwards.example.test");
        assert_eq!(kept.status(), Status::Good);
    }
}

fn expect_problem(what: &str, response: &Response, status: u16, kind: &str) {
    let shown = String::from_utf8_lossy(&response.body);
    assert_eq!((response.status, acme::kind(response).as_deref()), (status, Some(kind)), "{what}: {shown}");
    let problem: Value = serde_json::from_slice(&response.body).unwrap();
    assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}: {shown}");
}
