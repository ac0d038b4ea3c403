//! ACME Renewal Information: when a certificate should be renewed, and which one an order replaces.
//! [RFC 9773](https://www.rfc-editor.org/rfc/rfc9773).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::OrderStatus;
use crate::acme::busy::BusyHours;
use crate::id::{AccountId, IssuerId, OrderId, RenewalPullId};
use crate::pkix::identifier::Identifier;
use crate::pkix::public_key::sha256;
use crate::pkix::serial::SerialNumber;
use crate::profile::ProfileName;
use crate::store::{CertificateFacts, CertificateId, CertificateState, Version};
use crate::time::Timestamp;

/// How a client names a certificate: the key identifier of its issuer and its serial, RFC 9773 §4.1. Text form
/// `base64url(keyIdentifier) "." base64url(serial)`, without padding.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RenewalId {
    /// The keyIdentifier of the certificate's Authority Key Identifier.
    pub key_identifier: Vec<u8>,
    /// Its serial.
    pub serial: SerialNumber,
}

/// A text is no identifier of RFC 9773 §4.1.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidRenewalId {
    /// There is no period, or more than one.
    #[error("the certificate's identifier must have two parts with a period between them (RFC 9773 §4.1)")]
    Parts,
    /// A part is not base64url without padding.
    #[error("both parts of the certificate's identifier must be base64url without padding (RFC 9773 §4.1)")]
    Base64,
    /// The key identifier is empty or longer than any hash.
    #[error("the first part of the certificate's identifier must have 1 to 64 octets")]
    KeyIdentifier,
    /// The serial is not the content of the DER encoding of a positive integer.
    #[error(
        "the second part of the certificate's identifier must be the content octets of the serial in DER"
    )]
    Serial,
}

/// The longest key identifier that is looked for: a SHA-512 value.
const LONGEST_KEY_IDENTIFIER: usize = 64;

impl FromStr for RenewalId {
    type Err = InvalidRenewalId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key_identifier, serial) = text.split_once('.').ok_or(InvalidRenewalId::Parts)?;
        if serial.contains('.') {
            return Err(InvalidRenewalId::Parts);
        }
        let octets = |part| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| InvalidRenewalId::Base64);
        let (key_identifier, serial) = (octets(key_identifier)?, octets(serial)?);
        if !(1..=LONGEST_KEY_IDENTIFIER).contains(&key_identifier.len()) {
            return Err(InvalidRenewalId::KeyIdentifier);
        }
        // DER: as short as can be, and the first bit is the sign (X.690 §8.3).
        let minimal = match serial.as_slice() {
            [0, second, ..] => second & 0x80 != 0,
            [first, ..] => first & 0x80 == 0,
            [] => false,
        };
        match SerialNumber::from_be_bytes(&serial) {
            Ok(serial) if minimal => Ok(Self { key_identifier, serial }),
            _ => Err(InvalidRenewalId::Serial),
        }
    }
}

impl fmt::Display for RenewalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut serial = self.serial.as_bytes().to_vec();
        if serial.first().is_some_and(|first| first & 0x80 != 0) {
            serial.insert(0, 0);
        }
        let text = |octets: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(octets);
        write!(f, "{}.{}", text(&self.key_identifier), text(&serial))
    }
}

impl TryFrom<String> for RenewalId {
    type Error = InvalidRenewalId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RenewalId> for String {
    fn from(id: RenewalId) -> Self {
        id.to_string()
    }
}

/// When a directory's certificates should be renewed; the section `[acme.renewal]`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewalPolicy {
    /// The part of its lifetime after which a certificate may be renewed, in percent, below `to_percent`.
    pub from_percent: u8,
    /// The part of its lifetime by which the window has ended, in percent, below 100.
    pub to_percent: u8,
    /// When nobody should renew, if the lifetime permits.
    pub busy: BusyHours,
    /// How long clients wait before they ask again.
    pub retry_after: Duration,
    /// A page about the windows.
    pub explanation_url: Option<String>,
}

