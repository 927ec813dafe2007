//! Webhooks to clients: the end of a job that asked for one is told to a URL of the client's, until it is taken or a day is
//! over.
//!
//! | module | holds |
//! |---|---|
//! | [`address`] | which addresses may be called |
//! | [`deliveries`] | what has to be told, and what became of it |
//! | [`sender`] | telling it |

pub mod address;
pub mod deliveries;
pub mod sender;

mod call;
mod leases;
