//! What a client finds after the server was stopped and started.

use serde_json::json;

use crate::support::Ca;

#[tokio::test]
async fn validations_that_were_accepted_are_taken_up_again() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.new_order(&["a.example"]).await.list("authorizations").remove(0);
    let pending = client.read(&url).await;
    let challenge = pending.challenge("dns-01");
    ca.prober.provide(&pending, &challenge, &client.key);
    ca.prober.hold();
    let answer = client.post(challenge["url"].as_str().unwrap(), &json!({})).await;
    assert_eq!(answer.text("status"), "processing");

    let restarted = ca.restarted();
    assert_eq!(restarted.resume().await.unwrap(), 1);
    assert_eq!(restarted.resume().await.unwrap(), 0, "what is under way is not begun again");
    ca.prober.release();
    let client = client.on(restarted.router());
    assert_eq!(client.read(&url).await.text("status"), "valid");
    assert_eq!(restarted.resume().await.unwrap(), 0);
}

#[tokio::test]
async fn a_poll_takes_up_a_validation_that_nobody_works_on() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.new_order(&["a.example"]).await.list("authorizations").remove(0);
    let pending = client.read(&url).await;
    let challenge = pending.challenge("dns-01");
    ca.prober.hold();
    client.post(challenge["url"].as_str().unwrap(), &json!({})).await;
    ca.prober.provide(&pending, &challenge, &client.key);

    let client = client.on(ca.restarted().router());
    let (polled, ()) = tokio::join!(client.read(&url), async { ca.prober.release() });
    assert_eq!(polled.text("status"), "valid");
}

#[tokio::test]
async fn a_nonce_from_before_is_refused_once_and_the_client_goes_on() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.kid.clone().unwrap();
    let header = client.header(&url).await;
    let client = client.on(ca.restarted().router());
    client.post_with(&url, &header, b"").await.assert_problem(400, "badNonce");
    assert_eq!(client.read(&url).await.status, 200);
}
