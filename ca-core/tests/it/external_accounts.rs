//! External accounts, RFC 8555 §7.3.4: what they grant, and that the authority holds an account to it.

use std::time::Duration;

use ca_core::acme::external_account::{
    ExternalAccount, ExternalAccountEnded, ExternalAccountState, Grant, GrantConfig, GrantError, Owner,
    SealedKey, Uses,
};
use ca_core::acme::order::OrderFailure;
use ca_core::acme::{
    Account, Admission, AdmissionRefused, AuthorizationState, ChallengeType, ExternalAccountBinding,
    Identifier, Order, OrderState,
};
use ca_core::id::{AuthorizationId, ExternalAccountId};
use ca_core::pkix::public_key::KeyHash;
use ca_core::policy::{AllowedNames, DirectoryPolicy, NameRefused, NameRule};
use ca_core::random::SystemRandom;
use ca_core::store::{Change, Version};
use ca_core::time::{Clock, Timestamp};
use proptest::prelude::*;

use crate::ca::{Ca, csr, directory, policy, profile_name};

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn name(text: &str) -> Identifier {
    Identifier::from_text(text).unwrap()
}

fn external(grant: Grant, now: Timestamp) -> ExternalAccount {
    ExternalAccount {
        id: ExternalAccountId::generate(now, &mut SystemRandom),
        directory: directory(),
        owner: "somebody".to_owned().try_into().unwrap(),
        mac_key: SealedKey { sealed_to: KeyHash([0; 32]), encapsulated: Vec::new(), ciphertext: Vec::new() },
        uses: Uses::Many,
        expires_at: None,
        grant,
        state: ExternalAccountState::Valid,
        created_at: now,
        version: Version::NEW,
    }
}

/// A directory that admits a domain and a network, without wildcards, by two challenges.
fn narrow() -> DirectoryPolicy {
    DirectoryPolicy {
        names: AllowedNames::List(vec![".example.org".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]),
        wildcards: false,
        challenges: vec![ChallengeType::Http01, ChallengeType::Dns01],
        ..policy()
    }
}

#[test]
fn a_grant_is_checked_against_its_directory_when_it_is_made() {
    let grant = |change: &dyn Fn(&mut GrantConfig)| {
        let mut config = GrantConfig::default();
        change(&mut config);
        Grant::new(&config, &narrow())
    };
    assert_eq!(grant(&|_| ()), Ok(Grant::default()));
    // Wider than the directory is fine: both must admit a name.
    for fine in ["a.example.org", ".a.example.org", ".example.org", ".org", "10.1.0.0/16", "0.0.0.0/0"] {
        let made = grant(&|config| config.names = texts(&[fine])).unwrap();
        assert_eq!(made.names, Some(vec![fine.parse().unwrap()]));
    }
    for outside in ["example.com", ".example.com", "192.0.2.0/24", "::/0"] {
        let refused = grant(&|config| config.names = texts(&["a.example.org", outside]));
        assert!(matches!(refused, Err(GrantError::NameOutside { .. })), "{outside}: {refused:?}");
    }
    assert!(matches!(grant(&|config| config.names = texts(&["*"])), Err(GrantError::Name(_))));
    let many = vec!["a.example.org".to_owned(); 1001];
    assert_eq!(grant(&|config| config.names = many.clone()), Err(GrantError::TooManyNames));
    assert_eq!(grant(&|config| config.wildcards = true), Err(GrantError::Wildcards(directory())));
    let refused = grant(&|config| config.profiles = texts(&["tls-sever"])).unwrap_err();
    assert!(refused.to_string().ends_with("it offers tls-server, tls-client"), "{refused}");
    let refused = grant(&|config| config.challenges = texts(&["tls-alpn-01"])).unwrap_err();
    assert!(refused.to_string().ends_with("it offers http-01, dns-01"), "{refused}");
    for days in [0, 3651] {
        assert_eq!(grant(&|config| config.max_days = Some(days)), Err(GrantError::Days(days)));
    }
    assert_eq!(grant(&|config| config.trusted = true), Err(GrantError::TrustedWithoutNames));
    for bad in ["", " ", "a\nb"] {
        assert!(Owner::try_from(bad.to_owned()).is_err(), "{bad:?}");
    }
}

