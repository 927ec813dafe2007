//! What the log looks like to readers. A view is one file: its row, what an event does to it, and its queries.
//!
//! | module | holds |
//! |---|---|
//! | [`access_log`] | who used the audit routes |
//! | [`account_balance`] | what an account was granted, holds, has spent and has left |
//! | [`booking`] | in which month something is booked, and how far a view has done so |
//! | [`credit_ledger`] | every movement of credits |
//! | [`key_text`] | names as they stand in keys |
//! | [`provider_health`] | how the providers do, hour by hour |
//! | [`rebuild`] | the views by name, and how one is filled anew |
//! | [`reconciliation`] | a provider's own usage export beside ours |
//! | [`report`] | reports for finance, with their watermarks, as JSON, CSV and Parquet |
//! | [`repricing`] | what a month would have cost at other prices |
//! | [`request_status`] | how each request stands, without its content |
//! | [`usage`] | what daily and monthly usage have in common |
//! | [`usage_daily`] | requests, tokens, seconds of video and money a day |
//! | [`usage_ledger`] | one row per request or video that ended, and the months that are closed |
//! | [`usage_monthly`] | requests, tokens, seconds of video and money an accounting month |
//! | [`video_status`] | how each video stands, without its content |
//! | [`watermark`] | up to which position a view is true |

pub mod access_log;
pub mod account_balance;
pub mod booking;
pub mod credit_ledger;
pub mod key_text;
pub mod provider_health;
pub mod rebuild;
pub mod reconciliation;
pub mod report;
pub mod repricing;
pub mod request_status;
pub mod usage;
pub mod usage_daily;
pub mod usage_ledger;
pub mod usage_monthly;
pub mod video_status;
pub mod watermark;
