//! What the product promises, tested from outside on a real PostgreSQL.

mod orphans;
mod store;
mod vault;
mod views;
