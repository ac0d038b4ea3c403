//! Asking the policy service about an order, between its approval and its reservation; each verdict is logged with what
//! follows from it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::acme::Order;
use crate::acme::external_account::ExternalAccount;
use crate::audit::{Action, AuditEvent};
use crate::id::{EffectId, OrderId};
use crate::issuance::{Approved, BuildError, Issuer};
use crate::policy_hook::{Annotations, Enrichment, OrderFacts, PolicyGate, Ruling, Verdict, rule};
use crate::store::{Change, Row, StoreError, Version};
use crate::time::Timestamp;

use super::{Authority, AuthorityError, event};

/// The policy service, and since when it gives no verdict on which orders. A restart forgets the latter: then an order
/// waits anew, as long as it did at first.
pub(super) struct Policy {
    gate: PolicyGate,
    failing: Mutex<HashMap<OrderId, Timestamp>>,
}

impl Policy {
    pub(super) fn new(gate: PolicyGate) -> Self {
        Self { gate, failing: Mutex::default() }
    }

    fn failing_since(&self, order: OrderId) -> Option<Timestamp> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).get(&order).copied()
    }

    fn fails(&self, order: OrderId, now: Timestamp) {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).entry(order).or_insert(now);
    }

    fn forget(&self, order: OrderId) {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).remove(&order);
    }
}

/// An order that our own policy admits, with what that was decided on.
pub(super) struct Judged {
    pub order: Order,
    pub approved: Approved,
    pub external: Option<ExternalAccount>,
}

/// What a reservation stands on, and what is committed with it.
#[derive(Clone, Default)]
pub(super) struct Basis {
    pub versions: Vec<(Row, Version)>,
    pub changes: Vec<Change>,
    pub audit: Vec<AuditEvent>,
}

impl Basis {
    pub(super) fn versions(versions: Vec<(Row, Version)>) -> Self {
        Self { versions, ..Self::default() }
    }

    /// The order as it is stored once this is committed.
    pub(super) fn order_after(&self, order: Order) -> Order {
        let put = self.changes.iter().find_map(|change| match change {
            Change::PutOrder(put) if put.id == order.id => Some(put.clone()),
            _ => None,
        });
        put.map_or(order, |put| Order { version: put.version.next(), ..put })
    }
}

/// What is to be reserved, by the clock as it is after the answer.
pub(super) struct Consulted {
    pub judged: Judged,
    pub basis: Basis,
    pub now: Timestamp,
}

