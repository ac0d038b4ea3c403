//! What the end-to-end tests share: the program under test, a DNS server, real ACME clients, outside judges.
//!
//! Nothing here links Chancery's own crates: the tests know it as its users do, by its binary, its listeners and
//! its command line. Tools come from `cargo xtask tools`; a missing one is an error that says so.

#![forbid(unsafe_code)]

pub mod acme;
pub mod chancery;
pub mod clients;
pub mod deployment;
pub mod dns;
pub mod far_side;
pub mod http;
pub mod http01;
pub mod judges;
pub mod load;
pub mod pem;
pub mod pkilint;
pub mod port;
pub mod process;
pub mod program;
pub mod roles;
pub mod softhsm;

use std::time::{Duration, Instant};

/// Looks again and again until `look` gives something, at most for `within`: for the visible state of another process,
/// which tells nobody when it changes.
///
/// # Errors
/// If it did not; the error names what was waited for.
#[allow(clippy::disallowed_methods, reason = "another process's state can only be looked at again")]
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Deadline::after(within);
    loop {
        // Asked before the look, so that one that began in time counts.
        let late = deadline.has_passed();
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if late => anyhow::bail!("waited {} s for this: {what}", within.as_secs()),
            Err(error) if late => {
                return Err(error.context(format!("waited {} s for this: {what}", within.as_secs())));
            }
            Ok(None) | Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A point in time by which something must have happened.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// `span` from now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the tests' one clock; they judge the program from outside")]
    pub fn after(span: Duration) -> Self {
        Self(Instant::now() + span)
    }

    /// How long until then; zero once it has passed.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the tests' one clock; they judge the program from outside")]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether that time has come.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }
}
