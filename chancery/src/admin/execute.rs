//! Carries an administrator's request out over the store and the authority.

use std::sync::Arc;
use std::time::Duration;

use ca_core::acme::{Account, AccountState};
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::authority::{Authority, AuthorityError, RevokeError};
use ca_core::id::{AccountId, OrderId};
use ca_core::pkix::serial::SerialNumber;
use ca_core::revocation::RevocationReason;
use ca_core::store::{
    CertificateFilter, CertificateId, CertificateRecord, CertificateState, Change, Commit, EffectKind,
    IssuerKind, Page, Store, StoreError, Topic,
};
use ca_core::time::{Clock, Stopwatch};
use serde_json::{Value, json};

use super::create::Wanted;
use super::{Answer, PAGE_ROWS, Request, views};
use crate::data::DataDir;
use crate::failure::{Code, Failure};

/// How long a revocation waits for its CRL before it says that the CRL is late.
const CRL_WITHIN: Duration = Duration::from_secs(10);
/// How often the wait looks by itself, in case a wake-up was missed.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How many waiting effects are looked through for the CRL's.
const EFFECTS_READ: u32 = 10_000;
/// How often a change is decided again after somebody else came first.
pub(super) const DECISIONS: u32 = 5;

/// What requests are carried out on.
pub struct Administration {
    /// The data directory.
    pub data: DataDir,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The authority; `None` where only reading is possible.
    pub authority: Option<Arc<Authority>>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The roles that this process runs; empty for the command line.
    pub roles: Vec<&'static str>,
    /// `acme.public_url`, without a trailing slash.
    pub acme_url: String,
    /// Whether something else in this process carries effects out; else they are carried out here.
    pub serving: bool,
}

impl Administration {
    /// Carries a request out, in the name of a Unix user.
    pub async fn execute(&self, request: Request, uid: u32) -> Answer {
        match self.answer(request, uid).await {
            Ok(answer) => answer,
            Err(failure) => Answer::Failed(failure),
        }
    }

    async fn answer(&self, request: Request, uid: u32) -> Result<Answer, Failure> {
        match request {
            Request::Server => Ok(Answer::Object(json!({ "id": std::process::id(), "roles": self.roles }))),
            Request::Issuers { kind } => {
                let rows = self.issuers(kind).await?;
                Ok(Answer::Page { rows, next: None })
            }
            Request::Issuer { kind, id } => {
                let wanted = id.to_ascii_lowercase();
                let found = self.issuers(kind).await?.into_iter().find(|issuer| {
                    issuer.get("id").and_then(Value::as_str) == Some(&id)
                        || issuer.get("sha256").and_then(Value::as_str) == Some(&wanted)
                });
                let noun = match kind {
                    IssuerKind::Root => "root",
                    IssuerKind::Issuing => "issuer",
                };
                found.map(Answer::Object).ok_or_else(|| not_found(noun, &id))
            }
            Request::CreateIssuer { kind, root, organisation, key_algorithm, signature_algorithm } => {
                let signature_algorithm =
                    signature_algorithm.unwrap_or_else(|| key_algorithm.default_signature());
                self.create(Wanted { kind, root, organisation, key_algorithm, signature_algorithm }, uid)
                    .await
            }
            Request::Certificates { filter, after } => {
                let page = self.store.certificates(filter, after, PAGE_ROWS).await.map_err(store_failure)?;
                Ok(answer_page(page, views::certificate))
            }
            Request::Certificate { id } => {
                let record = self.certificate(&id).await?;
                let issuers = self.store.issuers().await.map_err(store_failure)?;
                Ok(Answer::Object(views::certificate_with_pem(&record, &issuers)))
            }
            Request::PullRenewals(new) => self.pull_renewals(new, uid).await,
            Request::RenewalPulls => self.renewal_pulls().await,
            Request::RemoveRenewalPull { id } => self.remove_renewal_pull(&id, uid).await,
            Request::Revoke { id, reason } => self.revoke(&id, reason, uid).await,
            Request::Accounts { after } => {
                let page = self.store.accounts(after, PAGE_ROWS).await.map_err(store_failure)?;
                Ok(answer_page(page, views::account))
            }
            Request::Account { id } => Ok(Answer::Object(views::account(&self.account(&id).await?))),
            Request::DeactivateAccount { id } => self.deactivate_account(&id, uid).await,
            Request::LimitAccount { id, limit, allowance } => {
                self.limit_account(&id, limit, allowance, uid).await
            }
            Request::PausedNames { account, after } => self.paused(account, after).await,
            Request::Unpause { id, name } => self.unpause(&id, name.as_deref(), uid).await,
            Request::Orders { account, after } => self.orders(account, after).await,
            Request::CreateExternalAccount(new) => self.create_external_account(new, uid).await,
            Request::ExternalAccounts { after } => self.external_accounts(after).await,
            Request::ExternalAccount { id } => self.show_external_account(&id).await,
            Request::RevokeExternalAccount { id, accounts } => {
                self.revoke_external_account(&id, accounts, uid).await
            }
            Request::ForgetSealingKey => self.forget_sealing_key(uid).await,
            Request::Order { id } => {
                let parsed = id.parse().map_err(|_| not_found("order", &id))?;
                let found = self.store.order(parsed).await.map_err(store_failure)?;
                let (order, authorizations) = found.ok_or_else(|| not_found("order", &id))?;
                Ok(Answer::Object(views::order_with_authorizations(
                    &order,
                    &authorizations,
                    self.clock.now(),
                )))
            }
        }
    }

