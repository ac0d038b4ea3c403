//! revokeCert, [RFC 8555 §7.6](https://www.rfc-editor.org/rfc/rfc8555#section-7.6).

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use ca_core::acme::{Account, Admission};
use ca_core::id::EffectId;
use ca_core::pkix::serial::SerialNumber;
use ca_core::policy::DirectoryPolicy;
use ca_core::random::SystemRandom;
use ca_core::revocation::{InvalidReason, RevocationReason, authorizable, authorized_for_all};
use ca_core::store::{
    CertificateId, CertificateRecord, CertificateState, Commit, Effect, EffectKind, Origin,
    RevocationRequester, Topic,
};
use ca_core::time::Timestamp;
use der::{Decode, Encode};
use http::StatusCode;
use x509_cert::Certificate;

use crate::eab;
use crate::problem::{Problem, ProblemType};
use crate::service::{App, Shared};
use crate::verified::{ByEither, Json, Verified};
use crate::wire::revocation::RevokeCertificate;

/// How long the client waits for the revocation to take effect. It is stored before, and takes effect in any case.
const REVOCATION_WAIT: Duration = Duration::from_secs(10);

/// By the account that it was issued to, by an account that holds authorizations for all its names, or by the
/// certificate's own key.
pub(crate) async fn revoke(
    State(app): State<App>,
    request: Verified<Json<RevokeCertificate>, ByEither>,
) -> Result<Response, Problem> {
    let Json(asked) = &request.payload;
    let reason = reason(asked)?;
    let record = find(&app, &asked.certificate.0).await?;
    let requested_by = authorize(&app, &request, &record).await?;
    require_not_renewed(&app, &record).await?;
    // Of one that is revoked already, the CA still blocks a key that is now said to be compromised.
    if reason != RevocationReason::KeyCompromise {
        require_not_revoked(&record.state)?;
    }

    let certificate = record.id.clone();
    let effect = Effect {
        id: EffectId::generate(request.now, &mut SystemRandom),
        kind: EffectKind::Revoke { certificate: certificate.clone(), reason, requested_by },
    };
    let topic = Topic::Certificate(certificate.clone());
    app.store.commit(Commit { effects: vec![effect], ..Commit::default() }).await?;
    require_not_revoked(&record.state)?;
    let state = app
        .outcome(
            &topic,
            REVOCATION_WAIT,
            || state_of(&app, &certificate),
            |state: &Option<CertificateState>| state.is_some_and(|state| state.revocation().is_some()),
        )
        .await?;
    if state.is_some_and(|state| state.revocation().is_some()) {
        return Ok(Response::new(axum::body::Body::empty()));
    }
    Err(Problem::unavailable("the revocation is stored and takes effect as soon as the CA is back", 10))
}

/// RFC 8739 §3.1.2: the order of such a certificate is canceled instead.
async fn require_not_renewed(app: &Shared, record: &CertificateRecord) -> Result<(), Problem> {
    let Origin::Order { order, .. } = record.origin else { return Ok(()) };
    let renewed = app.store.order(order).await?.is_some_and(|(order, _)| order.auto_renewal.is_some());
    if !renewed {
        return Ok(());
    }
    let detail = "the certificate is renewed automatically and can't be revoked here; cancel its order, and it ends soon";
    Err(Problem::new(ProblemType::AutoRenewalRevocationNotSupported, detail))
}

async fn state_of(app: &Shared, id: &CertificateId) -> Result<Option<CertificateState>, Problem> {
    Ok(app.store.certificate_status(id.clone()).await?.map(|status| status.state))
}

fn reason(asked: &RevokeCertificate) -> Result<RevocationReason, Problem> {
    let Some(code) = &asked.reason else { return Ok(RevocationReason::Unspecified) };
    let known = code.as_u64().and_then(|code| u8::try_from(code).ok()).and_then(RevocationReason::from_code);
    // That a CA was compromised is not a subscriber's to say.
    let known = known.filter(|reason| *reason != RevocationReason::CaCompromise);
    known.ok_or_else(|| InvalidReason(code.to_string()).into())
}

/// The record of exactly this certificate, octet for octet.
async fn find(app: &Shared, der: &[u8]) -> Result<CertificateRecord, Problem> {
    let unknown = || Problem::not_found("certificate");
    let certificate = Certificate::from_der(der)
        .map_err(|_| Problem::malformed("'certificate' is no X.509 certificate in DER"))?;
    let tbs = certificate.tbs_certificate();
    let serial = SerialNumber::from_x509(tbs.serial_number()).map_err(|_| unknown())?;
    let issuer = tbs.issuer().to_der().map_err(|_| unknown())?;
    for candidate in app.store.issuers().await?.into_iter().filter(|ca| ca.subject == issuer) {
        let id = CertificateId { issuer: candidate.id, serial };
        if let Some(record) = app.store.certificate(id).await?
            && record.der.as_ref().is_some_and(|stored| stored.der == der)
        {
            return Ok(record);
        }
    }
    Err(unknown())
}

async fn authorize(
    app: &Shared,
    request: &Verified<Json<RevokeCertificate>, ByEither>,
    record: &CertificateRecord,
) -> Result<RevocationRequester, Problem> {
    // CA certificates and the roles' own are revoked by operators only.
    if !matches!(record.origin, Origin::Order { .. }) {
        return Err(Problem::new(
            ProblemType::Unauthorized,
            "the certificate was not issued to a subscriber",
        ));
    }
    let policy = &request.directory.settings.policy;
    match &request.signer {
        ByEither::Key(key) if key.public_key().hash() == record.key => {
            Ok(RevocationRequester::CertificateKey(record.key))
        }
        ByEither::Key(_) => {
            Err(Problem::new(ProblemType::Unauthorized, "the key in 'jwk' is not the certificate's key"))
        }
        ByEither::Account(account) if may_revoke(app, policy, account, record, request.now).await? => {
            Ok(RevocationRequester::Account(account.id))
        }
        ByEither::Account(_) => {
            let detail = "the certificate was issued to another account, and this one does not hold valid \
                          authorizations for all its names";
            Err(Problem::new(ProblemType::Unauthorized, detail))
        }
    }
}

async fn may_revoke(
    app: &Shared,
    policy: &DirectoryPolicy,
    account: &Account,
    record: &CertificateRecord,
    now: Timestamp,
) -> Result<bool, Problem> {
    if matches!(record.origin, Origin::Order { account: owner, .. } if owner == account.id) {
        return Ok(true);
    }
    let external = eab::of(app, account).await?;
    // Authorizations that rest on trust stand and fall with what vouches for them.
    let Ok(admission) = Admission::of(policy, account, external.as_ref(), now) else { return Ok(false) };
    let mut held = Vec::new();
    for identifier in authorizable(&record.names, policy) {
        held.extend(app.store.valid_authorizations(account.id, identifier).await?);
    }
    Ok(authorized_for_all(&record.names, &held, &admission, now))
}

fn require_not_revoked(state: &CertificateState) -> Result<(), Problem> {
    match state.revocation() {
        None => Ok(()),
        Some(revocation) => {
            let detail = format!("the certificate was revoked at {} ({})", revocation.at, revocation.reason);
            let problem = Problem::new(ProblemType::AlreadyRevoked, detail);
            Err(problem.with_status(StatusCode::BAD_REQUEST))
        }
    }
}
