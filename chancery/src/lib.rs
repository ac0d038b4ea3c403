//! The `chancery` program: command line, configuration, and the wiring of roles, listeners, loops and timers.
//!
//! Everything that decides lives in ca-core and the services; here is what touches the machine.

#![forbid(unsafe_code)]

pub mod admin;
pub mod bench;
pub mod cli;
pub mod config;
pub mod data;
pub mod doctor;
pub mod failure;
pub mod listen;
pub mod logging;
pub mod open;
pub mod policy_hook;
pub mod serve;
pub mod setup;
