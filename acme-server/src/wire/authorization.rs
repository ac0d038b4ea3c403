//! Authorization and challenge objects, [RFC 8555 §7.1.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.1.4),
//! §7.1.5 and §7.5.

use ca_core::acme::caa::CaaFinding;
use ca_core::acme::challenge::{Attempt, ValidationFailure};
use ca_core::acme::{Authorization, AuthorizationState, Challenge, ChallengeState, ChallengeType};
use ca_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::object::Object;
use super::{AskedIdentifier, IdentifierBody};
use crate::problem::{Problem, ProblemBody, Subproblem};
use crate::service::Directory;

/// A change of an authorization: only its deactivation, §7.5.2.
#[derive(Debug, Deserialize)]
pub(crate) struct AuthorizationUpdate {
    #[serde(default)]
    pub(crate) status: Option<String>,
}

/// newAuthz, §7.4.1.
#[derive(Debug, Deserialize)]
pub(crate) struct NewAuthorization {
    pub(crate) identifier: Object<AskedIdentifier>,
}

/// The client's word that it is ready, §7.5.1: an object, whose members we ignore but for device-attest-01.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChallengeResponse {
    /// An attestation object in base64url (draft-ietf-acme-device-attest-10 §5).
    #[serde(default)]
    pub(crate) att_obj: Option<serde_json::Value>,
}

#[derive(Debug, Serialize)]
pub(crate) struct AuthorizationBody {
    identifier: IdentifierBody,
    status: &'static str,
    expires: String,
    challenges: Vec<ChallengeBody>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    wildcard: bool,
    /// RFC 9444 §4.1.
    #[serde(rename = "subdomainAuthAllowed", skip_serializing_if = "std::ops::Not::not")]
    subdomains: bool,
}

impl AuthorizationBody {
    /// A pending authorization shows every challenge, a valid one that by which it became so, and an invalid one those
    /// that were tried. One that rests on trust has none.
    pub(crate) fn new(authorization: &Authorization, directory: &Directory, now: Timestamp) -> Self {
        let shown = |challenge: &&Challenge| match authorization.state {
            AuthorizationState::Valid { by, .. } => challenge.kind == by,
            AuthorizationState::Invalid { .. } => matches!(challenge.state, ChallengeState::Invalid { .. }),
            AuthorizationState::Pending
            | AuthorizationState::Trusted { .. }
            | AuthorizationState::Deactivated { .. }
            | AuthorizationState::Revoked { .. } => true,
        };
        Self {
            identifier: (&authorization.identifier).into(),
            status: authorization.status(now).name(),
            expires: authorization.expires_at.to_string(),
            challenges: authorization
                .challenges
                .iter()
                .filter(shown)
                .map(|challenge| ChallengeBody::new(authorization, challenge, directory))
                .collect(),
            wildcard: authorization.wildcard,
            subdomains: authorization.subdomains,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct ChallengeBody {
    #[serde(rename = "type")]
    kind: &'static str,
    url: String,
    status: &'static str,
    /// dns-persist-01 has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// Of dns-persist-01 alone: the names by which its record can name this CA.
    #[serde(rename = "issuerDomainNames", skip_serializing_if = "Vec::is_empty")]
    issuer_domain_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    validated: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ProblemBody>,
}

impl ChallengeBody {
    pub(crate) fn new(authorization: &Authorization, challenge: &Challenge, directory: &Directory) -> Self {
        let (links, names) = (&directory.links, &directory.settings.issuer_domain_names);
        let persistent = challenge.kind == ChallengeType::DnsPersist01;
        let (status, validated, error) = match &challenge.state {
            ChallengeState::Pending => ("pending", None, None),
            ChallengeState::Processing { .. } => ("processing", None, None),
            ChallengeState::Valid { validated_at, .. } => ("valid", Some(validated_at.to_string()), None),
            ChallengeState::Invalid { failure, attempts, .. } => {
                let explanation = links.authorization_explanation(authorization.id);
                ("invalid", None, Some(failed(authorization, failure, attempts, explanation)))
            }
        };
        Self {
            kind: challenge.kind.name(),
            url: links.challenge(authorization.id, challenge.kind),
            status,
            token: (!persistent).then(|| challenge.token.as_str().to_owned()),
            issuer_domain_names: if persistent {
                names.iter().map(ToString::to_string).collect()
            } else {
                Vec::new()
            },
            validated,
            error,
        }
    }
}

/// The last failure, with every attempt as a subproblem that says when and where it looked, and another where the CAA
/// records forbid it beside.
fn failed(
    authorization: &Authorization,
    failure: &ValidationFailure,
    attempts: &[Attempt],
    explanation: String,
) -> ProblemBody {
    let subproblem = |attempt: &Attempt, failure: &ValidationFailure, tried: &str| Subproblem {
        kind: failure.kind.into(),
        detail: format!("{}: {}{tried}", attempt.at, failure.detail),
        identifier: Some((&authorization.identifier).into()),
    };
    let subproblems = attempts
        .iter()
        .flat_map(|attempt| {
            let tried = match attempt.addresses.as_slice() {
                [] => String::new(),
                addresses => format!(" (tried {})", addresses.join(", ")),
            };
            let failed = attempt.failure.as_ref();
            let caa = match &attempt.caa {
                Some(CaaFinding::Refused { failure }) if failed != Some(failure) => Some(failure),
                _ => None,
            };
            let failed = failed.map(|failure| subproblem(attempt, failure, &tried));
            failed.into_iter().chain(caa.map(|failure| subproblem(attempt, failure, "")))
        })
        .collect();
    Problem::from(failure).with_subproblems(subproblems).body().explained_at(explanation)
}
