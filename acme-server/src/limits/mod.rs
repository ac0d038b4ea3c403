//! Rate limits, bounds and pauses, [RFC 8555 §6.6](https://www.rfc-editor.org/rfc/rfc8555#section-6.6): what a request
//! counts against, and what a client is told whose request is one too many.
//!
//! What is counted is a change in the commit that it is about; the store judges it there. Nothing is read beforehand,
//! and where no limit is on, nothing is written either.

mod config;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ca_core::acme::account::Account;
use ca_core::acme::pause::{Failing, PairId};
use ca_core::acme::rate_limit::{Bound, Bucket, Claim, ClaimMode, Limit, Refusal};
use ca_core::acme::{Authorization, AuthorizationState, DirectoryName, Identifier};
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::store::{Change, Commit, StoreError, Version};
use ca_core::time::Timestamp;

pub use config::{LimitSettings, LimitsConfig, PruningConfig};

use crate::client_address::network_of;
use crate::problem::Problem;
use crate::service::{Directory, Shared};

/// How many refusals are remembered.
const REMEMBERED: usize = 4096;

/// When to ask again where nothing frees a place but somebody's doing, in seconds.
const BOUND_RETRY_SECONDS: u32 = 3600;
/// When to ask again for a name that an operator has to look at, in seconds.
const PAUSE_RETRY_SECONDS: u32 = 24 * 3600;

/// The name under which refusals of paused names are counted.
const PAUSE: &str = "pause_after_failures";

/// Buckets known to be full: arrival times only rise, so until a place is free nobody need ask the store.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<HashMap<Bucket, Refusal>>);

impl Refusals {
    fn find(&self, claims: &[Change], now: Timestamp) -> Option<Refusal> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        claims.iter().find_map(|change| match change {
            Change::Claim(claim) if claim.mode != ClaimMode::Note => {
                known.get(&claim.bucket).filter(|refusal| now < refusal.retry_at).cloned()
            }
            _ => None,
        })
    }

    fn remember(&self, refusal: &Refusal, now: Timestamp) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, refusal| now < refusal.retry_at);
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(refusal.bucket, refusal.clone());
    }
}

/// What a request counts against.
pub(crate) struct Counted<'a> {
    settings: &'a LimitSettings,
    account: Option<&'a Account>,
    now: Timestamp,
    changes: Vec<Change>,
    /// The names that single buckets are about, for messages.
    subjects: Vec<(Bucket, &'a Identifier)>,
}

impl<'a> Counted<'a> {
    fn begin(directory: &'a Directory, account: Option<&'a Account>, now: Timestamp) -> Self {
        Self { settings: &directory.settings.limits, account, now, changes: Vec::new(), subjects: Vec::new() }
    }

    /// newAccount. One that is bound to an external account was let in by an operator and is not bounded.
    pub(crate) fn new_account(
        directory: &'a Directory,
        client: Option<IpAddr>,
        bound: bool,
        now: Timestamp,
    ) -> Self {
        let mut counted = Self::begin(directory, None, now);
        let (settings, name) = (counted.settings, &directory.settings.policy.directory);
        counted.claim(Limit::NewAccountsPerAddress, ClaimMode::Take, None, || {
            // Only a listener that does not tell its peers leaves all of them in one bucket.
            let network =
                client.map(|address| network_of(address, settings.ipv4_prefix, settings.ipv6_prefix));
            Bucket::new_accounts(name, network.as_deref().unwrap_or("unknown"))
        });
        if let (false, Some(below)) = (bound, settings.max_unused_accounts) {
            counted.changes.push(Change::RequireBound(Bound::UnusedAccounts { below: below.get() }));
        }
        counted
    }

    /// newOrder. An order that replaces a certificate in time is exempt from the rates, RFC 9773 §5.
    pub(crate) fn new_order(
        directory: &'a Directory,
        account: &'a Account,
        names: &'a [Identifier],
        authorizations: &'a [Authorization],
        exempt: bool,
        now: Timestamp,
    ) -> Self {
        let mut counted = Self::begin(directory, Some(account), now);
        let (settings, policy) = (counted.settings, &directory.settings.policy);
        let name = &policy.directory;
        // What is to be validated is what failed before: not names that are proven or trusted.
        let pending = || authorizations.iter().filter(|held| held.state == AuthorizationState::Pending);
        if settings.pause_after.is_some() && pending().next().is_some() {
            let pairs = pending().map(|held| PairId::new(account.id, &held.identifier)).collect();
            counted.changes.push(Change::RequireUnpaused(pairs));
        }
        for held in pending() {
            let identifier = &held.identifier;
            counted.claim(Limit::FailedValidationsPerName, ClaimMode::Look, Some(identifier), || {
                Bucket::failed_validations(name, account.id, identifier)
            });
        }
        let adding = pending().filter(|held| held.version == Version::NEW).count();
        if let (1.., Some(most)) = (adding, settings.max_pending_authorizations) {
            counted.changes.push(Change::RequireBound(Bound::PendingAuthorizations {
                account: account.id,
                made_after: now.minus(policy.limits.authorization_lifetime),
                adding: u32::try_from(adding).unwrap_or(u32::MAX),
                most: most.get(),
            }));
        }
        if exempt {
            return counted;
        }
        counted.claim_order(name, account);
        let mut counted_names: Vec<Bucket> = Vec::new();
        for identifier in names {
            let bucket = Bucket::new_orders_for(name, identifier);
            // A name and its wildcard count once.
            if !counted_names.contains(&bucket) {
                counted_names.push(bucket);
                counted.claim(Limit::NewOrdersPerName, ClaimMode::Take, Some(identifier), || bucket);
            }
        }
        let set = || Bucket::certificates(name, names);
        counted.claim(Limit::CertificatesPerNameSet, ClaimMode::Look, None, set);
        counted
    }

