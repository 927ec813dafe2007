//! What the tests share. The tests themselves are one binary, `tests/main.rs`.
//!
//! | module | holds |
//! |---|---|
//! | [`books`] | accounts and requests with every kind of end, without a gateway |
//! | [`database`] | a fresh, migrated database for each test |
//! | [`log`] | nodes with a writer, and short ways to make units |
//! | [`postgres`] | the PostgreSQL of the test process |
//! | [`proxy`] | a network between a node and its database that can be cut and frozen |

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on should say where")]

pub mod books;
pub mod database;
pub mod log;
pub mod postgres;
pub mod proxy;

pub use database::{TestDatabase, database};
