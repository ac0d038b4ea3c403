//! Certificates that an administrator wants renewed sooner, as after an incident: RFC 9773's windows, pulled forward.

use std::time::Duration;

use ca_core::acme::RenewalPull;
use ca_core::acme::renewal::PullScope;
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::RenewalPullId;
use ca_core::random::SystemRandom;
use ca_core::store::{Change, Commit, StoreError, Version};
use ca_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Answer;
use super::execute::{Administration, not_found, store_failure};
use crate::failure::{Code, Failure};

/// How many wishes there can be: each is looked at for each question that a client asks.
const MOST: usize = 1000;

/// The longest URL of an explanation, in bytes.
const LONGEST_URL: usize = 2000;

/// Which certificates, as an administrator names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullOf {
    /// All of an issuer, by id.
    Issuer(String),
    /// All of a profile.
    Profile(String),
    /// All of an account, by id.
    Account(String),
    /// One, by id or serial.
    Certificate(String),
}

/// What an administrator wants renewed, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPull {
    /// Which certificates.
    pub of: PullOf,
    /// From when on; now without it.
    pub start: Option<Timestamp>,
    /// By when; a day after the start without it.
    pub end: Option<Timestamp>,
    /// Only those issued before this time; now without it.
    pub issued_before: Option<Timestamp>,
    /// A page about it.
    pub explanation_url: Option<String>,
}

impl Administration {
    /// Stores a wish; clients hear of it when they next ask.
    pub(super) async fn pull_renewals(&self, new: NewPull, uid: u32) -> Result<Answer, Failure> {
        let now = self.clock.now();
        let start = new.start.unwrap_or(now).whole_seconds();
        let end = new.end.unwrap_or_else(|| start.plus(Duration::from_hours(24))).whole_seconds();
        if end <= start {
            return Err(Failure::new(
                Code::Usage,
                format!("the window would end at {end}, and begin at {start}"),
                "give --end a time after --start",
            ));
        }
        if let Some(url) = &new.explanation_url {
            check_url(url)?;
        }
        if self.store.renewal_pulls().await.map_err(store_failure)?.len() >= MOST {
            return Err(Failure::new(
                Code::Conflict,
                format!("there are {MOST} wishes already"),
                "remove those that are done: `chancery renewal list`, `chancery renewal remove ID`",
            ));
        }
        let pull = RenewalPull {
            id: RenewalPullId::generate(now, &mut SystemRandom),
            scope: self.scope(new.of).await?,
            issued_before: new.issued_before.unwrap_or(now),
            start,
            end,
            explanation_url: new.explanation_url,
            created_at: now,
            version: Version::NEW,
        };
        let action = Action::RenewalPulled {
            pull: pull.id,
            scope: pull.scope.to_string(),
            issued_before: pull.issued_before,
            start,
            end,
        };
        let commit = Commit {
            changes: vec![Change::PutRenewalPull(Box::new(pull.clone()))],
            audit: vec![AuditEvent { at: now, actor: Actor::Operator { uid }, action }],
            ..Commit::default()
        };
        self.store.commit(commit).await.map_err(store_failure)?;
        Ok(Answer::Object(view(&pull)))
    }

    pub(super) async fn renewal_pulls(&self) -> Result<Answer, Failure> {
        let pulls = self.store.renewal_pulls().await.map_err(store_failure)?;
        Ok(Answer::Page { rows: pulls.iter().map(view).collect(), next: None })
    }

    /// Takes a wish back: the windows are again as the lifetimes ask for.
    pub(super) async fn remove_renewal_pull(&self, id: &str, uid: u32) -> Result<Answer, Failure> {
        let missing = || not_found("renewal", id);
        let parsed: RenewalPullId = id.parse().map_err(|_| missing())?;
        let pulls = self.store.renewal_pulls().await.map_err(store_failure)?;
        let pull = pulls.into_iter().find(|pull| pull.id == parsed).ok_or_else(missing)?;
        let action = Action::RenewalPullRemoved { pull: parsed };
        let event = AuditEvent { at: self.clock.now(), actor: Actor::Operator { uid }, action };
        let commit = Commit {
            changes: vec![Change::RemoveRenewalPull(parsed)],
            audit: vec![event],
            ..Commit::default()
        };
        match self.store.commit(commit).await {
            Ok(()) => Ok(Answer::Object(view(&pull))),
            // Somebody else removed it meanwhile.
            Err(StoreError::Conflict) => Err(missing()),
            Err(error) => Err(store_failure(error)),
        }
    }

    /// What an administrator named, if it is there: a mistyped one would look as if it were obeyed.
    async fn scope(&self, of: PullOf) -> Result<PullScope, Failure> {
        Ok(match of {
            PullOf::Issuer(id) => {
                let issuers = self.store.issuers().await.map_err(store_failure)?;
                let found = issuers.into_iter().find(|issuer| issuer.id.as_str() == id);
                PullScope::Issuer(found.ok_or_else(|| not_found("issuer", &id))?.id)
            }
            // Also one that is not configured any more: its certificates are there.
            PullOf::Profile(name) => PullScope::Profile(name.try_into().map_err(|error| {
                Failure::new(Code::Usage, error, "see the sections [profiles.NAME] of chancery.toml")
            })?),
            PullOf::Account(id) => PullScope::Account(self.account(&id).await?.id),
            PullOf::Certificate(id) => PullScope::Certificate(self.certificate(&id).await?.id),
        })
    }
}

fn check_url(url: &str) -> Result<(), Failure> {
    let page = url.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    if page && url.len() <= LONGEST_URL {
        return Ok(());
    }
    Err(Failure::new(
        Code::Usage,
        "the explanation is no URL that people can open",
        "give --explanation-url an http or https URL",
    ))
}

fn view(pull: &RenewalPull) -> Value {
    let (kind, which) = pull.scope.parts();
    json!({
        "id": pull.id,
        "scope": pull.scope.to_string(),
        kind: which,
        "start": pull.start.to_string(),
        "end": pull.end.to_string(),
        "issued_before": pull.issued_before.to_string(),
        "explanation_url": pull.explanation_url,
        "created_at": pull.created_at.to_string(),
    })
}
