//! Orders and authorizations as pure state machines, RFC 8555 §7.1.6.

use std::collections::HashMap;
use std::time::Duration;

use ca_core::acme::challenge::{FailureKind, Proven, ValidationFailure};
use ca_core::acme::order::{NewOrder, OrderFailure, OrderLimits, OrderRejected};
use ca_core::acme::star::Renewing;
use ca_core::acme::{
    AccountState, Admission, Authorization, AuthorizationState, ChallengeType, DirectoryName, Identifier,
    Order, OrderState, OrderStatus,
    authorization::{AcceptError, Accepted},
};
use ca_core::id::{AccountId, ExternalAccountId};
use ca_core::policy::{AllowedNames, DirectoryPolicy, SubscriberKeys};
use ca_core::profile::{ProfileName, RequestedValidity};
use ca_core::random::SystemRandom;
use ca_core::store::CertificateId;
use ca_core::time::Timestamp;
use proptest::prelude::*;

fn policy() -> DirectoryPolicy {
    DirectoryPolicy {
        directory: DirectoryName::try_from("default".to_owned()).unwrap(),
        names: AllowedNames::Any,
        wildcards: true,
        challenges: ChallengeType::USUAL.to_vec(),
        profiles: vec![ProfileName::try_from("tls-server".to_owned()).unwrap()],
        subscriber_keys: SubscriberKeys::default(),
        limits: OrderLimits::default(),
        reuse: None,
        subdomains: false,
        star: None,
        client_validity: false,
        issuer: None,
    }
}

fn request(names: &[&str]) -> NewOrder {
    NewOrder {
        identifiers: names.iter().map(|name| Identifier::from_text(name).unwrap()).collect(),
        profile: None,
        ancestors: HashMap::new(),
        held: Vec::new(),
        validity: RequestedValidity::default(),
        auto_renewal: None,
    }
}

fn now() -> Timestamp {
    Timestamp::from_seconds(1_800_000_000)
}

fn account() -> AccountId {
    AccountId::generate(now(), &mut SystemRandom)
}

fn place(names: &[&str]) -> (Order, Vec<Authorization>) {
    Order::place(request(names), account(), &Admission::ungranted(&policy()), now(), &mut SystemRandom)
        .unwrap()
}

#[test]
fn repeated_identifiers_count_once_and_wildcards_get_dns_only() {
    let (order, authorizations) = place(&["a.example", "A.example", "*.a.example"]);
    assert_eq!(order.identifiers.len(), 2);
    let kinds = |a: &Authorization| a.challenges.iter().map(|c| c.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&authorizations[0]).len(), 3);
    assert_eq!(kinds(&authorizations[1]), [ChallengeType::Dns01]);
    assert!(authorizations[1].wildcard && !authorizations[1].identifier.is_wildcard());
}

#[test]
fn policy_refuses_with_a_reason_for_each_name() {
    let mut policy = policy();
    policy.names = AllowedNames::List(vec![".example".parse().unwrap()]);
    policy.wildcards = false;
    let rejected = Order::place(
        request(&["a.example", "b.other", "*.c.example"]),
        account(),
        &Admission::ungranted(&policy),
        now(),
        &mut SystemRandom,
    );
    let Err(OrderRejected::Refused(refused)) = rejected else { panic!("{rejected:?}") };
    assert_eq!(refused.len(), 2);
}

#[test]
fn an_order_is_ready_exactly_when_every_authorization_is_valid() {
    let (order, mut authorizations) = place(&["a.example", "b.example"]);
    assert_eq!(order.status(&authorizations, now()), OrderStatus::Pending);
    for authorization in &mut authorizations {
        let Ok(Accepted::Validate(next)) = authorization.accept(ChallengeType::Http01, now()) else {
            panic!("accepted")
        };
        *authorization = next.decided(ChallengeType::Http01, vec![], Ok(Proven::default()), now());
    }
    assert_eq!(order.status(&authorizations, now()), OrderStatus::Ready);
    let later = now().plus(Duration::from_hours(24 * 8));
    assert_eq!(order.status(&authorizations, later), OrderStatus::Invalid(None));
}

#[test]
fn a_failed_challenge_ends_the_authorization_and_the_order() {
    let (order, mut authorizations) = place(&["a.example"]);
    let failure = ValidationFailure::new(FailureKind::Dns, "no such name");
    authorizations[0] = authorizations[0].decided(ChallengeType::Http01, vec![], Err(failure), now());
    assert_eq!(order.status(&authorizations, now()), OrderStatus::Invalid(None));
    let again = authorizations[0].accept(ChallengeType::Dns01, now());
    assert_eq!(again, Err(AcceptError::NotPending("invalid")));
}

/// What can happen to an authorization.
#[derive(Clone, Debug)]
enum Step {
    Accept(ChallengeType),
    Decide(ChallengeType, bool),
    Deactivate,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop::sample::select(ChallengeType::ALL.to_vec());
    prop_oneof![
        kind.clone().prop_map(Step::Accept),
        (kind, any::<bool>()).prop_map(|(kind, fine)| Step::Decide(kind, fine)),
        Just(Step::Deactivate),
        (0u64..400_000).prop_map(Step::Wait),
    ]
}

