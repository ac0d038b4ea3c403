//! The responder's own certificate: asked for, kept over a restart, renewed at half-life, dropped when revoked. RFC
//! 6960 §4.2.2.2.

use std::sync::Arc;
use std::time::Duration;

use ca_core::id::CredentialId;
use ca_core::pkix::ocsp::{CertStatus, OcspSigner, ResponderError};
use ca_core::pkix::serial::SerialNumber;
use ca_core::revocation::RevocationReason;
use ca_core::signing::{KeyAlgorithm, KeyLabel};
use ca_core::store::{AuthorityReads, CertificateId, EffectKind};
use ca_core::time::Timestamp;
use der::Encode;
use der::asn1::Null;
use ocsp_responder::{Config, Metrics, Responder};

use crate::pki::{Pki, post};

/// The certificate that signs now, and when it ends.
async fn signer(pki: &Pki, responder: &Responder, id: &CertificateId) -> (Vec<u8>, Timestamp, SerialNumber) {
    let certificate =
        post(responder, pki.request(&[id], Some(b"now"))).await.answer().certs.unwrap().remove(0);
    let tbs = certificate.tbs_certificate();
    let end = Timestamp::from_x509(tbs.validity().not_after);
    (certificate.to_der().unwrap(), end, SerialNumber::from_x509(tbs.serial_number()).unwrap())
}

