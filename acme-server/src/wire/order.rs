//! Order objects and requests, [RFC 8555 §7.1.3](https://www.rfc-editor.org/rfc/rfc8555#section-7.1.3) and §7.4.

use std::time::Duration;

use ca_core::acme::{Authorization, AuthorizationStatus, AutoRenewal, Order, OrderStatus, star};
use ca_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::object::Object;
use super::{AskedIdentifier, IdentifierBody, Octets};
use crate::links::Links;
use crate::problem::{Problem, ProblemBody, ProblemType};

/// newOrder, §7.4.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewOrder {
    pub(crate) identifiers: Vec<Object<AskedIdentifier>>,
    #[serde(default)]
    pub(crate) not_before: Option<String>,
    #[serde(default)]
    pub(crate) not_after: Option<String>,
    /// draft-ietf-acme-profiles.
    #[serde(default)]
    pub(crate) profile: Option<String>,
    /// RFC 9773 §5.
    #[serde(default)]
    pub(crate) replaces: Option<String>,
    /// RFC 8739 §3.1.1.
    #[serde(default, rename = "auto-renewal")]
    pub(crate) auto_renewal: Option<Object<AskedAutoRenewal>>,
}

/// A request to the order's URL, RFC 8739 §3.1.2.
#[derive(Debug, Deserialize)]
pub(crate) struct OrderUpdate {
    #[serde(default)]
    pub(crate) status: Option<String>,
}

/// `auto-renewal` in newOrder, RFC 8739 §3.1.1.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct AskedAutoRenewal {
    #[serde(default)]
    start_date: Option<String>,
    end_date: String,
    lifetime: u64,
    #[serde(default)]
    lifetime_adjust: u64,
    #[serde(default)]
    allow_certificate_get: bool,
}

impl AskedAutoRenewal {
    /// Reads its dates.
    ///
    /// # Errors
    /// If one is none.
    pub(crate) fn read(&self) -> Result<star::AskedAutoRenewal, Problem> {
        let date = |member: &str, text: &str| {
            let read = in_any_zone(text).map(Timestamp::whole_seconds);
            read.ok_or_else(|| {
                Problem::malformed(format!(
                    "{member} of auto-renewal must be a date of RFC 3339, such as 2027-01-31T12:00:00Z"
                ))
            })
        };
        Ok(star::AskedAutoRenewal {
            start: self.start_date.as_deref().map(|text| date("start-date", text)).transpose()?,
            end: date("end-date", &self.end_date)?,
            lifetime_seconds: self.lifetime,
            adjust_seconds: self.lifetime_adjust,
            certificate_get: self.allow_certificate_get,
        })
    }
}

/// `auto-renewal` in the order object, as it was agreed on.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct AutoRenewalBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    start_date: Option<String>,
    end_date: String,
    lifetime: u64,
    lifetime_adjust: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    allow_certificate_get: bool,
}

impl From<&AutoRenewal> for AutoRenewalBody {
    fn from(agreed: &AutoRenewal) -> Self {
        Self {
            start_date: agreed.start.map(|date| date.to_string()),
            end_date: agreed.end.to_string(),
            lifetime: agreed.lifetime_seconds,
            lifetime_adjust: agreed.adjust_seconds,
            allow_certificate_get: agreed.certificate_get,
        }
    }
}

/// A date of newOrder, RFC 3339, in any time zone.
///
/// # Errors
/// If it is none.
pub(crate) fn date(member: &str, text: &Option<String>) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let read = in_any_zone(text).ok_or_else(|| {
        Problem::malformed(format!("{member} must be a date of RFC 3339, such as 2027-01-31T12:00:00Z"))
    })?;
    Ok(Some(read.whole_seconds()))
}