proptest! {
    /// RFC 8555 §7.1.6: invalid, deactivated, revoked and expired are final; valid leads only to them.
    #[test]
    fn final_states_of_an_authorization_are_final(steps in prop::collection::vec(step(), 1..30)) {
        let (_, authorizations) = place(&["a.example"]);
        let mut authorization = authorizations[0].clone();
        let mut at = now();
        for step in steps {
            let before = authorization.status(at).name();
            match step {
                Step::Accept(kind) => {
                    if let Ok(Accepted::Validate(next)) = authorization.accept(kind, at) {
                        prop_assert_eq!(before, "pending");
                        authorization = next;
                    }
                }
                Step::Decide(kind, fine) => {
                    let failure = ValidationFailure::new(FailureKind::Connection, "refused");
                    let outcome = if fine { Ok(Proven::default()) } else { Err(failure) };
                    authorization = authorization.decided(kind, vec![], outcome, at);
                }
                Step::Deactivate => authorization = authorization.deactivated(at),
                Step::Wait(seconds) => at = at.plus(Duration::from_secs(seconds)),
            }
            let after = authorization.status(at).name();
            let fine = match before {
                "pending" => true,
                "valid" => after != "pending" && after != "invalid",
                "expired" => after == "expired" || after == "deactivated" || after == "valid" || after == "invalid",
                other => after == other,
            };
            prop_assert!(fine, "{} -> {}", before, after);
        }
    }
}

#[test]
fn an_order_only_goes_forward() {
    let at = Timestamp::from_millis(1_795_000_000_000);
    let (one, other) = ("issuing-1-0a1b2c".parse().unwrap(), "issuing-1-0a1b2d".parse().unwrap());
    let failure = || OrderFailure::Internal { detail: "no".to_owned() };
    let renewing = |csr: u8, first, index, certificate: &CertificateId| {
        let certificate = certificate.clone();
        OrderState::Renewing(Box::new(Renewing { csr: vec![csr], certificate, first, index, next_at: None }))
    };
    let states = [
        OrderState::Open,
        OrderState::Processing { csr: vec![1] },
        OrderState::Processing { csr: vec![2] },
        OrderState::Valid { certificate: CertificateId::clone(&one) },
        renewing(1, at, 0, &one),
        renewing(1, at, 1, &other),
        renewing(2, at, 1, &other),
        renewing(1, at.plus(Duration::from_secs(1)), 1, &other),
        OrderState::Canceled { certificate: one.clone(), at },
        OrderState::Canceled { certificate: other.clone(), at },
        OrderState::Stopped { certificate: one.clone(), failure: failure() },
        OrderState::Stopped { certificate: other.clone(), failure: failure() },
        OrderState::Failed { failure: failure() },
    ];
    let may: Vec<Vec<usize>> = states
        .iter()
        .map(|from| (0..states.len()).filter(|to| from.may_become(&states[*to])).collect())
        .collect();
    let expected: [&[usize]; 13] = [
        &[0, 1, 2, 12],
        &[1, 3, 4, 5, 7, 12],
        &[2, 3, 6, 12],
        &[3],
        &[4, 5, 8, 10],
        &[5, 9, 11],
        &[6, 9, 11],
        &[7, 9, 11],
        &[8],
        &[9],
        &[10],
        &[11],
        &[12],
    ];
    assert_eq!(may, expected);
}

#[test]
fn an_account_or_authorization_that_ended_is_not_revived() {
    let at = Timestamp::from_millis(1_795_000_000_000);
    let accounts = [AccountState::Valid, AccountState::Deactivated { at }, AccountState::Revoked { at }];
    let external_account = ExternalAccountId::generate(at, &mut SystemRandom);
    let valid = |validated_at| AuthorizationState::Valid { validated_at, by: ChallengeType::Dns01 };
    let authorizations = [
        AuthorizationState::Pending,
        valid(at),
        valid(at.plus(Duration::from_secs(1))),
        AuthorizationState::Trusted { at, external_account },
        AuthorizationState::Invalid { failed_at: at },
        AuthorizationState::Deactivated { at },
        AuthorizationState::Revoked { at },
    ];
    let may: Vec<Vec<usize>> =
        accounts.iter().map(|from| (0..3).filter(|to| from.may_become(accounts[*to])).collect()).collect();
    assert_eq!(may, [vec![0, 1, 2], vec![1], vec![2]]);
    let may: Vec<Vec<usize>> = authorizations
        .iter()
        .map(|from| (0..7).filter(|to| from.may_become(authorizations[*to])).collect())
        .collect();
    let expected: [&[usize]; 7] =
        [&[0, 1, 2, 3, 4, 5, 6], &[1, 5, 6], &[2, 5, 6], &[3, 5, 6], &[4], &[5], &[6]];
    assert_eq!(may, expected);
}
