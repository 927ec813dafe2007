//! What the product promises, tested from outside on a real PostgreSQL.

mod crashes;
mod money;
mod store;
mod streams;