impl Authority {
    /// Asks the policy service, if there is one, and judges the order again afterwards: an answer takes its time. `None`
    /// if the order has ended, or is gone.
    ///
    /// # Errors
    /// [`AuthorityError::Policy`] if there is no verdict and the order waits for one; a conflict if it was changed
    /// meanwhile, so that the verdict was about something else.
    pub(super) async fn consult(
        &self,
        effect: EffectId,
        judged: Judged,
        issuer: &Issuer,
        now: Timestamp,
    ) -> Result<Option<Consulted>, AuthorityError> {
        let Some(policy) = &self.policy else {
            return Ok(Some(proceed(judged, Enrichment::default(), None, now)));
        };
        let id = judged.order.id;
        let facts = match facts(&judged, issuer, now) {
            Ok(facts) => facts,
            Err(error) => {
                self.fail_unbuildable(effect, judged.order, error, now).await?;
                return Ok(None);
            }
        };
        let answer = policy.gate.hook.judge(&facts).await;
        let verdict = answer.as_ref().ok().map(|verdict| verdict_event(id, verdict));
        let now = self.signing_time()?;
        let (enrichment, logged) = match rule(
            answer,
            &facts,
            policy.gate.on_failure,
            policy.failing_since(id),
            now,
        ) {
            Ruling::Proceed(enrichment) => (enrichment, verdict),
            Ruling::ProceedUnjudged(why) => {
                tracing::warn!(order = %id, %why, "an order goes on without the policy service's verdict");
                let detail = why.to_string();
                (Enrichment::default(), Some(Action::PolicyBypassed { order: id, detail }))
            }
            Ruling::Refuse(failure) => {
                let audit = verdict.into_iter().map(|action| event(now, action)).collect();
                self.fail_order_with(effect, judged.order, failure, audit, now).await?;
                policy.forget(id);
                return Ok(None);
            }
            Ruling::GiveUp { failure, why } => {
                tracing::error!(order = %id, %why, "an order fails, since the policy service gives no verdict");
                self.fail_order(effect, judged.order, failure, now).await?;
                policy.forget(id);
                return Ok(None);
            }
            Ruling::Wait(why) => {
                policy.fails(id, now);
                return Err(AuthorityError::Policy(why));
            }
        };
        policy.forget(id);
        let Some((order, authorizations)) = self.store.order(id).await? else {
            self.drop_effect(effect).await?;
            return Ok(None);
        };
        if order.version != judged.order.version || !order.awaits_certificate(now) {
            return Err(StoreError::Conflict.into());
        }
        let (mut approved, external) = match self.judge(&order, &authorizations, now).await? {
            Ok(again) => again,
            Err(failure) => {
                let audit = logged.into_iter().map(|action| event(now, action)).collect();
                self.fail_order_with(effect, order, failure, audit, now).await?;
                return Ok(None);
            }
        };
        let version = |external: &Option<ExternalAccount>| external.as_ref().map(|row| (row.id, row.version));
        if version(&external) != version(&judged.external) {
            return Err(StoreError::Conflict.into());
        }
        approved = approved.within(issuer, &order);
        enrichment.narrow(&mut approved);
        Ok(Some(proceed(Judged { order, approved, external }, enrichment, logged, now)))
    }

    /// Forgets that an order waits for a verdict.
    pub(super) fn forget_policy(&self, order: OrderId) {
        if let Some(policy) = &self.policy {
            policy.forget(order);
        }
    }
}

fn proceed(judged: Judged, enrichment: Enrichment, logged: Option<Action>, now: Timestamp) -> Consulted {
    // An external account that was revoked meanwhile stops it: nothing is logged as reserved after its end.
    let external = judged.external.as_ref().map(|row| (Row::ExternalAccount(row.id), row.version));
    let mut basis = Basis::versions(external.into_iter().collect());
    basis.audit.extend(logged.map(|action| event(now, action)));
    let order = &judged.order;
    let annotations = enrichment.annotations.stored();
    if order.annotations == annotations {
        basis.versions.push((Row::Order(order.id), order.version));
    } else {
        let annotated = Order { annotations, ..order.clone() };
        basis.changes.push(Change::PutOrder(annotated));
    }
    Consulted { judged, basis, now }
}

fn facts(judged: &Judged, issuer: &Issuer, now: Timestamp) -> Result<OrderFacts, BuildError> {
    let Judged { order, approved, external } = judged;
    Ok(OrderFacts {
        order: order.id,
        account: order.account,
        external_account: external.as_ref().map(|row| (row.id, row.owner.clone())),
        directory: order.directory.clone(),
        profile: approved.profile.clone(),
        issuer: issuer.record().id.clone(),
        subject: approved.subject.to_string(),
        names: approved.names.clone(),
        key: approved.public_key.hash(),
        key_algorithm: approved.public_key.algorithm().to_string(),
        validity: approved.period(issuer, now)?,
        replaces: order.replaces.as_ref().map(|replaced| replaced.certificate.clone()),
    })
}

fn verdict_event(order: OrderId, verdict: &Verdict) -> Action {
    let (detail, annotations, lifetime) = match verdict {
        Verdict::Allow(Enrichment { annotations, lifetime }) => (None, annotations.clone(), *lifetime),
        Verdict::Refuse { detail, .. } => (Some(detail.as_str().to_owned()), Annotations::default(), None),
    };
    let lifetime_seconds = lifetime.map(|lifetime| lifetime.as_secs());
    let verdict = verdict.name().to_owned();
    Action::PolicyJudged { order, verdict, detail, annotations, lifetime_seconds }
}
