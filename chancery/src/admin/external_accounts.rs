//! External accounts for an administrator: made, listed, revoked with what rests on them, RFC 8555 §7.3.4.

use acme_server::sealing::{MacKey, key_hash, seal};
use ca_core::acme::external_account::{
    ExternalAccount, ExternalAccountState, GrantConfig, Owner, SealingKeyRecord, Uses,
};
use ca_core::acme::{Account, AccountState, ExternalAccountBinding, Grant};
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::{AccountId, ExternalAccountId};
use ca_core::policy::DirectoryPolicy;
use ca_core::random::SystemRandom;
use ca_core::store::{Change, Commit, Role, StoreError, Version};
use ca_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::execute::{Administration, DECISIONS, answer_page, not_found, store_failure};
use super::{Answer, PAGE_ROWS};
use crate::failure::{Code, Failure};

/// How many rows one commit changes at most.
const CHUNK: u32 = 500;

/// What an administrator wants made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewExternalAccount {
    /// For which directory; not needed where there is one.
    pub directory: Option<String>,
    /// Whose it is.
    pub owner: String,
    /// What its accounts may do.
    pub grant: GrantConfig,
    /// Whether it is for one account only.
    pub single_use: bool,
    /// Until when it can be used.
    pub expires_at: Option<Timestamp>,
}

impl Administration {
    /// Makes an external account. The answer is the only place where its MAC key ever stands in the clear.
    pub(super) async fn create_external_account(
        &self,
        new: NewExternalAccount,
        uid: u32,
    ) -> Result<Answer, Failure> {
        let usage = |detail: &dyn std::fmt::Display| {
            Failure::new(Code::Usage, detail, "see `chancery eab create --help`")
        };
        let policy = self.policy(new.directory.as_deref())?;
        let owner = Owner::try_from(new.owner).map_err(|e| usage(&e))?;
        let grant = Grant::new(&new.grant, policy).map_err(|e| usage(&e))?;
        let now = self.clock.now();
        if new.expires_at.is_some_and(|at| at <= now) {
            return Err(usage(&"--expires lies in the past"));
        }
        let published = self.sealing_key().await?.ok_or_else(|| {
            Failure::new(
                Code::Conflict,
                "role acme has not published the key that MAC keys are sealed to",
                "start `chancery serve` once (role acme, where roles run apart), then run the command again",
            )
        })?;
        let id = ExternalAccountId::generate(now, &mut SystemRandom);
        let mac_key = MacKey::generate(&mut SystemRandom);
        let sealed = seal(&published.public_key, &policy.directory, id, &mac_key).map_err(|e| {
            Failure::new(Code::Store, e, "run `chancery eab forget-sealing-key`, and restart role acme")
        })?;
        let external = ExternalAccount {
            id,
            directory: policy.directory.clone(),
            owner,
            mac_key: sealed,
            uses: if new.single_use { Uses::Once { account: None } } else { Uses::Many },
            expires_at: new.expires_at,
            grant,
            state: ExternalAccountState::Valid,
            created_at: now,
            version: Version::NEW,
        };
        let action = Action::ExternalAccountCreated {
            external_account: id,
            directory: external.directory.to_string(),
            owner: external.owner.to_string(),
            names: external.grant.names.as_ref().map(|names| names.iter().map(ToString::to_string).collect()),
            trusted: external.grant.trusted,
            single_use: new.single_use,
            expires_at: external.expires_at,
        };
        let commit = Commit {
            changes: vec![Change::PutExternalAccount(Box::new(external.clone()))],
            audit: vec![AuditEvent { at: now, actor: Actor::Operator { uid }, action }],
            ..Commit::default()
        };
        self.store.commit(commit).await.map_err(store_failure)?;
        let mut made = view(&external, Some(&published), now);
        if let Some(object) = made.as_object_mut() {
            let acme_directory = format!("{}/acme/{}/directory", self.acme_url, external.directory);
            object.insert("acme_directory".to_owned(), acme_directory.into());
            object.insert("hmac_key".to_owned(), mac_key.to_base64url().as_str().into());
        }
        Ok(Answer::Object(made))
    }

    /// A page of external accounts, newest first.
    pub(super) async fn external_accounts(
        &self,
        after: Option<ExternalAccountId>,
    ) -> Result<Answer, Failure> {
        let page = self.store.external_accounts(after, PAGE_ROWS).await.map_err(store_failure)?;
        let (published, now) = (self.sealing_key().await?, self.clock.now());
        Ok(answer_page(page, |external| view(external, published.as_ref(), now)))
    }

