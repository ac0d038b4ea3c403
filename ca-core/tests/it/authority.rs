//! The order of issuance, recovery, revocation and CRLs: RFC 5280 and the invariant that what was signed is logged, in
//! the inventory, and revocable.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ca_core::acme::order::OrderFailure;
use ca_core::acme::{Order, OrderState};
use ca_core::audit::Actor;
use ca_core::authority::{AuthorityError, Recovered, RevokeError};
use ca_core::id::EffectId;
use ca_core::issuance::stored_name;
use ca_core::pkix::crl::{CrlContent, listed_serials};
use ca_core::pkix::public_key::{PublicKey, sha256};
use ca_core::pkix::serial::SerialNumber;
use ca_core::pkix::signed::assemble;
use ca_core::profile::Usage;
use ca_core::random::SystemRandom;
use ca_core::revocation::RevocationReason;
use ca_core::signing::{KeyAlgorithm, KeyError, Signature};
use ca_core::store::{
    CertificateId, CertificateState, Change, CrlRecord, Effect, EffectKind, IssuerKind, IssuerRecord,
    Revocation, RevocationRequester, RevokedCertificate,
};
use der::{Decode, Encode};
use x509_cert::Certificate;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, CrlDistributionPoints, SubjectAltName};

use crate::ca::{Ca, csr, hierarchy, profile_name};

fn certificate_of(state: &OrderState) -> CertificateId {
    match state {
        OrderState::Valid { certificate } => certificate.clone(),
        other => panic!("the order is {other:?}"),
    }
}

async fn issuer(ca: &Ca, kind: IssuerKind) -> IssuerRecord {
    ca.store.issuers().await.unwrap().into_iter().find(|issuer| issuer.kind == kind).unwrap()
}

pub async fn issue(ca: &Ca, names: &[&str]) -> CertificateId {
    let account = ca.account().await;
    let (order, effect) = ca.finalized_order(account, csr(names), names).await;
    ca.authority.carry_out(effect).await.unwrap();
    certificate_of(&ca.order(&order).await.state)
}

async fn crl_lists(ca: &Ca, id: &CertificateId) -> bool {
    let shard = ca.store.certificate(id.clone()).await.unwrap().unwrap().shard;
    let crl = ca.store.crl(id.issuer.clone(), shard).await.unwrap().unwrap();
    listed_serials(&crl.der).unwrap().contains(&id.serial)
}

async fn carry_out_all(ca: &Ca) {
    for effect in ca.store.effects(100).await.unwrap() {
        ca.authority.carry_out(effect).await.unwrap();
    }
}

fn revoke_effect(ca: &Ca, certificate: CertificateId, requested_by: RevocationRequester) -> Effect {
    Effect {
        id: EffectId::generate(ca.clock_now(), &mut SystemRandom),
        kind: EffectKind::Revoke { certificate, reason: RevocationReason::Superseded, requested_by },
    }
}

#[tokio::test]
async fn a_hierarchy_is_a_root_an_issuing_ca_and_a_crl_for_every_shard() {
    let ca = Ca::create().await;
    let (root, issuing) = (issuer(&ca, IssuerKind::Root).await, issuer(&ca, IssuerKind::Issuing).await);
    let root_certificate = Certificate::from_der(&root.certificates[0].der).unwrap();
    let issuing_certificate = Certificate::from_der(&issuing.certificates[0].der).unwrap();
    assert_eq!(issuing_certificate.tbs_certificate().issuer(), root_certificate.tbs_certificate().subject());
    let root_key = PublicKey::from_spki_der(&root.public_key).unwrap();
    let tbs = issuing_certificate.tbs_certificate().to_der().unwrap();
    let signature = Signature(issuing_certificate.signature().raw_bytes().to_vec());
    assert!(root_key.verify(root.signature_algorithm, &tbs, &signature));
    assert_eq!(ca.store.crl_summaries().await.unwrap().len(), 1 + 4);
    assert!(matches!(
        ca.authority.create_hierarchy(&hierarchy(KeyAlgorithm::EcP256)).await,
        Err(AuthorityError::Exists)
    ));
    ca.authority.health().await.unwrap();
}

