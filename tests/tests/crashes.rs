//! Whatever dies, every accepted request has exactly one end.

mod database;
mod drain;
mod kill;
