//! The HTTP routes, one a file.

mod access;
pub mod asyncapi;
pub mod audit;
pub mod credits;
pub mod health;
pub mod mcp;
pub mod media;
pub mod metrics;
pub mod providers;
pub mod reports;
pub mod requests;
mod status;
pub mod videos;
pub mod webhooks;
pub mod workflows;

use aihub_application::principal::Principal;
use axum::extract::FromRequestParts;
use http::request::Parts;
use std::sync::Arc;

use crate::{auth::extract::principal_from_parts, hub::Hub, problem::Problem};

/// Whoever the request's token names; 401 without a good one.
pub struct Caller(pub Principal);

impl FromRequestParts<Arc<Hub>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> Result<Self, Problem> {
        Ok(Self(principal_from_parts(parts, &hub.authenticator).await?))
    }
}
