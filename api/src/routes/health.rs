//! `GET /health/live`: the process answers. `GET /health/ready`: it can take work, or why not.
//!
//! Ready is who can write down what it takes, and is not about to end. Whatever else is to be said is a notice: a view that stands
//! still keeps nobody from an answer. Nothing is asked for this, so it is answered at once and costs nothing, whatever is away.

use std::sync::Arc;

use aihub_infrastructure::{event_store::subscription::watchdog::Seen, kafka::reachability::Reachability};
use axum::{Json, extract::State};
use http::StatusCode;
use serde_json::{Value, json};

use crate::hub::Hub;

pub async fn live() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

pub async fn ready(State(hub): State<Arc<Hub>>) -> (StatusCode, Json<Value>) {
    let mut reasons = Vec::new();
    if hub.leaving.is_cancelled() {
        reasons.push("draining: the service is shutting down".to_owned());
    }
    if let Some(outage) = hub.gateway.log.outage() {
        reasons.push(format!("nothing can be written down for {} s: {}", outage.lasts.as_secs(), outage.reason));
    }
    let mut notices = hub.settings.notices.all();
    notices.extend(hub.settings.kafka.as_ref().and_then(Reachability::notice));
    notices.extend(hub.subscriptions.seen().iter().flat_map(Seen::notices));
    let (code, status) =
        if reasons.is_empty() { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    (code, Json(json!({ "status": status, "reasons": reasons, "notices": notices })))
}
