//! The doors and the wiring.
//!
//! | module | holds |
//! |---|---|
//! | [`auth`] | tokens and roles |
//! | [`bootstrap`] | the composition root: configuration in, a running service out |
//! | [`cli`] | the commands of the one binary |
//! | [`config`] | what the hub is told: file, environment, flags |
//! | [`doors`] | what callers may hold at the doors |
//! | [`hub`] | what every door needs |
//! | [`point`] | a point in the log, as a person names it |
//! | [`month_close`] | the close of an accounting month |
//! | [`problem`] | errors as clients see them |
//! | [`router`], [`routes`] | the HTTP routes |
//! | [`server`] | connections: accepted, limited, drained |
//! | [`telemetry`] | logs and metrics |
//! | [`videos`], [`workflows`] | jobs as their owners see them |
//! | [`ws`] | the WebSocket: frames and sessions |

pub mod auth;
pub mod bootstrap;
pub mod cli;
pub mod config;
pub mod doors;
pub mod hub;
pub mod month_close;
pub mod point;
pub mod problem;
pub mod router;
pub mod routes;
pub mod server;
pub mod telemetry;
pub mod videos;
pub mod workflows;
pub mod ws;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
