//! The doors and the wiring.
//!
//! | module | holds |
//! |---|---|
//! | [`auth`] | who is at the door: tokens, keys, roles |

pub mod auth;
