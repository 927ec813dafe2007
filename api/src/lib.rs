//! The doors and the wiring.
//!
//! | module | holds |
//! |---|---|
//! | [`auth`] | who is at the door: tokens, keys, roles |
//! | [`config`] | what the hub is told: file, environment, flags |

pub mod auth;
pub mod config;
