//! `GET /api/providers`: what is configured, and how it is.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::Caller;
use crate::hub::Hub;

pub async fn list(State(hub): State<Arc<Hub>>, Caller(_): Caller) -> Json<Value> {
    let providers: Vec<Value> = hub
        .gateway
        .catalog
        .upstreams
        .iter()
        .map(|upstream| {
            let status = upstream.status();
            json!({
                "name": upstream.name,
                "simulated": upstream.simulated,
                "priority": upstream.priority,
                "weight": upstream.weight,
                "breaker": status.breaker,
                "breakers": status.breakers,
                "coolingDownMs": status.cooling_down.map(|left| left.as_millis()),
                "running": status.running,
                "maxConcurrency": status.max_concurrency,
                "models": upstream.models.listed.keys().collect::<Vec<_>>(),
            })
        })
        .collect();
    Json(json!({ "providers": providers }))
}
