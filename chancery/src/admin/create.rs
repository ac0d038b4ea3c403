//! Creating roots and issuing CAs for an administrator.

use ca_core::audit::Actor;
use ca_core::authority::{AuthorityError, NewCa};
use ca_core::issuance::stored_name;
use ca_core::pkix::name::organisation;
use ca_core::signing::{KeyAlgorithm, SignatureAlgorithm};
use ca_core::store::{IssuerKind, IssuerRecord, IssuerState};

use super::execute::{Administration, authority_failure, not_found, store_failure};
use super::{Answer, views};
use crate::failure::{Code, Failure};
use crate::setup;

/// What an administrator wants created.
pub(super) struct Wanted {
    pub kind: IssuerKind,
    pub root: Option<String>,
    pub organisation: Option<String>,
    pub key_algorithm: KeyAlgorithm,
    pub signature_algorithm: SignatureAlgorithm,
}

impl Administration {
    /// Creates a root or an issuing CA, and answers when its CRLs are published and `roots.pem` is written.
    pub(super) async fn create(&self, wanted: Wanted, uid: u32) -> Result<Answer, Failure> {
        let authority = self.authority()?;
        let issuers = self.store.issuers().await.map_err(store_failure)?;
        if !wanted.signature_algorithm.fits(wanted.key_algorithm) {
            return Err(Failure::new(
                Code::Usage,
                format!(
                    "a key of kind {} can't make signatures of kind {}",
                    wanted.key_algorithm,
                    wanted.signature_algorithm.name()
                ),
                "leave --signature-algorithm out, or give one that fits --key-algorithm",
            ));
        }
        let root = root(&issuers, wanted.root.as_deref())?;
        let name = match wanted.organisation {
            Some(name) => name,
            None => {
                stored_name(&root.subject).ok().and_then(|name| organisation(&name)).ok_or_else(|| {
                    Failure::new(
                        Code::Usage,
                        format!("the name of {} says no organisation", root.id),
                        "give one with --name",
                    )
                })?
            }
        };
        setup::check_organisation(&name)?;
        let new = NewCa {
            organisation: name,
            key_algorithm: wanted.key_algorithm,
            signature_algorithm: wanted.signature_algorithm,
            trial: root.trial,
            shards: setup::SHARDS,
            actor: Actor::Operator { uid },
        };
        let created = match wanted.kind {
            IssuerKind::Root => authority.create_root(&new).await,
            IssuerKind::Issuing => authority.create_issuing(&new, &root.id).await,
        };
        let created = created.map_err(|error| match error {
            AuthorityError::UnknownIssuer(id) => not_found("root", id.as_str()),
            error => authority_failure(error),
        })?;
        if wanted.kind == IssuerKind::Root {
            setup::write_roots(&self.data, &*self.store).await?;
        }
        let crls = self.store.crl_summaries().await.map_err(store_failure)?;
        Ok(Answer::Object(views::issuer(&created, &crls)))
    }
}

/// The active root of this id, or the newest.
fn root<'a>(issuers: &'a [IssuerRecord], id: Option<&str>) -> Result<&'a IssuerRecord, Failure> {
    let complete = |root: &&IssuerRecord| {
        root.kind == IssuerKind::Root && root.state == IssuerState::Active && !root.certificates.is_empty()
    };
    let mut roots = issuers.iter().filter(complete);
    let found = match id {
        Some(id) => roots.find(|root| root.id.as_str() == id),
        None => roots.next(),
    };
    found.ok_or_else(|| not_found("root", id.unwrap_or("root-1")))
}