#[tokio::test]
async fn the_certificate_says_what_the_order_and_the_profile_say_and_nothing_of_the_csr_but_its_key() {
    let ca = Ca::create().await;
    let id = issue(&ca, &["www.example.org", "192.0.2.1"]).await;
    let record = ca.store.certificate(id.clone()).await.unwrap().unwrap();
    let stored = record.der.unwrap();
    assert_eq!(stored.fingerprint, sha256(&stored.der));
    let certificate = Certificate::from_der(&stored.der).unwrap();
    let tbs = certificate.tbs_certificate();
    assert_eq!(tbs.to_der().unwrap(), record.tbs, "what was signed is what was reserved");
    assert_eq!(SerialNumber::from_x509(tbs.serial_number()).unwrap(), id.serial);
    assert_eq!(tbs.subject().to_string(), "CN=www.example.org");

    let issuing = issuer(&ca, IssuerKind::Issuing).await;
    let ca_key = PublicKey::from_spki_der(&issuing.public_key).unwrap();
    let (_, aki) = tbs.get_extension::<AuthorityKeyIdentifier>().unwrap().unwrap();
    assert_eq!(aki.key_identifier.unwrap().as_bytes(), ca_key.key_identifier());
    let (_, names) = tbs.get_extension::<SubjectAltName>().unwrap().unwrap();
    assert_eq!(names.0.len(), 2);
    let (_, points) = tbs.get_extension::<CrlDistributionPoints>().unwrap().unwrap();
    let expected = format!("http://pki.example.org/crl/issuing-1/{}.crl", record.shard);
    assert!(format!("{points:?}").contains(&expected));

    let validity = record.not_after.since(record.not_before);
    assert_eq!(validity, Duration::from_hours(90 * 24) - Duration::from_secs(1));
    assert_eq!(ca.clock_now().since(record.not_before), Duration::from_mins(5));
}

#[tokio::test]
async fn nothing_outlives_its_issuer() {
    let ca = Ca::create().await;
    let issuing = issuer(&ca, IssuerKind::Issuing).await;
    let end = Certificate::from_der(&issuing.certificates[0].der).unwrap();
    let end = ca_core::time::Timestamp::from_x509(end.tbs_certificate().validity().not_after);
    ca.clock.set(end.minus(Duration::from_hours(48)));
    let record = ca.store.certificate(issue(&ca, &["a.example"]).await).await.unwrap().unwrap();
    assert_eq!(record.not_after, end);
    ca.clock.set(end.plus(Duration::from_secs(1)));
    let account = ca.account().await;
    let (order, effect) = ca.finalized_order(account, csr(&["a.example"]), &["a.example"]).await;
    ca.authority.carry_out(effect).await.unwrap();
    assert!(matches!(ca.order(&order).await.state, OrderState::Failed { .. }));
}

#[tokio::test]
async fn a_blocked_key_and_a_csr_for_other_names_fail_the_order_with_the_reason() {
    let ca = Ca::create().await;
    let account = ca.account().await;
    let (order, effect) = ca.finalized_order(account, csr(&["b.example"]), &["a.example"]).await;
    ca.authority.carry_out(effect).await.unwrap();
    let state = ca.order(&order).await.state;
    assert!(matches!(state, OrderState::Failed { failure: OrderFailure::BadCsr { .. } }), "{state:?}");

    let request = csr(&["a.example"]);
    let (order, effect) = ca.finalized_order(account, request.clone(), &["a.example"]).await;
    ca.authority.carry_out(effect).await.unwrap();
    let id = certificate_of(&ca.order(&order).await.state);
    ca.authority.revoke(id, RevocationReason::KeyCompromise, Actor::Operator { uid: 0 }).await.unwrap();
    let (order, effect) = ca.finalized_order(account, request, &["a.example"]).await;
    ca.authority.carry_out(effect).await.unwrap();
    let state = ca.order(&order).await.state;
    let OrderState::Failed { failure: OrderFailure::BadCsr { detail } } = state else { panic!("{state:?}") };
    assert!(detail.contains("blocked"), "{detail}");
}

