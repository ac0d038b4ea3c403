//! Challenges: the client's word that it is ready, and reading them,
//! [RFC 8555 §7.5.1](https://www.rfc-editor.org/rfc/rfc8555#section-7.5.1).

use axum::extract::State;
use axum::response::Response;
use ca_core::acme::authorization::Accepted;
use ca_core::acme::{Authorization, ChallengeState, ChallengeType};
use ca_core::id::AuthorizationId;
use ca_core::store::{Change, Commit, Topic};
use http::StatusCode;

use super::authorization::{find, in_progress};
use super::{ResponseExt, json};
use crate::problem::Problem;
use crate::service::{App, Shared};
use crate::validation::device_attest01::attestation_object;
use crate::verified::{Json, ReadOr, Verified};
use crate::wire::authorization::{ChallengeBody, ChallengeResponse};

type Request = Verified<ReadOr<Json<ChallengeResponse>>>;

pub(crate) async fn respond(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let id: AuthorizationId = request.path("authorization")?;
    let kind: ChallengeType = request.path("challenge")?;
    let authorization = find(&app, &request, id).await?;
    let challenge = authorization.challenge(kind).ok_or_else(|| Problem::not_found("challenge"))?;

    let waits = match &request.payload {
        ReadOr::Read => {
            app.continue_validations(&request.directory, &authorization, &request.signer.account);
            in_progress(&authorization)
        }
        ReadOr::Write(Json(response)) => match authorization.accept(kind, request.now)? {
            Accepted::Validate(_) if kind == ChallengeType::DeviceAttest01 => {
                let attestation = attestation_object(response.att_obj.as_ref());
                app.attest(
                    &request.directory,
                    &authorization,
                    challenge,
                    &request.signer.account,
                    attestation,
                )
                .await?;
                return render(&request, &find(&app, &request, id).await?, kind);
            }
            Accepted::Validate(_) => {
                app.validate(&request.directory, &authorization, challenge, &request.signer.account)?;
                true
            }
            Accepted::Unchanged => {
                app.continue_validations(&request.directory, &authorization, &request.signer.account);
                in_progress(&authorization)
            }
        },
    };
    let authorization = if waits { outcome(&app, &request, id, kind).await? } else { authorization };
    render(&request, &authorization, kind)
}

/// Waits a moment for the outcome, which the validation commits together with the acceptance. If it does not come in
/// that time, the acceptance is committed before the answer says `processing`.
async fn outcome(
    app: &App,
    request: &Request,
    id: AuthorizationId,
    kind: ChallengeType,
) -> Result<Authorization, Problem> {
    let topic = Topic::Authorization(id);
    let settled = |authorization: &Authorization| is_decided(authorization, kind);
    let authorization = app.outcome(&topic, Shared::OUTCOME_WAIT, || find(app, request, id), settled).await?;
    if is_decided(&authorization, kind) || matches!(request.payload, ReadOr::Read) {
        return Ok(authorization);
    }
    app.decide(|_| accept(app, request, id, kind)).await
}

async fn accept(
    app: &Shared,
    request: &Request,
    id: AuthorizationId,
    kind: ChallengeType,
) -> Result<Authorization, Problem> {
    let authorization = find(app, request, id).await?;
    match authorization.accept(kind, app.clock.now())? {
        Accepted::Validate(accepted) => {
            let changes = vec![Change::PutAuthorization(accepted.clone())];
            app.store.commit(Commit { changes, ..Commit::default() }).await?;
            Ok(accepted)
        }
        Accepted::Unchanged => Ok(authorization),
    }
}

fn is_decided(authorization: &Authorization, kind: ChallengeType) -> bool {
    authorization.challenge(kind).is_none_or(|challenge| {
        matches!(challenge.state, ChallengeState::Valid { .. } | ChallengeState::Invalid { .. })
    })
}

fn render(
    request: &Request,
    authorization: &Authorization,
    kind: ChallengeType,
) -> Result<Response, Problem> {
    let links = &request.directory.links;
    let challenge = authorization.challenge(kind).ok_or_else(|| Problem::not_found("challenge"))?;
    let response = json(StatusCode::OK, &ChallengeBody::new(authorization, challenge, &request.directory))
        .with_location(&links.challenge(authorization.id, kind))
        .with_link(&links.authorization(authorization.id), "up");
    let processing = matches!(challenge.state, ChallengeState::Processing { .. });
    Ok(if processing { response.with_retry_after() } else { response })
}