    /// What newOrder counts against whatever is ordered, unless it is exempt.
    pub(crate) fn any_order(directory: &'a Directory, account: &'a Account, now: Timestamp) -> Self {
        let mut counted = Self::begin(directory, Some(account), now);
        counted.claim_order(&directory.settings.policy.directory, account);
        counted
    }

    fn claim_order(&mut self, name: &DirectoryName, account: &Account) {
        self.claim(Limit::NewOrdersPerAccount, ClaimMode::Take, None, || {
            Bucket::new_orders(name, account.id)
        });
        self.claim(Limit::NewOrdersPerDirectory, ClaimMode::Take, None, || Bucket::all_new_orders(name));
    }

    /// finalize: the certificate is counted where it becomes certain to be asked for.
    pub(crate) fn finalize(
        directory: &'a Directory,
        account: &'a Account,
        names: &'a [Identifier],
        exempt: bool,
        now: Timestamp,
    ) -> Self {
        let mut counted = Self::begin(directory, Some(account), now);
        if !exempt {
            let name = &directory.settings.policy.directory;
            let set = || Bucket::certificates(name, names);
            counted.claim(Limit::CertificatesPerNameSet, ClaimMode::Take, None, set);
        }
        counted
    }

    fn claim(
        &mut self,
        limit: Limit,
        mode: ClaimMode,
        name: Option<&'a Identifier>,
        bucket: impl FnOnce() -> Bucket,
    ) {
        let own = self.account.and_then(|account| Some((account.id, account.limits.get(&limit)?)));
        let quota = own.map_or_else(|| self.settings.quota(limit), |(_, own)| own.quota());
        if let Some(quota) = quota {
            let bucket = bucket().under(quota, own.map(|(account, _)| account));
            self.subjects.extend(name.map(|name| (bucket, name)));
            self.changes.push(Change::Claim(Claim { limit, bucket, quota, mode, at: self.now }));
        }
    }
}

impl Shared {
    /// Refuses what counts against a limit that is known to be used up, without a look into the store.
    ///
    /// # Errors
    /// `rateLimited` with Retry-After.
    pub(crate) fn require_open(&self, counted: &Counted<'_>) -> Result<(), Problem> {
        match self.refusals.find(&counted.changes, counted.now) {
            Some(refusal) => Err(self.refused(counted, &refusal)),
            None => Ok(()),
        }
    }

    /// Commits what counts against limits, or tells which one is used up.
    ///
    /// # Errors
    /// `rateLimited` with Retry-After, or why the store did not take the commit.
    pub(crate) async fn commit_within(
        &self,
        mut counted: Counted<'_>,
        mut commit: Commit,
    ) -> Result<(), Problem> {
        self.require_open(&counted)?;
        let mut changes = std::mem::take(&mut counted.changes);
        changes.append(&mut commit.changes);
        match self.store.commit(Commit { changes, ..commit }).await {
            Ok(()) => Ok(()),
            Err(StoreError::Limited(refusal)) => {
                self.refusals.remember(&refusal, counted.now);
                Err(self.refused(&counted, &refusal))
            }
            Err(StoreError::Bounded(bound)) => Err(self.bounded(&counted, &bound)),
            Err(StoreError::Paused(pair)) => Err(self.paused(&counted, pair).await),
            Err(error) => Err(error.into()),
        }
    }

