//! Events leave for Kafka, and views can be fed from there.
//!
//! | module | holds |
//! |---|---|
//! | [`cloud_event`] | an event as it stands in a topic, and back |
//! | [`cluster`] | how a cluster is reached |
//! | [`projector`] | views in another database, fed from the topics |
//! | [`reachability`] | whether the cluster answers, for operators |
//! | [`relay`] | the handler that publishes the log |
//! | [`topics`] | which event goes where |
//!
//! The log stays the truth: a topic holds every event at least once, sealed as the log has it, and with the position
//! and the hashes that tell a reader what is a duplicate, what is missing and what was changed.

pub mod cloud_event;
pub mod cluster;
pub mod projector;
pub mod reachability;
pub mod relay;
pub mod topics;