#[test]
fn a_single_use_key_ends_with_its_account_and_every_key_with_its_time() {
    let now = Timestamp::from_seconds(1_800_000_000);
    let mut key = external(Grant::default(), now);
    let account = ca_core::id::AccountId::generate(now, &mut SystemRandom);
    assert_eq!((key.require_bindable(now), key.status(now)), (Ok(()), "valid"));
    key.uses = Uses::Once { account: Some(account) };
    assert_eq!(key.require_bindable(now), Err(ExternalAccountEnded::Used(key.id)));
    assert_eq!((key.require_valid(now), key.status(now)), (Ok(()), "used"), "its account goes on");
    key.expires_at = Some(now);
    assert_eq!(key.status(now), "expired");
    assert!(key.require_valid(now.minus(Duration::from_millis(1))).is_ok());
    let revoked = key.revoked(now);
    assert_eq!(
        (revoked.status(now), revoked.revoked(now.plus(Duration::from_secs(9)))),
        ("revoked", revoked.clone())
    );
}

/// An account as it is stored, bound or not.
async fn account(ca: &Ca, external: Option<&ExternalAccount>) -> Account {
    let id = ca.account().await;
    let account = ca.store.account(id).await.unwrap().unwrap();
    let Some(external) = external else { return account };
    // What is bound is new: under another key, so that both can be there.
    let mut bound = Account { version: Version::NEW, ..account };
    bound.id = ca_core::id::AccountId::generate(ca.clock.now(), &mut SystemRandom);
    bound.thumbprint.0[..16].copy_from_slice(bound.id.0.as_bytes());
    bound.external_account = Some(ExternalAccountBinding { id: external.id, jws: "{}".to_owned() });
    let binding = Change::BindExternalAccount { id: external.id, account: bound.id };
    ca.commit(vec![binding, Change::PutAccount(bound.clone())], vec![]).await;
    ca.store.account(bound.id).await.unwrap().unwrap()
}

async fn stored(ca: &Ca, grant: Grant) -> ExternalAccount {
    let external = external(grant, ca.clock.now());
    ca.commit(vec![Change::PutExternalAccount(Box::new(external.clone()))], vec![]).await;
    ca.store.external_account(external.id).await.unwrap().unwrap()
}

#[tokio::test]
async fn an_account_is_admitted_by_the_row_that_it_names_and_no_other() {
    let ca = Ca::create().await;
    let (policy, now) = (policy(), ca.clock.now());
    let (one, other) = (stored(&ca, Grant::default()).await, stored(&ca, Grant::default()).await);
    let account = account(&ca, Some(&one)).await;
    assert!(Admission::of(&policy, &account, Some(&one), now).is_ok());
    let unknown = AdmissionRefused::Unknown(one.id);
    for row in [None, Some(&other)] {
        assert_eq!(Admission::of(&policy, &account, row, now).unwrap_err(), unknown);
    }
    let elsewhere = ExternalAccount { directory: "lab".to_owned().try_into().unwrap(), ..one.clone() };
    assert_eq!(Admission::of(&policy, &account, Some(&elsewhere), now).unwrap_err(), unknown);
    let ended = Admission::of(&policy, &account, Some(&one.revoked(now)), now).unwrap_err();
    assert_eq!(ended, AdmissionRefused::Ended(ExternalAccountEnded::Revoked(one.id)));
}