impl Default for RenewalPolicy {
    fn default() -> Self {
        Self {
            from_percent: Self::FROM_PERCENT,
            to_percent: Self::TO_PERCENT,
            busy: BusyHours::default(),
            retry_after: Self::RETRY_AFTER,
            explanation_url: None,
        }
    }
}

impl RenewalPolicy {
    /// Where the last third of a lifetime begins.
    pub const FROM_PERCENT: u8 = 66;
    /// Leaves a fifth of the lifetime for renewals that fail at first.
    pub const TO_PERCENT: u8 = 80;
    /// RFC 9773 §4.3.3's usual interval.
    pub const RETRY_AFTER: Duration = Duration::from_hours(6);

    /// How long clients wait before they ask again about a certificate with this lifetime: as configured, and often
    /// enough for one that is short; at least a minute, which is as often as clients ask (RFC 9773 §4.3.2).
    #[must_use]
    pub fn retry_after(&self, lifetime: Duration) -> Duration {
        self.retry_after.min(lifetime / 20).max(Duration::from_mins(1))
    }
}

/// Certificates with a lifetime below this are renewed from half of it on: little time would be left otherwise for a
/// renewal that fails at first.
const SHORT_LIVED: Duration = Duration::from_hours(10 * 24);

/// A span of time that starts before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first second.
    pub start: Timestamp,
    /// Its last second.
    pub end: Timestamp,
}

impl Window {
    /// Whether a renewal at `now` is what the window asks for: it has begun. One that comes late is as welcome as one in
    /// time.
    #[must_use]
    pub fn has_begun(&self, now: Timestamp) -> bool {
        self.start <= now
    }
}

/// What a client is told of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewalInfo {
    /// When it should be renewed.
    pub window: Window,
    /// A page that says why then.
    pub explanation_url: Option<String>,
    /// How long the client waits before it asks again.
    pub retry_after: Duration,
}

/// Certificates that an operator wants renewed sooner than their lifetimes ask for, as after an incident. A stored type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalPull {
    /// Its name.
    pub id: RenewalPullId,
    /// Which certificates.
    pub scope: PullScope,
    /// Only those that were reserved before this time: what replaces them is not meant.
    pub issued_before: Timestamp,
    /// From when on they should be renewed; may lie in the past.
    pub start: Timestamp,
    /// By when; each certificate gets a window of its own between the two.
    pub end: Timestamp,
    /// A page about the incident, in place of the directory's.
    pub explanation_url: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Counts its changes.
    pub version: Version,
}

/// Which certificates a [`RenewalPull`] is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullScope {
    /// All of an issuer.
    Issuer(IssuerId),
    /// All of a profile.
    Profile(ProfileName),
    /// All of an ACME account.
    Account(AccountId),
    /// One.
    Certificate(CertificateId),
}

impl PullScope {
    /// What kind of scope it is, and which one of its kind.
    #[must_use]
    pub fn parts(&self) -> (&'static str, String) {
        match self {
            Self::Issuer(id) => ("issuer", id.to_string()),
            Self::Profile(name) => ("profile", name.to_string()),
            Self::Account(id) => ("account", id.to_string()),
            Self::Certificate(id) => ("certificate", id.to_string()),
        }
    }
}

impl fmt::Display for PullScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, which) = self.parts();
        write!(f, "{kind} {which}")
    }
}

impl RenewalPull {
    fn is_about(&self, certificate: &CertificateFacts) -> bool {
        certificate.reserved_at < self.issued_before
            && match &self.scope {
                PullScope::Issuer(id) => certificate.id.issuer == *id,
                PullScope::Profile(name) => certificate.profile == *name,
                PullScope::Account(id) => certificate.account == Some(*id),
                PullScope::Certificate(id) => certificate.id == *id,
            }
    }

    /// The part of the pull's time in which a certificate should be renewed: one of waves that follow each other.
    fn wave(&self, jitter: Jitter) -> Window {
        let whole = self.end.since(self.start);
        let wave = (whole / 8).max(Duration::from_secs(1));
        within(self.start, jitter.of(whole.saturating_sub(wave)), wave)
    }
}

