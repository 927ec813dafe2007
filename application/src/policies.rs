//! What follows from what happened, without anyone asking for it. Where time decides over what others made, it is the database's: a
//! search tells the time at which it found something, and what follows is decided at that time.

pub mod expire_credits;
pub mod expire_requests;
