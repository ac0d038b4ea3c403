//! What renewal information needs besides the certificate, kept in memory: whose key identifiers are whose, and what
//! operators want renewed sooner. A request for renewal information is one point read then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use ca_core::BoxFuture;
use ca_core::acme::{RenewalId, RenewalPull};
use ca_core::id::IssuerId;
use ca_core::pkix::certificate::CaCertificate;
use ca_core::store::{CertificateId, IssuerRecord, Store, StoreError, Topic};
use ca_core::time::Stopwatch;

/// How long it is believed without a look, in case a change was not heard of.
const BELIEVED: Duration = Duration::from_secs(10);

/// The newest reading, and how to know that it is not new any more.
#[derive(Default)]
pub(crate) struct Renewals(Mutex<Option<Reading>>);

struct Reading {
    known: Arc<Known>,
    changed: Vec<BoxFuture<'static, ()>>,
    read: Stopwatch,
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Known {
    issuers: HashMap<Vec<u8>, IssuerId>,
    /// What is to be renewed sooner.
    pub(crate) pulls: Vec<RenewalPull>,
}

impl Known {
    /// Which of our certificates a client means, if it is one of an issuer of ours.
    pub(crate) fn certificate(&self, id: &RenewalId) -> Option<CertificateId> {
        let issuer = self.issuers.get(&id.key_identifier)?.clone();
        Some(CertificateId { issuer, serial: id.serial })
    }
}

impl Renewals {
    /// What is known now, read again if something changed.
    ///
    /// # Errors
    /// If the store can't be read.
    pub(crate) async fn known(&self, store: &dyn Store) -> Result<Arc<Known>, StoreError> {
        if let Some(known) = self.unchanged() {
            return Ok(known);
        }
        // Registered before the reads, so that a change in between is not missed.
        let changed = [Topic::Issuers, Topic::RenewalPulls].map(|topic| store.watch(&topic)).into();
        let read = Stopwatch::start();
        let issuers = store.issuers().await?.iter().flat_map(key_identifiers).collect();
        let known = Arc::new(Known { issuers, pulls: store.renewal_pulls().await? });
        let reading = Reading { known: Arc::clone(&known), changed, read };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
        Ok(known)
    }

    fn unchanged(&self) -> Option<Arc<Known>> {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = reading.as_mut().filter(|reading| reading.read.elapsed() < BELIEVED)?;
        // Only asked, not waited for: nobody need be woken.
        let mut context = Context::from_waker(Waker::noop());
        let changed = kept.changed.iter_mut().any(|changed| changed.as_mut().poll(&mut context).is_ready());
        if changed {
            *reading = None;
            return None;
        }
        Some(Arc::clone(&kept.known))
    }
}

/// The key identifiers that stand in the certificates of an issuer: those of its own certificates.
fn key_identifiers(issuer: &IssuerRecord) -> Vec<(Vec<u8>, IssuerId)> {
    let read =
        issuer.certificates.iter().filter_map(|certificate| CaCertificate::from_der(&certificate.der).ok());
    read.map(|certificate| (certificate.key_identifier, issuer.id.clone())).collect()
}
