//! What the application needs from outside. Adapters live in `infrastructure`; tests bring their own.

pub mod clock;
pub mod event_log;
pub mod provider;
pub mod vault;
