//! Limits of single accounts, and the pauses of names that failed again and again.

use ca_core::acme::pause::{Failing, PairId};
use ca_core::acme::rate_limit::{Allowance, Limit};
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::AccountId;
use ca_core::pkix::identifier::Identifier;
use ca_core::store::{Change, Commit, StoreError};
use serde_json::{Value, json};

use super::execute::{Administration, DECISIONS, answer_page, not_found, store_failure};
use super::{Answer, PAGE_ROWS, views};
use crate::failure::{Code, Failure};

impl Administration {
    /// Gives an account a limit of its own, or its directory's again.
    pub(super) async fn limit_account(
        &self,
        id: &str,
        limit: Limit,
        allowance: Option<Allowance>,
        uid: u32,
    ) -> Result<Answer, Failure> {
        if !limit.is_per_account() {
            return Err(Failure::new(
                Code::Usage,
                format!("{limit} can't be one account's own"),
                "set it in chancery.toml, under acme.limits",
            ));
        }
        for _ in 0..DECISIONS {
            let account = self.account(id).await?;
            let next = account.with_limit(limit, allowance);
            if next == account {
                return Ok(Answer::Object(views::account(&account)));
            }
            let event = AuditEvent {
                at: self.clock.now(),
                actor: Actor::Operator { uid },
                action: Action::AccountLimited {
                    account: account.id,
                    limit: limit.name().to_owned(),
                    value: allowance.map_or_else(|| "default".to_owned(), |own| own.to_string()),
                },
            };
            let changes = vec![Change::PutAccount(next)];
            match self.store.commit(Commit { changes, audit: vec![event], ..Commit::default() }).await {
                Ok(()) => return Ok(Answer::Object(views::account(&self.account(id).await?))),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(store_failure(error)),
            }
        }
        Err(store_failure(StoreError::Conflict))
    }

    /// A page of paused names.
    pub(super) async fn paused(
        &self,
        account: Option<AccountId>,
        after: Option<PairId>,
    ) -> Result<Answer, Failure> {
        let page = self.store.failing_pairs(account, true, after, PAGE_ROWS).await.map_err(store_failure)?;
        Ok(answer_page(page, failing))
    }

    /// Lifts the pause of one name of an account, or of all.
    pub(super) async fn unpause(&self, id: &str, name: Option<&str>, uid: u32) -> Result<Answer, Failure> {
        let account = self.account(id).await?.id;
        let lifted = match name {
            Some(text) => {
                let name = Identifier::from_text(text).map_err(|why| {
                    Failure::new(Code::Usage, why, "give the name that `chancery account paused` shows")
                })?;
                let pair = PairId::new(account, &name);
                if !self.unpause_pair(pair, uid).await? {
                    let missing = not_found("paused name", text);
                    return Err(Failure { fix: "see `chancery account paused`".to_owned(), ..missing });
                }
                vec![name.base().to_string()]
            }
            None => {
                let mut lifted = Vec::new();
                let mut after = None;
                loop {
                    let page = self.store.failing_pairs(Some(account), true, after, PAGE_ROWS).await;
                    let page = page.map_err(store_failure)?;
                    for pair in &page.rows {
                        if self.unpause_pair(pair.id(), uid).await? {
                            lifted.push(pair.name.to_string());
                        }
                    }
                    after = page.next;
                    if after.is_none() {
                        break lifted;
                    }
                }
            }
        };
        Ok(Answer::Object(json!({ "id": account, "unpaused": lifted })))
    }

    /// Gives whether it was paused.
    async fn unpause_pair(&self, pair: PairId, uid: u32) -> Result<bool, Failure> {
        for _ in 0..DECISIONS {
            let failing = self.store.failing(pair).await.map_err(store_failure)?;
            let Some(failing) = failing.filter(|failing| failing.paused_at.is_some()) else {
                return Ok(false);
            };
            let action = Action::NameUnpaused { account: failing.account, name: failing.name.to_string() };
            let event = AuditEvent { at: self.clock.now(), actor: Actor::Operator { uid }, action };
            let changes = vec![Change::PutFailing(Box::new(failing.unpaused()))];
            match self.store.commit(Commit { changes, audit: vec![event], ..Commit::default() }).await {
                Ok(()) => return Ok(true),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(store_failure(error)),
            }
        }
        Err(store_failure(StoreError::Conflict))
    }
}

/// An account with a name that is paused for it.
fn failing(failing: &Failing) -> Value {
    json!({
        "id": failing.id().to_string(),
        "account": failing.account,
        "name": failing.name.to_string(),
        "failures": failing.failures,
        "first_failed_at": failing.first_at.to_string(),
        "last_failed_at": failing.last_at.to_string(),
        "paused_at": failing.paused_at.map(|at| at.to_string()),
        "detail": failing.detail,
    })
}
