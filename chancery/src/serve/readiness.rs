//! Which roles can do their work now: one check a role, run when somebody asks.

use std::time::Duration;

use ca_core::BoxFuture;
use ca_core::store::Role;
use serde_json::{Map, Value, json};

/// A role that has not answered after this is not ready.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// A role's check: ready, or a sentence that says what is missing.
pub type Check = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The checks of this process's roles.
#[derive(Default)]
pub struct Readiness {
    checks: Vec<(Role, Check)>,
}

impl Readiness {
    /// Adds a role's check.
    pub fn add(&mut self, role: Role, check: Check) {
        self.checks.push((role, check));
    }

    /// Whether every role is ready, and the report: `{"ready":…,"roles":{"ca":{"ready":…,"missing":…}}}`.
    pub async fn report(&self) -> (bool, Value) {
        let mut roles = Map::new();
        let mut all = true;
        for (role, check) in &self.checks {
            let outcome = match tokio::time::timeout(CHECK_WITHIN, check()).await {
                Ok(outcome) => outcome,
                Err(_) => Err("the check took too long".to_owned()),
            };
            all &= outcome.is_ok();
            let entry = match outcome {
                Ok(()) => json!({ "ready": true }),
                Err(missing) => json!({ "ready": false, "missing": missing }),
            };
            roles.insert(role.name().to_owned(), entry);
        }
        (all, json!({ "ready": all, "roles": roles }))
    }
}
