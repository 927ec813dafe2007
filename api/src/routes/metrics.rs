//! `GET /metrics`: Prometheus text. Figures only, so it takes no token; keep the port inside.

use std::sync::Arc;

use axum::{extract::State, response::IntoResponse};
use http::header::CONTENT_TYPE;

use crate::hub::Hub;

pub async fn render(State(hub): State<Arc<Hub>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], hub.settings.metrics.render())
}
