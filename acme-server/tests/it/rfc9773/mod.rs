//! RFC 9773, ACME Renewal Information, by section.

mod section_4_renewal_info;
mod section_5_replaces;

use ca_core::acme::RenewalId;
use ca_core::acme::renewal::PullScope;
use ca_core::id::RenewalPullId;
use ca_core::pkix::serial::SerialNumber;
use ca_core::random::SystemRandom;
use ca_core::store::{Change, Commit, Version};
use ca_core::time::Timestamp;
use der::Decode;
use x509_cert::Certificate;
use x509_cert::ext::pkix::AuthorityKeyIdentifier;

use crate::support::client::from_pem;
use crate::support::{Answer, Ca, Client};

/// A certificate that was issued for a name.
struct Issued {
    order: Answer,
    der: Vec<u8>,
    /// Its identifier, made from the certificate as a client makes it.
    id: String,
}

impl Issued {
    async fn new(ca: &Ca, client: &Client, name: &str) -> Self {
        let order = ca.issue(client, &[name]).await;
        assert_eq!(order.text("status"), "valid", "{order:?}");
        let der = from_pem(&client.read(order.text("certificate")).await.body).remove(0);
        let id = identifier(&der);
        Self { order, der, id }
    }

    fn validity(&self) -> (Timestamp, Timestamp) {
        validity(&self.der)
    }

    fn info_url(&self, client: &Client) -> String {
        format!("{}/{}", client.resource("renewalInfo"), self.id)
    }

    /// The window that the service suggests.
    async fn window(&self, client: &Client) -> (Timestamp, Timestamp) {
        let answer = client.get(&self.info_url(client)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let time = |member: &str| {
            Timestamp::from_rfc3339(answer.json["suggestedWindow"][member].as_str().unwrap()).unwrap()
        };
        (time("start"), time("end"))
    }
}

fn validity(der: &[u8]) -> (Timestamp, Timestamp) {
    let certificate = Certificate::from_der(der).unwrap();
    let validity = certificate.tbs_certificate().validity();
    (Timestamp::from_x509(validity.not_before), Timestamp::from_x509(validity.not_after))
}

pub fn identifier(der: &[u8]) -> String {
    let certificate = Certificate::from_der(der).unwrap();
    let (_, issuer) =
        certificate.tbs_certificate().get_extension::<AuthorityKeyIdentifier>().unwrap().unwrap();
    let serial = SerialNumber::from_x509(certificate.tbs_certificate().serial_number()).unwrap();
    let key_identifier = issuer.key_identifier.unwrap().as_bytes().to_vec();
    RenewalId { key_identifier, serial }.to_string()
}

/// What an operator's command commits.
async fn pull(ca: &Ca, scope: PullScope, window: (Timestamp, Timestamp)) -> RenewalPullId {
    let now = ca_core::time::Clock::now(&*ca.clock);
    let id = RenewalPullId::generate(now, &mut SystemRandom);
    let pull = ca_core::acme::RenewalPull {
        id,
        scope,
        issued_before: now.plus(std::time::Duration::from_secs(1)),
        start: window.0,
        end: window.1,
        explanation_url: Some("https://ca.test/incident".to_owned()),
        created_at: now,
        version: Version::NEW,
    };
    let changes = vec![Change::PutRenewalPull(Box::new(pull))];
    ca.store.commit(Commit { changes, ..Commit::default() }).await.unwrap();
    id
}