    /// The authority, where this process has it.
    pub(super) fn authority(&self) -> Result<&Authority, Failure> {
        self.authority.as_deref().ok_or_else(|| {
            Failure::new(
                Code::Server,
                "this process can't sign or revoke",
                "start `chancery serve` with role ca",
            )
        })
    }

    async fn issuers(&self, kind: IssuerKind) -> Result<Vec<Value>, Failure> {
        let issuers = self.store.issuers().await.map_err(store_failure)?;
        let crls = self.store.crl_summaries().await.map_err(store_failure)?;
        Ok(issuers
            .iter()
            .filter(|issuer| issuer.kind == kind)
            .map(|issuer| views::issuer(issuer, &crls))
            .collect())
    }

    async fn orders(&self, account: Option<AccountId>, after: Option<OrderId>) -> Result<Answer, Failure> {
        let (ids, next) = match account {
            Some(account) => {
                let page = self.store.orders_of(account, after, PAGE_ROWS).await.map_err(store_failure)?;
                (page.rows, page.next)
            }
            None => {
                let page = self.store.orders(after, PAGE_ROWS).await.map_err(store_failure)?;
                (page.rows.iter().map(|order| order.id).collect(), page.next)
            }
        };
        let now = self.clock.now();
        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            // The status of an open order follows from its authorizations.
            if let Some((order, authorizations)) = self.store.order(id).await.map_err(store_failure)? {
                rows.push(views::order(&order, &authorizations, now));
            }
        }
        Ok(Answer::Page { rows, next: next.map(|next| next.to_string()) })
    }

    pub(super) async fn certificate(&self, id: &str) -> Result<CertificateRecord, Failure> {
        if let Ok(id) = id.parse::<CertificateId>()
            && let Some(record) = self.store.certificate(id).await.map_err(store_failure)?
        {
            return Ok(record);
        }
        let serial: SerialNumber =
            id.replace(':', "").to_ascii_lowercase().parse().map_err(|_| not_found("certificate", id))?;
        let filter = CertificateFilter { serial: Some(serial), ..CertificateFilter::default() };
        let mut page = self.store.certificates(filter, None, 2).await.map_err(store_failure)?;
        match (page.rows.pop(), page.rows.pop()) {
            (Some(record), None) => Ok(record),
            (Some(one), Some(other)) => Err(Failure::new(
                Code::Usage,
                format!("several issuers used the serial {id}"),
                format!("give the id: {} or {}", one.id, other.id),
            )),
            (None, _) => Err(not_found("certificate", id)),
        }
    }

    pub(super) async fn account(&self, id: &str) -> Result<Account, Failure> {
        let parsed = id.parse().map_err(|_| not_found("account", id))?;
        self.store.account(parsed).await.map_err(store_failure)?.ok_or_else(|| not_found("account", id))
    }

    pub(super) async fn deactivate_account(&self, id: &str, uid: u32) -> Result<Answer, Failure> {
        for _ in 0..DECISIONS {
            let account = self.account(id).await?;
            if account.require_valid().is_err() {
                return Ok(Answer::Object(views::account(&account)));
            }
            let now = self.clock.now();
            let ended = Account { state: AccountState::Revoked { at: now }, ..account };
            let event = AuditEvent {
                at: now,
                actor: Actor::Operator { uid },
                action: Action::AccountDeactivated { account: ended.id },
            };
            let commit =
                Commit { changes: vec![Change::PutAccount(ended)], audit: vec![event], ..Commit::default() };
            match self.store.commit(commit).await {
                Ok(()) => return Ok(Answer::Object(views::account(&self.account(id).await?))),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(store_failure(error)),
            }
        }
        Err(store_failure(StoreError::Conflict))
    }

    /// Revokes, and answers when the status that OCSP reads and the published CRL both say so.
    async fn revoke(&self, id: &str, reason: RevocationReason, uid: u32) -> Result<Answer, Failure> {
        let authority = self.authority()?;
        let record = self.certificate(id).await?;
        match record.state {
            CertificateState::Issued { .. } => {}
            CertificateState::Revoked { at, reason, .. } => {
                return Err(Failure::new(
                    Code::Conflict,
                    format!("{} was revoked at {at} ({reason}) already", record.id),
                    "nothing is left to do",
                ));
            }
            CertificateState::Reserved | CertificateState::Abandoned { .. } => {
                return Err(Failure::new(
                    Code::Conflict,
                    format!("{} was never released: its state is {}", record.id, record.state.name()),
                    "nothing is left to do: an abandoned certificate is on the CRL, a reserved one becomes either",
                ));
            }
        }
        authority.revoke(record.id.clone(), reason, Actor::Operator { uid }).await.map_err(revoke_failure)?;
        if !self.serving {
            authority.publish_crl(&record.id.issuer, record.shard).await.map_err(authority_failure)?;
        }
        self.wait_for_crl(&record).await?;
        let record = self.certificate(&record.id.to_string()).await?;
        Ok(Answer::Object(views::certificate(&record)))
    }

    /// Waits until no wish for this shard's CRL is left: each ends in the commit that publishes a CRL which was made from
    /// rows read after it.
    async fn wait_for_crl(&self, record: &CertificateRecord) -> Result<(), Failure> {
        let wish = EffectKind::PublishCrl { issuer: record.id.issuer.clone(), shard: record.shard };
        let waited = Stopwatch::start();
        while waited.elapsed() < CRL_WITHIN {
            let published = self.store.watch(&Topic::Crls);
            let waiting = self.store.effects(EFFECTS_READ).await.map_err(store_failure)?;
            if waiting.iter().all(|effect| effect.kind != wish) {
                return Ok(());
            }
            // Either outcome means to look again.
            let _ = tokio::time::timeout(LOOK_AGAIN, published).await;
        }
        Err(Failure::new(
            Code::Authority,
            format!("{} is revoked and OCSP says so, but its CRL is not published yet", record.id),
            "look at /readyz and the log of role ca: the issuer's key may be away; the CRL follows when it is back",
        ))
    }
}

