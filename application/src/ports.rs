//! What the application needs from outside. Adapters live in `infrastructure`; tests bring their own.

pub mod charges;
pub mod client_requests;
pub mod clock;
pub mod event_log;
pub mod jobs;
pub mod media_store;
pub mod provider;
pub mod seats;
pub mod vault;
pub mod video_provider;
