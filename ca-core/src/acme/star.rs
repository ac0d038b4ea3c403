//! Short-term certificates that are renewed automatically for as long as an order lasts: what can be asked for, and which
//! certificate is due when. [RFC 8739](https://www.rfc-editor.org/rfc/rfc8739).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::{Order, OrderState};
use crate::id::serde_base64url;
use crate::profile::ValidityPeriod;
use crate::store::CertificateId;
use crate::time::Timestamp;

/// How far in the future the first certificate may begin: it is signed at once.
const LATEST_START: Duration = Duration::from_hours(30 * 24);

/// What a directory offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StarPolicy {
    /// The shortest lifetime of a certificate.
    pub min_lifetime: Duration,
    /// The longest.
    pub max_lifetime: Duration,
    /// The longest time from the start to the end of an order.
    pub max_duration: Duration,
    /// Whether a client can have its certificates downloaded by everybody who knows the URL, §3.4.
    pub certificate_get: bool,
}

/// What a client asks for with newOrder, §3.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedAutoRenewal {
    /// When the first certificate's validity begins at the earliest; `None`: when it is issued.
    pub start: Option<Timestamp>,
    /// When the last certificate's validity ends.
    pub end: Timestamp,
    /// The nominal lifetime of each certificate.
    pub lifetime_seconds: u64,
    /// By how much notBefore is dated back.
    pub adjust_seconds: u64,
    /// Whether everybody may download the certificates.
    pub certificate_get: bool,
}

/// What was agreed on. A stored type, as part of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoRenewal {
    /// When the first certificate's validity begins at the earliest; `None`: when it is issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// When the last certificate's validity ends.
    pub end: Timestamp,
    /// The nominal lifetime T of each certificate.
    pub lifetime_seconds: u64,
    /// By how much notBefore is dated back, from half of the lifetime to all of it: max(adjust_client, adjust_server)
    /// of §3.5, so that each certificate is there halfway through the one before.
    pub adjust_seconds: u64,
    /// Whether everybody may download the certificates.
    pub certificate_get: bool,
}

/// An order whose certificates are being renewed. A stored type; the store finds by `next_at` what is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewing {
    /// The CSR in DER, by which each certificate is made (§2.2).
    #[serde(with = "serde_base64url")]
    pub csr: Vec<u8>,
    /// The newest certificate.
    pub certificate: CertificateId,
    /// `nrd[0]` of §3.5.
    pub first: Timestamp,
    /// Which of the series the newest certificate is, from 0.
    pub index: u64,
    /// When the next one is due; `None` after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
}

/// Why automatic renewal is not given as asked for; the subscriber acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AutoRenewalRefused {
    /// The directory does not offer it.
    #[error("auto-renewal is not offered in this directory")]
    NotOffered,
    /// §3.1.1: notBefore and notAfter don't go with it.
    #[error("notBefore and notAfter must not be present in an order with auto-renewal")]
    WithValidity,
    /// The lifetime is too short.
    #[error("the lifetime of auto-renewal must be at least {0} seconds")]
    LifetimeTooShort(u64),
    /// The lifetime is too long.
    #[error("the lifetime of auto-renewal must be at most {0} seconds")]
    LifetimeTooLong(u64),
    /// The certificates would be valid for longer than the profile's are.
    #[error(
        "lifetime and lifetime-adjust, which is at least half of it, make {0} seconds, more than the profile permits"
    )]
    OutsideProfile(u64),
    /// The order would last too long.
    #[error("the end-date of auto-renewal must be at most {0} seconds after its start")]
    DurationTooLong(u64),
    /// It ends before it begins, or has ended.
    #[error("the end-date of auto-renewal must be in the future, and after its start-date")]
    Ended,
    /// It begins too far in the future.
    #[error("the start-date of auto-renewal must not be after {0}")]
    TooLate(Timestamp),
}

impl StarPolicy {
    /// Takes what a client asks for, or says why not. What the client wants less of than robustness needs is raised
    /// (§3.3), and what this directory does not give to everybody is left out (§3.4).
    ///
    /// # Errors
    /// See [`AutoRenewalRefused`].
    pub fn accept(
        &self,
        asked: &AskedAutoRenewal,
        now: Timestamp,
    ) -> Result<AutoRenewal, AutoRenewalRefused> {
        let lifetime = asked.lifetime_seconds;
        let agreed = AutoRenewal {
            start: asked.start,
            end: asked.end,
            lifetime_seconds: lifetime,
            adjust_seconds: asked.adjust_seconds.min(lifetime).max(lifetime.div_ceil(2)),
            certificate_get: asked.certificate_get && self.certificate_get,
        };
        agreed.require_start(agreed.first(now), now)?;
        self.require(&agreed, now)?;
        Ok(agreed)
    }

    /// Whether this directory still gives what was agreed on when the order was made.
    ///
    /// # Errors
    /// See [`AutoRenewalRefused`].
    pub fn require(&self, agreed: &AutoRenewal, made_at: Timestamp) -> Result<(), AutoRenewalRefused> {
        let lifetime = Duration::from_secs(agreed.lifetime_seconds);
        if lifetime < self.min_lifetime || lifetime.is_zero() {
            return Err(AutoRenewalRefused::LifetimeTooShort(self.min_lifetime.as_secs().max(1)));
        }
        if lifetime > self.max_lifetime {
            return Err(AutoRenewalRefused::LifetimeTooLong(self.max_lifetime.as_secs()));
        }
        let start = agreed.start.unwrap_or(made_at);
        if agreed.end <= start || agreed.end <= made_at {
            return Err(AutoRenewalRefused::Ended);
        }
        if agreed.end > start.plus(self.max_duration) {
            return Err(AutoRenewalRefused::DurationTooLong(self.max_duration.as_secs()));
        }
        Ok(())
    }
}

