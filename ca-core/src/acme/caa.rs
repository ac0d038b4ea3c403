//! CAA records: which CAs may issue for a name ([RFC 8659](https://www.rfc-editor.org/rfc/rfc8659)), for which accounts
//! and by which validation methods ([RFC 8657](https://www.rfc-editor.org/rfc/rfc8657)).
//!
//! Pure: whoever looks the records up passes what stood at the first domain that has any, [`judge`] says whether a
//! certificate may be issued, and whatever is unclear forbids it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::authorization::{Authorization, AuthorizationState};
use crate::acme::challenge::{ChallengeState, ChallengeType, FailureKind, ValidationFailure};
use crate::pkix::identifier::{DnsName, Identifier};
use crate::time::Timestamp;

/// How old a look at the CAA records may be when an order is finalized. RFC 8659 §1 leaves it to the CA; 8 hours is
/// what public CAs keep to (Baseline Requirements §3.2.2.8).
pub const FRESH: Duration = Duration::from_hours(8);

/// So many octets of a record are shown to the requester.
const MAX_SHOWN: usize = 64;

/// One CAA record, RFC 8659 §4.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaaRecord {
    /// The flags; every bit but the first is ignored.
    pub flags: u8,
    /// The property tag, in the case that it was sent in.
    pub tag: String,
    /// The property's value.
    pub value: Vec<u8>,
}

impl CaaRecord {
    /// Issuer critical: bit 0, which is the most significant one.
    const CRITICAL: u8 = 0x80;

    /// The property tags that are registered and understood: issue and issuewild restrict us, the others ask nothing of
    /// who issues TLS certificates (RFC 8659 §4.4; RFC 9495; the CA/Browser Forum's contactemail and contactphone).
    const KNOWN: [&str; 6] = ["issue", "issuewild", "iodef", "issuemail", "contactemail", "contactphone"];

    fn is(&self, tag: &str) -> bool {
        self.tag.eq_ignore_ascii_case(tag)
    }

    fn is_critical(&self) -> bool {
        self.flags & Self::CRITICAL != 0
    }

    fn is_known(&self) -> bool {
        Self::KNOWN.into_iter().any(|tag| self.is(tag))
    }
}

/// The Relevant RRset of a name, RFC 8659 §3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelevantSet {
    /// The domain whose records these are: the name itself or the nearest one above it that has any.
    pub domain: String,
    /// All of them; never empty.
    pub records: Vec<CaaRecord>,
}

/// The domains at which to look for records, in this order, until one has any: the name without a wildcard label, then
/// each one above it, the top-level domain included (RFC 8659 §3).
pub fn climb(name: &DnsName) -> impl Iterator<Item = &str> {
    let base = name.as_str().strip_prefix("*.").unwrap_or(name.as_str());
    std::iter::successors(Some(base), |domain| domain.split_once('.').map(|(_, parent)| parent))
}

/// For what a [`RelevantSet`] is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaaSubject {
    /// The issuer domain names that are ours (`acme.caa_identities`).
    pub identities: Vec<DnsName>,
    /// The URL of the account that asks.
    pub account_url: String,
    /// How control of the name is or was validated; `None` where no challenge was needed, which no list of methods admits.
    pub method: Option<ChallengeType>,
    /// Whether the certificate is to have a wildcard name.
    pub wildcard: bool,
}

/// What an attempt to validate found out about CAA. A stored type: changing it needs a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum CaaFinding {
    /// Neither the name nor any domain above it has records.
    Absent,
    /// The records let us issue.
    Permitted {
        /// The domain whose records these are.
        domain: String,
    },
    /// They don't, or can't be looked up.
    Refused {
        /// Why.
        failure: ValidationFailure,
    },
}

impl CaaFinding {
    /// Judges what a look-up gave.
    #[must_use]
    pub fn new(found: Result<Option<&RelevantSet>, ValidationFailure>, subject: &CaaSubject) -> Self {
        match found.map(|set| set.map(|set| (&set.domain, judge(set, subject)))) {
            Ok(None) => Self::Absent,
            Ok(Some((domain, Ok(())))) => Self::Permitted { domain: domain.clone() },
            Ok(Some((_, Err(refused)))) => Self::Refused { failure: refused.into() },
            Err(failure) => Self::Refused { failure },
        }
    }

