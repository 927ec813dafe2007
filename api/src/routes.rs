//! The HTTP routes, one a file.

mod access;
pub mod asyncapi;
pub mod audit;
mod body;
pub mod credits;
pub mod health;
pub mod mcp;
pub mod media;
pub mod metrics;
pub mod pages;
mod parameters;
pub mod providers;
pub mod reports;
pub mod requests;
mod spool;
mod status;
pub mod videos;
pub mod webhooks;
pub mod workflows;

use aihub_application::principal::Principal;
use axum::extract::FromRequestParts;
use http::request::Parts;
use std::sync::Arc;

use crate::{
    auth::extract::principal_from_parts,
    doors::{self, Client},
    hub::Hub,
    problem::Problem,
};

pub use body::{LEAST_BYTES_PER_S, time_for};

/// Whoever the request's token names; 401 without a good one. The call is among theirs until its answer has been taken.
pub struct Caller(pub Principal);

impl FromRequestParts<Arc<Hub>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> Result<Self, Problem> {
        let caller = principal_from_parts(parts, &hub.authenticator).await?;
        let client = Client::from_request_parts(parts, hub).await?;
        client.hold(doors::take(hub, &hub.doors.calls, &caller, 1)?);
        Ok(Self(caller))
    }
}
