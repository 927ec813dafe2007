//! `GET /health/live`: the process answers. `GET /health/ready`: it can do its work, or why not.

use std::{sync::Arc, time::Duration};

use aihub_infrastructure::event_store::subscription::Status;
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
    let (mut reasons, mut notices) = (Vec::new(), hub.settings.notices.clone());
    if hub.gateway.draining.is_cancelled() {
        reasons.push("draining: the service is shutting down".to_owned());
    }
    match timeout(DATABASE_PATIENCE, hub.subscriptions.statuses()).await {
        Ok(Ok(handlers)) => {
            reasons.extend(stopped(&handlers, &hub.settings.handlers));
            let paused = handlers.iter().filter(|handler| handler.paused_at.is_some());
            notices.extend(paused.map(|handler| format!("handler {} is paused", handler.name)));
        }
        Ok(Err(error)) => {
            tracing::warn!(error.message = %error, "not ready: the database is unavailable");
            reasons.push("database: unavailable".to_owned());
        }
        Err(_) => reasons.push(format!("database: no answer in {} s", DATABASE_PATIENCE.as_secs())),
    }
    let (code, status) =
        if reasons.is_empty() { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    (code, Json(json!({ "status": status, "reasons": reasons, "notices": notices })))
}

/// Of the handlers that run here, those that stopped. Anybody may ask, so the error itself is only in the log.
fn stopped(handlers: &[Status], run_here: &[&str]) -> Vec<String> {
    let ours = handlers.iter().filter(|handler| run_here.contains(&handler.name.as_str()));
    ours.filter_map(|handler| {
        let failure = handler.failure.as_ref()?;
        Some(format!("handler {} stopped at position {}", handler.name, failure.position))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use aihub_infrastructure::event_store::subscription::Failure;
    use chrono::DateTime;

    use super::*;

    #[test]
    fn only_a_handler_that_runs_here_makes_the_node_not_ready_and_its_error_is_not_shown() {
        let at = DateTime::UNIX_EPOCH;
        let status = |name: &str, error: Option<&str>| Status {
            name: name.to_owned(),
            position: 6,
            updated_at: at,
            paused_at: None,
            failure: error.map(|error| Failure { position: 7, error: error.to_owned(), at }),
        };
        let all = [status("old", Some("secret")), status("ours", Some("secret")), status("fine", None)];
        assert_eq!(stopped(&all, &["ours", "fine"]), ["handler ours stopped at position 7"]);
    }
}
