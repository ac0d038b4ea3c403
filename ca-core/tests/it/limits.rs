//! The laws of rate limits, and which rows are dead.

use std::collections::HashSet;
use std::time::Duration;

use ca_core::acme::prune::{Fate, PruneAges, in_use_by};
use ca_core::acme::rate_limit::{ArrivalTime, Bucket, Claim, ClaimMode, Limit, Quota, Refusal};
use ca_core::acme::{Authorization, AuthorizationState, Identifier, Order, OrderState};
use ca_core::id::{AccountId, AuthorizationId, OrderId};
use ca_core::profile::RequestedValidity;
use ca_core::random::SystemRandom;
use ca_core::store::Version;
use ca_core::time::Timestamp;
use proptest::prelude::*;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_795_000_000_000 + millis)
}

fn claim(quota: Quota, mode: ClaimMode, at: Timestamp) -> Claim {
    Claim { limit: Limit::NewOrdersPerAccount, bucket: Bucket([7; 16]), quota, mode, at }
}

fn quota(count: u32, seconds: u32, burst: u32) -> Quota {
    format!("{count}/{seconds}s burst {burst}").parse().unwrap()
}

/// A quota, and the times of requests: in bunches and with gaps.
fn traffic() -> impl Strategy<Value = (Quota, Vec<i64>)> {
    let quotas = (1u32..50, 1u32..5000)
        .prop_flat_map(|(count, seconds)| (1..=count).prop_map(move |burst| quota(count, seconds, burst)));
    let gap = prop_oneof![4 => 0i64..20, 2 => 0i64..2_000, 1 => 0i64..2_000_000];
    let times = proptest::collection::vec(gap, 1..200).prop_map(|gaps| {
        gaps.iter()
            .scan(0, |time, gap| {
                *time += gap;
                Some(*time)
            })
            .collect()
    });
    (quotas, times)
}

proptest! {
    /// Between any two admitted requests there are no more than the burst and what the rate gives in that time.
    #[test]
    fn never_more_than_the_burst_and_the_rate(((quota, times), looks) in (traffic(), any::<u64>())) {
        let mut stored = None;
        let mut admitted = Vec::new();
        for (index, time) in times.into_iter().enumerate() {
            if looks >> (index % 64) & 1 == 1 {
                let looked = claim(quota, ClaimMode::Look, at(time)).judge(stored);
                let taken = claim(quota, ClaimMode::Take, at(time)).judge(stored);
                prop_assert_eq!(looked.is_ok(), taken.is_ok(), "looking says what taking would");
            }
            match claim(quota, ClaimMode::Take, at(time)).judge(stored) {
                Ok(Some(next)) => {
                    prop_assert!(stored.is_none_or(|before| before < next), "arrival times only rise");
                    stored = Some(next);
                    admitted.push(time);
                }
                Ok(None) => prop_assert!(false, "a place is taken"),
                Err(Refusal { retry_at, .. }) => {
                    prop_assert!(retry_at > at(time));
                    prop_assert!(claim(quota, ClaimMode::Take, retry_at).judge(stored).is_ok(), "it is admitted then");
                    let sooner = Timestamp::from_millis(retry_at.as_millis() - 1);
                    prop_assert!(claim(quota, ClaimMode::Take, sooner).judge(stored).is_err(), "and not before");
                }
            }
        }
        for (first, start) in admitted.iter().enumerate() {
            for (last, end) in admitted.iter().enumerate().skip(first) {
                let count = u128::try_from(last - first + 1).unwrap();
                let span = u128::try_from(end - start).unwrap();
                // count ≤ burst + span · rate, in whole numbers.
                let period = quota.period().as_millis();
                prop_assert!(
                    count * period <= u128::from(quota.burst()) * period + span * u128::from(quota.count()),
                    "{} in {} ms under {}", count, span, quota
                );
            }
        }
    }

    /// Whatever is stored, nobody waits longer than a full bucket takes to empty, and after a quiet period the whole
    /// burst is there again.
    #[test]
    fn no_bucket_is_worse_than_full((quota, _) in traffic(), stored in any::<i64>(), now in 0i64..1_000_000_000) {
        let now = at(now);
        let judged = claim(quota, ClaimMode::Take, now).judge(Some(ArrivalTime(stored)));
        let emptied = quota.period() + Duration::from_millis(1);
        if let Err(refusal) = judged {
            prop_assert!(refusal.retry_at <= now.plus(emptied));
        }
        let mut bucket = Some(ArrivalTime(stored.min(ArrivalTime::at(now).0)));
        for _ in 0..quota.burst() {
            bucket = claim(quota, ClaimMode::Take, now).judge(bucket).unwrap();
        }
        prop_assert!(claim(quota, ClaimMode::Take, now).judge(bucket).is_err());
        prop_assert!(bucket.unwrap() <= ArrivalTime::at(now.plus(emptied)));
    }
}

