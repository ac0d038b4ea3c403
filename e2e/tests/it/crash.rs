//! SIGKILL at any point of an order: what was signed is in the inventory and can be revoked, and the client gets to its
//! certificate or hears clearly why not.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::acme::{Client, Order, csr};
use e2e::chancery::{Chancery, Keys, Settings};
use e2e::dns::{Data, Dns};
use e2e::eventually;
use e2e::http::{self, Response};
use e2e::judges::{self, Status};
use serde_json::Value;

use crate::verdicts::Kept;

on_both_key_backends! {
    an_order_survives_a_crash_after_each_of_its_steps,
    an_order_survives_a_crash_in_the_middle_of_its_issuance,
}

/// How often the process is killed while a request is under way.
const ROUNDS: u32 = 16;

struct Scene {
    chancery: Chancery,
    dns: Dns,
    client: Client,
    got: Vec<Kept>,
}

impl Scene {
    fn new(keys: Keys) -> Self {
        let dns = Dns::start().unwrap();
        let chancery = Chancery::start(&Settings::with(keys).dns(dns.address())).unwrap();
        let ready = chancery.ready().unwrap();
        let client = Client::new(&ready.acme_directory, &ready.roots_pem).unwrap();
        Self { chancery, dns, client, got: Vec::new() }
    }

    fn crash(&mut self) {
        self.chancery.kill().unwrap();
        self.chancery.restart().unwrap();
    }

    /// An order for a name of its own that is ready to be finalized.
    fn ready_order(&self, name: &str) -> Order {
        let order = self.client.order(&[("dns", name)]).unwrap();
        self.respond(&order);
        self.client.settled(&order, &["ready"]).unwrap()
    }

    fn respond(&self, order: &Order) {
        for challenge in self.client.challenges(order, "dns-01").unwrap() {
            self.dns.add(&format!("_acme-challenge.{}", challenge.name), Data::Txt(challenge.dns_value()));
            self.client.respond(&challenge).unwrap();
        }
    }

    /// Takes an order that may have been finalized to its end, as a client does that lost the answer.
    fn finish(&mut self, order: &Order, csr: &[u8], key: &str) {
        let mut order = self.client.settled(order, &["ready", "processing", "valid"]).unwrap();
        if order.body["status"] == "ready" {
            self.client.finalize(&order, csr).unwrap();
        }
        order = self.client.settled(&order, &["valid"]).unwrap();
        let chain = self.client.download(&order).unwrap();
        // The same certificate every time it is asked for.
        assert_eq!(self.client.download(&order).unwrap(), chain);
        let roots = &self.chancery.ready().unwrap().roots_pem;
        self.got.push(Kept::new(roots, &chain, key));
    }

    /// What must hold at any time, seen from outside.
    fn expect_everything_accounted_for(&self) {
        let list = || self.chancery.cli(&["certificate", "list"]);
        // Recovery signs what was logged, or gives its serial up; either way it ends.
        let rows = eventually("no certificate to stay reserved", Duration::from_secs(20), || {
            let rows = list()?.as_array().cloned().unwrap_or_default();
            Ok(rows.iter().all(|row| row["state"] != "reserved").then_some(rows))
        })
        .unwrap();

        // A serial stands for one certificate, an order for at most one that was issued.
        let serials: HashSet<_> = rows.iter().map(|row| (text(row, "issuer"), text(row, "serial"))).collect();
        assert_eq!(serials.len(), rows.len());
        let mut issued_by_order = HashMap::new();
        for row in rows.iter().filter(|row| row["state"] == "issued" && !row["order"].is_null()) {
            assert_eq!(issued_by_order.insert(text(row, "order"), text(row, "serial")), None, "{row}");
        }

        let inventory: HashMap<_, _> =
            rows.iter().map(|row| (text(row, "serial").to_ascii_uppercase(), row)).collect();
        for kept in &self.got {
            let serial = kept.case.serial().unwrap();
            let row = inventory.get(&serial).unwrap_or_else(|| panic!("{serial} is not in the inventory"));
            assert_eq!(row["state"], "issued", "{row}");
            assert_eq!(kept.status(), Status::Good, "{row}");
        }
        // A serial that was given up may have been signed: it counts as revoked. What is issued does not.
        eventually("the CRLs to tell what the inventory does", Duration::from_secs(10), || {
            let revoked = self.revoked_serials()?;
            for (serial, row) in &inventory {
                let expected = row["state"] == "abandoned";
                anyhow::ensure!(revoked.contains(serial) == expected, "in a CRL: {}: {row}", !expected);
            }
            Ok(Some(()))
        })
        .unwrap();
    }

