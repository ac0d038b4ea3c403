//! RFC 8739: what is agreed on, which certificate is due when, and that a series survives crashes and ends when it must.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ca_core::acme::order::{CancelError, OrderFailure};
use ca_core::acme::star::{AskedAutoRenewal, AutoRenewalRefused, Renewing};
use ca_core::acme::{AccountState, AutoRenewal, Order, OrderState, OrderStatus, StarPolicy};
use ca_core::authority::AuthorityError;
use ca_core::id::AccountId;
use ca_core::store::{CertificateId, Role};
use ca_core::store::{CertificateRecord, CertificateState, Change, Commit, Effect, StoreError, permits};
use ca_core::time::Timestamp;
use proptest::prelude::*;

use crate::ca::{Ca, csr, star};

const HOUR: Duration = Duration::from_hours(1);

fn seconds(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn date(text: &str) -> Timestamp {
    Timestamp::from_rfc3339(text).unwrap()
}

fn lenient() -> StarPolicy {
    let longest = Duration::from_hours(24 * 36_500);
    StarPolicy {
        min_lifetime: Duration::from_secs(1),
        max_lifetime: longest,
        max_duration: longest,
        certificate_get: false,
    }
}

#[test]
fn section_3_5_the_example_of_the_rfc_comes_out() {
    let start = date("2016-01-10T00:00:00Z");
    let asked = AskedAutoRenewal {
        start: Some(start),
        end: date("2016-01-20T00:00:00Z"),
        lifetime_seconds: 345_600,
        adjust_seconds: 259_200,
        certificate_get: false,
    };
    let agreed = lenient().accept(&asked, start).unwrap();
    let first = agreed.first(start);
    let series: Vec<_> = (0..3)
        .map(|index| {
            let period = agreed.period(first, index);
            (period.not_before.to_string(), period.not_after.to_string())
        })
        .collect();
    let expected = [
        ("2016-01-10T00:00:00Z", "2016-01-14T00:00:00Z"),
        ("2016-01-11T00:00:00Z", "2016-01-18T00:00:00Z"),
        ("2016-01-15T00:00:00Z", "2016-01-20T00:00:00Z"),
    ];
    assert_eq!(series, expected.map(|(from, to)| (from.to_owned(), to.to_owned())));
    assert_eq!(agreed.due_after(first, 0), Some(date("2016-01-11T00:00:00Z")));
    assert_eq!(agreed.due_after(first, 1), Some(date("2016-01-15T00:00:00Z")));
    assert_eq!(agreed.due_after(first, 2), None);
}

#[test]
fn section_3_1_1_what_is_outside_the_policy_is_refused() {
    let now = seconds(1_800_000_000);
    let fine = AskedAutoRenewal {
        start: None,
        end: now.plus(24 * HOUR),
        lifetime_seconds: 3600,
        adjust_seconds: 0,
        certificate_get: true,
    };
    let agreed = star().accept(&fine, now).unwrap();
    assert_eq!((agreed.adjust_seconds, agreed.certificate_get), (1800, true), "raised to half (§3.3)");
    let greedy = AskedAutoRenewal { adjust_seconds: u64::MAX, ..fine };
    assert_eq!(star().accept(&greedy, now).unwrap().adjust_seconds, 3600, "min(T, la) (§3.5)");
    let closed = StarPolicy { certificate_get: false, ..star() };
    assert!(!closed.accept(&fine, now).unwrap().certificate_get, "not given, so not reflected (§3.4)");
    let refused = |asked: AskedAutoRenewal| star().accept(&asked, now).unwrap_err();
    let short = AskedAutoRenewal { lifetime_seconds: 599, ..fine };
    assert_eq!(refused(short), AutoRenewalRefused::LifetimeTooShort(600));
    let long = AskedAutoRenewal { lifetime_seconds: 7 * 86_400 + 1, ..fine };
    assert_eq!(refused(long), AutoRenewalRefused::LifetimeTooLong(7 * 86_400));
    let year = 365 * 86_400;
    let lasting = AskedAutoRenewal { end: now.plus(Duration::from_secs(year + 1)), ..fine };
    assert_eq!(refused(lasting), AutoRenewalRefused::DurationTooLong(year));
    assert_eq!(refused(AskedAutoRenewal { end: now, ..fine }), AutoRenewalRefused::Ended);
    let backwards = AskedAutoRenewal { start: Some(now.plus(25 * HOUR)), ..fine };
    assert_eq!(refused(backwards), AutoRenewalRefused::Ended);
    let late = AskedAutoRenewal { start: Some(now.plus(31 * 24 * HOUR)), end: Timestamp::MAX, ..fine };
    assert!(matches!(refused(late), AutoRenewalRefused::TooLate(_)));
    assert_eq!(agreed.require_within(Duration::from_secs(5400)), Ok(()));
    assert_eq!(
        agreed.require_within(Duration::from_secs(5399)),
        Err(AutoRenewalRefused::OutsideProfile(5400))
    );
}

prop_compose! {
    fn agreements()(
        lifetime in 1u64..200_000,
        adjust in 0u64..400_000,
        lasts in 1u64..2_000_000,
        start in prop::option::of(0i64..1_000_000),
    ) -> (AutoRenewal, Timestamp) {
        let now = seconds(1_800_000_000);
        let start = start.map(|after| seconds(1_800_000_000 + after - 500_000));
        let from = start.map_or(now, |start| start.max(now));
        let asked = AskedAutoRenewal {
            start,
            end: from.plus(Duration::from_secs(lasts)),
            lifetime_seconds: lifetime,
            adjust_seconds: adjust,
            certificate_get: false,
        };
        (lenient().accept(&asked, now).unwrap(), now)
    }
}

proptest! {
    /// A series issued on time: each is valid when it is published and there halfway through the one before, nothing is
    /// valid before the start or after the end, and the overlap is never longer than what dates back.
    #[test]
    fn a_series_has_no_gap_and_ends_with_the_order((agreed, now) in agreements()) {
        let lifetime = Duration::from_secs(agreed.lifetime_seconds);
        let adjust = Duration::from_secs(agreed.adjust_seconds);
        let first = agreed.first(now);
        let mut before = agreed.period(first, 0);
        prop_assert!(before.not_before >= agreed.start.unwrap_or(first));
        let mut index = 0;
        while let Some(due) = agreed.due_after(first, index) {
            index += 1;
            let next = agreed.period(first, index);
            let halfway = before.not_after.minus(lifetime / 2);
            prop_assert!(due <= halfway, "due {due}, halfway {halfway}");
            prop_assert!(next.not_before <= due.max(agreed.start.unwrap_or(due)));
            prop_assert!(next.not_before < before.not_after && next.not_after > before.not_after);
            prop_assert!(before.not_after.since(due) <= adjust);
            prop_assert!(next.not_after.since(next.not_before) <= lifetime + adjust);
            prop_assert!(agreed.newest_due(first, due) >= index, "it is due when it is due");
            before = next;
            if index > 500 { return Ok(()); }
        }
        prop_assert_eq!(before.not_after, agreed.end);
    }

    /// However late it is looked, what is issued then is valid then.
    #[test]
    fn what_is_issued_late_is_valid_then((agreed, now) in agreements(), late in 0u64..2_000_000) {
        let first = agreed.first(now);
        let at = first.plus(Duration::from_secs(late));
        prop_assume!(at < agreed.end);
        let period = agreed.period(first, agreed.newest_due(first, at));
        prop_assert!(period.not_before <= at && at < period.not_after && period.not_after <= agreed.end);
    }
}

/// An order for hourly certificates over a day, with its first certificate.
async fn renewed(ca: &Ca) -> (Order, AccountId) {
    let account = ca.account().await;
    let names = ["a.example"];
    let asked = AskedAutoRenewal {
        start: None,
        end: ca.clock_now().plus(24 * HOUR),
        lifetime_seconds: 3600,
        adjust_seconds: 0,
        certificate_get: false,
    };
    let agreed = star().accept(&asked, ca.clock_now()).unwrap();
    let renewed = |order| Order { auto_renewal: Some(agreed), ..order };
    let (order, effect) = ca.finalized_order_with(account, csr(&names), &names, renewed).await;
    ca.authority.carry_out(effect).await.unwrap();
    (ca.order(&order).await, account)
}

fn renewing(order: &Order) -> &Renewing {
    match &order.state {
        OrderState::Renewing(renewing) => renewing,
        other => panic!("the order is {other:?}"),
    }
}

async fn certificate(ca: &Ca, id: &CertificateId) -> CertificateRecord {
    ca.store.certificate(id.clone()).await.unwrap().unwrap()
}

/// The one effect that waits.
async fn effect(ca: &Ca) -> Effect {
    let [effect] = <[_; 1]>::try_from(ca.store.effects(10).await.unwrap()).unwrap();
    effect
}

#[tokio::test]
async fn section_2_2_certificates_follow_each_other_until_the_end_date() {
    let ca = Ca::create().await;
    let (mut order, _) = renewed(&ca).await;
    let end = order.auto_renewal.unwrap().end;
    assert_eq!((order.expires_at, order.status(&[], ca.clock_now()).name()), (end, "valid"));
    let mut newest = certificate(&ca, &renewing(&order).certificate).await;
    let mut issued = 1;
    assert_eq!(ca.authority.ask_for_renewals().await.unwrap(), 0, "nothing is due yet");
    while let Some(next) = renewing(&order).next_at {
        ca.clock.set(next);
        assert_eq!(ca.authority.ask_for_renewals().await.unwrap(), 1);
        assert_eq!(ca.authority.ask_for_renewals().await.unwrap(), 0, "each is asked for once");
        ca.authority.carry_out(effect(&ca).await).await.unwrap();
        order = ca.order(&order).await;
        let record = certificate(&ca, &renewing(&order).certificate).await;
        assert_ne!(record.id, newest.id);
        assert_eq!((record.key, &record.names, &record.origin), (newest.key, &newest.names, &newest.origin));
        assert!(record.not_before <= next && newest.not_after.since(next) >= HOUR / 2, "no gap");
        assert!(matches!(record.state, CertificateState::Issued { .. }));
        newest = record;
        issued += 1;
    }
    assert_eq!((issued, newest.not_after), (24, end));
    ca.clock.set(end);
    assert_eq!(ca.authority.ask_for_renewals().await.unwrap(), 0);
    assert!(ca.store.effects(10).await.unwrap().is_empty());
    assert_eq!(ca.order(&order).await.status(&[], end).name(), "valid", "as §3.3 says");
}

#[tokio::test]
async fn a_crash_between_reservation_and_certificate_signs_the_same_bytes() {
    let ca = Ca::create().await;
    let (order, _) = renewed(&ca).await;
    ca.clock.set(renewing(&order).next_at.unwrap());
    ca.keys_away.store(true, Ordering::SeqCst);
    assert_eq!(ca.authority.ask_for_renewals().await.unwrap(), 1);
    ca.authority.carry_out(effect(&ca).await).await.unwrap_err();
    let reserved = ca.store.reserved_certificates(10).await.unwrap();
    assert_eq!(reserved.len(), 1);
    let ca = ca.after_crash().await;
    ca.keys_away.store(false, Ordering::SeqCst);
    assert_eq!(ca.authority.ask_for_renewals().await.unwrap(), 0, "it is asked for already");
    ca.authority.carry_out(effect(&ca).await).await.unwrap();
    let order = ca.order(&order).await;
    let record = certificate(&ca, &renewing(&order).certificate).await;
    assert_eq!((&record.id, &record.tbs), (&reserved[0].id, &reserved[0].tbs));
    assert!(renewing(&order).next_at.is_some_and(|next| next > ca.clock_now()));
}

#[tokio::test]
async fn a_key_that_refuses_a_renewal_burns_no_serial_with_each_try() {
    let ca = Ca::create().await;
    let (order, _) = renewed(&ca).await;
    ca.clock.set(renewing(&order).next_at.unwrap());
    assert_eq!(ca.authority.ask_for_renewals().await.unwrap(), 1);
    let waiting = effect(&ca).await;
    ca.keys_refuse.store(true, Ordering::SeqCst);
    let refused = ca.authority.carry_out(waiting.clone()).await;
    assert!(matches!(refused, Err(AuthorityError::NotRenewed { .. })), "{refused:?}");
    let [reserved] = <[_; 1]>::try_from(ca.store.reserved_certificates(10).await.unwrap()).unwrap();
    ca.clock.advance(Duration::from_secs(30));
    ca.authority.carry_out(waiting.clone()).await.unwrap_err();
    ca.keys_refuse.store(false, Ordering::SeqCst);
    ca.authority.carry_out(waiting).await.unwrap();
    let order = ca.order(&order).await;
    assert_eq!(renewing(&order).certificate, reserved.id);
}

#[tokio::test]
async fn what_was_missed_while_the_ca_was_down_is_not_made_up_for() {
    let ca = Ca::create().await;
    let (order, _) = renewed(&ca).await;
    ca.clock.advance(10 * HOUR);
    assert_eq!(ca.authority.ask_for_renewals().await.unwrap(), 1);
    ca.authority.carry_out(effect(&ca).await).await.unwrap();
    let order = ca.order(&order).await;
    assert_eq!(renewing(&order).index, 10);
    let record = certificate(&ca, &renewing(&order).certificate).await;
    assert!(record.not_before <= ca.clock_now() && ca.clock_now() < record.not_after);
    ca.clock.advance(20 * HOUR);
    assert_eq!(ca.authority.ask_for_renewals().await.unwrap(), 0, "the end-date is over");
    assert!(ca.store.orders_to_renew(ca.clock_now(), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn section_3_1_2_nothing_is_issued_for_a_canceled_order_not_even_what_was_reserved() {
    let ca = Ca::create().await;
    let (order, _) = renewed(&ca).await;
    ca.clock.set(renewing(&order).next_at.unwrap());
    ca.keys_away.store(true, Ordering::SeqCst);
    ca.authority.ask_for_renewals().await.unwrap();
    let asked = effect(&ca).await;
    ca.authority.carry_out(asked.clone()).await.unwrap_err();
    let reserved = ca.store.reserved_certificates(10).await.unwrap().remove(0);
    let order = ca.order(&order).await;
    let canceled = order.cancel(&[], ca.clock_now()).unwrap();
    let commit = Commit { changes: vec![Change::PutOrder(canceled)], ..Commit::default() };
    assert_eq!(permits(Role::Acme, &commit, ca.clock_now()), Ok(()));
    ca.store.commit(commit).await.unwrap();
    ca.keys_away.store(false, Ordering::SeqCst);
    ca.authority.carry_out(asked).await.unwrap();
    let record = certificate(&ca, &reserved.id).await;
    assert!(matches!(record.state, CertificateState::Abandoned { .. }));
    let order = ca.order(&order).await;
    assert_eq!(order.status(&[], ca.clock_now()), OrderStatus::Canceled);
    ca.clock.advance(2 * HOUR);
    assert_eq!(ca.authority.ask_for_renewals().await.unwrap(), 0);
    assert_eq!(order.cancel(&[], ca.clock_now()), Err(CancelError::NotValid("canceled")));
}

#[tokio::test]
async fn a_series_ends_with_its_account_its_key_or_its_certificate() {
    for case in ["account", "key", "certificate"] {
        let ca = Ca::create().await;
        let (order, account) = renewed(&ca).await;
        let newest = certificate(&ca, &renewing(&order).certificate).await;
        let at = ca.clock_now();
        match case {
            "account" => {
                let mut account = ca.store.account(account).await.unwrap().unwrap();
                account.state = AccountState::Deactivated { at };
                ca.commit(vec![Change::PutAccount(account)], vec![]).await;
            }
            "key" => {
                let detail = "found on a disk".to_owned();
                ca.commit(vec![Change::BlockKey { key: newest.key, at, detail }], vec![]).await;
            }
            _ => {
                let reason = ca_core::revocation::RevocationReason::CessationOfOperation;
                let operator = ca_core::audit::Actor::Operator { uid: 0 };
                ca.authority.revoke(newest.id.clone(), reason, operator).await.unwrap();
                ca.authority.carry_out(effect(&ca).await).await.unwrap();
            }
        }
        ca.clock.set(renewing(&order).next_at.unwrap());
        assert_eq!(ca.authority.ask_for_renewals().await.unwrap(), 1);
        ca.authority.carry_out(effect(&ca).await).await.unwrap();
        let state = ca.order(&order).await.state;
        let OrderState::Stopped { certificate, failure } = &state else { panic!("{case}: {state:?}") };
        assert_eq!(*certificate, newest.id);
        let blocked = matches!(failure, OrderFailure::BadCsr { .. });
        assert!(if case == "key" { blocked } else { matches!(failure, OrderFailure::Unauthorized { .. }) });
        assert!(ca.store.reserved_certificates(10).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn role_acme_can_neither_make_nor_prolong_a_series() {
    let ca = Ca::create().await;
    let (order, _) = renewed(&ca).await;
    let commit = Commit { changes: vec![Change::PutOrder(order)], ..Commit::default() };
    assert!(matches!(permits(Role::Acme, &commit, ca.clock_now()), Err(StoreError::Refused(_))));
}

#[tokio::test]
async fn what_role_acme_writes_of_dates_is_judged_by_the_clock_of_ca() {
    let ca = Ca::create().await;
    let (now, year) = (ca.clock_now(), Duration::from_hours(24 * 365));
    let agreed = AutoRenewal {
        start: None,
        end: now.plus(24 * HOUR),
        lifetime_seconds: 3600,
        adjust_seconds: 1800,
        certificate_get: false,
    };
    let forged = [
        AutoRenewal { start: Some(now.plus(year)), end: now.plus(year).plus(HOUR), ..agreed },
        AutoRenewal { end: now.plus(2 * year), ..agreed },
        AutoRenewal { lifetime_seconds: 1, ..agreed },
        AutoRenewal { lifetime_seconds: 8 * 86_400, ..agreed },
        AutoRenewal { adjust_seconds: 365 * 86_400, ..agreed },
    ];
    for forged in forged {
        let account = ca.account().await;
        let created_at = now.plus(2 * year);
        let written = |order| Order { auto_renewal: Some(forged), created_at, ..order };
        let names = ["a.example"];
        let (order, effect) = ca.finalized_order_with(account, csr(&names), &names, written).await;
        ca.authority.carry_out(effect).await.unwrap();
        let state = ca.order(&order).await.state;
        let refused = matches!(state, OrderState::Failed { failure: OrderFailure::Validity { .. } });
        assert!(refused, "{forged:?}: {state:?}");
    }
    let wide = AutoRenewal { adjust_seconds: 90 * 86_400, ..agreed };
    assert_eq!(wide.period(now, 1).not_before, now, "never dated back by more than a lifetime");
}