    fn refused(&self, counted: &Counted<'_>, refusal: &Refusal) -> Problem {
        self.metrics.limited(refusal.limit.name());
        let Refusal { limit, quota, retry_at, .. } = refusal;
        // Rounded up, so that whoever waits as long is not told to wait once more.
        let seconds = retry_at.since(counted.now).as_millis().div_ceil(1000);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX).max(1);
        let what = match limit {
            Limit::NewAccountsPerAddress => "too many new accounts from this client's network".to_owned(),
            Limit::NewOrdersPerAccount => "too many orders by this account".to_owned(),
            Limit::NewOrdersPerDirectory => "too many orders in this directory".to_owned(),
            Limit::NewOrdersPerName => format!("too many orders for {}", counted.name_in(refusal)),
            Limit::CertificatesPerNameSet => "too many certificates for exactly these names".to_owned(),
            Limit::FailedValidationsPerName => {
                format!("too many failed validations of {} by this account", counted.name_in(refusal))
            }
        };
        let own = counted.account.is_some_and(|account| account.limits.contains_key(limit));
        let place = if own {
            "it is this account's own".to_owned()
        } else {
            format!("the CA's operator sets it with {}", counted.settings.key(limit.name()))
        };
        let detail = format!(
            "{what}: the limit {limit} is {quota}, and the next is admitted in {seconds} seconds, at {}; {place}",
            // The date has whole seconds: not before the time.
            retry_at.plus(std::time::Duration::from_millis(999))
        );
        counted.problem(detail, seconds)
    }

    fn bounded(&self, counted: &Counted<'_>, bound: &str) -> Problem {
        let settings = counted.settings;
        let number = |most: Option<std::num::NonZeroU32>| most.map_or(0, std::num::NonZeroU32::get);
        let (name, detail) = if bound == "max_unused_accounts" {
            let most = number(settings.max_unused_accounts);
            (
                "max_unused_accounts",
                format!(
                    "this CA holds {most} accounts that never ordered anything, and takes no more of them until some order or are deleted"
                ),
            )
        } else {
            let most = number(settings.max_pending_authorizations);
            (
                "max_pending_authorizations",
                format!(
                    "this account would have more than {most} pending authorizations; answer their challenges, deactivate them, or wait until they expire"
                ),
            )
        };
        self.metrics.limited(name);
        let key = settings.key(name);
        counted.problem(format!("{detail}; the CA's operator sets this with {key}"), BOUND_RETRY_SECONDS)
    }

    async fn paused(&self, counted: &Counted<'_>, pair: PairId) -> Problem {
        self.metrics.limited(PAUSE);
        let account = counted.account.map(|account| account.id);
        let paused = self.store.failing(pair).await.ok().flatten();
        let unpause =
            |failing: &Failing| format!("`chancery account unpause {} {}`", failing.account, failing.name);
        let detail = match paused.filter(|failing| Some(failing.account) == account) {
            Some(failing) => format!(
                "orders for {} by this account are paused: its validation failed {} times in a row, from {} to {}, \
                 the last time because: {}; repair that, then ask the CA's operator to lift the pause with {}",
                failing.name,
                failing.failures,
                failing.first_at,
                failing.last_at,
                failing.detail,
                unpause(&failing)
            ),
            None => {
                "orders for one of these names by this account are paused; ask the CA's operator".to_owned()
            }
        };
        counted.problem(detail, PAUSE_RETRY_SECONDS)
    }

    /// What the outcome of a validation counts: a failure against its limit and towards a pause, a success as the end of
    /// the failures before it.
    ///
    /// # Errors
    /// If the failures before can't be read.
    pub(crate) async fn count_outcome(
        &self,
        directory: &Directory,
        account: &Account,
        authorization: &Authorization,
        failed: Option<&str>,
        commit: &mut Commit,
        now: Timestamp,
    ) -> Result<(), Problem> {
        let mut counted = Counted::begin(directory, Some(account), now);
        let pair = PairId::new(authorization.account, &authorization.identifier);
        match (failed, counted.settings.pause_after) {
            (None, None) => {}
            (None, Some(_)) => commit.changes.push(Change::ForgetFailing(pair)),
            (Some(detail), pause_after) => {
                let name = &directory.settings.policy.directory;
                counted.claim(Limit::FailedValidationsPerName, ClaimMode::Note, None, || {
                    Bucket::failed_validations(name, authorization.account, &authorization.identifier)
                });
                commit.changes.append(&mut counted.changes);
                let Some(pause_after) = pause_after else { return Ok(()) };
                let before = self.store.failing(pair).await?;
                let was_paused = before.as_ref().is_some_and(|failing| failing.paused_at.is_some());
                let (account, name) = (authorization.account, &authorization.identifier);
                let failing = Failing::after(before, account, name, detail, pause_after, now);
                if failing.paused_at.is_some() && !was_paused {
                    commit.audit.push(AuditEvent {
                        at: now,
                        actor: Actor::Account(account),
                        action: Action::NamePaused {
                            account,
                            name: failing.name.to_string(),
                            failures: failing.failures,
                            detail: failing.detail.clone(),
                        },
                    });
                }
                commit.changes.push(Change::PutFailing(Box::new(failing)));
            }
        }
        Ok(())
    }
}

impl Counted<'_> {
    /// Of which name a refusal speaks.
    fn name_in(&self, refusal: &Refusal) -> String {
        let found = self.subjects.iter().find(|(bucket, _)| *bucket == refusal.bucket);
        found.map_or_else(|| "one of these names".to_owned(), |(_, name)| format!("'{}'", name.base()))
    }

    fn problem(&self, detail: String, retry_after_seconds: u32) -> Problem {
        match &self.settings.help_url {
            Some(url) => Problem::rate_limited(format!("{detail}; see {url}"), retry_after_seconds)
                .with_link(url, "help"),
            None => Problem::rate_limited(detail, retry_after_seconds),
        }
    }
}
