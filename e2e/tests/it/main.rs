//! End-to-end tests: Chancery as its users meet it, judged by software that its authors did not write.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, also in the functions that tests share"
)]

/// Makes a test of each function, once with keys in files and once with keys in a SoftHSM token.
macro_rules! on_both_key_backends {
    ($($test:ident),+ $(,)?) => {
        mod software {
            $(#[test] fn $test() { super::$test(e2e::chancery::Keys::Software); })+
        }
        mod softhsm {
            $(#[test] fn $test() { super::$test(e2e::chancery::Keys::SoftHsm); })+
        }
    };
}

mod clients;
mod crash;
mod directory;
mod first_light;
mod harness;
mod hostile;
mod metrics;
mod misconfigured;
mod roles;
mod verdicts;
