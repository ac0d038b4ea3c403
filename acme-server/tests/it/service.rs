//! The service as the program sees it: readiness and bounds.

use std::collections::BTreeMap;

use acme_server::sealing::SealingKey;
use acme_server::{Config, Deps, Metrics, Service};

use crate::support::{Ca, open_config};

#[tokio::test]
async fn it_is_ready_once_there_is_a_ca() {
    assert_eq!(Ca::new().await.service.readiness().await, Ok(()));
    let empty = Ca::without_issuers(open_config()).await;
    assert_eq!(empty.service.readiness().await, Err("there is no active issuing CA".to_owned()));
}

#[tokio::test]
async fn a_directory_without_a_validator_is_refused() {
    let ca = Ca::without_issuers(open_config()).await;
    let deps = Deps {
        config: Config::default(),
        store: ca.store.clone(),
        clock: ca.clock.clone(),
        validators: BTreeMap::new(),
        profiles: Vec::new(),
        sealing_key: SealingKey::generate().unwrap(),
        metrics: Metrics::default(),
    };
    assert_eq!(Service::new(deps).unwrap_err().key, "acme.directories.default");
}

#[tokio::test]
async fn requests_are_counted() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    client.new_order(&["a.example"]).await;
    client.new_order(&["bad name"]).await.assert_problem(400, "malformed");
    assert_eq!(ca.metric("acme_requests_total{resource=\"new-order\",status=\"201\"}"), 1.0);
    assert_eq!(ca.metric("acme_requests_total{resource=\"new-order\",status=\"400\"}"), 1.0);
    assert_eq!(ca.metric("acme_problems_total{type=\"malformed\"}"), 1.0);
    assert_eq!(ca.metric("acme_orders_created_total"), 1.0);
    assert_eq!(ca.metric("acme_request_seconds_count{resource=\"new-order\"}"), 2.0);
    assert_eq!(ca.metric("acme_requests_in_flight"), 0.0);
}
