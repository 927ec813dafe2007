//! What the product promises, tested from outside on a real PostgreSQL.

mod auth;
mod crashes;
mod frames;
mod limits;
mod money;
mod privacy;
mod routing;
mod store;
mod streams;