    /// The serial numbers in all CRLs.
    fn revoked_serials(&self) -> Result<HashSet<String>> {
        let mut serials = HashSet::new();
        let issuers = [self.chancery.cli(&["issuer", "list"])?, self.chancery.cli(&["root", "list"])?];
        for issuer in issuers.iter().filter_map(Value::as_array).flatten() {
            for shard in 0..issuer["shards"].as_u64().context("no shards")? {
                let url = format!("{}/crl/{}/{shard}.crl", self.chancery.pki_url()?, text(issuer, "id"));
                let response = http::get(&url)?;
                anyhow::ensure!(response.status == 200, "{url}: {}", response.status);
                serials.extend(judges::revoked_serials(&response.body)?);
            }
        }
        Ok(serials)
    }
}

fn an_order_survives_a_crash_after_each_of_its_steps(keys: Keys) {
    let mut scene = Scene::new(keys);
    for crash_after in 0..7 {
        let mut step = 0;
        // Ends the step that was just taken.
        let mut done = |scene: &mut Scene| {
            if step == crash_after {
                scene.crash();
            }
            step += 1;
        };
        let name = format!("step-{crash_after}.example.test");
        scene.client.register().unwrap();
        done(&mut scene);
        let order = scene.client.order(&[("dns", &name)]).unwrap();
        done(&mut scene);
        scene.client.challenges(&order, "dns-01").unwrap();
        done(&mut scene);
        scene.respond(&order);
        done(&mut scene);
        let order = scene.client.settled(&order, &["ready"]).unwrap();
        done(&mut scene);
        let (csr, key) = csr(&[&name]).unwrap();
        scene.client.finalize(&order, &csr).unwrap();
        done(&mut scene);
        scene.finish(&order, &csr, &key);
        done(&mut scene);
        assert_eq!(step, 7);
    }
    scene.expect_everything_accounted_for();
}

fn an_order_survives_a_crash_in_the_middle_of_its_issuance(keys: Keys) {
    let mut scene = Scene::new(keys);
    scene.client.register().unwrap();
    // How long it takes undisturbed, so that the kills fall into it on a fast machine and on a slow one.
    let order = scene.ready_order("measured.example.test");
    let (request, key) = csr(&["measured.example.test"]).unwrap();
    let began = e2e::Deadline::after(Duration::from_secs(60));
    scene.client.finalize(&order, &request).unwrap();
    let takes = Duration::from_secs(60).saturating_sub(began.remaining());
    scene.finish(&order, &request, &key);

    let mut answered = 0;
    for round in 0..ROUNDS {
        let name = format!("round-{round}.example.test");
        let order = scene.ready_order(&name);
        let (request, key) = csr(&[&name]).unwrap();
        let payload = serde_json::json!({ "csr": e2e::acme::base64url(&request) }).to_string();
        let url = order.body["finalize"].as_str().unwrap().to_owned();
        // Each part of the way once, whatever the machine's speed.
        let delay = takes.mul_f64((f64::from(round) + 0.5) / f64::from(ROUNDS));
        let outcome: Result<Response> = std::thread::scope(|scope| {
            let (client, url, payload) = (&scene.client, &url, &payload);
            let (sent, sending) = std::sync::mpsc::channel();
            let request = scope.spawn(move || {
                // Nobody listens any more when the kill came first.
                let _ = sent.send(());
                client.post(url, payload)
            });
            sending.recv().unwrap();
            // Nobody sends a second time: this waits for the delay and nothing else.
            let _ = sending.recv_timeout(delay);
            scene.chancery.kill().unwrap();
            scene.chancery.restart().unwrap();
            request.join().unwrap()
        });
        // An answer came before the kill, or after the restart, since the socket outlives the process; else the client
        // saw the connection break. No answer is half of one, and none is a 500.
        if let Ok(response) = outcome {
            answered += 1;
            let shown = String::from_utf8_lossy(&response.body).into_owned();
            assert!(response.status < 500 || response.status == 503, "{}: {shown}", response.status);
            let _: Value = serde_json::from_slice(&response.body).unwrap();
        }
        scene.finish(&order, &request, &key);
    }
    eprintln!("{answered} of {ROUNDS} requests were answered in spite of the kill; finalize takes {takes:?}");
    scene.expect_everything_accounted_for();
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_else(|| panic!("no {field} in {row}"))
}
