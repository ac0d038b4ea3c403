//! The program as its operator meets it: the real binary, in a directory of its own, on sockets reserved for it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in the functions that tests share")]
#![allow(clippy::panic, reason = "a test fails by panicking, also in the functions that tests share")]

mod administration;
mod configuration;
mod deploy;
mod external_accounts;
mod harness;
mod help;
mod listeners;
mod policy_webhook;
mod pruning;
mod refusals;
mod removed;
mod renewal;
mod roles;
mod up;
