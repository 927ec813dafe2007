//! `/api/webhooks`: what clients need to trust ours, and the door for those of the providers.

use std::sync::Arc;

use aihub_application::{
    principal::{Operation, Reports},
    shares::Holder,
};
use aihub_infrastructure::{
    standard_webhooks::{Signed, Unverified, WebhookSecret},
    webhooks::deliveries::{self, DeliveryFilter},
};
use axum::{Json, body::Body, extract::State};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Caller, access, body, parameters::Path};
use crate::{doors::Client, hub::Hub, problem::Problem};

const MAX_LISTED: u32 = 100;
/// A provider's event names a job and says little else.
const MAX_EVENT_BYTES: usize = 64 << 10;

/// What the account's webhooks are signed with (Standard Webhooks). For users of the account that may make videos.
pub async fn secret(State(hub): State<Arc<Hub>>, Caller(caller): Caller) -> Result<Json<Value>, Problem> {
    if hub.videos.catalog.offerings(&caller).is_empty() {
        return Err(hub.forbidden(&caller, caller.capabilities.lacks(Operation::Video)));
    }
    let secrets = hub.settings.webhooks.masters.secrets(&caller.account);
    let secret = secrets.first().ok_or_else(|| Problem::internal("no secret for webhooks"))?;
    Ok(Json(json!({ "account": caller.account, "secret": &**secret.reveal() })))
}

/// What became of the caller's latest webhooks, or the account's for those who read all reports.
pub async fn deliveries(State(hub): State<Arc<Hub>>, Caller(caller): Caller) -> Result<Json<Value>, Problem> {
    let reads_all = caller.capabilities.require_reports(Reports::All).is_ok();
    let filter = DeliveryFilter {
        account: Some(&caller.account),
        user_id: (!reads_all).then_some(&*caller.user),
        ..DeliveryFilter::default()
    };
    if reads_all {
        access::record(&hub, &caller, "webhooks.list", [("account", Some(caller.account.clone()))]).await?;
    }
    let listed = deliveries::list(hub.reads.pool(), filter, MAX_LISTED).await;
    Ok(Json(json!({ "deliveries": listed.map_err(|error| Problem::internal(&error))? })))
}

#[derive(Deserialize)]
struct Event {
    data: EventData,
}

#[derive(Deserialize)]
struct EventData {
    id: String,
}

/// A provider says that something happened to a job. It is taken at its word in one thing only, that it is worth a look:
/// so repeated ones, late ones and wrong ones change nothing. Without the headers of a signature nothing of it is read.
pub async fn receive(
    State(hub): State<Arc<Hub>>,
    Path(name): Path<String>,
    client: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    let refused = |unverified: Unverified| {
        metrics::counter!("aihub_provider_webhooks_refused_total").increment(1);
        Problem::new("UNAUTHORIZED", format!("the webhook is not taken: {unverified}"))
    };
    let signed = Signed::of(&headers, hub.gateway.clock.now()).map_err(refused)?;
    let (body, _memory) = body::read(&hub, Holder::Address(client.address), body, MAX_EVENT_BYTES).await?;
    let backend = hub.videos.catalog.backends.get(&name);
    let secrets: Vec<WebhookSecret> = backend
        .iter()
        .flat_map(|backend| &backend.webhook_secrets)
        .filter_map(|secret| WebhookSecret::parse(secret).ok())
        .collect();
    // Whether a provider is configured is nobody's business who cannot sign for it.
    signed.verify(&secrets, &body).map_err(refused)?;
    let event: Event = serde_json::from_slice(&body)
        .map_err(|_| Problem::faulty("(body)", "must be an event with `data.id`, the job's id"))?;
    let unavailable = |error: anyhow::Error| Problem::internal(&format!("{error:#}"));
    if let Some(video_id) = hub.videos.queue.find(&name, &event.data.id).await.map_err(unavailable)? {
        hub.videos.queue.nudge(&video_id).await.map_err(unavailable)?;
    }
    Ok(StatusCode::NO_CONTENT)
}