#[tokio::test]
async fn a_reservation_that_the_key_could_not_sign_is_signed_byte_for_byte_later() {
    let ca = Ca::create().await;
    issue(&ca, &["warm.example"]).await;
    ca.keys_away.store(true, Ordering::SeqCst);
    let account = ca.account().await;
    let (order, effect) = ca.finalized_order(account, csr(&["a.example"]), &["a.example"]).await;
    assert!(matches!(ca.authority.carry_out(effect.clone()).await, Err(AuthorityError::Sign(_))));
    let reserved = ca.store.reserved_certificates(10).await.unwrap();
    assert_eq!(reserved.len(), 1);
    assert!(matches!(ca.order(&order).await.state, OrderState::Processing { .. }));

    // The process dies; after that the key is back.
    let ca = ca.after_crash().await;
    ca.keys_away.store(false, Ordering::SeqCst);
    ca.authority.carry_out(effect).await.unwrap();
    let id = certificate_of(&ca.order(&order).await.state);
    assert_eq!(id, reserved[0].id, "the serial that was reserved");
    let record = ca.store.certificate(id).await.unwrap().unwrap();
    assert_eq!(record.tbs, reserved[0].tbs);
    assert!(ca.store.reserved_certificates(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_reservation_that_is_too_old_is_abandoned_and_listed_as_revoked() {
    let ca = Ca::create().await;
    issue(&ca, &["warm.example"]).await;
    ca.keys_away.store(true, Ordering::SeqCst);
    let account = ca.account().await;
    let (order, effect) = ca.finalized_order(account, csr(&["a.example"]), &["a.example"]).await;
    ca.authority.carry_out(effect.clone()).await.unwrap_err();
    let old = ca.store.reserved_certificates(10).await.unwrap().remove(0).id;
    let ca = ca.after_crash().await;
    ca.keys_away.store(false, Ordering::SeqCst);
    ca.clock.advance(Duration::from_hours(2));
    ca.authority.carry_out(effect).await.unwrap();
    let new = certificate_of(&ca.order(&order).await.state);
    assert_ne!(new, old, "a serial never carries two TBS");
    let status = ca.store.certificate_status(old.clone()).await.unwrap().unwrap();
    assert!(matches!(status.state, CertificateState::Abandoned { .. }));
    carry_out_all(&ca).await;
    assert!(crl_lists(&ca, &old).await);
}

#[tokio::test]
async fn a_reservation_is_signed_only_if_it_is_still_what_is_approved() {
    for change in ["a shorter life", "another purpose"] {
        let ca = Ca::create().await;
        issue(&ca, &["warm.example"]).await;
        ca.keys_away.store(true, Ordering::SeqCst);
        let account = ca.account().await;
        let (order, effect) = ca.finalized_order(account, csr(&["a.example"]), &["a.example"]).await;
        ca.authority.carry_out(effect.clone()).await.unwrap_err();
        let old = ca.store.reserved_certificates(10).await.unwrap().remove(0);
        ca.clock.advance(Duration::from_mins(1));
        let ca = ca
            .after_crash_with(|config| match change {
                "a shorter life" => config.profiles[0].validity = Duration::from_hours(24 * 30),
                _ => config.profiles[0].usage = Usage::TlsClient,
            })
            .await;
        ca.keys_away.store(false, Ordering::SeqCst);
        ca.authority.carry_out(effect).await.unwrap();
        let new = certificate_of(&ca.order(&order).await.state);
        assert_ne!(new, old.id, "{change}");
        let new = ca.store.certificate(new).await.unwrap().unwrap();
        assert_eq!(change == "a shorter life", new.not_after < old.not_after);
        let status = ca.store.certificate_status(old.id).await.unwrap().unwrap();
        assert!(matches!(status.state, CertificateState::Abandoned { .. }), "{change}");
    }
}

#[tokio::test]
async fn recovery_abandons_what_nothing_waits_for_and_keeps_the_rest() {
    let ca = Ca::create().await;
    issue(&ca, &["warm.example"]).await;
    ca.keys_away.store(true, Ordering::SeqCst);
    let account = ca.account().await;
    let (_, kept) = ca.finalized_order(account, csr(&["a.example"]), &["a.example"]).await;
    let (dead, effect) = ca.finalized_order(account, csr(&["b.example"]), &["b.example"]).await;
    ca.authority.carry_out(kept.clone()).await.unwrap_err();
    ca.authority.carry_out(effect).await.unwrap_err();
    let mut order = ca.order(&dead).await;
    order.state = OrderState::Failed { failure: OrderFailure::Internal { detail: "given up".into() } };
    ca.commit(vec![Change::PutOrder(order)], vec![]).await;
    let recovered = ca.authority.recover().await.unwrap();
    assert_eq!(recovered, Recovered { resumed: 1, abandoned: 1 });
}

#[tokio::test]
async fn a_repeated_effect_issues_nothing_twice() {
    let ca = Ca::create().await;
    let account = ca.account().await;
    let (order, effect) = ca.finalized_order(account, csr(&["a.example"]), &["a.example"]).await;
    ca.authority.carry_out(effect.clone()).await.unwrap();
    let first = certificate_of(&ca.order(&order).await.state);
    ca.authority.carry_out(effect).await.unwrap();
    assert_eq!(certificate_of(&ca.order(&order).await.state), first);
    let listed = ca.store.certificates(Default::default(), None, 100).await.unwrap().rows;
    assert_eq!(listed.iter().filter(|record| record.profile.as_str() == "tls-server").count(), 1);
}

#[tokio::test]
async fn a_revocation_reaches_its_shards_crl_and_no_other() {
    let ca = Ca::create().await;
    let id = issue(&ca, &["a.example"]).await;
    let before = ca.store.crl_summaries().await.unwrap();
    ca.clock.advance(Duration::from_mins(1));
    ca.authority.revoke(id.clone(), RevocationReason::Superseded, Actor::Operator { uid: 0 }).await.unwrap();
    carry_out_all(&ca).await;
    assert!(crl_lists(&ca, &id).await);
    let after = ca.store.crl_summaries().await.unwrap();
    let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert_eq!(changed, 1);
    let again = ca.authority.revoke(id, RevocationReason::Superseded, Actor::Operator { uid: 0 }).await;
    assert!(matches!(again, Err(RevokeError::AlreadyRevoked(_))));
}

#[tokio::test]
async fn revoking_an_issuing_cas_certificate_takes_it_out_of_service_and_a_roots_is_refused() {
    let ca = Ca::create().await;
    let issued = issue(&ca, &["a.example"]).await;
    let of = async |profile: &str| {
        let listed = ca.store.certificates(Default::default(), None, 10).await.unwrap().rows;
        listed.into_iter().find(|record| record.profile.as_str() == profile).unwrap().id
    };
    let operator = Actor::Operator { uid: 0 };
    let refused =
        ca.authority.revoke(of("root").await, RevocationReason::KeyCompromise, operator.clone()).await;
    assert!(matches!(refused, Err(RevokeError::OfRoot { .. })), "{refused:?}");

    let issuing = of("issuing-ca").await;
    ca.authority.revoke(issuing.clone(), RevocationReason::KeyCompromise, operator.clone()).await.unwrap();
    carry_out_all(&ca).await;
    assert!(crl_lists(&ca, &issuing).await, "on the root's CRL");
    let account = ca.account().await;
    let (_, effect) = ca.finalized_order(account, csr(&["b.example"]), &["b.example"]).await;
    assert!(matches!(ca.authority.carry_out(effect).await, Err(AuthorityError::NoIssuer)));
    assert!(matches!(ca.authority.health().await, Err(AuthorityError::NoIssuer)));
    // What it signed can still be revoked.
    ca.authority.revoke(issued.clone(), RevocationReason::Superseded, operator).await.unwrap();
    let shard = ca.store.certificate(issued.clone()).await.unwrap().unwrap().shard;
    ca.authority.publish_crl(&issued.issuer, shard).await.unwrap();
    assert!(crl_lists(&ca, &issued).await);
}

#[tokio::test]
async fn a_key_that_another_ca_left_is_never_adopted() {
    let ca = Ca::create().await;
    let other = ca.on_another_store();
    let refused = other.create_hierarchy(&hierarchy(KeyAlgorithm::EcP256)).await;
    assert!(matches!(refused, Err(AuthorityError::Key(KeyError::Exists { .. }))), "{refused:?}");
}

#[tokio::test]
async fn an_order_whose_account_ended_meanwhile_is_not_issued() {
    let ca = Ca::create().await;
    issue(&ca, &["warm.example"]).await;
    ca.keys_away.store(true, Ordering::SeqCst);
    let account = ca.account().await;
    let (order, effect) = ca.finalized_order(account, csr(&["a.example"]), &["a.example"]).await;
    ca.authority.carry_out(effect.clone()).await.unwrap_err();
    let reserved = ca.store.reserved_certificates(10).await.unwrap().remove(0).id;
    let ended = ca.store.account(account).await.unwrap().unwrap().deactivated(ca.clock_now());
    ca.commit(vec![Change::PutAccount(ended)], vec![]).await;
    ca.keys_away.store(false, Ordering::SeqCst);
    ca.authority.carry_out(effect).await.unwrap();
    let state = ca.order(&order).await.state;
    assert!(matches!(state, OrderState::Failed { failure: OrderFailure::Unauthorized { .. } }), "{state:?}");
    let status = ca.store.certificate_status(reserved).await.unwrap().unwrap();
    assert!(matches!(status.state, CertificateState::Abandoned { .. }));
}

#[tokio::test]
async fn a_profile_that_the_directory_does_not_offer_is_not_issued() {
    let ca = Ca::create().await;
    let account = ca.account().await;
    // As a front end could write it.
    let written = |order| Order { profile: profile_name("code-signing"), ..order };
    let (order, effect) =
        ca.finalized_order_with(account, csr(&["a.example"]), &["a.example"], written).await;
    ca.authority.carry_out(effect).await.unwrap();
    let state = ca.order(&order).await.state;
    assert!(
        matches!(state, OrderState::Failed { failure: OrderFailure::InvalidProfile { .. } }),
        "{state:?}"
    );
}

#[tokio::test]
async fn keycompromise_by_an_account_that_is_not_the_owner_revokes_and_blocks_nothing() {
    let ca = Ca::create().await;
    let id = issue(&ca, &["a.example"]).await;
    let key = ca.store.certificate(id.clone()).await.unwrap().unwrap().key;
    let stranger = ca.account().await;
    let actor = Actor::Account(stranger);
    ca.authority.revoke(id, RevocationReason::KeyCompromise, actor).await.unwrap();
    assert!(!ca.store.is_key_blocked(key).await.unwrap());
}

#[tokio::test]
async fn an_issuer_whose_certificate_ended_signs_no_crl_and_is_not_healthy() {
    let ca = Ca::create().await;
    ca.authority.health().await.unwrap();
    ca.clock.advance(Duration::from_hours(24 * 366 * 10));
    let id = issuer(&ca, IssuerKind::Issuing).await.id;
    assert!(matches!(ca.authority.publish_crl(&id, 0).await, Err(AuthorityError::Build(_))));
    assert!(matches!(ca.authority.health().await, Err(AuthorityError::Build(_))));
}

#[tokio::test]
async fn rfc8555_7_6_only_those_who_may_revoke_do() {
    let ca = Ca::create().await;
    let names = ["a.example", "*.a.example"];
    let id = issue(&ca, &names).await;
    let key = ca.store.certificate(id.clone()).await.unwrap().unwrap().key;
    let stranger = ca.account().await;
    let other_key = ca_core::pkix::public_key::KeyHash([1; 32]);
    for refused in [RevocationRequester::Account(stranger), RevocationRequester::CertificateKey(other_key)] {
        let effect = revoke_effect(&ca, id.clone(), refused);
        ca.commit(vec![], vec![effect.clone()]).await;
        ca.authority.carry_out(effect).await.unwrap();
        let status = ca.store.certificate_status(id.clone()).await.unwrap().unwrap();
        assert!(matches!(status.state, CertificateState::Issued { .. }));
    }
    // An account that holds authorizations for all its names may; for one of them is not enough.
    for (held, may) in [(&names[..1], false), (&names[1..], true)] {
        ca.finalized_order(stranger, csr(held), held).await;
        let effect = revoke_effect(&ca, id.clone(), RevocationRequester::Account(stranger));
        ca.commit(vec![], vec![effect.clone()]).await;
        ca.authority.carry_out(effect).await.unwrap();
        let status = ca.store.certificate_status(id.clone()).await.unwrap().unwrap();
        assert_eq!(matches!(status.state, CertificateState::Revoked { .. }), may);
    }

    let second = issue(&ca, &["b.example"]).await;
    let key_of_second = ca.store.certificate(second.clone()).await.unwrap().unwrap().key;
    assert_ne!(key, key_of_second);
    let effect = revoke_effect(&ca, second.clone(), RevocationRequester::CertificateKey(key_of_second));
    ca.commit(vec![], vec![effect.clone()]).await;
    ca.authority.carry_out(effect).await.unwrap();
    let status = ca.store.certificate_status(second).await.unwrap().unwrap();
    assert!(matches!(status.state, CertificateState::Revoked { .. }));
}

#[tokio::test]
async fn a_clock_behind_the_newest_event_stops_signing_and_says_so() {
    let ca = Ca::create().await;
    ca.clock.advance(Duration::from_hours(1));
    issue(&ca, &["a.example"]).await;
    let ca = ca.after_crash().await;
    let account = ca.account().await;
    let (_, effect) = ca.finalized_order(account, csr(&["b.example"]), &["b.example"]).await;
    ca.clock.set(ca.clock_now().minus(Duration::from_mins(10)));
    let error = ca.authority.carry_out(effect).await.unwrap_err();
    assert!(matches!(error, AuthorityError::ClockBehind { .. }), "{error}");
    assert!(error.to_string().contains("nothing is signed until the clock is right"));
}

#[tokio::test]
async fn without_the_trial_mark_a_loopback_url_refuses_issuance() {
    let ca = Ca::empty("http://127.0.0.1:8080");
    ca.authority.create_hierarchy(&hierarchy(KeyAlgorithm::EcP256)).await.unwrap();
    let account = ca.account().await;
    let (_, effect) = ca.finalized_order(account, csr(&["a.example"]), &["a.example"]).await;
    assert!(matches!(ca.authority.carry_out(effect).await, Err(AuthorityError::LoopbackUrl)));
}

#[tokio::test]
async fn a_crl_that_would_lose_a_serial_is_not_published() {
    let ca = Ca::create().await;
    let issuing = issuer(&ca, IssuerKind::Issuing).await;
    // As after a restore from an old copy: a CRL in public lists a serial that the store does not know as revoked.
    let serial = SerialNumber::generate(&mut SystemRandom);
    let at = ca.clock_now();
    let revocation = Revocation { at, reason: RevocationReason::Superseded };
    let before = ca.store.crl(issuing.id.clone(), 0).await.unwrap().unwrap();
    let number = before.number + 1;
    let tbs = CrlContent {
        signature: issuing.signature_algorithm,
        issuer: stored_name(&issuing.subject).unwrap(),
        key_identifier: &[1; 20],
        number,
        this_update: at,
        next_update: at,
        distribution_point: None,
        revoked: &[RevokedCertificate { serial, revocation, not_after: at }],
    };
    let unsigned = Signature(vec![0; 64]);
    let der = assemble(&tbs.to_tbs_der().unwrap(), issuing.signature_algorithm, &unsigned).unwrap();
    let public = CrlRecord { number, der, ..before };
    let reserve = Change::ReserveCrl { issuer: issuing.id.clone(), shard: 0, number };
    ca.commit(vec![reserve, Change::PublishCrl(public)], vec![]).await;

    ca.clock.advance(Duration::from_mins(1));
    let error = ca.authority.publish_crl(&issuing.id, 0).await.unwrap_err();
    assert!(matches!(error, AuthorityError::CrlShrinks { missing: 1, .. }), "{error}");
    assert_eq!(ca.store.crl(issuing.id.clone(), 0).await.unwrap().unwrap().number, number);
    ca.authority.publish_crl(&issuing.id, 1).await.unwrap();
}

#[tokio::test]
async fn rfc5280_3_3_an_entry_stays_for_one_crl_after_its_certificate_expired() {
    let ca = Ca::create().await;
    let id = issue(&ca, &["a.example"]).await;
    let record = ca.store.certificate(id.clone()).await.unwrap().unwrap();
    ca.authority.revoke(id.clone(), RevocationReason::Superseded, Actor::Operator { uid: 0 }).await.unwrap();
    carry_out_all(&ca).await;
    ca.clock.set(record.not_after.plus(Duration::from_secs(10)));
    ca.authority.publish_crl(&id.issuer, record.shard).await.unwrap();
    assert!(crl_lists(&ca, &id).await, "the first CRL after expiry still lists it");
    ca.clock.advance(Duration::from_mins(1));
    ca.authority.publish_crl(&id.issuer, record.shard).await.unwrap();
    assert!(!crl_lists(&ca, &id).await);
}

#[tokio::test]
async fn crl_numbers_only_grow() {
    let ca = Ca::create().await;
    let issuing = issuer(&ca, IssuerKind::Issuing).await.id;
    let mut last = 0;
    for _ in 0..3 {
        ca.authority.publish_crl(&issuing, 0).await.unwrap();
        let crl = ca.store.crl(issuing.clone(), 0).await.unwrap().unwrap();
        assert!(crl.number > last, "the clock stands still, the number does not");
        last = crl.number;
    }
    assert!(last >= u64::try_from(ca.clock_now().as_millis()).unwrap());
}

#[tokio::test]
async fn every_key_algorithm_makes_a_working_hierarchy() {
    for algorithm in [KeyAlgorithm::EcP384, KeyAlgorithm::Ed25519, KeyAlgorithm::Rsa2048] {
        let ca = Ca::empty("http://pki.example.org");
        ca.authority.create_hierarchy(&hierarchy(algorithm)).await.unwrap();
        issue(&ca, &["a.example"]).await;
    }
}
