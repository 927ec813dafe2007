//! What the tests share. The tests themselves are one binary, `tests/main.rs`.
//!
//! | module | holds |
//! |---|---|
//! | [`database`] | a fresh, migrated database for each test |
//! | [`log`] | nodes with a writer, and short ways to make units |

pub mod database;
pub mod log;

pub use database::{TestDatabase, database};
