//! `GET /mcp`: the upgrade to a WebSocket. Who may not come in hears so before it.

use std::sync::Arc;

use aihub_application::error::GatewayError;
use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use http::{
    HeaderMap, HeaderValue,
    header::{SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL},
};
use hyper::upgrade::{OnUpgrade, Parts, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::Caller;
use crate::{
    auth::extract::WEBSOCKET_PROTOCOL,
    doors,
    hub::Hub,
    problem::Problem,
    server::moving::Moving,
    ws::{
        session,
        wire::{
            Wire,
            deflate::{self, Deflater, is_offered},
        },
    },
};

pub async fn upgrade(
    State(hub): State<Arc<Hub>>,
    Caller(principal): Caller,
    mut request: Request,
) -> Result<Response, Problem> {
    hub.doors.origins.check(request.headers())?;
    let needed = |reason: String| Problem::new("UPGRADE_REQUIRED", reason);
    let mut response =
        create_response_with_body(&request, Body::empty).map_err(|error| needed(format!("no WebSocket: {error}")))?;
    let upgrading = request.extensions_mut().remove::<OnUpgrade>();
    let upgrading = upgrading.ok_or_else(|| needed("this connection cannot become a WebSocket".to_owned()))?;
    if hub.gateway.draining.is_cancelled() {
        return Err(GatewayError::ShuttingDown.into());
    }
    let place = doors::take(&hub, &hub.doors.sockets, &principal, 1)?;
    if offers_our_protocol(request.headers()) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(WEBSOCKET_PROTOCOL));
    }
    let deflater = is_offered(request.headers()).then(|| Deflater::new(hub.doors.deflating.clone()));
    if deflater.is_some() {
        response.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, deflate::ACCEPTED);
    }
    let sessions = hub.sessions.clone();
    sessions.spawn(async move {
        match upgrading.await.map(Upgraded::downcast::<TokioIo<Moving>>) {
            Ok(Ok(Parts { io, read_buf, .. })) => {
                let (most, turns) = (hub.settings.limits.max_frame_bytes, hub.doors.turns.clone());
                let wire = Wire::new(io.into_inner(), &read_buf, most, deflater, turns);
                session::run(hub, principal, wire).await;
            }
            Ok(Err(_)) => tracing::error!("an upgraded connection is not one of this server's"),
            Err(error) => tracing::debug!(error.message = %error, "an upgrade broke off"),
        }
        drop(place);
    });
    Ok(response)
}

fn offers_our_protocol(headers: &HeaderMap) -> bool {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    offered.flat_map(|value| value.split(',')).any(|protocol| protocol.trim() == WEBSOCKET_PROTOCOL)
}
