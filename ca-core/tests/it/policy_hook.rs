//! The policy service as the authority asks it: what it is told, what its verdicts do, and what its silence means.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ca_core::BoxFuture;
use ca_core::acme::order::OrderFailure;
use ca_core::acme::{Order, OrderState};
use ca_core::authority::AuthorityError;
use ca_core::id::AccountId;
use ca_core::policy_hook::{
    Annotations, Detail, Enrichment, HookFailure, Labels, OnFailure, OrderFacts, PolicyGate, PolicyHook,
    RefusalKind, Verdict,
};
use ca_core::store::{CertificateRecord, Change, Commit, Effect, Store, StoreError};

use crate::ca::{Ca, csr};

const CLOSED: OnFailure = OnFailure::Refuse { after: Duration::from_secs(60) };
const SILENCE: HookFailure = HookFailure::Timeout(Duration::from_secs(5));

type Answer = Result<Verdict, HookFailure>;

/// Gives these answers in turn and keeps the questions; asked once more, it refuses.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Answer>>,
    questions: Mutex<Vec<OrderFacts>>,
}

impl PolicyHook for Script {
    fn judge<'a>(&'a self, facts: &'a OrderFacts) -> BoxFuture<'a, Answer> {
        self.questions.lock().unwrap().push(facts.clone());
        let answer = self.answers.lock().unwrap().pop_front();
        Box::pin(
            async move { answer.unwrap_or_else(|| refuse(RefusalKind::Unauthorized, "asked too often")) },
        )
    }
}

fn script(answers: impl IntoIterator<Item = Answer>) -> Arc<Script> {
    Arc::new(Script { answers: Mutex::new(answers.into_iter().collect()), ..Script::default() })
}

fn gate(hook: &Arc<Script>, on_failure: OnFailure) -> PolicyGate {
    PolicyGate { hook: Arc::clone(hook) as Arc<dyn PolicyHook>, on_failure }
}

fn allow() -> Answer {
    Ok(Verdict::Allow(Enrichment::default()))
}

fn refuse(kind: RefusalKind, detail: &str) -> Answer {
    Ok(Verdict::Refuse { kind, detail: Detail::new(detail) })
}

fn shorter(days: u64) -> Answer {
    let lifetime = Some(Duration::from_hours(24 * days));
    Ok(Verdict::Allow(Enrichment { lifetime, ..Enrichment::default() }))
}

async fn finalized(ca: &Ca) -> (AccountId, Order, Effect) {
    let account = ca.account().await;
    let names = ["www.example.org", "192.0.2.1"];
    let (order, effect) = ca.finalized_order(account, csr(&names), &names).await;
    (account, order, effect)
}

async fn certificate(ca: &Ca, order: &Order) -> CertificateRecord {
    match ca.order(order).await.state {
        OrderState::Valid { certificate } => ca.store.certificate(certificate).await.unwrap().unwrap(),
        other => panic!("the order is {other:?}"),
    }
}

/// The actions of the audit log that concern one order's issuance, as they stand there.
async fn logged(ca: &Ca) -> Vec<serde_json::Value> {
    let entries = ca.store.audit(0, 1000).await.unwrap();
    let entries =
        entries.iter().map(|(_, entry)| serde_json::from_slice::<serde_json::Value>(entry).unwrap());
    let ours =
        ["policy_judged", "policy_bypassed", "order_failed", "certificate_reserved", "certificate_issued"];
    let entries: Vec<_> =
        entries.filter(|entry| ours.iter().any(|action| entry["action"] == *action)).collect();
    // The issuers' own certificates come first.
    let first = entries.iter().position(|entry| {
        entry["action"]
            .as_str()
            .is_some_and(|action| action.starts_with("policy") || action == "order_failed")
    });
    entries.into_iter().skip(first.unwrap_or(usize::MAX)).collect()
}

