//! The store's tests: one battery of laws for every engine and every way to it, then what is SQLite's and the
//! socket's own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, and what it is made of, fails by panicking"
)]

mod battery;
mod damage;
mod durability;
mod fixtures;
mod group_commit;
mod limits;
mod recent;
mod socket;
mod sqlite;
mod upkeep;
