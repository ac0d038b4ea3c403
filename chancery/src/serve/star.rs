//! The loop that asks for the certificates of orders with automatic renewal (RFC 8739) when they are due. What is due
//! `ca_core::acme::star` says, and the loop of effects issues them.

use std::sync::Arc;
use std::time::Duration;

use ca_core::authority::Authority;
use tokio::sync::watch;

/// How often it is looked for what is due: one look at an index.
const EVERY: Duration = Duration::from_secs(1);

/// Asks until `stop` says so.
pub async fn run(authority: Arc<Authority>, mut stop: watch::Receiver<bool>) {
    let mut complaint = String::new();
    while !*stop.borrow() {
        let pass = async {
            let said = match authority.ask_for_renewals().await {
                Ok(0) => String::new(),
                Ok(asked) => {
                    tracing::debug!(asked, "short-term certificates are due");
                    String::new()
                }
                Err(error) => error.to_string(),
            };
            // Said once, not at every look.
            if said != complaint && !said.is_empty() {
                tracing::warn!(error = %said, "short-term certificates that are due can't be renewed; it is tried every second");
            }
            complaint = said;
            tokio::time::sleep(EVERY).await;
        };
        tokio::select! {
            () = pass => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}