fn actions(log: &[serde_json::Value]) -> Vec<&str> {
    log.iter().map(|entry| entry["action"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_service_is_told_what_the_certificate_will_be_and_its_verdict_is_logged_before_the_signature() {
    let hook = script([allow()]);
    let ca = Ca::create().await.with_policy(gate(&hook, CLOSED));
    let (account, order, effect) = finalized(&ca).await;
    ca.authority.carry_out(effect).await.unwrap();
    let record = certificate(&ca, &order).await;
    let facts = hook.questions.lock().unwrap().remove(0);
    assert_eq!((facts.order, facts.account), (order.id, account));
    assert_eq!((&facts.profile, &facts.directory), (&record.profile, &order.directory));
    assert_eq!((&facts.names, &facts.subject), (&record.names, &record.subject));
    assert_eq!((facts.key, facts.key_algorithm.as_str()), (record.key, "EC P-256"));
    assert_eq!(facts.issuer, record.id.issuer);
    assert_eq!((facts.validity.not_before, facts.validity.not_after), (record.not_before, record.not_after));
    assert_eq!(facts.lifetime(), Duration::from_hours(24 * 90));
    let log = logged(&ca).await;
    assert_eq!(actions(&log), ["policy_judged", "certificate_reserved", "certificate_issued"]);
    assert_eq!(log[0]["verdict"], "allow");
    assert_eq!(ca.order(&order).await.annotations, None);
}

#[tokio::test]
async fn a_refusal_fails_the_order_with_the_services_words_and_reserves_nothing() {
    for kind in [RefusalKind::Unauthorized, RefusalKind::RejectedIdentifier] {
        let hook = script([refuse(kind, "not on\nFridays")]);
        let ca = Ca::create().await.with_policy(gate(&hook, CLOSED));
        let (_, order, effect) = finalized(&ca).await;
        ca.authority.carry_out(effect).await.unwrap();
        let OrderState::Failed { failure } = ca.order(&order).await.state else { panic!() };
        assert!(failure.to_string().ends_with(r"refuses the order: not on\u{a}Fridays"), "{failure}");
        match kind {
            RefusalKind::Unauthorized => assert!(matches!(failure, OrderFailure::Unauthorized { .. })),
            RefusalKind::RejectedIdentifier => {
                assert!(matches!(failure, OrderFailure::RejectedIdentifier { .. }));
            }
        }
        let log = logged(&ca).await;
        assert_eq!(actions(&log), ["policy_judged", "order_failed"]);
        assert_eq!(
            (&log[0]["verdict"], &log[0]["detail"]),
            (&"refuse".into(), &r"not on\u{a}Fridays".into())
        );
        assert!(ca.store.effects(10).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_enriched_certificate_lives_shorter_and_its_order_keeps_owner_and_labels() {
    let labels = BTreeMap::from([("cost-centre".to_owned(), "4711".to_owned())]);
    let annotations = Annotations {
        owner: Some("web team".to_owned().try_into().unwrap()),
        labels: Labels::try_from(labels).unwrap(),
    };
    let lifetime = Some(Duration::from_hours(24 * 7));
    let hook = script([Ok(Verdict::Allow(Enrichment { annotations: annotations.clone(), lifetime }))]);
    let ca = Ca::create().await.with_policy(gate(&hook, CLOSED));
    let (_, order, effect) = finalized(&ca).await;
    ca.authority.carry_out(effect).await.unwrap();
    let record = certificate(&ca, &order).await;
    assert_eq!(
        record.not_after.since(record.not_before),
        Duration::from_hours(24 * 7) - Duration::from_secs(1)
    );
    assert_eq!(record.names, order.identifiers);
    assert_eq!(ca.order(&order).await.annotations, Some(Box::new(annotations)));
    let log = logged(&ca).await;
    assert_eq!(log[0]["verdict"], "enrich");
    assert_eq!(log[0]["annotations"]["owner"], "web team");
    assert_eq!(log[0]["lifetime_seconds"], 7 * 24 * 3600);
}

#[tokio::test]
async fn a_validity_longer_than_the_profiles_or_over_at_once_is_no_verdict() {
    let at_once =
        Ok(Verdict::Allow(Enrichment { lifetime: Some(Duration::from_secs(1)), ..Enrichment::default() }));
    for bad in [shorter(91), at_once] {
        let hook = script([bad.clone(), shorter(90)]);
        let ca = Ca::create().await.with_policy(gate(&hook, CLOSED));
        let (_, order, effect) = finalized(&ca).await;
        let waits = ca.authority.carry_out(effect.clone()).await;
        assert!(matches!(waits, Err(AuthorityError::Policy(HookFailure::Answer(_)))), "{waits:?}");
        assert!(ca.store.reserved_certificates(10).await.unwrap().is_empty());
        ca.authority.carry_out(effect).await.unwrap();
        let record = certificate(&ca, &order).await;
        let lived = record.not_after.since(record.not_before);
        assert_eq!(lived, Duration::from_hours(24 * 90) - Duration::from_secs(1));

        let hook = script([bad]);
        let ca = Ca::create().await.with_policy(gate(&hook, OnFailure::Allow));
        let (_, order, effect) = finalized(&ca).await;
        ca.authority.carry_out(effect).await.unwrap();
        let record = certificate(&ca, &order).await;
        assert_eq!(record.not_after.since(record.not_before), lived, "as though it had not been asked");
    }
}

#[tokio::test]
async fn failing_closed_an_order_waits_and_goes_on_with_the_first_verdict() {
    let hook = script([Err(SILENCE), Err(HookFailure::Status(503)), allow()]);
    let ca = Ca::create().await.with_policy(gate(&hook, CLOSED));
    let (_, order, effect) = finalized(&ca).await;
    for _ in 0..2 {
        let waits = ca.authority.carry_out(effect.clone()).await;
        assert!(matches!(waits, Err(AuthorityError::Policy(_))), "{waits:?}");
        assert!(matches!(ca.order(&order).await.state, OrderState::Processing { .. }));
        assert_eq!(ca.store.effects(10).await.unwrap().len(), 1, "the effect stays");
        ca.clock.advance(Duration::from_secs(20));
    }
    ca.authority.carry_out(effect).await.unwrap();
    certificate(&ca, &order).await;
    let questions = hook.questions.lock().unwrap();
    assert!(questions.iter().all(|facts| facts.order == order.id), "the same question each time");
}

#[tokio::test]
async fn failing_closed_an_order_without_a_verdict_fails_after_its_time_and_says_why() {
    let hook = script((0..4).map(|_| Err(SILENCE)));
    let ca = Ca::create().await.with_policy(gate(&hook, CLOSED));
    let (_, order, effect) = finalized(&ca).await;
    // How old the effect is does not count: a CA that was away for an hour asks as patiently as any.
    ca.clock.advance(Duration::from_hours(1));
    for _ in 0..3 {
        ca.authority.carry_out(effect.clone()).await.unwrap_err();
        ca.clock.advance(Duration::from_secs(25));
    }
    ca.authority.carry_out(effect).await.unwrap();
    let OrderState::Failed { failure } = ca.order(&order).await.state else { panic!() };
    assert!(matches!(failure, OrderFailure::Internal { .. }), "{failure:?}");
    assert!(failure.to_string().contains("gave no verdict"), "{failure}");
    assert!(ca.store.effects(10).await.unwrap().is_empty());
    assert_eq!(actions(&logged(&ca).await), ["order_failed"]);
}

#[tokio::test]
async fn failing_open_the_certificate_is_issued_and_the_log_says_that_nobody_judged_it() {
    let hook = script([Err(HookFailure::Signature("it has no Chancery-Signature"))]);
    let ca = Ca::create().await.with_policy(gate(&hook, OnFailure::Allow));
    let (_, order, effect) = finalized(&ca).await;
    ca.authority.carry_out(effect).await.unwrap();
    certificate(&ca, &order).await;
    let log = logged(&ca).await;
    assert_eq!(actions(&log), ["policy_bypassed", "certificate_reserved", "certificate_issued"]);
    assert!(log[0]["detail"].as_str().unwrap().contains("Chancery-Signature"));
}

#[tokio::test]
async fn failing_open_is_no_way_round_a_refusal() {
    let hook = script([refuse(RefusalKind::Unauthorized, "no")]);
    let ca = Ca::create().await.with_policy(gate(&hook, OnFailure::Allow));
    let (_, order, effect) = finalized(&ca).await;
    ca.authority.carry_out(effect).await.unwrap();
    assert!(matches!(ca.order(&order).await.state, OrderState::Failed { .. }));
}

#[tokio::test]
async fn what_was_judged_and_reserved_is_not_asked_again() {
    let hook = script([shorter(7)]);
    let ca = Ca::create().await;
    crate::authority::issue(&ca, &["warm.example"]).await;
    let ca = ca.with_policy(gate(&hook, CLOSED));
    ca.keys_away.store(true, Ordering::SeqCst);
    let (_, order, effect) = finalized(&ca).await;
    let waits = ca.authority.carry_out(effect.clone()).await;
    assert!(matches!(waits, Err(AuthorityError::Sign(_))), "{waits:?}");
    // The process dies; whoever asks this service again is refused.
    let ca = ca.after_crash().await.with_policy(gate(&hook, CLOSED));
    ca.keys_away.store(false, Ordering::SeqCst);
    ca.authority.carry_out(effect).await.unwrap();
    let record = certificate(&ca, &order).await;
    assert_eq!(
        record.not_after.since(record.not_before),
        Duration::from_hours(24 * 7) - Duration::from_secs(1)
    );
}

/// Allows, after something has happened in the store.
struct Meanwhile {
    store: Arc<dyn Store>,
    change: Mutex<Option<Change>>,
}

impl PolicyHook for Meanwhile {
    fn judge<'a>(&'a self, _: &'a OrderFacts) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let changes: Vec<Change> = self.change.lock().unwrap().take().into_iter().collect();
            self.store.commit(Commit { changes, ..Commit::default() }).await.unwrap();
            allow()
        })
    }
}

async fn meanwhile(ca: Ca, change: Change) -> Ca {
    let hook = Meanwhile { store: Arc::clone(&ca.store), change: Mutex::new(Some(change)) };
    ca.with_policy(PolicyGate { hook: Arc::new(hook), on_failure: CLOSED })
}

#[tokio::test]
async fn an_account_that_ends_while_the_service_thinks_gets_nothing() {
    let ca = Ca::create().await;
    let (account, order, effect) = finalized(&ca).await;
    let ended = ca.store.account(account).await.unwrap().unwrap().deactivated(ca.clock_now());
    let ca = meanwhile(ca, Change::PutAccount(ended)).await;
    ca.authority.carry_out(effect).await.unwrap();
    let state = ca.order(&order).await.state;
    assert!(matches!(state, OrderState::Failed { failure: OrderFailure::Unauthorized { .. } }), "{state:?}");
    assert_eq!(actions(&logged(&ca).await), ["policy_judged", "order_failed"]);
}

#[tokio::test]
async fn a_verdict_on_an_order_that_was_changed_meanwhile_is_worth_nothing() {
    let ca = Ca::create().await;
    let (_, order, effect) = finalized(&ca).await;
    // As a compromised front end could, once it knows what the service allows.
    let other = Order { authorizations: Vec::new(), ..ca.order(&order).await };
    let ca = meanwhile(ca, Change::PutOrder(other)).await;
    let again = ca.authority.carry_out(effect.clone()).await;
    assert!(matches!(again, Err(AuthorityError::Store(StoreError::Conflict))), "{again:?}");
    assert!(logged(&ca).await.is_empty());
    ca.authority.carry_out(effect).await.unwrap();
    let state = ca.order(&order).await.state;
    assert!(matches!(state, OrderState::Failed { failure: OrderFailure::Unauthorized { .. } }), "{state:?}");
}