impl AutoRenewal {
    /// Whether the first certificate begins soon enough.
    ///
    /// # Errors
    /// [`AutoRenewalRefused::TooLate`].
    pub fn require_start(&self, first: Timestamp, now: Timestamp) -> Result<(), AutoRenewalRefused> {
        let latest = now.plus(LATEST_START);
        if first > latest { Err(AutoRenewalRefused::TooLate(latest)) } else { Ok(()) }
    }

    /// Whether the longest of the certificates is within what the profile gives.
    ///
    /// # Errors
    /// [`AutoRenewalRefused::OutsideProfile`].
    pub fn require_within(&self, validity: Duration) -> Result<(), AutoRenewalRefused> {
        let longest = self.lifetime_seconds.saturating_add(self.adjust_seconds);
        if Duration::from_secs(longest) <= validity {
            return Ok(());
        }
        Err(AutoRenewalRefused::OutsideProfile(longest))
    }

    /// `nrd[0]` of §3.5, if the first certificate is issued at `now`: that moment, or the start-date after it.
    #[must_use]
    pub fn first(&self, now: Timestamp) -> Timestamp {
        self.start.map_or(now, |start| start.max(now)).whole_seconds()
    }

    fn lifetime(&self) -> Duration {
        Duration::from_secs(self.lifetime_seconds)
    }

    fn adjust(&self) -> Duration {
        Duration::from_secs(self.adjust_seconds.min(self.lifetime_seconds))
    }

    /// nrd[i] of §3.5.
    fn nominal(&self, first: Timestamp, index: u64) -> Timestamp {
        first.plus(Duration::from_secs(self.lifetime_seconds.saturating_mul(index)))
    }

    /// The dates of the certificate with this index, §3.5. None begins before the start-date; without one, the first
    /// begins when it is issued.
    #[must_use]
    pub fn period(&self, first: Timestamp, index: u64) -> ValidityPeriod {
        let nominal = self.nominal(first, index);
        let earliest = match (self.start, index) {
            (Some(start), _) => start.whole_seconds(),
            (None, 0) => first,
            (None, _) => nominal.minus(self.adjust()),
        };
        ValidityPeriod {
            not_before: nominal.minus(self.adjust()).max(earliest),
            not_after: nominal.plus(self.lifetime()).min(self.end.whole_seconds()),
        }
    }

    /// When the certificate after this one is due; `None` if this one is valid to the end.
    #[must_use]
    pub fn due_after(&self, first: Timestamp, index: u64) -> Option<Timestamp> {
        let next = self.nominal(first, index.saturating_add(1));
        (next < self.end.whole_seconds()).then(|| next.minus(self.adjust()))
    }

    /// The newest certificate that is due at `now`: what was missed meanwhile is not made up for.
    #[must_use]
    pub fn newest_due(&self, first: Timestamp, now: Timestamp) -> u64 {
        let lifetime = self.lifetime_seconds.max(1);
        let due = now.plus(self.adjust()).since(first).as_secs() / lifetime;
        let last = self.end.whole_seconds().since(first).as_secs().div_ceil(lifetime).saturating_sub(1);
        due.min(last)
    }
}

/// What is to be done about an order whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The order as it is from now on; it is not due again before its certificate was issued.
    pub order: Order,
    /// Whether a certificate is to be issued; else its end-date is over.
    pub issue: bool,
}

/// Those of these orders of which a certificate is due at `now`.
#[must_use]
pub fn due(orders: Vec<Order>, now: Timestamp) -> Vec<Due> {
    orders.into_iter().filter_map(|order| due_of(order, now)).collect()
}

fn due_of(order: Order, now: Timestamp) -> Option<Due> {
    let (OrderState::Renewing(renewing), Some(agreed)) = (&order.state, &order.auto_renewal) else {
        return None;
    };
    if renewing.next_at.is_none_or(|next| now < next) {
        return None;
    }
    let issue = now < agreed.end.whole_seconds();
    let asked = Renewing { next_at: None, ..(**renewing).clone() };
    Some(Due { order: Order { state: OrderState::Renewing(Box::new(asked)), ..order }, issue })
}

/// Whether a further certificate was asked for and is still due: there is one after the newest, and the end-date is not
/// over.
#[must_use]
pub fn awaits(order: &Order, now: Timestamp) -> bool {
    let (OrderState::Renewing(renewing), Some(agreed)) = (&order.state, &order.auto_renewal) else {
        return false;
    };
    renewing.next_at.is_none()
        && now < agreed.end.whole_seconds()
        && agreed.due_after(renewing.first, renewing.index).is_some()
}

impl Renewing {
    /// Which certificate is made at `now`, if one was asked for: never the newest again, also if the clock was set back.
    #[must_use]
    pub fn next_index(&self, agreed: &AutoRenewal, now: Timestamp) -> u64 {
        agreed.newest_due(self.first, now).max(self.index.saturating_add(1))
    }

    /// The state once the certificate with this index was issued.
    #[must_use]
    pub fn issued(
        agreed: &AutoRenewal,
        csr: Vec<u8>,
        certificate: CertificateId,
        first: Timestamp,
        index: u64,
    ) -> Self {
        Self { csr, certificate, first, index, next_at: agreed.due_after(first, index) }
    }
}
