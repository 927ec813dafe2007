//! `GET /health/live`: the process answers. `GET /health/ready`: it can do its work, or why not.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::hub::Hub;

const DATABASE_PATIENCE: Duration = Duration::from_secs(2);

pub async fn live() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

pub async fn ready(State(hub): State<Arc<Hub>>) -> (StatusCode, Json<Value>) {
    let mut reasons = Vec::new();
    if hub.gateway.draining.is_cancelled() {
        reasons.push("draining: the service is shutting down".to_owned());
    }
    match timeout(DATABASE_PATIENCE, hub.subscriptions.statuses()).await {
        Ok(Ok(handlers)) => reasons.extend(handlers.into_iter().filter_map(|handler| {
            let failure = handler.failure?;
            Some(format!("handler {} stopped at position {}: {}", handler.name, failure.position, failure.error))
        })),
        Ok(Err(error)) => reasons.push(format!("database: {error}")),
        Err(_) => reasons.push(format!("database: no answer in {} s", DATABASE_PATIENCE.as_secs())),
    }
    let (code, status) =
        if reasons.is_empty() { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    (code, Json(json!({ "status": status, "reasons": reasons, "notices": hub.settings.notices })))
}
