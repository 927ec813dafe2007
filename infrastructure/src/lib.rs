//! How the outside is reached.
//!
//! | module | holds |
//! |---|---|
//! | [`database`] | the way to PostgreSQL and its migrations |
//! | [`event_store`] | the event log: writer, reader, chain, subscriptions, the cqrs-es stores |

pub mod database;
pub mod event_store;
