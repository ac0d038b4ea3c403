//! RFC 8739: short-term certificates that are renewed automatically, by section.

mod section_3_1_orders;
mod section_3_3_certificates;

use std::time::Duration;

use acme_server::config::{Config, StarConfig};
use ca_core::time::{Clock, Timestamp};
use serde_json::{Value, json};

use crate::support::{Answer, Ca, Client, key, open_config};

const NAME: &str = "star.example.org";

/// Certificates of an hour at least, over thirty days at most, for everybody who knows the URL.
fn star() -> StarConfig {
    StarConfig {
        enabled: true,
        min_lifetime_seconds: 3600,
        max_lifetime_seconds: 7 * 86_400,
        max_duration_seconds: 30 * 86_400,
        allow_certificate_get: true,
    }
}

fn offering() -> Config {
    Config { star: star(), ..open_config() }
}

fn days(ca: &Ca, days: u64) -> Timestamp {
    ca.clock.now().plus(Duration::from_hours(24 * days))
}

/// Two-hour certificates over a day.
fn asked(ca: &Ca) -> Value {
    json!({ "end-date": days(ca, 1).to_string(), "lifetime": 7200 })
}

async fn place(client: &Client, auto_renewal: Value) -> Answer {
    let identifiers = json!([{ "type": "dns", "value": NAME }]);
    let payload = json!({ "identifiers": identifiers, "auto-renewal": auto_renewal });
    client.post(&client.resource("newOrder"), &payload).await
}

/// A valid order with auto-renewal.
async fn issued(ca: &Ca, client: &Client, auto_renewal: Value) -> Answer {
    let order = place(client, auto_renewal).await;
    assert_eq!(order.status, 201, "{order:?}");
    ca.authorize(client, &order).await;
    let valid = client.finalize(&order, &key::csr(&key::subscriber_key(), &[NAME])).await;
    assert_eq!(valid.text("status"), "valid", "{valid:?}");
    valid
}

async fn cancel(client: &Client, order: &Answer) -> Answer {
    client.post(order.location(), &json!({ "status": "canceled" })).await
}