#[tokio::test]
async fn names_are_admitted_by_directory_and_grant_and_trust_needs_no_challenge_that_could_prove_them() {
    let ca = Ca::create().await;
    let now = ca.clock.now();
    let policy = DirectoryPolicy { wildcards: true, challenges: vec![ChallengeType::Http01], ..narrow() };
    let names = Some(vec![".a.example.org".parse().unwrap(), ".example.com".parse().unwrap()]);
    let grant = Grant { names, wildcards: true, ..Grant::default() };
    let plain = external(grant.clone(), now);
    let trusting = external(Grant { trusted: true, ..grant }, now);
    let nameless = external(Grant { trusted: true, names: None, ..Grant::default() }, now);
    let account = account(&ca, None).await;
    let bound_to = |external: &ExternalAccount| {
        let binding = ExternalAccountBinding { id: external.id, jws: String::new() };
        Account { external_account: Some(binding), ..account.clone() }
    };
    let accounts = [&plain, &trusting, &nameless].map(bound_to);
    let of = |account, external| Admission::of(&policy, account, Some(external), now).unwrap();
    let (plain, trusting, nameless) =
        (of(&accounts[0], &plain), of(&accounts[1], &trusting), of(&accounts[2], &nameless));
    assert_eq!(plain.permits(&name("x.a.example.org")), Ok(()));
    assert!(matches!(plain.permits(&name("b.example.org")), Err(NameRefused::NotGranted(_))));
    assert!(matches!(plain.permits(&name("x.example.com")), Err(NameRefused::NotAllowed(_))));
    assert!(matches!(plain.permits(&name("*.a.example.org")), Err(NameRefused::NoChallenge(_))));
    assert_eq!(plain.trusts(&name("x.a.example.org")), None);
    assert_eq!(trusting.permits(&name("*.a.example.org")), Ok(()));
    assert!(trusting.trusts(&name("*.a.example.org")).is_some());
    assert_eq!(trusting.trusts(&name("b.example.org")), None);
    assert_eq!(trusting.trusts(&name("x.example.com")), None, "never beyond the directory");
    assert_eq!(nameless.trusts(&name("x.a.example.org")), None, "never without names");
}

/// Issues for an account under a grant, after `change` was made to what is stored, and gives the order's end.
async fn issued(ca: &Ca, grant: Grant, names: &[&str]) -> (ExternalAccount, OrderState) {
    let external = stored(ca, grant).await;
    let account = account(ca, Some(&external)).await;
    let (order, effect) = ca.finalized_order(account.id, csr(names), names).await;
    ca.authority.carry_out(effect).await.unwrap();
    (external, ca.order(&order).await.state)
}

#[tokio::test]
async fn the_authority_narrows_by_the_grant_whatever_the_front_end_has_admitted() {
    let ca = Ca::create().await;
    let (_, state) = issued(&ca, Grant::default(), &["a.example.org"]).await;
    assert!(matches!(state, OrderState::Valid { .. }), "{state:?}");

    let one_name = Grant { names: Some(vec!["b.example.org".parse().unwrap()]), ..Grant::default() };
    let (_, state) = issued(&ca, one_name, &["a.example.org"]).await;
    let OrderState::Failed { failure: OrderFailure::RejectedIdentifier { detail } } = &state else {
        panic!("{state:?}")
    };
    assert!(detail.contains("does not grant 'a.example.org'"), "{detail}");
    let (_, state) = issued(&ca, Grant::default(), &["*.example.org"]).await;
    assert!(
        matches!(&state, OrderState::Failed { failure: OrderFailure::RejectedIdentifier { .. } }),
        "{state:?}"
    );

    // Proven by the first challenge that there is, http-01, and only dns-01 is granted.
    let by_dns = Grant { challenges: Some(vec![ChallengeType::Dns01]), ..Grant::default() };
    let (_, state) = issued(&ca, by_dns, &["a.example.org"]).await;
    assert!(matches!(&state, OrderState::Failed { failure: OrderFailure::Unauthorized { .. } }), "{state:?}");

    let clients = Grant { profiles: Some(vec![profile_name("tls-client")]), ..Grant::default() };
    let (_, state) = issued(&ca, clients, &["a.example.org"]).await;
    assert!(
        matches!(&state, OrderState::Failed { failure: OrderFailure::InvalidProfile { .. } }),
        "{state:?}"
    );
}

#[tokio::test]
async fn a_certificate_lives_no_longer_than_profile_and_grant_allow() {
    let ca = Ca::create().await;
    for (max_days, days) in [(Some(7), 7), (Some(3650), 90), (None, 90)] {
        let (_, state) = issued(&ca, Grant { max_days, ..Grant::default() }, &["a.example.org"]).await;
        let OrderState::Valid { certificate } = state else { panic!("{state:?}") };
        let record = ca.store.certificate(certificate).await.unwrap().unwrap();
        let lifetime = record.not_after.since(record.not_before) + Duration::from_secs(1);
        assert_eq!(lifetime, Duration::from_hours(24 * days));
    }
}