pub(super) fn answer_page<T, K: ToString>(page: Page<T, K>, view: impl Fn(&T) -> Value) -> Answer {
    Answer::Page { rows: page.rows.iter().map(view).collect(), next: page.next.map(|next| next.to_string()) }
}

/// Says that there is no such row.
#[must_use]
pub fn not_found(noun: &str, id: &str) -> Failure {
    let shown: String = id.chars().take(80).flat_map(char::escape_default).collect();
    Failure::new(
        Code::NotFound,
        format!("there is no {noun} '{shown}'"),
        format!("see `chancery {noun} list`"),
    )
}

/// Says what a store's error means for the operator.
#[must_use]
pub fn store_failure(error: StoreError) -> Failure {
    let fix = match &error {
        StoreError::Conflict => "run the command again",
        StoreError::NotFound(_) => "check the id",
        StoreError::Busy(_) => "try again in a moment; if it stays, look at the server's log",
        StoreError::Full(_) => "free some space on the disk of the data directory; revocation still works",
        StoreError::Corrupt(_) => {
            "stop the server, run `chancery doctor`, and restore a backup if it finds damage"
        }
        StoreError::Refused(_) => "check store.role_users in chancery.toml",
        StoreError::Limited(_) | StoreError::Bounded(_) | StoreError::Paused(_) => {
            "no command of an operator is limited: report this with the program's version"
        }
    };
    Failure::new(Code::Store, &error, fix)
}

/// Says what the authority's error means for the operator.
#[must_use]
pub fn authority_failure(error: AuthorityError) -> Failure {
    match error {
        AuthorityError::Store(error) => store_failure(error),
        AuthorityError::Key(error) => crate::setup::keys_failure(&error),
        error @ AuthorityError::ClockBehind { .. } => {
            Failure::new(Code::Authority, error, "set the clock (`timedatectl`), then run the command again")
        }
        error @ AuthorityError::LoopbackUrl => Failure::new(
            Code::Authority,
            error,
            "set pki.public_url in chancery.toml to an http URL that relying parties can reach",
        ),
        AuthorityError::Creating => {
            Failure::new(Code::Conflict, error, "wait until it is there: `chancery issuer list`")
        }
        AuthorityError::HalfMade { ref signature_algorithm, ref parent, .. } => {
            let below = parent.as_ref().map(|root| format!(" --root {root}")).unwrap_or_default();
            let fix = format!(
                "complete it first: repeat the command with --signature-algorithm {}{below}",
                signature_algorithm.name()
            );
            Failure::new(Code::Conflict, error, fix)
        }
        error => Failure::new(Code::Authority, error, "see the log of role ca, and `chancery doctor`"),
    }
}

fn revoke_failure(error: RevokeError) -> Failure {
    match error {
        RevokeError::NotFound(id) => not_found("certificate", &id.to_string()),
        error @ RevokeError::AlreadyRevoked(_) => {
            Failure::new(Code::Conflict, error, "nothing is left to do")
        }
        error @ RevokeError::OfRoot { .. } => Failure::new(
            Code::Usage,
            error,
            "remove the root from the trust stores that hold it; `chancery certificate revoke` takes an issuing CA out of service",
        ),
        error @ RevokeError::NotIssued(_) => {
            Failure::new(Code::Conflict, error, "run the command again in a moment")
        }
        RevokeError::Authority(error) => authority_failure(error),
    }
}