    /// One external account, with the newest of the accounts that are bound to it.
    pub(super) async fn show_external_account(&self, id: &str) -> Result<Answer, Failure> {
        let external = self.external_account(id).await?;
        let bound = self.store.bound_accounts(external.id, None, PAGE_ROWS).await.map_err(store_failure)?;
        let mut shown = view(&external, self.sealing_key().await?.as_ref(), self.clock.now());
        if let Some(object) = shown.as_object_mut() {
            let accounts: Vec<String> = bound.rows.iter().map(|account| account.id.to_string()).collect();
            object.insert("accounts".to_owned(), accounts.into());
        }
        Ok(Answer::Object(shown))
    }

    /// Takes an external account back, at once, then the authorizations that rest on its trust, and with `accounts` the
    /// accounts that are bound to it. What was interrupted goes on when it is asked for again.
    pub(super) async fn revoke_external_account(
        &self,
        id: &str,
        accounts: bool,
        uid: u32,
    ) -> Result<Answer, Failure> {
        let external = self.revoke_row(id, uid).await?;
        let (mut authorizations, mut ended) = (0u64, 0u64);
        let mut after = None;
        loop {
            let page = self.store.bound_accounts(external.id, after, CHUNK).await.map_err(store_failure)?;
            for account in &page.rows {
                authorizations += self.withdraw_trust(external.id, account.id, uid).await?;
            }
            if accounts {
                ended += self.end_accounts(page.rows, uid).await?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut shown = view(&external, self.sealing_key().await?.as_ref(), self.clock.now());
        if let Some(object) = shown.as_object_mut() {
            object.insert("authorizations_revoked".to_owned(), authorizations.into());
            object.insert("accounts_deactivated".to_owned(), ended.into());
        }
        Ok(Answer::Object(shown))
    }

    async fn revoke_row(&self, id: &str, uid: u32) -> Result<ExternalAccount, Failure> {
        for _ in 0..DECISIONS {
            let external = self.external_account(id).await?;
            let now = self.clock.now();
            let revoked = external.revoked(now);
            if revoked == external {
                return Ok(external);
            }
            let action = Action::ExternalAccountRevoked { external_account: external.id };
            let commit = Commit {
                changes: vec![Change::PutExternalAccount(Box::new(revoked.clone()))],
                audit: vec![AuditEvent { at: now, actor: Actor::Operator { uid }, action }],
                ..Commit::default()
            };
            match self.store.commit(commit).await {
                Ok(()) => return Ok(revoked),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(store_failure(error)),
            }
        }
        Err(store_failure(StoreError::Conflict))
    }

    /// Revokes the trusted authorizations of one account, a chunk at a time.
    async fn withdraw_trust(
        &self,
        external_account: ExternalAccountId,
        account: AccountId,
        uid: u32,
    ) -> Result<u64, Failure> {
        let (mut revoked, mut conflicts) = (0, 0);
        loop {
            let trusted = self.store.trusted_authorizations(account, CHUNK).await.map_err(store_failure)?;
            if trusted.is_empty() {
                return Ok(revoked);
            }
            let now = self.clock.now();
            let count = u64::try_from(trusted.len()).unwrap_or(u64::MAX);
            let action = Action::TrustWithdrawn { external_account, account, authorizations: count };
            let commit = Commit {
                changes: trusted.iter().map(|held| Change::PutAuthorization(held.revoked(now))).collect(),
                audit: vec![AuditEvent { at: now, actor: Actor::Operator { uid }, action }],
                ..Commit::default()
            };
            match self.store.commit(commit).await {
                Ok(()) => revoked += count,
                Err(StoreError::Conflict) if conflicts < DECISIONS => conflicts += 1,
                Err(error) => return Err(store_failure(error)),
            }
        }
    }

    /// Ends those of these accounts that are still in use, in one commit where nobody comes between.
    async fn end_accounts(&self, accounts: Vec<Account>, uid: u32) -> Result<u64, Failure> {
        let now = self.clock.now();
        let in_use: Vec<Account> =
            accounts.into_iter().filter(|account| account.require_valid().is_ok()).collect();
        if in_use.is_empty() {
            return Ok(0);
        }
        let event = |account: &Account| AuditEvent {
            at: now,
            actor: Actor::Operator { uid },
            action: Action::AccountDeactivated { account: account.id },
        };
        let ended =
            |account: &Account| Account { state: AccountState::Revoked { at: now }, ..account.clone() };
        let commit = Commit {
            changes: in_use.iter().map(|account| Change::PutAccount(ended(account))).collect(),
            audit: in_use.iter().map(event).collect(),
            ..Commit::default()
        };
        match self.store.commit(commit).await {
            Ok(()) => {}
            // Somebody changed one of them: each by itself, decided again as often as it needs.
            Err(StoreError::Conflict) => {
                for account in &in_use {
                    self.deactivate_account(&account.id.to_string(), uid).await?;
                }
            }
            Err(error) => return Err(store_failure(error)),
        }
        Ok(u64::try_from(in_use.len()).unwrap_or(u64::MAX))
    }

    /// Lets role acme publish another sealing key.
    pub(super) async fn forget_sealing_key(&self, uid: u32) -> Result<Answer, Failure> {
        let published = self.sealing_key().await?.ok_or_else(|| {
            Failure::new(
                Code::NotFound,
                "role acme has published no sealing key",
                "nothing is left to do: it publishes one at its next start",
            )
        })?;
        let key = key_hash(&published.public_key);
        let action = Action::SealingKeyForgotten { role: Role::Acme, key };
        let event = AuditEvent { at: self.clock.now(), actor: Actor::Operator { uid }, action };
        let commit = Commit {
            changes: vec![Change::ForgetSealingKey(Role::Acme)],
            audit: vec![event],
            ..Commit::default()
        };
        self.store.commit(commit).await.map_err(store_failure)?;
        Ok(Answer::Object(json!({ "id": key })))
    }

    async fn sealing_key(&self) -> Result<Option<SealingKeyRecord>, Failure> {
        self.store.sealing_key(Role::Acme).await.map_err(store_failure)
    }

    async fn external_account(&self, id: &str) -> Result<ExternalAccount, Failure> {
        let parsed = id.parse().map_err(|_| not_found("eab", id))?;
        let found = self.store.external_account(parsed).await.map_err(store_failure)?;
        found.ok_or_else(|| not_found("eab", id))
    }

    /// The rules of a directory, or of the only one.
    fn policy(&self, name: Option<&str>) -> Result<&DirectoryPolicy, Failure> {
        let directories = self.authority()?.directories();
        let found = match name {
            Some(name) => directories.iter().find(|policy| policy.directory.as_str() == name),
            None => directories.first().filter(|_| directories.len() == 1),
        };
        found.ok_or_else(|| {
            let names: Vec<&str> = directories.iter().map(|policy| policy.directory.as_str()).collect();
            let detail = match name {
                Some(name) => {
                    format!("there is no directory '{}'", name.chars().take(80).collect::<String>())
                }
                None => "there are several directories".to_owned(),
            };
            Failure::new(Code::Usage, detail, format!("give --directory one of: {}", names.join(", ")))
        })
    }
}

/// An external account as `--json` shows it; without its MAC key.
fn view(external: &ExternalAccount, published: Option<&SealingKeyRecord>, now: Timestamp) -> Value {
    let ExternalAccount { grant, .. } = external;
    let used_by = match external.uses {
        Uses::Once { account } => account,
        Uses::Many => None,
    };
    let revoked_at = match external.state {
        ExternalAccountState::Revoked { at } => Some(at.to_string()),
        ExternalAccountState::Valid => None,
    };
    let openable = published.is_some_and(|key| key_hash(&key.public_key) == external.mac_key.sealed_to);
    json!({
        "id": external.id,
        "owner": external.owner,
        "directory": external.directory,
        "status": external.status(now),
        "names": grant.names,
        "wildcards": grant.wildcards,
        "profiles": grant.profiles,
        "max_days": grant.max_days,
        "challenges": grant.challenges,
        "trusted": grant.trusted,
        "single_use": matches!(external.uses, Uses::Once { .. }),
        "used_by": used_by,
        "created_at": external.created_at.to_string(),
        "expires_at": external.expires_at.map(|at| at.to_string()),
        "revoked_at": revoked_at,
        // Whether role acme, as it is now, can open its MAC key.
        "openable": openable,
    })
}

/// What an account is bound to, as `--json` shows the account.
pub(super) fn binding(binding: Option<&ExternalAccountBinding>) -> Value {
    binding.map_or(Value::Null, |binding| json!(binding.id))
}
