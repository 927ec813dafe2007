//! What the product promises, tested from outside on a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should say where")]

mod asyncapi;
mod audit;
mod auth;
mod bounds;
mod browsers;
mod corpus;
mod crashes;
mod erasure;
mod expiry;
mod first_hour;
mod frames;
mod kafka;
mod limits;
mod money;
mod nodes;
mod orphans;
mod privacy;
mod readers;
mod rights;
mod routing;
mod store;
mod streams;
mod subscriptions;
mod vault;
mod videos;
mod views;
mod webhooks;
mod workflows;