#[tokio::test]
async fn the_authority_refuses_what_rests_on_an_external_account_that_has_ended() {
    for revoke in [true, false] {
        let ca = Ca::create().await;
        let now = ca.clock.now();
        let mut external = external(Grant::default(), now);
        external.expires_at = Some(now.plus(Duration::from_secs(60)));
        ca.commit(vec![Change::PutExternalAccount(Box::new(external.clone()))], vec![]).await;
        let external = ca.store.external_account(external.id).await.unwrap().unwrap();
        let account = account(&ca, Some(&external)).await;
        let names = ["a.example.org"];
        let (order, effect) = ca.finalized_order(account.id, csr(&names), &names).await;
        if revoke {
            ca.commit(vec![Change::PutExternalAccount(Box::new(external.revoked(now)))], vec![]).await;
        } else {
            ca.clock.advance(Duration::from_secs(60));
        }
        ca.authority.carry_out(effect).await.unwrap();
        let state = ca.order(&order).await.state;
        let OrderState::Failed { failure: OrderFailure::Unauthorized { detail } } = &state else {
            panic!("{state:?}")
        };
        assert!(detail.contains(if revoke { "was revoked" } else { "expired at" }), "{detail}");
    }
}

#[tokio::test]
async fn trust_is_judged_from_the_row_and_logged_before_the_signature() {
    let ca = Ca::create().await;
    let names = ["a.example.org"];
    let rules = Some(vec!["a.example.org".parse().unwrap()]);
    let trusting = stored(&ca, Grant { names: rules.clone(), trusted: true, ..Grant::default() }).await;
    let plain = stored(&ca, Grant { names: rules, ..Grant::default() }).await;
    for (bound_to, claimed, fine) in [
        (Some(&trusting), &trusting, true),
        (Some(&plain), &plain, false),
        (Some(&plain), &trusting, false),
        (None, &trusting, false),
    ] {
        let account = account(&ca, bound_to).await;
        let (order, effect) = ca.finalized_order(account.id, csr(&names), &names).await;
        let mut held = ca.store.authorization(order.authorizations[0]).await.unwrap().unwrap();
        held.id = AuthorizationId::generate(ca.clock.now(), &mut SystemRandom);
        held.state = AuthorizationState::Trusted { at: ca.clock.now(), external_account: claimed.id };
        held.version = Version::NEW;
        let order = Order { authorizations: vec![held.id], ..ca.order(&order).await };
        ca.commit(vec![Change::PutAuthorization(held), Change::PutOrder(order.clone())], vec![]).await;
        ca.authority.carry_out(effect).await.unwrap();
        let state = ca.order(&order).await.state;
        assert_eq!(matches!(state, OrderState::Valid { .. }), fine, "{state:?}");
    }
    let entries = ca.store.audit(0, 1000).await.unwrap();
    let texts: Vec<_> = entries.iter().map(|(_, entry)| std::str::from_utf8(entry).unwrap()).collect();
    let trusted: Vec<usize> = (0..texts.len()).filter(|i| texts[*i].contains("order_trusted")).collect();
    assert_eq!(trusted.len(), 1, "{texts:?}");
    assert!(texts[trusted[0]].contains(&trusting.id.to_string()));
    assert!(texts[trusted[0] + 1].contains("certificate_reserved"), "with the reservation: log before sign");
}

fn rule() -> impl Strategy<Value = NameRule> {
    let text = prop_oneof![
        Just("a.test".to_owned()),
        Just(".a.test".to_owned()),
        Just(".test".to_owned()),
        Just("*.a.test".to_owned()),
        Just("10.0.0.0/8".to_owned()),
        Just("10.1.0.0/16".to_owned()),
        Just("::/0".to_owned()),
    ];
    text.prop_map(|text| text.parse().unwrap())
}

fn any_name() -> impl Strategy<Value = Identifier> {
    let names =
        ["a.test", "b.a.test", "*.a.test", "b.test", "*.test", "x.org", "10.1.2.3", "10.2.0.1", "::1"];
    (0..names.len()).prop_map(move |index| name(names[index]))
}

proptest! {
    #[test]
    fn a_rule_is_stored_as_it_is_written(rule in rule()) {
        prop_assert_eq!(rule.to_string().parse::<NameRule>(), Ok(rule));
    }

    /// Two rules that admit the same name overlap, so that no grant of use is refused when it is made.
    #[test]
    fn rules_that_admit_one_name_overlap(one in rule(), other in rule(), name in any_name()) {
        if one.admits(&name) && other.admits(&name) {
            prop_assert!(one.overlaps(&other) && other.overlaps(&one), "{} {} {}", one, other, name);
        }
    }
}
