//! Rows as `--json` shows them: stable field names, times in RFC 3339, every object with its `id`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ca_core::acme::challenge::Attempt;
use ca_core::acme::{Account, AccountState, Authorization, ChallengeState, Order, OrderStatus};
use ca_core::id::to_hex;
use ca_core::pkix::public_key::sha256;
use ca_core::store::{CertificateRecord, CertificateState, CrlSummary, IssuerRecord, Origin};
use ca_core::time::Timestamp;
use serde_json::{Value, json};

/// A DER object as one PEM block, RFC 7468.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let encoded = STANDARD.encode(der);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// An issuer: root or issuing CA, with the age of its CRLs.
#[must_use]
pub fn issuer(record: &IssuerRecord, crls: &[CrlSummary]) -> Value {
    let newest = record.certificates.first();
    let shards: Vec<Value> = crls
        .iter()
        .filter(|crl| crl.issuer == record.id)
        .map(|crl| {
            json!({
                "shard": crl.shard,
                "number": crl.number,
                "this_update": crl.this_update.to_string(),
                "next_update": crl.next_update.to_string(),
                "entries": crl.entries,
            })
        })
        .collect();
    json!({
        "id": record.id,
        "kind": record.kind,
        "state": record.state,
        "subject": record.subject_text,
        "parent": record.parent,
        "sha256": newest.map(|certificate| to_hex(&certificate.fingerprint)),
        "key_label": record.key_label,
        "key_sha256": to_hex(&sha256(&record.public_key)),
        "signature_algorithm": record.signature_algorithm,
        "trial": record.trial,
        "shards": record.shards,
        "created_at": record.created_at.to_string(),
        "crls": shards,
        "pem": record.certificates.iter().map(|c| pem("CERTIFICATE", &c.der)).collect::<String>(),
    })
}

/// A certificate of the inventory as a listing shows it.
#[must_use]
pub fn certificate(record: &CertificateRecord) -> Value {
    let (issued_at, revoked_at, reason) = match record.state {
        CertificateState::Reserved | CertificateState::Abandoned { .. } => (None, None, None),
        CertificateState::Issued { at } => (Some(at), None, None),
        CertificateState::Revoked { issued_at, at, reason } => (Some(issued_at), Some(at), Some(reason)),
    };
    let (order, account, credential) = match &record.origin {
        Origin::Order { order, account } => (Some(*order), Some(*account), None),
        Origin::Credential(credential) => (None, None, Some(*credential)),
        Origin::Issuer(_) => (None, None, None),
    };
    json!({
        "id": record.id,
        "issuer": record.id.issuer,
        "serial": record.id.serial,
        "state": record.state.name(),
        "subject": record.subject,
        "names": record.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "profile": record.profile,
        "not_before": record.not_before.to_string(),
        "not_after": record.not_after.to_string(),
        "sha256": record.der.as_ref().map(|der| to_hex(&der.fingerprint)),
        "key_sha256": record.key,
        "shard": record.shard,
        "order": order,
        "account": account,
        "credential": credential,
        "reserved_at": record.reserved_at.to_string(),
        "issued_at": issued_at.map(|at| at.to_string()),
        "revoked_at": revoked_at.map(|at| at.to_string()),
        "reason": reason.map(|reason| reason.name()),
    })
}

/// A certificate with its PEM and the PEM of its issuers up to, and without, the root.
#[must_use]
pub fn certificate_with_pem(record: &CertificateRecord, issuers: &[IssuerRecord]) -> Value {
    let mut view = certificate(record);
    if let (Some(object), Some(der)) = (view.as_object_mut(), &record.der) {
        object.insert("pem".to_owned(), pem("CERTIFICATE", &der.der).into());
        object.insert("chain_pem".to_owned(), chain_pem(&record.id.issuer, issuers).into());
    }
    view
}

fn chain_pem(issuer: &ca_core::id::IssuerId, issuers: &[IssuerRecord]) -> String {
    let mut text = String::new();
    let mut next = Some(issuer.clone());
    // A chain is never longer than the list of issuers.
    for _ in issuers {
        let found = issuers.iter().find(|record| next.as_ref() == Some(&record.id));
        let Some(record) = found.filter(|record| record.parent.is_some()) else { break };
        if let Some(certificate) = record.certificates.first() {
            text.push_str(&pem("CERTIFICATE", &certificate.der));
        }
        next.clone_from(&record.parent);
    }
    text
}