    /// Whether a certificate may be issued.
    ///
    /// # Errors
    /// Why not.
    pub fn permits(&self) -> Result<(), ValidationFailure> {
        match self {
            Self::Absent | Self::Permitted { .. } => Ok(()),
            Self::Refused { failure } => Err(failure.clone()),
        }
    }
}

/// Why CAA records keep us from issuing; the holder of the domain acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CaaRefused {
    /// A property that we don't know is marked as critical, RFC 8659 §4.1.
    #[error("the CAA records at {domain} have a critical property '{tag}', which is not known here")]
    Critical {
        /// Where it stands.
        domain: String,
        /// Its tag.
        tag: String,
    },
    /// Nobody may issue: each property names no CA.
    #[error("the CAA records at {domain} let no CA issue ({property} \"{shown}\"){}", malformed_note(*.malformed))]
    Nobody {
        /// Where the records stand.
        domain: String,
        /// `issue` or `issuewild`.
        property: &'static str,
        /// The beginning of the first value, escaped.
        shown: String,
        /// Whether a value does not follow the grammar, which counts as naming nobody (RFC 8659 §4.2).
        malformed: bool,
    },
    /// Only other CAs may issue.
    #[error("the CAA records at {domain} do not name this CA ({property} \"{shown}\"); it is {ours}")]
    OtherIssuers {
        /// Where the records stand.
        domain: String,
        /// `issue` or `issuewild`.
        property: &'static str,
        /// The beginning of the first value that names a CA, escaped.
        shown: String,
        /// What a record could name to permit us.
        ours: String,
    },
    /// We are named, for other accounts, RFC 8657 §3.
    #[error(
        "the CAA records at {domain} name this CA for another account (accounturi \"{shown}\"); this one is {account}"
    )]
    Account {
        /// Where the records stand.
        domain: String,
        /// The beginning of the accounturi, escaped.
        shown: String,
        /// The URL of the account that asked.
        account: String,
    },
    /// We are named, for other validation methods, RFC 8657 §4.
    #[error("the CAA records at {domain} do not admit {} (validationmethods \"{shown}\")", by(*.method))]
    Method {
        /// Where the records stand.
        domain: String,
        /// The beginning of the list of methods, escaped.
        shown: String,
        /// How it was validated, if it was.
        method: Option<ChallengeType>,
    },
}

fn by(method: Option<ChallengeType>) -> String {
    method.map_or_else(|| "a name without validation".to_owned(), |method| format!("validation by {method}"))
}

const fn malformed_note(malformed: bool) -> &'static str {
    if malformed { "; a value that does not follow RFC 8659 §4.2 names nobody" } else { "" }
}

impl From<CaaRefused> for ValidationFailure {
    fn from(refused: CaaRefused) -> Self {
        Self::new(FailureKind::Caa, refused.to_string())
    }
}

/// Whether a relevant set of records lets us issue, RFC 8659 §4 and RFC 8657 §3 and §4.
///
/// A wildcard name is judged by `issuewild` if there is any, else by `issue`, any other name by `issue` alone; a set
/// without such a property restricts nobody. Several properties add up: one that permits is enough. A parameter other
/// than `accounturi` and `validationmethods` has no meaning here and is ignored.
///
/// # Errors
/// The reason that is most use to the requester.
pub fn judge(set: &RelevantSet, subject: &CaaSubject) -> Result<(), CaaRefused> {
    let RelevantSet { domain, records } = set;
    if let Some(unknown) = records.iter().find(|record| record.is_critical() && !record.is_known()) {
        return Err(CaaRefused::Critical { domain: domain.clone(), tag: shown(unknown.tag.as_bytes()) });
    }
    let wild = subject.wildcard && records.iter().any(|record| record.is("issuewild"));
    let property = if wild { "issuewild" } else { "issue" };
    let mut refused: Option<CaaRefused> = None;
    for record in records.iter().filter(|record| record.is(property)) {
        let why = match IssueValue::parse(&record.value) {
            Ok(IssueValue { issuer: None, .. }) => Refusal::Nobody { malformed: false },
            Err(MalformedValue) => Refusal::Nobody { malformed: true },
            Ok(value) => match value.permits(subject) {
                Ok(()) => return Ok(()),
                Err(why) => why,
            },
        };
        let why = why.in_words(domain, property, record, subject);
        if refused.as_ref().is_none_or(|other| rank(&why) > rank(other)) {
            refused = Some(why);
        }
    }
    refused.map_or(Ok(()), Err)
}

