//! What an outside policy service is asked of an order before its certificate is reserved, and what it may say: allow,
//! refuse, or enrich with an owner, labels and a shorter life. It can only narrow: no verdict adds a name or a day.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::BoxFuture;
use crate::acme::DirectoryName;
use crate::acme::external_account::Owner;
use crate::acme::order::OrderFailure;
use crate::id::{AccountId, ExternalAccountId, IssuerId, OrderId};
use crate::issuance::Approved;
use crate::pkix::identifier::Identifier;
use crate::pkix::public_key::KeyHash;
use crate::profile::{ProfileName, ValidityPeriod};
use crate::store::CertificateId;
use crate::time::Timestamp;

/// The most characters of a policy service's words that are kept and shown.
const MAX_DETAIL: usize = 300;
/// The most labels of one certificate.
const MAX_LABELS: usize = 16;
/// The longest name and the longest value of a label, in characters.
const MAX_LABEL_NAME: usize = 63;
const MAX_LABEL_VALUE: usize = 200;
/// The least time that a certificate must have left when it is issued.
const LEAST_LIFE: Duration = Duration::from_mins(1);

/// A policy service. Called by role `ca` alone.
pub trait PolicyHook: Send + Sync {
    /// Asks for a verdict. It bounds its own time, and may be asked again about the same order.
    ///
    /// # Errors
    /// Why there is no verdict.
    fn judge<'a>(&'a self, facts: &'a OrderFacts) -> BoxFuture<'a, Result<Verdict, HookFailure>>;
}

/// A policy service with what is done when it gives no verdict.
#[derive(Clone)]
pub struct PolicyGate {
    /// Whom to ask.
    pub hook: Arc<dyn PolicyHook>,
    /// What happens without a verdict.
    pub on_failure: OnFailure,
}

/// What happens to an order when the policy service gives no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Fail closed: it waits and the service is asked again; so long after the first failure the order fails.
    Refuse {
        /// How long.
        after: Duration,
    },
    /// Fail open: the certificate is issued as though there were no service, and the audit log says so.
    Allow,
}

/// What a certificate would be, and for whom, as [`crate::issuance::build`] is about to make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderFacts {
    /// The order; names the question, however often it is asked.
    pub order: OrderId,
    /// Its account.
    pub account: AccountId,
    /// The external account that the account is bound to, and whose that is.
    pub external_account: Option<(ExternalAccountId, Owner)>,
    /// The directory.
    pub directory: DirectoryName,
    /// The profile.
    pub profile: ProfileName,
    /// The issuing CA.
    pub issuer: IssuerId,
    /// The subject in RFC 4514 text.
    pub subject: String,
    /// The subjectAltName entries.
    pub names: Vec<Identifier>,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub key: KeyHash,
    /// The kind of key, such as `EC P-256`.
    pub key_algorithm: String,
    /// notBefore and notAfter.
    pub validity: ValidityPeriod,
    /// The certificate that this one replaces, RFC 9773 §5.
    pub replaces: Option<CertificateId>,
}

impl OrderFacts {
    /// How long the certificate would be valid, both ends included (RFC 5280 §4.1.2.5).
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.validity.not_after.since(self.validity.not_before) + Duration::from_secs(1)
    }
}

/// What a policy service says of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The certificate is issued, with what the service adds.
    Allow(Enrichment),
    /// The order fails.
    Refuse {
        /// As what.
        kind: RefusalKind,
        /// Why, in words for the requester.
        detail: Detail,
    },
}

impl Verdict {
    /// Its name in metrics and in the audit log: `allow`, `enrich` or `refuse`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Allow(enrichment) if enrichment.is_empty() => "allow",
            Self::Allow(_) => "enrich",
            Self::Refuse { .. } => "refuse",
        }
    }
}

/// The ACME error that a refusal becomes, RFC 8555 §6.7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefusalKind {
    /// The account may not have this certificate.
    #[default]
    Unauthorized,
    /// A name may not be in it.
    RejectedIdentifier,
}

/// Words of a policy service: on one line, at most 300 characters, with control characters escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail(String);

