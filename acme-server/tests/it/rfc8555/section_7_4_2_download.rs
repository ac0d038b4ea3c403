//! RFC 8555 §7.4.2: downloading certificates, and the roots that relying parties install.

use ca_core::store::{CertificateDer, Change, Commit, IssuerKind};
use http::Method;

use crate::support::Ca;
use crate::support::client::{from_pem, send};

#[tokio::test]
async fn every_ca_certificate_of_the_issuer_gives_a_chain_and_each_links_to_the_others() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = ca.issue(&client, &["a.example"]).await.text("certificate").to_owned();
    assert!(client.read(&url).await.links("alternate").is_empty());
    let one_chain = client.read(&format!("{url}/1")).await;
    one_chain.assert_problem(404, "malformed");

    // The issuing CA gets a second certificate: here the root's, which is a CA certificate as good as another.
    let issuers = ca.store.issuers().await.unwrap();
    let root = issuers.iter().find(|ca| ca.kind == IssuerKind::Root).unwrap().certificates[0].clone();
    let mut issuing = issuers.into_iter().find(|ca| ca.kind == IssuerKind::Issuing).unwrap();
    let first = issuing.certificates[0].clone();
    issuing.certificates = vec![first.clone(), root.clone()];
    let changes = vec![Change::PutIssuer(Box::new(issuing))];
    ca.store.commit(Commit { changes, ..Commit::default() }).await.unwrap();

    let default = client.read(&url).await;
    let alternate = client.read(&format!("{url}/1")).await;
    assert_eq!(default.links("alternate"), [format!("{url}/1")]);
    assert_eq!(alternate.links("alternate"), std::slice::from_ref(&url));
    let (default, alternate) = (from_pem(&default.body), from_pem(&alternate.body));
    assert_eq!(default[0], alternate[0]);
    assert_eq!((&default[1], &alternate[1]), (&first.der, &root.der));
    for nowhere in ["2", "-1", "x", "99999999999999999999"] {
        client.read(&format!("{url}/{nowhere}")).await.assert_problem(404, "malformed");
    }
}

#[tokio::test]
async fn a_revoked_certificate_can_still_be_downloaded() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = ca.issue(&client, &["a.example"]).await.text("certificate").to_owned();
    let certificate = from_pem(&client.read(&url).await.body).remove(0);
    assert_eq!(client.revoke(&certificate, None).await.status, 200);
    assert_eq!(client.read(&url).await.status, 200);
}

#[tokio::test]
async fn what_was_not_issued_to_an_account_is_not_there() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let issuers = ca.store.issuers().await.unwrap();
    let filter = ca_core::store::CertificateFilter::default();
    let page = ca.store.certificates(filter, None, 10).await.unwrap();
    assert!(!page.rows.is_empty() && issuers.len() == 2);
    for record in page.rows {
        let url = format!(
            "{}/certificate/{}",
            client.resource("newOrder").trim_end_matches("/new-order"),
            record.id
        );
        client.read(&url).await.assert_problem(404, "malformed");
    }
}

#[tokio::test]
async fn roots_pem_is_the_roots_and_nothing_else() {
    let ca = Ca::new().await;
    let answer = send(&ca.router(), Method::GET, "/roots.pem", "", Vec::new()).await;
    assert_eq!(answer.status, 200);
    let issuers = ca.store.issuers().await.unwrap();
    let root: &CertificateDer =
        &issuers.iter().find(|ca| ca.kind == IssuerKind::Root).unwrap().certificates[0];
    assert!(answer.body.starts_with(b"-----BEGIN CERTIFICATE-----\n"));
    assert_eq!(from_pem(&answer.body), std::slice::from_ref(&root.der));
}
