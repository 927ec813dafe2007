//! `GET /mcp`: the upgrade to a WebSocket. Who may not come in hears so before it.

use std::{sync::Arc, time::Duration};

use aihub_application::error::GatewayError;
use axum::{
    extract::{State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    response::{IntoResponse, Response},
};

use super::Caller;
use crate::{auth::extract::WEBSOCKET_PROTOCOL, hub::Hub, problem::Problem, ws::session};

pub async fn upgrade(
    State(hub): State<Arc<Hub>>,
    Caller(principal): Caller,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|rejection| Problem::new("UPGRADE_REQUIRED", rejection.body_text()))?;
    if hub.gateway.draining.is_cancelled() {
        return Err(GatewayError::ShuttingDown.into());
    }
    let Some(place) = hub.socket_place() else {
        let running = hub.settings.max_sockets;
        hub.gateway.note(&principal, &GatewayError::QueueFull { running, waiting: 0, retry_after: Duration::ZERO });
        return Err(Problem::new("QUEUE_FULL", "the service is at its limit of sockets"));
    };
    let max_frame_bytes = hub.settings.limits.max_frame_bytes;
    let upgrade = upgrade
        .protocols([WEBSOCKET_PROTOCOL])
        .max_message_size(max_frame_bytes)
        .max_frame_size(max_frame_bytes)
        // It is filled with zeros before each read and belongs to one socket: the library's own 128 KiB are most of a
        // socket's memory, and most of the time that a chunk takes.
        .read_buffer_size(8 * 1024)
        // A slow client's frames wait in its answers, not here: each is flushed before the next. There is no limit to
        // the buffer, because a single frame above it would end the socket; answers are bounded where they are made.
        .write_buffer_size(16 * 1024);
    let sessions = hub.sessions.clone();
    Ok(upgrade
        .on_upgrade(move |socket| {
            sessions.track_future(async move {
                session::run(hub, principal, socket).await;
                drop(place);
            })
        })
        .into_response())
}
