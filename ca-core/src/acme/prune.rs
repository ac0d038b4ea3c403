//! Which rows of ACME are dead: nobody can use them any more, and nobody will ask for them.
//!
//! Certificates, the audit log, accounts that ordered something, and authorizations that are valid and unexpired never
//! are: the last may authorize a revocation ([RFC 8555 §7.6](https://www.rfc-editor.org/rfc/rfc8555#section-7.6)).

use std::collections::HashSet;
use std::time::Duration;

use crate::acme::pause::Failing;
use crate::acme::{Account, AccountState, Authorization, AuthorizationState, Order, OrderState};
use crate::id::AuthorizationId;
use crate::time::Timestamp;

/// How long rows are kept after their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneAges {
    /// Orders that never got a certificate, after they expired.
    pub orders: Duration,
    /// Authorizations, after they expired or ended in another way; not less than that of orders.
    pub authorizations: Duration,
    /// Accounts that never placed an order, after they were made.
    pub unused_accounts: Duration,
    /// Failures of validations that are not paused, after the last one.
    pub failures: Duration,
}

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is dead: delete it.
    Dead,
    /// It may be dead later: look again.
    Later,
    /// It is kept for ever.
    Kept,
}

impl PruneAges {
    /// Every order that is dead at `now` was made before this time: none that is younger need be looked at.
    #[must_use]
    pub fn orders_made_before(&self, now: Timestamp) -> Timestamp {
        // Those made at that very time too: they may name what ended then.
        now.minus(self.orders).plus(Duration::from_millis(1))
    }

    /// As [`Self::orders_made_before`], of authorizations.
    #[must_use]
    pub fn authorizations_made_before(&self, now: Timestamp) -> Timestamp {
        now.minus(self.authorizations_age()).plus(Duration::from_millis(1))
    }

    /// As [`Self::orders_made_before`], of accounts.
    #[must_use]
    pub fn accounts_made_before(&self, now: Timestamp) -> Timestamp {
        now.minus(self.unused_accounts).plus(Duration::from_millis(1))
    }

    /// An order that names an authorization was placed before that ended. So when an authorization has been over for at
    /// least as long as orders are kept, every order that names it has been looked at before.
    fn authorizations_age(&self) -> Duration {
        self.authorizations.max(self.orders)
    }

    /// What becomes of an order.
    #[must_use]
    pub fn order(&self, order: &Order, now: Timestamp) -> Fate {
        match order.state {
            OrderState::Valid { .. }
            | OrderState::Renewing(_)
            | OrderState::Canceled { .. }
            | OrderState::Stopped { .. } => Fate::Kept,
            OrderState::Open | OrderState::Failed { .. } if order.expires_at.plus(self.orders) <= now => {
                Fate::Dead
            }
            OrderState::Open | OrderState::Failed { .. } | OrderState::Processing { .. } => Fate::Later,
        }
    }

    /// What becomes of an authorization. `in_use` are those that orders name which may still be worked on, of all the
    /// orders that are older than [`Self::orders_made_before`].
    #[must_use]
    pub fn authorization(
        &self,
        authorization: &Authorization,
        in_use: &HashSet<AuthorizationId>,
        now: Timestamp,
    ) -> Fate {
        let expired_at = authorization.expires_at;
        let over_at = match authorization.state {
            AuthorizationState::Pending
            | AuthorizationState::Valid { .. }
            | AuthorizationState::Trusted { .. } => expired_at,
            AuthorizationState::Invalid { failed_at: at }
            | AuthorizationState::Deactivated { at }
            | AuthorizationState::Revoked { at } => at.min(expired_at),
        };
        if over_at.plus(self.authorizations_age()) <= now && !in_use.contains(&authorization.id) {
            Fate::Dead
        } else {
            Fate::Later
        }
    }

    /// What becomes of an account of which the store says that it never placed an order. One that has ended stays, so
    /// that its key is not admitted again; one that is bound to an external account is somebody's whom we know.
    #[must_use]
    pub fn unused_account(&self, account: &Account, now: Timestamp) -> Fate {
        match account.state {
            AccountState::Deactivated { .. } | AccountState::Revoked { .. } => Fate::Kept,
            AccountState::Valid if account.external_account.is_some() => Fate::Kept,
            AccountState::Valid if account.created_at.plus(self.unused_accounts) <= now => Fate::Dead,
            AccountState::Valid => Fate::Later,
        }
    }

    /// What becomes of the count of a pair's failures.
    #[must_use]
    pub fn failing(&self, failing: &Failing, now: Timestamp) -> Fate {
        match failing.paused_at {
            None if failing.last_at.plus(self.failures) <= now => Fate::Dead,
            _ => Fate::Later,
        }
    }
}

/// The order's authorizations, if it may still be worked on: they must not be taken from under it.
#[must_use]
pub fn in_use_by(order: &Order) -> &[AuthorizationId] {
    match order.state {
        OrderState::Open | OrderState::Processing { .. } => &order.authorizations,
        OrderState::Valid { .. }
        | OrderState::Renewing(_)
        | OrderState::Canceled { .. }
        | OrderState::Stopped { .. }
        | OrderState::Failed { .. } => &[],
    }
}