/// What a client is told of a certificate: its window by policy, or an earlier one that a pull asks for; one in the past
/// if it was revoked. `None` for a certificate that was never released.
///
/// It depends on nothing but its arguments, so every process and every request gives the same answer, and each
/// certificate gets its own place in the time that policy leaves: renewals spread even if everything was issued at once.
#[must_use]
pub fn renewal_info(
    certificate: &CertificateFacts,
    policy: &RenewalPolicy,
    pulls: &[RenewalPull],
) -> Option<RenewalInfo> {
    let jitter = Jitter::of_certificate(&certificate.id);
    let lifetime = certificate.not_after.since(certificate.not_before);
    let info = |window: Window, explanation_url: &Option<String>| RenewalInfo {
        window,
        explanation_url: explanation_url.clone(),
        retry_after: policy.retry_after(lifetime),
    };
    let planned = match certificate.state {
        CertificateState::Issued { .. } => suggested_window(certificate, policy),
        CertificateState::Revoked { at, .. } => {
            // Well in the past also for clients whose clocks are behind, RFC 9773 §6.
            let window = within(at.minus(Duration::from_hours(2)), Duration::ZERO, Duration::from_hours(1));
            return Some(info(window, &policy.explanation_url));
        }
        CertificateState::Reserved | CertificateState::Abandoned { .. } => return None,
    };
    let pulled = pulls
        .iter()
        .filter(|pull| pull.is_about(certificate))
        .map(|pull| (pull.wave(jitter), pull))
        .min_by_key(|(window, _)| (window.start, window.end))
        .filter(|(window, _)| window.start < planned.start);
    Some(match pulled {
        Some((window, pull)) => info(
            window,
            if pull.explanation_url.is_some() { &pull.explanation_url } else { &policy.explanation_url },
        ),
        None => info(planned, &policy.explanation_url),
    })
}

/// The window that policy gives a certificate which nothing happened to, always inside its validity.
///
/// Its place in the configured part of the lifetime comes from a hash of issuer and serial. It lies outside the busy
/// hours if any time there does; else, anywhere from half of the lifetime to its last tenth that is not busy; and where
/// that is busy too, busy hours are not kept.
#[must_use]
pub fn suggested_window(certificate: &CertificateFacts, policy: &RenewalPolicy) -> Window {
    let lifetime = certificate.not_after.since(certificate.not_before);
    let jitter = Jitter::of_certificate(&certificate.id);
    let at = |percent: u32| certificate.not_before.plus(lifetime / 100 * percent);
    let (from, to) = (u32::from(policy.from_percent), u32::from(policy.to_percent));
    let (from, to) = if lifetime < SHORT_LIVED && from > 50 { (50, 50 + (to - from)) } else { (from, to) };
    let band = (at(from), at(to));
    // A quarter of the time that there is, so that a client that looks twice a day meets it.
    let length = (band.1.since(band.0) / 4).max(Duration::from_secs(1));
    [band, (at(50), at(90))]
        .into_iter()
        .find_map(|(from, to)| place(&policy.busy.free(from, to), length, jitter))
        .or_else(|| place(&[band], length, jitter))
        // Only a lifetime of a few seconds has no room.
        .unwrap_or_else(|| within(certificate.not_before, Duration::ZERO, Duration::from_secs(1)))
}

/// Puts a window of at most `length` into one of the spans that are left: each moment at which one can start is as
/// likely as any other.
fn place(spans: &[(Timestamp, Timestamp)], length: Duration, jitter: Jitter) -> Option<Window> {
    // What is left between busy hours may be shorter than the window would be.
    let shortest = length.min(Duration::from_mins(10));
    let rooms: Vec<_> = spans
        .iter()
        .map(|(from, to)| (*from, to.since(*from)))
        .filter(|(_, span)| *span >= shortest && *span >= Duration::from_secs(1))
        .map(|(from, span)| {
            let length = length.min(span / 2).max(shortest);
            (from, length, span.saturating_sub(length))
        })
        .collect();
    let mut offset = jitter.of(rooms.iter().map(|(_, _, room)| *room).sum());
    for (from, length, room) in &rooms {
        if offset <= *room {
            return Some(within(*from, offset, *length));
        }
        offset -= *room;
    }
    rooms.last().map(|(from, length, room)| within(*from, *room, *length))
}

