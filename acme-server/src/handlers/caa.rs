//! CAA records when an order is finalized: a name whose records nobody looked at lately is looked at again, RFC 8659 §4
//! and [RFC 8657 §5.5](https://www.rfc-editor.org/rfc/rfc8657#section-5.5).

use std::sync::Arc;
use std::time::Duration;

use ca_core::acme::caa::{CaaSubject, is_stale};
use ca_core::acme::{Authorization, AuthorizationState, ChallengeType, Identifier, Order};
use ca_core::time::Timestamp;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::problem::{Problem, ProblemType, Subproblem};
use crate::service::{Directory, Shared};

/// All look-ups of one request together take at most this long; it has time left for its answer then.
const LIMIT: Duration = Duration::from_secs(20);

impl Directory {
    /// For what CAA records are judged in this directory; `None` where they are not looked at.
    pub(crate) fn caa_subject(
        &self,
        authorization: &Authorization,
        method: Option<ChallengeType>,
    ) -> Option<CaaSubject> {
        Some(CaaSubject {
            identities: self.settings.caa.clone()?,
            account_url: self.links.account(authorization.account),
            method,
            wildcard: authorization.wildcard,
        })
    }
}

/// Looks at the CAA records of every name for which that is due. Each look-up waits for one of the account's places.
///
/// # Errors
/// Which names can't be certified, each with its reason; the order stays `ready`.
pub(super) async fn require(
    app: &Shared,
    directory: &Directory,
    (order, authorizations): &(Order, Vec<Authorization>),
    now: Timestamp,
) -> Result<(), Problem> {
    let mut looking = JoinSet::new();
    for (index, identifier) in order.identifiers.iter().enumerate() {
        let covering = authorizations.iter().find(|authorization| authorization.covers(identifier));
        let Some(authorization) = covering.filter(|authorization| is_stale(authorization, now)) else {
            continue;
        };
        let method = match authorization.state {
            AuthorizationState::Valid { by, .. } => Some(by),
            _ => None,
        };
        let (Some(subject), Identifier::Dns(name)) =
            (directory.caa_subject(authorization, method), identifier.base())
        else {
            continue;
        };
        let subject = CaaSubject { wildcard: identifier.is_wildcard(), ..subject };
        let share = app.validations.share(authorization.account)?;
        let validator = Arc::clone(&directory.validator);
        looking.spawn(async move {
            let _place = share.place().await;
            (index, validator.caa(&name, &subject).await)
        });
    }
    let found = timeout(LIMIT, looking.join_all()).await.map_err(|_| {
        Problem::new(
            ProblemType::Dns,
            "the CAA records of the names could not all be looked up in time; try again",
        )
    })?;
    let mut refused: Vec<_> =
        found.into_iter().filter_map(|(index, finding)| Some((index, finding.permits().err()?))).collect();
    refused.sort_by_key(|(index, _)| *index);
    let subproblems: Vec<Subproblem> = refused
        .into_iter()
        .filter_map(|(index, failure)| {
            let identifier = order.identifiers.get(index)?.into();
            Some(Subproblem {
                kind: failure.kind.into(),
                detail: failure.detail,
                identifier: Some(identifier),
            })
        })
        .collect();
    match subproblems.as_slice() {
        [] => Ok(()),
        [only] => Err(Problem::new(only.kind, only.detail.clone()).with_subproblems(subproblems)),
        [first, ..] => {
            let forbidden = subproblems.iter().find(|problem| problem.kind == ProblemType::Caa);
            let detail = format!(
                "CAA records keep {} names from being certified; see the subproblems",
                subproblems.len()
            );
            Err(Problem::new(forbidden.unwrap_or(first).kind, detail).with_subproblems(subproblems))
        }
    }
}
