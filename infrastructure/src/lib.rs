//! How the outside is reached.
//!
//! | module | holds |
//! |---|---|
//! | [`database`] | the way to PostgreSQL and its migrations |
//! | [`event_store`] | the event log: writer, reader, chain, subscriptions, the cqrs-es stores |
//! | [`nodes`] | which processes are alive |
//! | [`orphaned_requests`] | open requests, and which of them nobody drives |
//! | [`secret_file`] | secrets of a node that nobody configured any for |
//! | [`vault`] | content sealed per subject, and the subjects' keys |

pub mod database;
pub mod event_store;
pub mod nodes;
pub mod orphaned_requests;
pub mod secret_file;
pub mod vault;
