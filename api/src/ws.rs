//! The WebSocket at `/mcp`: one socket, many requests at once.
//!
//! [`frame`] is what is said on it, [`session`] is who says it.

pub mod frame;
pub mod session;
