//! Asking for the certificates of orders with automatic renewal that are due,
//! [RFC 8739 §2.2](https://www.rfc-editor.org/rfc/rfc8739#section-2.2). They are issued as any other, by an effect.

use crate::acme::star::{Due, due};
use crate::store::{Change, Commit, EffectKind, StoreError};
use crate::time::Timestamp;

use super::{Authority, AuthorityError};

/// How many orders are asked for in one commit: others wait for it.
const CHUNK: u32 = 250;

impl Authority {
    /// Asks for every certificate that is due, and gives their number. Each is asked for once: the commit that does so
    /// takes the order out of what is due, until its certificate was issued.
    ///
    /// # Errors
    /// If the store can't be read or written.
    pub async fn ask_for_renewals(&self) -> Result<usize, AuthorityError> {
        let now = self.signing_time()?;
        let mut asked = 0;
        loop {
            let found = self.store.orders_to_renew(now, CHUNK).await?;
            let more = u32::try_from(found.len()).is_ok_and(|found| found >= CHUNK);
            let due = due(found, now);
            let issued = due.iter().filter(|due| due.issue).count();
            match self.ask(&due, now).await {
                Ok(()) => asked += issued,
                Err(StoreError::Conflict) => {
                    // One of them changed meanwhile: the others don't wait for it.
                    for one in &due {
                        match self.ask(std::slice::from_ref(one), now).await {
                            Ok(()) => asked += usize::from(one.issue),
                            Err(StoreError::Conflict) => {}
                            Err(error) => return Err(error.into()),
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            }
            if !more || due.is_empty() {
                return Ok(asked);
            }
        }
    }

    async fn ask(&self, due: &[Due], now: Timestamp) -> Result<(), StoreError> {
        if due.is_empty() {
            return Ok(());
        }
        let issue = due.iter().filter(|due| due.issue);
        let effects = issue.map(|due| self.effect(EffectKind::Issue { order: due.order.id }, now)).collect();
        let changes = due.iter().map(|due| Change::PutOrder(due.order.clone())).collect();
        self.store.commit(Commit { changes, effects, ..Commit::default() }).await
    }
}
