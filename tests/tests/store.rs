//! The event store.

mod account;
mod contract;
mod cqrs;
mod failures;
mod model;
mod order;
mod subscription;
mod units;
