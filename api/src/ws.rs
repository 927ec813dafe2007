//! The WebSocket at `/mcp`: one socket, many requests at once.
//!
//! [`client_frame`] and [`frame`] are what is said on it, [`session`] is who says it; [`feed`] is what a session subscribed to, and [`changes`]
//! is where feeds hear of it.

pub mod changes;
pub mod client_frame;
pub mod feed;
pub mod frame;
pub mod session;
