//! What the log looks like to readers. A view is one file: its row, what an event does to it, and its queries.
//!
//! | module | holds |
//! |---|---|
//! | [`access_log`] | who used the audit routes |
//! | [`account_balance`] | what an account was granted, holds, has spent and has left |
//! | [`rebuild`] | the views by name, and how one is filled anew |
//! | [`request_status`] | how each request stands, without its content |
//! | [`usage_daily`] | requests, tokens and money a day |
//! | [`watermark`] | up to which position a view is true |

pub mod access_log;
pub mod account_balance;
pub mod rebuild;
pub mod request_status;
pub mod usage_daily;
pub mod watermark;
