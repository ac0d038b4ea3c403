//! Much at a time: one account's work, and that of others beside it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::key::{csr, subscriber_key};
use crate::support::{Ca, Client, open_config};

/// Places an order, and answers the dns-01 challenge of each name without regard to the outcome.
async fn answer_all(ca: &Arc<Ca>, client: &Arc<Client>, names: Vec<String>) {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let order = client.new_order(&names).await;
    assert_eq!(order.status, 201, "{order:?}");
    let mut responses = JoinSet::new();
    for url in order.list("authorizations") {
        let (ca, client) = (ca.clone(), client.clone());
        responses.spawn(async move {
            let authorization = client.read(&url).await;
            let challenge = authorization.challenge("dns-01");
            ca.prober.provide(&authorization, &challenge, &client.key);
            let answer = client.post(challenge["url"].as_str().unwrap(), &json!({})).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        });
    }
    responses.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_whose_names_do_not_answer_keeps_no_other_waiting() {
    let ca = Arc::new(Ca::new().await);
    let busy = Arc::new(ca.client().await);
    ca.prober.hold_those_with(".slow.example");
    let mut orders = JoinSet::new();
    for order in 0..3 {
        let (ca, busy) = (ca.clone(), busy.clone());
        let names = (0..100).map(|name| format!("n{name}.o{order}.slow.example")).collect();
        orders.spawn(async move { answer_all(&ca, &busy, names).await });
    }
    orders.join_all().await;
    assert_eq!(ca.prober.waiting(), 64, "an account's share of the 256 places");

    let other = ca.client().await;
    let valid = ca.issue(&other, &["a.example"]).await;
    assert_eq!(valid.text("status"), "valid", "{valid:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_orders_of_a_hundred_names_at_once_on_one_account_all_succeed() {
    let ca = Arc::new(Ca::with(open_config()).await);
    let client = Arc::new(ca.client().await);
    let mut orders = JoinSet::new();
    for order in 0..32 {
        let (ca, client) = (ca.clone(), client.clone());
        orders.spawn(async move {
            let names: Vec<String> = (0..100).map(|name| format!("n{name}.o{order}.example")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let placed = client.new_order(&names).await;
            let mut responses = JoinSet::new();
            for url in placed.list("authorizations") {
                let (ca, client) = (ca.clone(), client.clone());
                responses.spawn(async move {
                    let authorization = client.read(&url).await;
                    let challenge = authorization.challenge("dns-01");
                    ca.prober.provide(&authorization, &challenge, &client.key);
                    let url = challenge["url"].as_str().unwrap().to_owned();
                    let mut answer = client.post(&url, &json!({})).await;
                    // The answer waits for the outcome, so this is no busy loop.
                    while answer.json["status"] == "processing" {
                        answer = client.read(&url).await;
                    }
                    assert_eq!(answer.json["status"], "valid", "{answer:?}");
                });
            }
            responses.join_all().await;
            let mut answer = client.finalize(&placed, &csr(&subscriber_key(), &names)).await;
            while answer.json["status"] == "processing" {
                answer = client.read(placed.location()).await;
            }
            assert_eq!(answer.json["status"], "valid", "{answer:?}");
            answer.text("certificate").to_owned()
        });
    }
    let certificates: BTreeSet<String> = orders.join_all().await.into_iter().collect();
    assert_eq!(certificates.len(), 32);
}
