//! The operator's side: `/admin/knobs`, `/admin/served`, `/admin/videos` and `/admin/webhook`. Errors are
//! `{"error": "a sentence"}`.
//!
//! - `PUT /admin/knobs` takes a [`Rule`] and answers with all standing rules; it replaces the one of the same provider
//!   and model. `GET` lists them, `DELETE` clears them (204).
//! - `GET /admin/served?since=n` lists the [`ServedCall`]s after number `n`, oldest first, at most
//!   [`MAX_PAGE`] at a time; `GET /admin/served/summary` is a [`Summary`].
//! - `GET /admin/videos?since=n` lists the [`CreatedVideo`]s of the calls after number `n` in the same way.
//! - `PUT /admin/webhook` takes a [`Webhook`], which replaces the one that stands; `DELETE` removes it (both 204). It is
//!   sent the events of the videos that are created from then on.

use axum::{
    Json,
    extract::{Query, State, rejection::JsonRejection},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Simulator,
    knobs::rules::Rule,
    served::{MAX_PAGE, ServedCall, Summary},
    videos::CreatedVideo,
    webhooks::Webhook,
};

type Refusal = (StatusCode, Json<Value>);

pub(super) async fn put_rule(
    State(simulator): State<Simulator>,
    rule: Result<Json<Rule>, JsonRejection>,
) -> Result<Json<Vec<Rule>>, Refusal> {
    let Json(rule) = rule.map_err(|rejection| refuse(&rejection.body_text()))?;
    simulator.put_rule(rule).map_err(|error| refuse(&error.to_string()))?;
    Ok(Json(simulator.rules.list()))
}

fn refuse(why: &str) -> Refusal {
    (StatusCode::BAD_REQUEST, Json(json!({"error": why})))
}

pub(super) async fn list_rules(State(simulator): State<Simulator>) -> Json<Vec<Rule>> {
    Json(simulator.rules.list())
}

pub(super) async fn clear_rules(State(simulator): State<Simulator>) -> StatusCode {
    simulator.clear_rules();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    since: u64,
}

pub(super) async fn list_served(State(simulator): State<Simulator>, Query(page): Query<Page>) -> Json<Vec<ServedCall>> {
    Json(simulator.ledger.calls_since(page.since))
}

pub(super) async fn summarize_served(State(simulator): State<Simulator>) -> Json<Summary> {
    Json(simulator.ledger.summary())
}

pub(super) async fn list_videos(
    State(simulator): State<Simulator>,
    Query(page): Query<Page>,
) -> Json<Vec<CreatedVideo>> {
    Json(simulator.videos.created_since(page.since).take(MAX_PAGE).collect())
}

pub(super) async fn put_webhook(
    State(simulator): State<Simulator>,
    webhook: Result<Json<Webhook>, JsonRejection>,
) -> Result<StatusCode, Refusal> {
    let Json(webhook) = webhook.map_err(|rejection| refuse(&rejection.body_text()))?;
    simulator.put_webhook(&webhook).map_err(|error| refuse(&error.to_string()))?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove_webhook(State(simulator): State<Simulator>) -> StatusCode {
    simulator.remove_webhook();
    StatusCode::NO_CONTENT
}
