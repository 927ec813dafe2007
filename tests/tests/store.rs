//! The event store.

mod units;
