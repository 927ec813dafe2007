//! Money: held before it is spent, spent once, never more than there is.

mod amounts;
mod caps;
mod contention;
mod draws;
mod holds;
mod left;
mod overspend;
mod parts;
mod usage;
