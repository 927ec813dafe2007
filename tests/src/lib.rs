//! What the tests share. The tests themselves are one binary, `tests/main.rs`.
//!
//! | module | holds |
//! |---|---|
//! | [`app`] | the service in the test's process |
//! | [`audit`] | the log, checked event by event |
//! | [`books`] | accounts and requests with every kind of end, without a gateway |
//! | [`client`] | a client of the WebSocket |
//! | [`crowd`] | callers who mean harm |
//! | [`database`] | a fresh, migrated database for each test |
//! | [`kafka`] | what stands in the topics, and in views that are fed from them |
//! | [`log`] | nodes with a writer, and short ways to make units |
//! | [`logging`] | what the services under test log |
//! | [`postgres`] | the PostgreSQL of the test process |
//! | [`process`] | the service as a process of its own, to be killed |
//! | [`providers`] | the simulated providers, and what they counted |
//! | [`proxy`] | a network between a node and its database that can be cut and frozen |
//! | [`receiver`] | a client's server, which is told of things |
//! | [`traffic`] | requests in numbers, for benchmarks |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on should say where"
)]

pub mod app;
pub mod audit;
pub mod books;
pub mod client;
pub mod content;
pub mod crowd;
pub mod database;
pub mod kafka;
pub mod log;
pub mod logging;
pub mod postgres;
pub mod process;
pub mod providers;
pub mod proxy;
pub mod receiver;
pub mod traffic;

use std::{fmt::Debug, time::Duration};

pub use database::{TestDatabase, database};

/// No wait of a test is meant to take so long, on a machine that does many other things as well.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// What `look` finds, once it finds something. For what nobody tells of.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    until_ok(what, async || look().await.ok_or(())).await
}

/// The same, where `look` says what it finds instead: a wait in vain ends with that.
pub async fn until_ok<T, E: Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<T, E>) -> T {
    let mut instead = None;
    let found = async {
        loop {
            match look().await {
                Ok(found) => return found,
                Err(seen) => instead = Some(seen),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.unwrap_or_else(|_| panic!("waited in vain until {what}: {instead:?}"))
}
