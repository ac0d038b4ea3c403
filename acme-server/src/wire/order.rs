//! Order objects and requests, [RFC 8555 §7.1.3](https://www.rfc-editor.org/rfc/rfc8555#section-7.1.3) and §7.4.

use ca_core::acme::{Authorization, AuthorizationStatus, Order, OrderStatus};
use ca_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{IdentifierBody, Octets};
use crate::links::Links;
use crate::problem::{Problem, ProblemBody, ProblemType};

/// newOrder, §7.4.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewOrder {
    pub(crate) identifiers: Vec<IdentifierBody>,
    #[serde(default)]
    pub(crate) not_before: Option<String>,
    #[serde(default)]
    pub(crate) not_after: Option<String>,
    /// draft-ietf-acme-profiles.
    #[serde(default)]
    pub(crate) profile: Option<String>,
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
    profile: String,
    authorizations: Vec<String>,
    finalize: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
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
            OrderStatus::Invalid(Some(failure)) => (None, Some(Problem::from(failure).body())),
            OrderStatus::Invalid(None) => (None, Some(ended(order, authorizations, now).body())),
            OrderStatus::Pending | OrderStatus::Ready | OrderStatus::Processing => (None, None),
        };
        Self {
            status: status.name(),
            expires: order.expires_at.to_string(),
            identifiers: order.identifiers.iter().map(IdentifierBody::from).collect(),
            profile: order.profile.to_string(),
            authorizations: order.authorizations.iter().map(|id| links.authorization(*id)).collect(),
            finalize: links.finalize(order.id),
            certificate,
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
