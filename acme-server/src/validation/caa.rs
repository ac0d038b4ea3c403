//! CAA records: climbs from a name towards the root until a domain has some. RFC 8659 §3.

use ca_core::acme::caa::{RelevantSet, climb};
use ca_core::acme::challenge::{Answer, ValidationFailure};
use ca_core::pkix::identifier::DnsName;
use tokio::time::Instant;

use super::resolver::Resolver;

/// Looks for the relevant records of `name`.
///
/// Aliases are followed at each domain, and the climb goes on from the domain itself, not from what it stands for.
///
/// # Errors
/// If there is no telling for one of the domains on the way.
pub(super) async fn fetch(
    resolver: &Resolver,
    name: &DnsName,
    deadline: Instant,
) -> Result<Answer, ValidationFailure> {
    for domain in climb(name) {
        let records = resolver.caa(domain, deadline).await?;
        if !records.is_empty() {
            return Ok(Answer::Caa(Some(RelevantSet { domain: domain.to_owned(), records })));
        }
    }
    Ok(Answer::Caa(None))
}
