//! Creating roots and issuing CAs: numbering, interruption, and which one issues (RFC 5280 §4.1.2.4, §5.2.3).

use std::sync::atomic::Ordering;

use ca_core::audit::Actor;
use ca_core::authority::{AuthorityError, NewCa};
use ca_core::id::IssuerId;
use ca_core::pkix::public_key::PublicKey;
use ca_core::revocation::RevocationReason;
use ca_core::signing::{KeyAlgorithm, Signature, SignatureAlgorithm};
use ca_core::store::IssuerRecord;
use der::{Decode, Encode};
use x509_cert::Certificate;

use crate::authority::issue;
use crate::ca::{Ca, hierarchy};

async fn record(ca: &Ca, id: &str) -> IssuerRecord {
    ca.store.issuers().await.unwrap().into_iter().find(|issuer| issuer.id.as_str() == id).unwrap()
}

fn id(text: &str) -> IssuerId {
    text.parse().unwrap()
}

/// Whether the key of `parent` signed the newest certificate of `child`.
fn signed(parent: &IssuerRecord, child: &IssuerRecord) -> bool {
    let certificate = Certificate::from_der(&child.certificates[0].der).unwrap();
    let signature = Signature(certificate.signature().raw_bytes().to_vec());
    let tbs = certificate.tbs_certificate().to_der().unwrap();
    PublicKey::from_spki_der(&parent.public_key).unwrap().verify(parent.signature_algorithm, &tbs, &signature)
}

#[tokio::test]
async fn a_new_issuing_ca_issues_and_the_one_before_still_revokes() {
    let ca = Ca::create().await;
    let before = issue(&ca, &["a.example"]).await;
    assert_eq!(before.issuer, id("issuing-1"));
    let rsa =
        NewCa { signature_algorithm: SignatureAlgorithm::RsaPssSha256, ..hierarchy(KeyAlgorithm::Rsa2048) };
    let created = ca.authority.create_issuing(&rsa, &id("root-1")).await.unwrap();
    assert_eq!(created.id, id("issuing-2"));
    assert!(signed(&record(&ca, "root-1").await, &created));
    assert_ne!(created.subject, record(&ca, "issuing-1").await.subject, "a new key takes a new subject");
    let crls = ca.store.crl_summaries().await.unwrap();
    assert_eq!(crls.iter().filter(|crl| crl.issuer == created.id).count(), 4, "a CRL for every shard");

    assert_eq!(issue(&ca, &["b.example"]).await.issuer, created.id);
    let actor = Actor::Operator { uid: 0 };
    ca.authority.revoke(before.clone(), RevocationReason::Superseded, actor).await.unwrap();
    let shard = ca.store.certificate(before.clone()).await.unwrap().unwrap().shard;
    ca.authority.publish_crl(&before.issuer, shard).await.unwrap();
}

#[tokio::test]
async fn a_second_root_has_issuing_cas_of_its_own() {
    let ca = Ca::create().await;
    let root = ca.authority.create_root(&hierarchy(KeyAlgorithm::EcP384)).await.unwrap();
    assert_eq!(root.id, id("root-2"));
    assert!(signed(&root, &root));
    let issuing = ca.authority.create_issuing(&hierarchy(KeyAlgorithm::EcP256), &root.id).await.unwrap();
    assert_eq!((issuing.parent.clone(), signed(&root, &issuing)), (Some(root.id), true));
    assert_eq!(issue(&ca, &["a.example"]).await.issuer, issuing.id);
}

#[tokio::test]
async fn what_is_no_active_root_has_nothing_below_it() {
    let ca = Ca::create().await;
    for wrong in ["issuing-1", "root-7"] {
        let refused = ca.authority.create_issuing(&hierarchy(KeyAlgorithm::EcP256), &id(wrong)).await;
        assert!(matches!(refused, Err(AuthorityError::UnknownIssuer(_))), "{wrong}: {refused:?}");
    }
}

#[tokio::test]
async fn an_interrupted_creation_is_completed_with_its_own_key_and_issues_nothing_before() {
    let ca = Ca::create().await;
    issue(&ca, &["warm.example"]).await;
    ca.keys_away.store(true, Ordering::SeqCst);
    let new = hierarchy(KeyAlgorithm::EcP384);
    let refused = ca.authority.create_issuing(&new, &id("root-1")).await;
    assert!(matches!(refused, Err(AuthorityError::Sign(_))), "{refused:?}");
    let half_made = record(&ca, "issuing-2").await;
    assert!(half_made.certificates.is_empty() && !half_made.public_key.is_empty());
    ca.keys_away.store(false, Ordering::SeqCst);

    let ca = ca.after_crash().await;
    assert_eq!(issue(&ca, &["a.example"]).await.issuer, id("issuing-1"));
    ca.authority.health().await.unwrap();
    let other = ca.authority.create_issuing(&hierarchy(KeyAlgorithm::EcP256), &id("root-1")).await;
    assert!(matches!(&other, Err(AuthorityError::HalfMade { issuer, .. }) if issuer.as_str() == "issuing-2"));
    let completed = ca.authority.create_issuing(&new, &id("root-1")).await.unwrap();
    assert_eq!((&completed.id, &completed.public_key), (&half_made.id, &half_made.public_key));
    assert!(ca.store.reserved_certificates(10).await.unwrap().is_empty());
    assert_eq!(issue(&ca, &["b.example"]).await.issuer, completed.id);
}

#[tokio::test]
async fn two_creations_at_once_make_one_ca_each_or_say_that_one_is_under_way() {
    let ca = Ca::create().await;
    let (new, root) = (hierarchy(KeyAlgorithm::EcP256), id("root-1"));
    let (one, other) =
        tokio::join!(ca.authority.create_issuing(&new, &root), ca.authority.create_issuing(&new, &root));
    assert!(matches!((&one, &other), (Ok(_), Err(AuthorityError::Creating))), "{one:?} {other:?}");
    assert_eq!(ca.authority.create_issuing(&new, &root).await.unwrap().id, id("issuing-3"));
}
