//! Administration: one request type, carried out by one function, whether it comes over the admin socket of a running
//! server or the command line does the work itself.

pub mod client;
mod create;
pub mod execute;
pub mod external_accounts;
mod limits;
pub mod renewal;
pub mod socket;
pub mod views;

use ca_core::acme::pause::PairId;
use ca_core::acme::rate_limit::{Allowance, Limit};
use ca_core::id::{AccountId, ExternalAccountId, OrderId};
use ca_core::revocation::RevocationReason;
use ca_core::signing::{KeyAlgorithm, SignatureAlgorithm};
use ca_core::store::{CertificateFilter, IssuerKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;
use external_accounts::NewExternalAccount;

/// The longest request, in bytes.
pub const LONGEST_REQUEST_BYTES: u32 = 64 * 1024;
/// The longest answer, in bytes: a page of 1,000 rows with room to spare.
pub const LONGEST_ANSWER_BYTES: u32 = 32 * 1024 * 1024;
/// The rows of one page.
pub const PAGE_ROWS: u32 = 500;

/// What an administrator can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The process that serves: its id and its roles.
    Server,
    /// Every issuer of a kind.
    Issuers {
        /// Roots or issuing CAs.
        kind: IssuerKind,
    },
    /// One issuer, by id or SHA-256 fingerprint.
    Issuer {
        /// Root or issuing CA.
        kind: IssuerKind,
        /// Its id.
        id: String,
    },
    /// Create a root, or an issuing CA below one, with a new key; answered when its CRLs are published.
    CreateIssuer {
        /// A root or an issuing CA.
        kind: IssuerKind,
        /// Below which root; the newest without it.
        root: Option<String>,
        /// The organizationName; that of the root, or of the newest root, without it.
        organisation: Option<String>,
        /// The kind of its key.
        key_algorithm: KeyAlgorithm,
        /// How it signs; as is usual for such a key without it.
        signature_algorithm: Option<SignatureAlgorithm>,
    },
    /// A page of the inventory, newest first.
    Certificates {
        /// Which.
        filter: CertificateFilter,
        /// Where the page before ended.
        after: Option<u64>,
    },
    /// One certificate, by id or serial.
    Certificate {
        /// `ISSUER-SERIAL`, or the serial where only one certificate has it.
        id: String,
    },
    /// Revoke a certificate; answered when OCSP and the CRL say so.
    Revoke {
        /// As in `Certificate`.
        id: String,
        /// Why.
        reason: RevocationReason,
    },
    /// A page of accounts, newest first.
    Accounts {
        /// Where the page before ended.
        after: Option<AccountId>,
    },
    /// One account.
    Account {
        /// Which.
        id: String,
    },
    /// End an account.
    DeactivateAccount {
        /// Which.
        id: String,
    },
    /// Give an account a rate limit of its own.
    LimitAccount {
        /// Which.
        id: String,
        /// The limit.
        limit: Limit,
        /// Its value; its directory's without it.
        allowance: Option<Allowance>,
    },
    /// A page of paused names.
    PausedNames {
        /// Of this account only.
        account: Option<AccountId>,
        /// Where the page before ended.
        after: Option<PairId>,
    },
    /// Let an account order a paused name again.
    Unpause {
        /// Which.
        id: String,
        /// The name; all of them without it.
        name: Option<String>,
    },
    /// A page of orders, newest first.
    Orders {
        /// Of this account only.
        account: Option<AccountId>,
        /// Where the page before ended.
        after: Option<OrderId>,
    },
    /// One order.
    Order {
        /// Which.
        id: String,
    },
    /// Make an external account; the answer holds its MAC key.
    CreateExternalAccount(NewExternalAccount),
    /// A page of external accounts, newest first.
    ExternalAccounts {
        /// Where the page before ended.
        after: Option<ExternalAccountId>,
    },
    /// One external account, with the accounts that are bound to it.
    ExternalAccount {
        /// Which.
        id: String,
    },
    /// Take an external account back, with the authorizations that rest on its trust.
    RevokeExternalAccount {
        /// Which.
        id: String,
        /// Whether the accounts that are bound to it are ended too.
        accounts: bool,
    },
    /// Let role acme publish another sealing key.
    ForgetSealingKey,
    /// Ask clients to renew certificates sooner.
    PullRenewals(renewal::NewPull),
    /// Every such wish.
    RenewalPulls,
    /// Take one back.
    RemoveRenewalPull {
        /// Which.
        id: String,
    },
}

impl Request {
    /// Whether it changes something, so that it needs the CA's keys and the lock.
    #[must_use]
    pub const fn writes(&self) -> bool {
        matches!(
            self,
            Self::CreateIssuer { .. }
                | Self::LimitAccount { .. }
                | Self::Unpause { .. }
                | Self::PullRenewals(_)
                | Self::RemoveRenewalPull { .. }
                | Self::Revoke { .. }
                | Self::DeactivateAccount { .. }
                | Self::CreateExternalAccount(_)
                | Self::RevokeExternalAccount { .. }
                | Self::ForgetSealingKey
        )
    }
}

/// What an administrator is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// One object.
    Object(Value),
    /// A page of objects.
    Page {
        /// The objects.
        rows: Vec<Value>,
        /// Where the next page begins; none at the end.
        next: Option<String>,
    },
    /// It could not be done.
    Failed(Failure),
}
