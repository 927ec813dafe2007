//! Every route, in one list.

use std::sync::Arc;

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{delete, get, post},
};

use crate::{
    doors,
    hub::Hub,
    problem::Problem,
    routes::{
        asyncapi, audit, credits, health, mcp, media, metrics, pages, providers, reports, requests, videos, webhooks,
        workflows,
    },
};

pub fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/", get(pages::front))
        .route("/docs", get(pages::manual))
        .route("/mcp", get(mcp::upgrade))
        .route("/media/{*key}", get(media::show).layer(from_fn_with_state(hub.clone(), doors::as_stranger)))
        .route("/api/credits", get(credits::show))
        .route("/api/usage", get(reports::usage))
        .route("/api/reports/{name}", get(reports::show))
        .route("/api/requests/{id}", get(requests::show))
        .route("/api/requests/{id}/answer", get(requests::answer))
        .route("/api/providers", get(providers::list))
        .route("/api/mcp/sora2/generate", post(videos::generate))
        .route("/api/mcp/sora2/status/{id}", get(videos::status))
        .route("/api/mcp/sora2/videos", get(videos::list))
        .route("/api/mcp/sora2/{id}/cancel", post(videos::cancel))
        .route("/api/mcp/sora2/{id}", delete(videos::delete))
        .route("/api/webhooks/secret", get(webhooks::secret))
        .route("/api/webhooks/deliveries", get(webhooks::deliveries))
        .route(
            "/api/webhooks/providers/{name}",
            post(webhooks::receive).layer(from_fn_with_state(hub.clone(), doors::as_stranger)),
        )
        .route("/api/mcp/gpt/video-workflow", post(workflows::start))
        .route("/api/mcp/gpt/video-workflow/{id}", get(workflows::show))
        .route("/api/mcp/gpt/video-workflow/{id}/cancel", post(workflows::cancel))
        .route("/api/mcp/gpt/video-workflows", get(workflows::list))
        .route("/asyncapi.json", get(asyncapi::document))
        .route("/api/audit/verify", get(audit::verify))
        .route("/api/audit/checkpoint", get(audit::latest_checkpoint))
        .route("/api/audit/prove/{position}", get(audit::prove))
        .route("/api/audit/trail", get(audit::trail))
        .route("/api/audit/events", get(audit::events))
        .fallback(async || Problem::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(other_method)
        .layer(from_fn_with_state(hub.clone(), doors::enter))
        .layer(hub.doors.origins.layer())
        // Behind no door: whoever operates the service asks how it is when nobody else gets in.
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(metrics::render))
        // Of these as well: it is for routes that are there by now.
        .method_not_allowed_fallback(other_method)
        .with_state(hub)
}

async fn other_method() -> Problem {
    Problem::new("METHOD_NOT_ALLOWED", "this path takes another method")
}
