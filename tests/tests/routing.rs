//! Which provider is asked, and what the others do for one that fails.

mod fallback;
mod health;
mod interruptions;
