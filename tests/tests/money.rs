//! Money: held before it is spent, spent once, never more than there is.

mod holds;
mod overspend;
mod usage;