async fn wishes(pki: &Pki) -> Vec<CredentialId> {
    let effects = pki.store.effects(100).await.unwrap();
    effects
        .into_iter()
        .filter_map(|effect| match effect.kind {
            EffectKind::IssueCredential { credential } => Some(credential),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn it_is_asked_for_once_and_found_again_after_a_restart() {
    let pki = Pki::new().await;
    let responder = pki.responder_with(Config::default(), &Metrics::default());
    for _ in 0..3 {
        responder.maintain().await.unwrap();
    }
    assert_eq!(wishes(&pki).await.len(), 1);
    // A restart between the wish and its fulfilment goes on waiting for the same one.
    let responder = pki.responder_with(Config::default(), &Metrics::default());
    responder.maintain().await.unwrap();
    assert_eq!(wishes(&pki).await.len(), 1);
    pki.make_ready(&responder).await;
    let id = pki.issue().await;
    let (certificate, ..) = signer(&pki, &responder, &id).await;

    let restarted = pki.responder_with(Config::default(), &Metrics::default());
    restarted.maintain().await.unwrap();
    restarted.readiness().unwrap();
    assert_eq!(signer(&pki, &restarted, &id).await.0, certificate);
    assert!(wishes(&pki).await.is_empty());
    assert_eq!(pki.responder_keys().list().await.unwrap()[0].label.as_str(), "ocsp-issuing-1-1");
}

#[tokio::test]
async fn it_is_renewed_at_half_life_and_the_old_one_serves_until_then() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let (first, end, _) = signer(&pki, &responder, &id).await;
    let life = end.since(ca_core::time::Clock::now(&*pki.clock));
    pki.clock.advance(life / 3);
    responder.maintain().await.unwrap();
    assert!(wishes(&pki).await.is_empty(), "not yet");
    pki.clock.advance(life / 4);
    responder.maintain().await.unwrap();
    assert_eq!(wishes(&pki).await.len(), 1);
    assert_eq!(signer(&pki, &responder, &id).await.0, first, "`ca` is away: the old one serves");
    pki.carry_out().await;
    responder.maintain().await.unwrap();
    let (second, new_end, _) = signer(&pki, &responder, &id).await;
    assert_ne!(second, first);
    assert!(new_end > end);
    responder.maintain().await.unwrap();
    assert!(wishes(&pki).await.is_empty());
}

#[tokio::test]
async fn a_revoked_one_signs_no_more_and_what_it_signed_is_not_served() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    pki.status(&responder, &id).await;
    let (first, _, serial) = signer(&pki, &responder, &id).await;
    let own = CertificateId { serial, ..id.clone() };
    pki.revoke(&own, RevocationReason::KeyCompromise).await;
    responder.maintain().await.unwrap();
    assert!(responder.readiness().is_err());
    pki.make_ready(&responder).await;
    let answer = post(&responder, pki.request(&[&id], None)).await.answer();
    assert_ne!(answer.certs.unwrap()[0].to_der().unwrap(), first, "from memory, signed by the revoked one");
    assert_eq!(answer.tbs_response_data.responses[0].cert_status, CertStatus::Good(Null));
}

#[tokio::test]
async fn a_wish_that_was_lost_on_its_way_is_repeated() {
    let pki = Pki::new().await;
    let responder = pki.responder_with(Config::default(), &Metrics::default());
    responder.maintain().await.unwrap();
    let wish = wishes(&pki).await[0];
    // The store is restored from a copy made before: the row is gone, the state file still names it.
    let other = Pki::new().await;
    let moved = Responder::new(
        Config::default(),
        pki.state_directory(),
        other.store.clone(),
        pki.responder_keys(),
        other.clock.clone(),
        Metrics::default(),
    )
    .unwrap();
    moved.maintain().await.unwrap();
    assert_eq!(wishes(&other).await, [wish]);
    assert!(other.store.credential(wish).await.unwrap().is_some());
    other.carry_out().await;
    moved.maintain().await.unwrap();
    moved.readiness().unwrap();
}

#[tokio::test]
async fn one_of_another_ca_is_replaced() {
    let (pki, other) = (Pki::new().await, Pki::new().await);
    pki.responder().await;
    // The same data directory and issuer id over a new CA.
    let moved = Responder::new(
        Config::default(),
        pki.state_directory(),
        other.store.clone(),
        pki.responder_keys(),
        other.clock.clone(),
        Metrics::default(),
    )
    .unwrap();
    assert!(moved.maintain().await.is_err(), "it says what is wrong");
    other.carry_out().await;
    moved.maintain().await.unwrap();
    moved.readiness().unwrap();
}

#[tokio::test]
async fn run_takes_the_certificate_up_as_soon_as_it_is_issued() {
    let pki = Pki::new().await;
    let responder = Arc::new(pki.responder_with(Config::default(), &Metrics::default()));
    let running = tokio::spawn({
        let responder = Arc::clone(&responder);
        async move { responder.run().await }
    });
    let ready = async {
        while responder.readiness().is_err() {
            pki.carry_out().await;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ready).await.unwrap();
    running.abort();
    let id = pki.issue().await;
    assert_eq!(pki.status(&responder, &id).await, CertStatus::Good(Null));
}

/// `OcspSigner::new` is the only way to a signer, and checks what RFC 6960 §4.2.2.2 asks for.
#[tokio::test]
async fn only_a_delegated_certificate_with_its_key_makes_a_signer() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let (certificate, ..) = signer(&pki, &responder, &id).await;
    let keys = pki.responder_keys();
    let label = |text: &str| KeyLabel::try_from(text.to_owned()).unwrap();
    let signature = KeyAlgorithm::EcP256.default_signature();
    let key = keys.open(&label("ocsp-issuing-1-1"), signature).await.unwrap();
    let issuer = pki.ocsp_issuer();
    assert!(OcspSigner::new(&certificate, key.clone(), &issuer).is_ok());

    keys.generate(&label("other"), KeyAlgorithm::EcP256).await.unwrap();
    let other = keys.open(&label("other"), signature).await.unwrap();
    let refused =
        |certificate: &[u8], key, issuer: &_| OcspSigner::new(certificate, key, issuer).unwrap_err();
    assert_eq!(refused(&certificate, other, &issuer), ResponderError::WrongKey("other".to_owned()));
    assert_eq!(
        refused(&certificate, key.clone(), &Pki::new().await.ocsp_issuer()),
        ResponderError::NotOfIssuer
    );
    let subscriber = pki.certificate_der(&id).await;
    assert_eq!(refused(&subscriber, key.clone(), &issuer), ResponderError::NoOcspSigning);
    assert_eq!(refused(&certificate[1..], key.clone(), &issuer), ResponderError::Malformed);
    let mut forged = certificate.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&forged, key, &issuer), ResponderError::NotOfIssuer);
}