/// How much a reason says: that we are named after all says most.
const fn rank(refused: &CaaRefused) -> u8 {
    match refused {
        CaaRefused::Nobody { malformed: false, .. } => 0,
        CaaRefused::Nobody { malformed: true, .. } => 1,
        CaaRefused::OtherIssuers { .. } => 2,
        CaaRefused::Account { .. } => 3,
        CaaRefused::Method { .. } => 4,
        CaaRefused::Critical { .. } => 5,
    }
}

/// Why one property does not permit us.
enum Refusal {
    Nobody { malformed: bool },
    OtherIssuer,
    Account(String),
    Method(String),
}

impl Refusal {
    fn in_words(
        self,
        domain: &str,
        property: &'static str,
        record: &CaaRecord,
        subject: &CaaSubject,
    ) -> CaaRefused {
        let domain = domain.to_owned();
        match self {
            Self::Nobody { malformed } => {
                CaaRefused::Nobody { domain, property, shown: shown(&record.value), malformed }
            }
            Self::OtherIssuer => {
                let ours: Vec<&str> = subject.identities.iter().map(DnsName::as_str).collect();
                CaaRefused::OtherIssuers {
                    domain,
                    property,
                    shown: shown(&record.value),
                    ours: ours.join(" or "),
                }
            }
            Self::Account(uri) => CaaRefused::Account {
                domain,
                shown: shown(uri.as_bytes()),
                account: subject.account_url.clone(),
            },
            Self::Method(methods) => {
                CaaRefused::Method { domain, shown: shown(methods.as_bytes()), method: subject.method }
            }
        }
    }
}

fn shown(octets: &[u8]) -> String {
    octets.get(..MAX_SHOWN).unwrap_or(octets).escape_ascii().to_string()
}

/// The value of an issue or issuewild property, RFC 8659 §4.2:
///
/// ```text
/// issue-value = *WSP [issuer-domain-name *WSP] [";" *WSP [parameters *WSP]]
/// issuer-domain-name = label *("." label)
/// label = (ALPHA / DIGIT) *( *("-") (ALPHA / DIGIT))
/// parameters = (parameter *WSP ";" *WSP parameters) / parameter
/// parameter = tag *WSP "=" *WSP value
/// tag = (ALPHA / DIGIT) *( *("-") (ALPHA / DIGIT))
/// value = *(%x21-3A / %x3C-7E)
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssueValue {
    /// Who may issue, in lower case; `None` for nobody.
    pub issuer: Option<String>,
    /// Tags and values, in their order, as they were sent.
    pub parameters: Vec<(String, String)>,
}

/// A value does not follow the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the value does not follow the grammar of RFC 8659 §4.2")]
pub struct MalformedValue;

impl IssueValue {
    /// Reads a property's value.
    ///
    /// # Errors
    /// If it does not follow the grammar, to the letter: after a last parameter no `;` may stand.
    pub fn parse(value: &[u8]) -> Result<Self, MalformedValue> {
        let text = std::str::from_utf8(value).map_err(|_| MalformedValue)?;
        let (issuer, parameters) = match text.split_once(';') {
            Some((issuer, parameters)) => (trim(issuer), trim(parameters)),
            None => (trim(text), ""),
        };
        let issuer = match issuer {
            "" => None,
            name if name.split('.').all(is_label) => Some(name.to_ascii_lowercase()),
            _ => return Err(MalformedValue),
        };
        let parameters = match parameters {
            "" => Vec::new(),
            list => list.split(';').map(parameter).collect::<Result<_, _>>()?,
        };
        Ok(Self { issuer, parameters })
    }