/// A window in whole seconds, as it is written, and never without extent (RFC 9773 §4.2).
fn within(from: Timestamp, offset: Duration, length: Duration) -> Window {
    let start = from.plus(offset).whole_seconds();
    let end = from.plus(offset).plus(length).whole_seconds();
    Window { start, end: end.max(start.plus(Duration::from_secs(1))) }
}

/// A certificate's place in a span of time: a fraction that is spread evenly over all certificates and always the same
/// for one of them.
#[derive(Clone, Copy)]
struct Jitter(u64);

impl Jitter {
    fn of_certificate(id: &CertificateId) -> Self {
        let digest = sha256(format!("renewal {id}").as_bytes());
        let mut octets = [0; 8];
        octets.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(octets))
    }

    /// The fraction of a span.
    fn of(self, span: Duration) -> Duration {
        let millis = (span.as_millis().saturating_mul(u128::from(self.0))) >> 64;
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

/// The certificate that an order replaces, RFC 9773 §5. A stored type, as part of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predecessor {
    /// Which.
    pub certificate: CertificateId,
    /// How the client names it, and is shown it again.
    pub named: RenewalId,
    /// Whether the order is a renewal that was asked for ([`renews_as_asked`]), so that rate limits don't count it.
    #[serde(default)]
    pub as_asked: bool,
}

/// Which order replaces a certificate: one at a time that is not `invalid`. A stored type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// What is replaced.
    pub certificate: CertificateId,
    /// By what.
    pub order: OrderId,
    /// Counts its changes.
    pub version: Version,
}

/// Why an order can't replace a certificate; the subscriber acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplacesRejected {
    /// It is unknown, was never released, or is another account's: which, is not told.
    #[error("'replaces' names no certificate of this account")]
    Unknown,
    /// The order and the certificate have no identifier in common.
    #[error("the order and the certificate that 'replaces' names have no identifier in common")]
    NothingShared,
    /// Another order that is not `invalid` replaces it.
    #[error("the certificate that 'replaces' names was replaced by another order already")]
    AlreadyReplaced,
}

/// Whether an order of `account` for `identifiers` may replace a certificate. `marked` is the status of the order that
/// replaces it so far.
///
/// # Errors
/// The first check of RFC 9773 §5 that fails.
pub fn require_replaceable(
    certificate: Option<&CertificateFacts>,
    account: AccountId,
    identifiers: &[Identifier],
    marked: Option<&OrderStatus>,
) -> Result<(), ReplacesRejected> {
    let released = |state: CertificateState| {
        matches!(state, CertificateState::Issued { .. } | CertificateState::Revoked { .. })
    };
    let certificate = certificate
        .filter(|certificate| certificate.account == Some(account) && released(certificate.state))
        .ok_or(ReplacesRejected::Unknown)?;
    if !identifiers.iter().any(|identifier| certificate.names.contains(identifier)) {
        return Err(ReplacesRejected::NothingShared);
    }
    match marked {
        None | Some(OrderStatus::Invalid(_)) => Ok(()),
        Some(_) => Err(ReplacesRejected::AlreadyReplaced),
    }
}

/// Whether an order for `identifiers` that replaces this certificate at `now` is a renewal that was asked for, so that
/// rate limits need not count it (RFC 9773 §5). Who asks bounds how often: an order that becomes `invalid` can be placed
/// again.
///
/// A certificate that was revoked may be replaced, but the order counts: its own account could revoke each one as soon as
/// it is issued, and order without end. So does an order for names that the certificate does not have.
#[must_use]
pub fn renews_as_asked(
    certificate: &CertificateFacts,
    identifiers: &[Identifier],
    policy: &RenewalPolicy,
    pulls: &[RenewalPull],
    now: Timestamp,
) -> bool {
    matches!(certificate.state, CertificateState::Issued { .. })
        && identifiers.iter().all(|identifier| certificate.names.contains(identifier))
        && renewal_info(certificate, policy, pulls).is_some_and(|info| info.window.has_begun(now))
}
