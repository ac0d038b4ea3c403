//! The certificate that an order replaces, [RFC 9773 §5](https://www.rfc-editor.org/rfc/rfc9773#section-5).

use ca_core::acme::renewal::{renews_as_asked, require_replaceable};
use ca_core::acme::{Identifier, Predecessor, RenewalId, Replacement};
use ca_core::id::{AccountId, OrderId};
use ca_core::store::{Change, Version};
use ca_core::time::Timestamp;

use crate::problem::Problem;
use crate::service::{Directory, Shared};

/// So many orders for one certificate are taken for its renewal where the CA asked for that; those after them count as
/// any others, or an account could place orders without end that it lets become `invalid`.
const RENEWALS_AS_ASKED: u64 = 3;

/// A certificate that an order may replace.
#[derive(Debug)]
pub(super) struct Replaced {
    /// Which.
    pub(super) predecessor: Predecessor,
    /// Of the row that marks it as replaced; the commit fails if another order is faster.
    version: Version,
}

impl Replaced {
    /// Marks it as replaced by an order.
    pub(super) fn mark(&self, order: OrderId) -> Change {
        let certificate = self.predecessor.certificate.clone();
        Change::PutReplacement(Replacement { certificate, order, version: self.version })
    }
}

/// The certificate that an order of `account` for `identifiers` wants to replace.
///
/// # Errors
/// If it is not this account's, has no identifier in common with the order, or is replaced by another order that is
/// not `invalid`.
pub(super) async fn find(
    app: &Shared,
    directory: &Directory,
    account: AccountId,
    identifiers: &[Identifier],
    named: RenewalId,
    now: Timestamp,
) -> Result<Replaced, Problem> {
    let known = app.renewals.known(&*app.store).await?;
    let facts = match known.certificate(&named) {
        Some(id) => app.store.certificate_facts(id).await?,
        None => None,
    };
    let (mut marked, mut version) = (None, Version::NEW);
    if let Some(facts) = &facts
        && let Some(replacement) = app.store.replacement(facts.id.clone()).await?
    {
        version = replacement.version;
        // One that is gone was pruned, which befalls only orders that got no certificate.
        let order = app.store.order(replacement.order).await?;
        marked = order.map(|(order, authorizations)| order.status(&authorizations, now));
    }
    require_replaceable(facts.as_ref(), account, identifiers, marked.as_ref())
        .map_err(ca_core::acme::order::OrderRejected::from)?;
    let facts = facts.ok_or_else(|| Problem::not_found("certificate"))?;
    Ok(Replaced {
        predecessor: Predecessor {
            as_asked: version.0 < RENEWALS_AS_ASKED
                && renews_as_asked(&facts, identifiers, &directory.settings.renewal, &known.pulls, now),
            certificate: facts.id,
            named,
        },
        version,
    })
}
