//! What is true and allowed: aggregates, money, prices. Pure: no I/O, no clock, no SQL.
//!
//! | module | holds |
//! |---|---|
//! | [`access`] | who looked at what is not theirs |
//! | [`account`] | credit accounts: grants, limits, two-phase reservations |
//! | [`audit_key`] | who signs what the log is |
//! | [`content`] | sealed prompts and answers, as events carry them |
//! | [`money`] | credits and provider cost, both integers |
//! | [`period`] | accounting months, and their close |
//! | [`price`] | token usage, dated prices, and the formula from one to the other |
//! | [`refusal`] | what was refused before anything was accepted |
//! | [`request`] | requests to models: accepted once, ended once |
//! | [`retention`] | how long content is kept |
//! | [`subject`] | whose content it is, and its erasure |
//! | [`video`] | video jobs: requested once, submitted once, ended once; their formats and prices |
//! | [`workflow`] | workflows: steps of texts, then videos; started once, ended once |

pub mod access;
pub mod account;
pub mod audit_key;
pub mod content;
pub mod money;
pub mod period;
pub mod price;
pub mod refusal;
pub mod request;
pub mod retention;
pub mod subject;
pub mod video;
pub mod workflow;
