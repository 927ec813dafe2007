//! The WebSocket at `/mcp`: one socket, many requests at once.
//!
//! [`client_frame`], [`frame`] and [`whole`] are what is said on it, [`close`] how it ends, [`session`] is who says it, [`wire`] how it is said, and [`incoming`]
//! how it is read; [`feed`] is what a session subscribed to, and [`changes`] is where feeds hear of it.

pub mod aside;
pub mod changes;
pub mod client_frame;
pub mod close;
pub mod feed;
pub mod frame;
pub mod incoming;
pub mod limits;
pub mod session;
pub mod vectors;
pub mod whole;
pub mod wire;
