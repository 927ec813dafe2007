//! What the product promises, tested from outside on a real PostgreSQL.

mod store;
mod streams;
