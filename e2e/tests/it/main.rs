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
        tests_with!(software(e2e::chancery::Keys::Software), $($test),+);
        tests_with!(softhsm(e2e::chancery::Keys::SoftHsm), $($test),+);
    };
}

/// Makes a test of each function for every way to run a CA: with all roles in one process and with each in its own, on
/// both key backends.
macro_rules! in_every_deployment {
    ($($test:ident),+ $(,)?) => {
        mod one_process {
            use super::{$($test),+};
            in_every_deployment!(@ e2e::deployment::Layout::OneProcess, $($test),+);
        }
        mod roles_apart {
            use super::{$($test),+};
            in_every_deployment!(@ e2e::deployment::Layout::RolesApart, $($test),+);
        }
    };
    (@ $layout:expr, $($test:ident),+) => {
        tests_with!(software($layout, e2e::chancery::Keys::Software), $($test),+);
        tests_with!(softhsm($layout, e2e::chancery::Keys::SoftHsm), $($test),+);
    };
}

/// Makes a module with a test of each function, called with these arguments.
macro_rules! tests_with {
    ($module:ident $arguments:tt, $($test:ident),+) => {
        mod $module {
            $(#[test] fn $test() { super::$test $arguments; })+
        }
    };
}

mod bench;
mod clients;
mod crash;
mod device_attest;
mod directory;
mod external_accounts;
mod first_light;
mod harness;
mod hierarchy;
mod hostile;
mod limits;
mod metrics;
mod misconfigured;
mod more_clients;
mod renewal;
mod roles;
mod scene;
mod star;
mod verdicts;
