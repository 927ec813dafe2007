//! The operator's side: `/admin/knobs` and `/admin/served`. Errors are `{"error": "a sentence"}`.
//!
//! - `PUT /admin/knobs` takes a [`Rule`] and answers with all standing rules; it replaces the one of the same provider
//!   and model. `GET` lists them, `DELETE` clears them (204).
//! - `GET /admin/served?since=n` lists the [`ServedCall`]s after number `n`, oldest first, at most
//!   [`MAX_PAGE`](super::served::MAX_PAGE) at a time; `GET /admin/served/summary` is a [`Summary`].

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
    served::{ServedCall, Summary},
};

pub(super) async fn put_rule(
    State(simulator): State<Simulator>,
    rule: Result<Json<Rule>, JsonRejection>,
) -> Result<Json<Vec<Rule>>, (StatusCode, Json<Value>)> {
    let refuse = |why: String| (StatusCode::BAD_REQUEST, Json(json!({"error": why})));
    let Json(rule) = rule.map_err(|rejection| refuse(rejection.body_text()))?;
    simulator.put_rule(rule).map_err(|error| refuse(error.to_string()))?;
    Ok(Json(simulator.rules.list()))
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
