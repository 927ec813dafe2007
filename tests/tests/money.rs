//! Money: held before it is spent, spent once, never more than there is.

mod contention;
mod holds;
mod overspend;
mod usage;
