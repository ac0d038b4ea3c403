//! dns-01: the TXT records below `_acme-challenge`. RFC 8555 §8.4.

use ca_core::acme::challenge::{Answer, ValidationFailure};
use tokio::time::Instant;

use super::resolver::Resolver;

/// Looks the TXT records at `name` up.
///
/// # Errors
/// If there is no telling whether there are any.
pub(super) async fn fetch(
    resolver: &Resolver,
    name: &str,
    deadline: Instant,
) -> Result<Answer, ValidationFailure> {
    resolver.texts(name, deadline).await.map(|values| Answer::Txt { values })
}
