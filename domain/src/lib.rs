//! What is true and allowed: aggregates, money, prices. Pure: no I/O, no clock, no SQL.
//!
//! | module | holds |
//! |---|---|
//! | [`content`] | sealed prompts and answers, as events carry them |
//! | [`money`] | credits and provider cost, both integers |
//! | [`price`] | token usage, dated prices, and the formula from one to the other |

pub mod content;
pub mod money;
pub mod price;