fn in_any_zone(text: &str) -> Option<Timestamp> {
    // ±HH:MM after the seconds; the hyphens of the date stand before them.
    let split = text.len().checked_sub(6).filter(|split| text.is_char_boundary(*split));
    let (local, zone) = match split.map(|split| text.split_at(split)) {
        Some((local, zone)) if zone.starts_with(['+', '-']) && local.contains(['T', 't']) => (local, zone),
        _ => return Timestamp::from_rfc3339(&text.to_ascii_uppercase()),
    };
    let (hours, minutes) = zone[1..].split_once(':')?;
    let number = |digits: &str| match digits.len() {
        2 if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<u64>().ok(),
        _ => None,
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let local = Timestamp::from_rfc3339(&format!("{}Z", local.to_ascii_uppercase()))?;
    let offset = Duration::from_mins(hours * 60 + minutes);
    Some(if zone.starts_with('+') { local.minus(offset) } else { local.plus(offset) })
}

/// finalize, §7.4.
#[derive(Debug, Deserialize)]
pub(crate) struct Finalize {
    pub(crate) csr: Octets,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OrderBody {
    status: &'static str,
    expires: String,
    identifiers: Vec<IdentifierBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
    profile: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
    authorizations: Vec<String>,
    finalize: String,
    #[serde(rename = "auto-renewal", skip_serializing_if = "Option::is_none")]
    auto_renewal: Option<AutoRenewalBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    /// RFC 8739 §3.1.1.
    #[serde(rename = "star-certificate", skip_serializing_if = "Option::is_none")]
    star_certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ProblemBody>,
}

impl OrderBody {
    pub(crate) fn new(
        order: &Order,
        authorizations: &[Authorization],
        links: &Links,
        now: Timestamp,
    ) -> Self {
        let status = order.status(authorizations, now);
        let (certificate, error) = match &status {
            OrderStatus::Valid(certificate) => (Some(links.certificate(certificate)), None),
            OrderStatus::Invalid(failure) => {
                let problem = match failure {
                    Some(failure) => Problem::from(failure),
                    None => ended(order, authorizations, now),
                };
                let body = problem.body();
                let explanation = || links.order_explanation(order.id);
                (None, Some(if order.lets_anybody_fetch() { body } else { body.explained_at(explanation()) }))
            }
            OrderStatus::Pending
            | OrderStatus::Ready
            | OrderStatus::Processing
            | OrderStatus::Renewing(_)
            | OrderStatus::Canceled => (None, None),
        };
        let star_certificate =
            matches!(status, OrderStatus::Renewing(_)).then(|| links.star_certificate(order.id));
        Self {
            status: status.name(),
            expires: order.expires_at.to_string(),
            identifiers: order.identifiers.iter().map(IdentifierBody::from).collect(),
            not_before: order.validity.not_before.map(|date| date.to_string()),
            not_after: order.validity.not_after.map(|date| date.to_string()),
            profile: order.profile.to_string(),
            replaces: order.replaces.as_ref().map(|predecessor| predecessor.named.to_string()),
            authorizations: order.authorizations.iter().map(|id| links.authorization(*id)).collect(),
            finalize: links.finalize(order.id),
            auto_renewal: order.auto_renewal.as_ref().map(AutoRenewalBody::from),
            certificate,
            star_certificate,
            error,
        }
    }
}

/// Why an open order can't become a certificate any more: its time is over, or which authorization ended.
fn ended(order: &Order, authorizations: &[Authorization], now: Timestamp) -> Problem {
    let open = [AuthorizationStatus::Pending, AuthorizationStatus::Valid];
    let fallen = authorizations.iter().find(|authorization| !open.contains(&authorization.status(now)));
    match fallen {
        Some(authorization) => Problem::new(
            ProblemType::Unauthorized,
            format!(
                "the authorization for '{}' is {}",
                authorization.identifier,
                authorization.status(now).name()
            ),
        ),
        None => Problem::malformed(format!("the order expired at {}", order.expires_at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_any_zone_and_kept_in_utc() {
        let read = |text: &str| in_any_zone(text).map(|time| time.to_string());
        for same in [
            "2027-01-31T12:00:00Z",
            "2027-01-31t12:00:00z",
            "2027-01-31T13:30:00+01:30",
            "2027-01-31T00:00:00-12:00",
            "2027-02-01T02:00:00.250+14:00",
        ] {
            assert_eq!(read(same).as_deref(), Some("2027-01-31T12:00:00Z"), "{same}");
        }
        for bad in [
            "",
            "tomorrow",
            "2027-01-31",
            "2027-01-31T12:00:00",
            "2027-01-31T12:00:00+1:00",
            "2027-01-31T12:00:00+24:00",
            "\u{fc}\u{fc}\u{fc}\u{fc}+01:00",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
