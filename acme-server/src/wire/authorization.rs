//! Authorization and challenge objects, [RFC 8555 §7.1.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.1.4),
//! §7.1.5 and §7.5.

use ca_core::acme::challenge::{Attempt, ValidationFailure};
use ca_core::acme::{Authorization, AuthorizationState, Challenge, ChallengeState};
use ca_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::IdentifierBody;
use crate::links::Links;
use crate::problem::{Problem, ProblemBody, Subproblem};

/// A change of an authorization: only its deactivation, §7.5.2.
#[derive(Debug, Deserialize)]
pub(crate) struct AuthorizationUpdate {
    #[serde(default)]
    pub(crate) status: Option<String>,
}

/// The client's word that it is ready, §7.5.1: an object, whose members we ignore.
#[derive(Debug, Deserialize)]
pub(crate) struct ChallengeResponse {}

#[derive(Debug, Serialize)]
pub(crate) struct AuthorizationBody {
    identifier: IdentifierBody,
    status: &'static str,
    expires: String,
    challenges: Vec<ChallengeBody>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    wildcard: bool,
}

impl AuthorizationBody {
    /// A pending authorization shows every challenge, a valid one that by which it became so, and an invalid one those
    /// that were tried.
    pub(crate) fn new(authorization: &Authorization, links: &Links, now: Timestamp) -> Self {
        let shown = |challenge: &&Challenge| match authorization.state {
            AuthorizationState::Valid { by, .. } => challenge.kind == by,
            AuthorizationState::Invalid { .. } => matches!(challenge.state, ChallengeState::Invalid { .. }),
            AuthorizationState::Pending
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
                .map(|challenge| ChallengeBody::new(authorization, challenge, links))
                .collect(),
            wildcard: authorization.wildcard,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct ChallengeBody {
    #[serde(rename = "type")]
    kind: &'static str,
    url: String,
    status: &'static str,
    token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    validated: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ProblemBody>,
}

impl ChallengeBody {
    pub(crate) fn new(authorization: &Authorization, challenge: &Challenge, links: &Links) -> Self {
        let (status, validated, error) = match &challenge.state {
            ChallengeState::Pending => ("pending", None, None),
            ChallengeState::Processing { .. } => ("processing", None, None),
            ChallengeState::Valid { validated_at, .. } => ("valid", Some(validated_at.to_string()), None),
            ChallengeState::Invalid { failure, attempts, .. } => {
                ("invalid", None, Some(failed(authorization, failure, attempts)))
            }
        };
        Self {
            kind: challenge.kind.name(),
            url: links.challenge(authorization.id, challenge.kind),
            status,
            token: challenge.token.as_str().to_owned(),
            validated,
            error,
        }
    }
}

/// The last failure, with every attempt as a subproblem that says when and where it looked.
fn failed(authorization: &Authorization, failure: &ValidationFailure, attempts: &[Attempt]) -> ProblemBody {
    let subproblems = attempts
        .iter()
        .filter_map(|attempt| {
            let failure = attempt.failure.as_ref()?;
            let tried = match attempt.addresses.as_slice() {
                [] => String::new(),
                addresses => format!(" (tried {})", addresses.join(", ")),
            };
            Some(Subproblem {
                kind: failure.kind.into(),
                detail: format!("{}: {}{tried}", attempt.at, failure.detail),
                identifier: Some((&authorization.identifier).into()),
            })
        })
        .collect();
    Problem::from(failure).with_subproblems(subproblems).body()
}