impl Detail {
    /// Takes any text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut shown = String::new();
        let mut count = 0;
        for character in text.trim().chars() {
            // Marks that turn the direction of text can make a log line say something else.
            let hidden = character.is_control()
                || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
            let piece: String =
                if hidden { character.escape_unicode().collect() } else { character.to_string() };
            count += piece.chars().count();
            if count > MAX_DETAIL {
                shown.push('…');
                break;
            }
            shown.push_str(&piece);
        }
        if shown.is_empty() {
            shown.push_str("no reason given");
        }
        Self(shown)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a policy service adds to a certificate that it allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enrichment {
    /// What is kept beside the certificate.
    pub annotations: Annotations,
    /// How long it is to be valid, from notBefore: never longer than it would be.
    pub lifetime: Option<Duration>,
}

impl Enrichment {
    /// Whether nothing is added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.annotations.is_empty() && self.lifetime.is_none()
    }

    /// Whether a lifetime is one that policy may ask for: not longer than planned, and not over at once.
    ///
    /// # Errors
    /// [`HookFailure::Answer`] with what is wrong.
    pub fn require_narrower(&self, facts: &OrderFacts, now: Timestamp) -> Result<(), HookFailure> {
        let Some(lifetime) = self.lifetime else { return Ok(()) };
        let planned = facts.lifetime();
        if lifetime > planned {
            return Err(HookFailure::Answer(format!(
                "it asks for a validity of {} s, longer than the {} s of the profile",
                lifetime.as_secs(),
                planned.as_secs()
            )));
        }
        if facts.validity.not_before.plus(lifetime) < now.plus(LEAST_LIFE) {
            return Err(HookFailure::Answer(format!(
                "it asks for a validity of {} s, with which the certificate would be over at once",
                lifetime.as_secs()
            )));
        }
        Ok(())
    }

    /// Shortens what is to be issued.
    pub(crate) fn narrow(&self, approved: &mut Approved) {
        let Some(lifetime) = self.lifetime else { return };
        approved.validity = approved.validity.min(lifetime);
        if let Some(exactly) = &mut approved.exactly {
            let last = exactly.not_before.plus(lifetime.saturating_sub(Duration::from_secs(1)));
            exactly.not_after = exactly.not_after.min(last.whole_seconds());
        }
    }
}

/// What a policy service has kept beside an order and its certificate. A stored type; nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annotations {
    /// Whose the certificate is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Labels by name.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

impl Annotations {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owner.is_none() && self.labels.is_empty()
    }

    /// As an order keeps them.
    pub(crate) fn stored(self) -> Option<Box<Self>> {
        (!self.is_empty()).then(|| Box::new(self))
    }
}

/// Up to 16 labels: names of up to 63 letters, digits and `-_./`, values of up to 200 characters on one line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Values by name.
    #[must_use]
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

/// Something is no set of labels.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidLabels {
    /// There are too many.
    #[error("there are {0} labels, and at most {MAX_LABELS} are kept")]
    TooMany(usize),
    /// A name.
    #[error("'{}' is no name of a label: write up to {MAX_LABEL_NAME} of a-z, A-Z, 0-9, '-', '_', '.' and '/'", .0.escape_default())]
    Name(String),
    /// A value.
    #[error("the label '{0}' has no value of up to {MAX_LABEL_VALUE} characters on one line")]
    Value(String),
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = InvalidLabels;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, Self::Error> {
        if labels.len() > MAX_LABELS {
            return Err(InvalidLabels::TooMany(labels.len()));
        }
        for (name, value) in &labels {
            let fine = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
            if !(1..=MAX_LABEL_NAME).contains(&name.len()) || !name.chars().all(fine) {
                return Err(InvalidLabels::Name(name.chars().take(MAX_LABEL_NAME).collect()));
            }
            if value.chars().count() > MAX_LABEL_VALUE || value.chars().any(char::is_control) {
                return Err(InvalidLabels::Value(name.clone()));
            }
        }
        Ok(Self(labels))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

/// Why a policy service gave no verdict; its operator acts. The requester is told no more than that.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HookFailure {
    /// It did not answer in time.
    #[error("the policy service gave no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// No connection could be made, or it broke.
    #[error("the policy service can't be reached: {0}")]
    Connection(String),
    /// It did not prove who it is.
    #[error("TLS with the policy service failed: {0}")]
    Tls(String),
    /// It answered with another status than 200; redirects are not followed.
    #[error("the policy service answered with status {0}")]
    Status(u16),
    /// The answer is not signed with the shared secret, for this question.
    #[error("the policy service's answer is not to be believed: {0}")]
    Signature(&'static str),
    /// The answer can't be read, or asks for what policy can't have.
    #[error("the policy service's answer can't be followed: {0}")]
    Answer(String),
}

impl HookFailure {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Connection(_) => "connection",
            Self::Tls(_) => "tls",
            Self::Status(_) => "status",
            Self::Signature(_) => "signature",
            Self::Answer(_) => "answer",
        }
    }
}

