//! Every metric that operators are promised is there, and moves when that happens of which it tells.

use std::collections::BTreeMap;

use e2e::chancery::{Chancery, Keys, Settings};
use e2e::clients::{Certbot, KeyType};
use e2e::http;
use e2e::judges::{Case, CertIdHash};

on_both_key_backends! {
    each_metric_moves_with_what_it_measures,
}

/// Series by name with labels, as Prometheus reads them.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    fn new(chancery: &Chancery) -> Self {
        let response = http::get(&format!("{}/metrics", chancery.metrics_url().unwrap())).unwrap();
        assert_eq!(response.status, 200);
        let content_type = response.header("content-type").unwrap();
        assert!(content_type.starts_with("application/openmetrics-text"), "{content_type}");
        let text = String::from_utf8(response.body).unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        // No two parts of the program call different things by one name.
        let mut families: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        let declared = families.len();
        families.sort_unstable();
        families.dedup_by_key(|line| line.split(' ').nth(2));
        assert_eq!(families.len(), declared, "{text}");
        let series = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
        Self(series.collect())
    }

    /// The sum of the series of this name whose labels have all of these texts; absent ones count nothing.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of_name = |series: &str| {
            series.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        let chosen = self
            .0
            .iter()
            .filter(|(series, _)| of_name(series) && labels.iter().all(|label| series.contains(label)));
        chosen.map(|(_, value)| value).sum()
    }

    fn has(&self, name: &str) -> bool {
        self.0.keys().any(|series| series.split('{').next() == Some(name))
    }
}

fn each_metric_moves_with_what_it_measures(keys: Keys) {
    let chancery = Chancery::start(&Settings::with(keys)).unwrap();
    let before = Scrape::new(&chancery);
    let ready = chancery.ready().unwrap();
    let certbot = Certbot::new(&ready.acme_directory, &ready.roots_pem).unwrap();
    let issued = certbot.http01(&["first.localhost"], KeyType::Ec256, chancery.http01()).unwrap();
    let case = Case::new(&ready.roots_pem, &issued).unwrap();
    let url = case.ocsp_url().unwrap();
    for nonce in [false, false, true] {
        case.openssl_ocsp(&url, CertIdHash::Sha1, nonce).unwrap();
    }
    case.fetch_crls().unwrap();
    certbot.revoke_by_account(&issued, "superseded").unwrap();
    // Refused: it is revoked already.
    certbot.revoke_by_account(&issued, "superseded").unwrap_err();

    // Gauges from the store are read once a second at most.
    let within = std::time::Duration::from_secs(5);
    let after = e2e::eventually("the order to be counted", within, || {
        let scrape = Scrape::new(&chancery);
        Ok((scrape.sum("chancery_orders", &["state=\"valid\""]) > 0.0).then_some(scrape))
    })
    .unwrap();
    let moved = |name: &str, labels: &[&str]| {
        let (was, is) = (before.sum(name, labels), after.sum(name, labels));
        assert!(is > was, "{name}{labels:?} was {was} and is {is}\n{:#?}", after.0);
    };

    // Requests.
    for resource in
        ["new-account", "new-order", "challenge", "finalize", "certificate", "revoke-cert", "directory"]
    {
        moved("chancery_acme_requests_total", &[&format!("\"{resource}\"")]);
    }
    moved("chancery_acme_request_seconds_count", &[]);
    moved("chancery_acme_request_seconds_sum", &[]);
    moved("chancery_acme_problems_total", &["alreadyRevoked"]);
    moved("chancery_acme_validation_seconds_count", &["http-01"]);
    moved("chancery_ocsp_requests_total", &[]);
    moved("chancery_ocsp_request_seconds_count", &[]);
    moved("chancery_ocsp_signatures_total", &[]);
    moved("chancery_ocsp_cache_hits_total", &[]);
    moved("chancery_ocsp_cache_misses_total", &[]);
    moved("chancery_crl_requests_total", &[]);
    // Orders by state.
    moved("chancery_acme_orders_created_total", &[]);
    moved("chancery_orders", &["state=\"valid\""]);
    assert_eq!(after.sum("chancery_orders", &["state=\"processing\""]), 0.0);
    // Issuance by stage: every stage that has a name was gone through.
    let stages: Vec<_> =
        after.0.keys().filter(|series| series.starts_with("chancery_issuance_stage_seconds_count")).collect();
    assert!(stages.len() >= 4, "{stages:?}");
    for stage in stages {
        assert!(after.0[stage] > before.0.get(stage).copied().unwrap_or(0.0), "{stage}");
    }
    moved("chancery_crls_published_total", &[]);
    // Signing and the store.
    moved("chancery_hsm_signing_seconds_count", &[]);
    moved("chancery_hsm_signing_seconds_sum", &[]);
    moved("chancery_store_commit_duration_seconds_count", &[]);
    moved("chancery_store_commit_batch_size_count", &[]);
    moved("chancery_store_commits_total", &["committed"]);
    moved("chancery_store_reads_total", &[]);
    moved("chancery_store_wal_bytes", &[]);
    assert!(after.sum("chancery_store_bytes", &[]) > 0.0);
    // What is going on, and how old things are: numbers that a test can't wait for are there and make sense.
    assert_eq!(after.sum("chancery_acme_requests_in_flight", &[]), 0.0);
    for name in
        ["chancery_acme_validations_in_flight", "chancery_effects_in_flight", "chancery_effects_waiting"]
    {
        assert_eq!((after.has(name), after.sum(name, &[])), (true, 0.0), "{name}");
    }
    for issuer in ["root-1", "issuing-1"] {
        let issuer = format!("issuer=\"{issuer}\"");
        let value = |name: &str| after.sum(name, &[&issuer]);
        assert!((0.0..300.0).contains(&value("chancery_crl_age_seconds")), "{:#?}", after.0);
        // CRL numbers are milliseconds since 1970, at least.
        let now = value("chancery_crl_number") / 1000.0;
        assert!(value("chancery_crl_next_update_seconds") > now + 3600.0, "{:#?}", after.0);
    }
    let age = after.sum("chancery_ocsp_responder_certificate_age_seconds", &[]);
    // Backdated by five minutes.
    assert!((0.0..900.0).contains(&age), "{age}");
    assert!(after.has("chancery_build_info"));
    if keys == Keys::SoftHsm {
        assert_eq!(after.sum("chancery_hsm_token_up", &[]), 1.0);
    }
}
