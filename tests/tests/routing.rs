//! Which provider is asked, and what the others do for one that fails.

mod bad_days;
mod fallback;
mod health;
mod interruptions;
mod time;