/// What a verdict, or the want of one, means for an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It goes on.
    Proceed(Enrichment),
    /// It goes on without a verdict.
    ProceedUnjudged(HookFailure),
    /// It fails for good, since the service refuses it.
    Refuse(OrderFailure),
    /// It fails for good, since the service gave no verdict for too long.
    GiveUp {
        /// As what.
        failure: OrderFailure,
        /// What went wrong last, for the operator.
        why: HookFailure,
    },
    /// The service is asked again later.
    Wait(HookFailure),
}

/// Rules on an order by what the service said at `now`; `failing_since` is when it first gave no verdict for it.
#[must_use]
pub fn rule(
    answer: Result<Verdict, HookFailure>,
    facts: &OrderFacts,
    on_failure: OnFailure,
    failing_since: Option<Timestamp>,
    now: Timestamp,
) -> Ruling {
    let checked = match answer {
        Ok(Verdict::Allow(enrichment)) => enrichment.require_narrower(facts, now).map(|()| enrichment),
        Ok(Verdict::Refuse { kind, detail }) => {
            let detail = format!("the policy service of this CA refuses the order: {}", detail.as_str());
            return Ruling::Refuse(match kind {
                RefusalKind::Unauthorized => OrderFailure::Unauthorized { detail },
                RefusalKind::RejectedIdentifier => OrderFailure::RejectedIdentifier { detail },
            });
        }
        Err(failure) => Err(failure),
    };
    match (checked, on_failure) {
        (Ok(enrichment), _) => Ruling::Proceed(enrichment),
        (Err(failure), OnFailure::Allow) => Ruling::ProceedUnjudged(failure),
        (Err(failure), OnFailure::Refuse { after }) => {
            if now.since(failing_since.unwrap_or(now)) < after {
                return Ruling::Wait(failure);
            }
            let detail = "the policy service of this CA gave no verdict, and nothing is issued without one; \
                          place a new order later, and tell the operator of this CA if it goes on";
            Ruling::GiveUp { failure: OrderFailure::Internal { detail: detail.to_owned() }, why: failure }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_service_are_one_short_line() {
        assert_eq!(Detail::new("not on\n\u{202e}Fridays ").as_str(), r"not on\u{a}\u{202e}Fridays");
        assert_eq!(Detail::new(&"x".repeat(5000)).as_str().chars().count(), MAX_DETAIL + 1);
        assert_eq!(Detail::new(&"\u{1}".repeat(5000)).as_str().chars().filter(|c| c.is_control()).count(), 0);
        assert_eq!(Detail::new(" \n").as_str(), "no reason given");
    }

    #[test]
    fn labels_are_few_and_plain() {
        let labels = |list: &[(&str, &str)]| {
            let map: BTreeMap<_, _> = list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            Labels::try_from(map)
        };
        assert!(labels(&[("cost-centre", "4711"), ("team/name", "Küche")]).is_ok());
        assert!(matches!(labels(&[("", "x")]), Err(InvalidLabels::Name(_))));
        assert!(matches!(labels(&[("a b", "x")]), Err(InvalidLabels::Name(_))));
        assert!(matches!(labels(&[("a", "x\ny")]), Err(InvalidLabels::Value(_))));
        assert!(matches!(labels(&[("a", &"x".repeat(201))]), Err(InvalidLabels::Value(_))));
        let many: BTreeMap<_, _> = (0..17).map(|i| (format!("l{i}"), String::new())).collect();
        assert_eq!(Labels::try_from(many), Err(InvalidLabels::TooMany(17)));
    }
}