const DAY: Duration = Duration::from_hours(24);

fn ages() -> PruneAges {
    PruneAges { orders: 10 * DAY, authorizations: 10 * DAY, unused_accounts: 100 * DAY, failures: DAY }
}

fn days(days: u32) -> Timestamp {
    at(0).plus(DAY * days)
}

fn authorization(state: AuthorizationState) -> Authorization {
    Authorization {
        id: AuthorizationId::generate(days(0), &mut SystemRandom),
        account: AccountId::generate(days(0), &mut SystemRandom),
        identifier: Identifier::from_text("a.example").unwrap(),
        wildcard: false,
        subdomains: false,
        state,
        challenges: Vec::new(),
        created_at: days(0),
        expires_at: days(7),
        version: Version(1),
    }
}

fn order(state: OrderState, authorization: &Authorization) -> Order {
    Order {
        id: OrderId::generate(days(0), &mut SystemRandom),
        account: authorization.account,
        directory: "default".to_owned().try_into().unwrap(),
        identifiers: vec![authorization.identifier.clone()],
        authorizations: vec![authorization.id],
        profile: "tls-server".to_owned().try_into().unwrap(),
        validity: RequestedValidity::default(),
        replaces: None,
        annotations: None,
        auto_renewal: None,
        created_at: days(0),
        expires_at: days(7),
        state,
        version: Version(1),
    }
}

#[test]
fn orders_die_when_they_have_been_over_for_long_and_never_with_a_certificate() {
    let held = authorization(AuthorizationState::Pending);
    let open = order(OrderState::Open, &held);
    assert_eq!(ages().order(&open, days(16)), Fate::Later);
    assert_eq!(ages().order(&open, days(17)), Fate::Dead);
    let processing = order(OrderState::Processing { csr: Vec::new() }, &held);
    assert_eq!(ages().order(&processing, days(1000)), Fate::Later);
    assert_eq!((in_use_by(&open), in_use_by(&processing)), (&[held.id][..], &[held.id][..]));
    let certificate = "issuing-1-0a1b2c".parse().unwrap();
    let valid = order(OrderState::Valid { certificate }, &held);
    assert_eq!(ages().order(&valid, days(10_000)), Fate::Kept);
    assert!(in_use_by(&valid).is_empty());
}

#[test]
fn authorizations_die_when_nothing_can_use_them() {
    let none = HashSet::new();
    let valid = AuthorizationState::Valid { validated_at: days(1), by: ca_core::acme::ChallengeType::Dns01 };
    for (state, dead_on) in [
        (AuthorizationState::Pending, 17),
        (valid, 17),
        (AuthorizationState::Invalid { failed_at: days(2) }, 12),
        (AuthorizationState::Deactivated { at: days(3) }, 13),
        // After it had expired anyway.
        (AuthorizationState::Revoked { at: days(30) }, 17),
    ] {
        let authorization = authorization(state);
        assert_eq!(ages().authorization(&authorization, &none, days(dead_on - 1)), Fate::Later, "{state:?}");
        assert_eq!(ages().authorization(&authorization, &none, days(dead_on)), Fate::Dead, "{state:?}");
        let in_use = HashSet::from([authorization.id]);
        assert_eq!(ages().authorization(&authorization, &in_use, days(1000)), Fate::Later);
        // Never sooner than the orders that name it were looked at.
        let hasty = PruneAges { authorizations: Duration::ZERO, ..ages() };
        assert_eq!(hasty.authorization(&authorization, &none, days(dead_on - 1)), Fate::Later, "{state:?}");
    }
}
