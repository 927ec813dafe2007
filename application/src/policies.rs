//! What follows from what happened, without anyone asking for it.

pub mod expire_credits;
pub mod expire_requests;
