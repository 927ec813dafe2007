//! The event store.

mod account;
mod chain;
mod contract;
mod cqrs;
mod failures;
mod model;
mod order;
mod subscription;
mod units;