/// An ACME account.
#[must_use]
pub fn account(account: &Account) -> Value {
    let ended_at = match account.state {
        AccountState::Valid => None,
        AccountState::Deactivated { at } | AccountState::Revoked { at } => Some(at.to_string()),
    };
    json!({
        "id": account.id,
        "directory": account.directory,
        "status": account.state.name(),
        "contacts": account.contacts,
        "thumbprint": account.thumbprint,
        "external_account": super::external_accounts::binding(account.external_account.as_ref()),
        "limits": account.limits,
        "created_at": account.created_at.to_string(),
        "terms_agreed_at": account.terms_agreed_at.map(|at| at.to_string()),
        "ended_at": ended_at,
    })
}

/// An ACME order as it stands at `now`.
#[must_use]
pub fn order(order: &Order, authorizations: &[Authorization], now: Timestamp) -> Value {
    let status = order.status(authorizations, now);
    let (certificate, failure) = match &status {
        OrderStatus::Valid(certificate) | OrderStatus::Renewing(certificate) => {
            (Some(certificate.clone()), None)
        }
        OrderStatus::Invalid(failure) => (None, failure.as_ref().map(ToString::to_string)),
        OrderStatus::Pending | OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Canceled => {
            (None, None)
        }
    };
    json!({
        "id": order.id,
        "account": order.account,
        "directory": order.directory,
        "status": status.name(),
        "names": order.identifiers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "profile": order.profile,
        "not_before": order.validity.not_before.map(|date| date.to_string()),
        "not_after": order.validity.not_after.map(|date| date.to_string()),
        "replaces": order.replaces.as_ref().map(|predecessor| &predecessor.certificate),
        "owner": order.annotations.as_ref().and_then(|added| added.owner.as_ref()),
        "labels": order.annotations.as_ref().map(|added| added.labels.as_map()),
        "renewed_until": order.auto_renewal.map(|agreed| agreed.end.to_string()),
        "created_at": order.created_at.to_string(),
        "expires_at": order.expires_at.to_string(),
        "certificate": certificate,
        "failure": failure,
    })
}

/// An ACME order with its authorizations and what each validation attempt met.
#[must_use]
pub fn order_with_authorizations(row: &Order, authorizations: &[Authorization], now: Timestamp) -> Value {
    let mut view = order(row, authorizations, now);
    let details: Vec<Value> =
        authorizations.iter().map(|authorization| authorization_view(authorization, now)).collect();
    if let Some(object) = view.as_object_mut() {
        object.insert("authorizations".to_owned(), details.into());
    }
    view
}

fn authorization_view(authorization: &Authorization, now: Timestamp) -> Value {
    let challenges: Vec<Value> = authorization
        .challenges
        .iter()
        .map(|challenge| {
            json!({
                "type": challenge.kind.name(),
                "status": challenge_status(&challenge.state),
                "attempts": attempts(&challenge.state),
            })
        })
        .collect();
    json!({
        "id": authorization.id,
        "name": authorization.identifier.to_string(),
        "wildcard": authorization.wildcard,
        "status": authorization.status(now).name(),
        "expires_at": authorization.expires_at.to_string(),
        "challenges": challenges,
    })
}

fn challenge_status(state: &ChallengeState) -> &'static str {
    match state {
        ChallengeState::Pending => "pending",
        ChallengeState::Processing { .. } => "processing",
        ChallengeState::Valid { .. } => "valid",
        ChallengeState::Invalid { .. } => "invalid",
    }
}

fn attempts(state: &ChallengeState) -> Vec<Value> {
    match state {
        ChallengeState::Pending | ChallengeState::Processing { .. } => Vec::new(),
        ChallengeState::Valid { attempts, .. } | ChallengeState::Invalid { attempts, .. } => {
            attempts.iter().map(attempt).collect()
        }
    }
}

fn attempt(attempt: &Attempt) -> Value {
    json!({
        "at": attempt.at.to_string(),
        "addresses": attempt.addresses,
        "failure": attempt.failure.as_ref().map(|failure| json!({ "type": failure.kind, "detail": failure.detail })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_lines_have_64_characters() {
        let text = pem("CERTIFICATE", &[0; 100]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.first(), Some(&"-----BEGIN CERTIFICATE-----"));
        assert_eq!(lines.get(1).map(|line| line.len()), Some(64));
        assert_eq!(lines.last(), Some(&"-----END CERTIFICATE-----"));
        assert!(text.ends_with('\n'));
    }
}
