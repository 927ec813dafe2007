//! What the product promises, tested from outside on a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should say where")]

mod auth;
mod crashes;
mod expiry;
mod frames;
mod limits;
mod money;
mod orphans;
mod privacy;
mod routing;
mod store;
mod streams;
mod vault;
mod views;
