//! RFC 9773 §5: orders that replace certificates.

use acme_server::config::Config;
use ca_core::time::Clock;
use serde_json::json;

use super::{Issued, identifier, pull};
use crate::support::client::{from_pem, identifiers};
use crate::support::{Answer, Ca, Client, key, open_config};

async fn order(client: &Client, names: &[&str], replaces: &str) -> Answer {
    let payload = json!({"identifiers": identifiers(names), "replaces": replaces});
    client.post(&client.resource("newOrder"), &payload).await
}

#[tokio::test]
async fn an_order_shows_what_it_replaces() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let issued = Issued::new(&ca, &client, "a.example").await;
    assert_eq!(issued.order.json.get("replaces"), None);
    let renewal = order(&client, &["new.example", "a.example"], &issued.id).await;
    assert_eq!(renewal.status, 201, "{renewal:?}");
    assert_eq!(renewal.text("replaces"), issued.id);
    assert_eq!(client.read(renewal.location()).await.text("replaces"), issued.id);

    ca.authorize(&client, &renewal).await;
    let csr = key::csr(&key::subscriber_key(), &["new.example", "a.example"]);
    let done = client.finalize(&renewal, &csr).await;
    assert_eq!((done.text("status"), done.text("replaces")), ("valid", issued.id.as_str()));
    // And a successor of the successor.
    let der = from_pem(&client.read(done.text("certificate")).await.body).remove(0);
    assert_eq!(order(&client, &["a.example"], &identifier(&der)).await.status, 201);
}

#[tokio::test]
async fn a_certificate_is_replaced_by_one_order_that_is_not_invalid() {
    let ca = Ca::with(Config { order_lifetime_seconds: 600, ..open_config() }).await;
    let client = ca.client().await;
    let issued = Issued::new(&ca, &client, "a.example").await;
    let first = order(&client, &["a.example"], &issued.id).await;
    assert_eq!(first.status, 201, "{first:?}");
    order(&client, &["a.example"], &issued.id).await.assert_problem(409, "alreadyReplaced");

    // Its authorization is given up, so the order is invalid, and another one may try.
    let authorization = &first.list("authorizations")[0];
    assert_eq!(client.post(authorization, &json!({"status": "deactivated"})).await.status, 200);
    assert_eq!(client.read(first.location()).await.text("status"), "invalid");
    let second = order(&client, &["a.example"], &issued.id).await;
    assert_eq!(second.status, 201, "{second:?}");
    order(&client, &["a.example"], &issued.id).await.assert_problem(409, "alreadyReplaced");

    // So may one when that has expired.
    ca.clock.advance(std::time::Duration::from_secs(601));
    let third = order(&client, &["a.example"], &issued.id).await;
    assert_eq!(third.status, 201, "{third:?}");
    ca.authorize(&client, &third).await;
    let csr = key::csr(&key::subscriber_key(), &["a.example"]);
    assert_eq!(client.finalize(&third, &csr).await.text("status"), "valid");
    // And none when it was replaced for good.
    ca.clock.advance(std::time::Duration::from_secs(601));
    order(&client, &["a.example"], &issued.id).await.assert_problem(409, "alreadyReplaced");
    // Without the member it is an order as any other.
    assert_eq!(client.new_order(&["a.example"]).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_orders_that_come_at_the_same_time_one_wins() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    for round in 0..5 {
        let issued = Issued::new(&ca, &client, &format!("host-{round}.example")).await;
        let name = format!("host-{round}.example");
        let names = [name.as_str()];
        let orders = (0..8).map(|_| order(&client, &names, &issued.id));
        let statuses: Vec<u16> = join_all(orders).await.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| [201, 409].contains(status)), "{statuses:?}");
    }
}

#[tokio::test]
async fn a_few_orders_for_a_certificate_are_renewals_as_asked_and_no_more() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let issued = Issued::new(&ca, &client, "a.example").await;
    let early = Issued::new(&ca, &client, "b.example").await;
    let as_asked = async |order: &Answer| {
        let id = order.location().rsplit('/').next().unwrap().parse().unwrap();
        let (stored, _) = ca.store.order(id).await.unwrap().unwrap();
        stored.replaces.unwrap().as_asked
    };
    let too_early = order(&client, &["b.example"], &early.id).await;
    assert!(!as_asked(&too_early).await, "its window has not begun");

    ca.clock.advance(issued.window(&client).await.0.since(ca.clock.now()));
    for expected in [true, true, true, false, false] {
        let renewal = order(&client, &["a.example"], &issued.id).await;
        assert_eq!(as_asked(&renewal).await, expected);
        let authorization = &renewal.list("authorizations")[0];
        assert_eq!(client.post(authorization, &json!({"status": "deactivated"})).await.status, 200);
    }
}

/// Polls all of them until each is done.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(done) = future.as_mut().poll(context)
            {
                *output = Some(done);
            }
        }
        if outputs.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    outputs.into_iter().map(Option::unwrap).collect()
}

#[tokio::test]
async fn what_cannot_be_replaced_is_refused_and_of_others_nothing_is_told() {
    let ca = Ca::new().await;
    let (client, stranger) = (ca.client().await, ca.client().await);
    let issued = Issued::new(&ca, &client, "a.example").await;

    order(&client, &["b.example"], &issued.id).await.assert_problem(400, "malformed");
    for bad in ["", "x", "a.b.c", "aYhba4dGQEHhs3uEe6CuLN4ByNQ=.AIdlQyE="] {
        order(&client, &["a.example"], bad).await.assert_problem(400, "malformed");
    }
    let foreign = order(&stranger, &["a.example"], &issued.id).await;
    foreign.assert_problem(400, "malformed");
    let (issuer, _) = issued.id.split_once('.').unwrap();
    for unknown in [format!("{issuer}.AQ"), "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE".to_owned()] {
        let answer = order(&stranger, &["a.example"], &unknown).await;
        assert_eq!((answer.status, &answer.json), (foreign.status, &foreign.json));
    }
    // Nothing of this marked it.
    assert_eq!(order(&client, &["a.example"], &issued.id).await.status, 201);
    // What is refused for another reason doesn't either.
    let other = Issued::new(&ca, &client, "c.example").await;
    let payload =
        json!({"identifiers": identifiers(&["c.example"]), "replaces": other.id, "profile": "none"});
    client.post(&client.resource("newOrder"), &payload).await.assert_problem(400, "invalidProfile");
    assert_eq!(order(&client, &["c.example"], &other.id).await.status, 201);
}

#[tokio::test]
async fn a_certificate_that_was_pulled_is_replaced_and_its_successor_is_not_pulled() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let issued = Issued::new(&ca, &client, "a.example").await;
    let now = ca.clock.now();
    let hour = std::time::Duration::from_hours(1);
    let scope = ca_core::acme::renewal::PullScope::Issuer("issuing-1".parse().unwrap());
    pull(&ca, scope, (now.minus(hour), now)).await;
    assert!(issued.window(&client).await.1 <= now);

    ca.clock.advance(std::time::Duration::from_secs(2));
    let renewal = order(&client, &["a.example"], &issued.id).await;
    ca.authorize(&client, &renewal).await;
    let csr = key::csr(&key::subscriber_key(), &["a.example"]);
    let done = client.finalize(&renewal, &csr).await;
    let der = from_pem(&client.read(done.text("certificate")).await.body).remove(0);
    let successor = Issued { id: identifier(&der), der, order: done };
    assert!(successor.window(&client).await.0 > ca.clock.now().plus(hour));
}