    /// Whether a property with this value lets us issue.
    fn permits(&self, subject: &CaaSubject) -> Result<(), Refusal> {
        let issuer = self.issuer.as_deref().unwrap_or_default();
        if !subject.identities.iter().any(|identity| identity.as_str() == issuer) {
            return Err(Refusal::OtherIssuer);
        }
        // RFC 8657 §3: any other URI, or several, can't be satisfied. §5.4: URIs are compared as strings.
        match self.parameter("accounturi") {
            Some(Ok(uri)) if uri == subject.account_url => {}
            Some(Ok(uri) | Err(uri)) => return Err(Refusal::Account(uri.to_owned())),
            None => {}
        }
        // RFC 8657 §4: a list that is not well-formed can't be satisfied, nor can an empty one.
        match self.parameter("validationmethods") {
            Some(Ok(methods)) if subject.method.is_some_and(|method| admits(methods, method)) => Ok(()),
            Some(Ok(methods) | Err(methods)) => Err(Refusal::Method(methods.to_owned())),
            None => Ok(()),
        }
    }

    /// A parameter's value; an error with the first one if there are several, which contradict each other.
    ///
    /// Tags are compared without regard to case, since a restriction must not be overlooked.
    fn parameter(&self, tag: &str) -> Option<Result<&str, &str>> {
        let mut found = self.parameters.iter().filter(|(name, _)| name.eq_ignore_ascii_case(tag));
        let (_, value) = found.next()?;
        Some(if found.next().is_none() { Ok(value) } else { Err(value) })
    }
}

impl fmt::Display for IssueValue {
    /// The value as it is written in a record.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.issuer.as_deref().unwrap_or_default())?;
        if self.issuer.is_none() && self.parameters.is_empty() {
            f.write_str(";")?;
        }
        self.parameters.iter().try_for_each(|(tag, value)| write!(f, "; {tag}={value}"))
    }
}

/// RFC 8657 §4: labels of letters, digits and hyphens, with commas between them, of which one is the method's name.
fn admits(methods: &str, method: ChallengeType) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
    };
    methods.split(',').all(is_label) && methods.split(',').any(|label| label == method.name())
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

fn is_label(text: &str) -> bool {
    text.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
        && !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn parameter(text: &str) -> Result<(String, String), MalformedValue> {
    let (tag, value) = trim(text).split_once('=').ok_or(MalformedValue)?;
    let (tag, value) = (trim(tag), trim(value));
    if is_label(tag) && value.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Ok((tag.to_owned(), value.to_owned()));
    }
    Err(MalformedValue)
}

/// Whether the CAA records of a name have to be judged before it is certified, although it is authorized: nobody looked
/// at them, or longer than [`FRESH`] before `now`. Never for what is no domain name.
#[must_use]
pub fn is_stale(authorization: &Authorization, now: Timestamp) -> bool {
    if !matches!(authorization.identifier, Identifier::Dns(_)) {
        return false;
    }
    let by = match authorization.state {
        AuthorizationState::Valid { by, .. } => by,
        AuthorizationState::Trusted { .. } => return true,
        AuthorizationState::Pending
        | AuthorizationState::Invalid { .. }
        | AuthorizationState::Deactivated { .. }
        | AuthorizationState::Revoked { .. } => return false,
    };
    let attempts = match authorization.challenge(by).map(|challenge| &challenge.state) {
        Some(ChallengeState::Valid { attempts, .. }) => attempts.as_slice(),
        _ => &[],
    };
    let permitted =
        attempts.last().filter(|attempt| attempt.caa.as_ref().is_some_and(|caa| caa.permits().is_ok()));
    permitted.is_none_or(|attempt| now.since(attempt.at) > FRESH)
}
