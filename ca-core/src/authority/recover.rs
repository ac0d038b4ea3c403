//! After a crash: what was reserved is signed as it was logged, or abandoned for ever.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::store::{CertificateRecord, Origin};

use super::{Authority, AuthorityError};

/// How many reservations are read at once.
const PAGE: u32 = 1000;

/// What recovery found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Reservations that their effects will finish.
    pub resumed: usize,
    /// Reservations that nothing will finish: abandoned.
    pub abandoned: usize,
}

impl Authority {
    /// Reads the newest logged time and every reservation without a certificate. Run once before the first effect.
    ///
    /// A reservation whose order or wish still waits is kept and signed, byte for byte, when its effect is carried
    /// out. Any other is abandoned.
    ///
    /// # Errors
    /// If the store can't be read or written.
    pub async fn recover(&self) -> Result<Recovered, AuthorityError> {
        if let Some(newest) = self.store.newest_event_at().await? {
            self.newest.fetch_max(newest.as_millis(), Ordering::Relaxed);
        }
        let mut recovered = Recovered::default();
        let mut kept: HashMap<Origin, CertificateRecord> = HashMap::new();
        loop {
            let reservations = self.store.reserved_certificates(PAGE).await?;
            let full = reservations.len() >= usize::try_from(PAGE).unwrap_or(usize::MAX);
            let mut progress = false;
            for record in reservations {
                let rival = kept.get(&record.origin).map(|kept| kept.id != record.id);
                if rival == Some(false) {
                    continue;
                }
                progress = true;
                if rival.is_none() && self.is_awaited(&record).await? {
                    kept.insert(record.origin.clone(), record);
                    recovered.resumed += 1;
                } else {
                    self.abandon(&record, "a crash left it without a certificate, and nothing waits for it")
                        .await?;
                    recovered.abandoned += 1;
                }
            }
            if !(full && progress) {
                break;
            }
        }
        *self.unfinished.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(recovered)
    }

    async fn is_awaited(&self, record: &CertificateRecord) -> Result<bool, AuthorityError> {
        Ok(match &record.origin {
            Origin::Order { order, .. } => {
                let now = self.clock.now();
                let order = self.store.order(*order).await?;
                order.is_some_and(|(order, _)| order.awaits_certificate(now))
            }
            Origin::Credential(id) => {
                self.store.credential(*id).await?.is_some_and(|credential| credential.certificate.is_none())
            }
            Origin::Issuer(id) => self
                .store
                .issuers()
                .await?
                .iter()
                .any(|issuer| issuer.id == *id && issuer.certificates.is_empty()),
        })
    }
}
