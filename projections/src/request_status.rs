//! How each request stands, without its content.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aihub_domain::{
    account::{Account, event::AccountEvent},
    request::{
        Request,
        event::{Accepted, Outcome, RequestEvent},
    },
};
use aihub_infrastructure::{
    event_store::{
        decode::{LogEntry, events_of},
        subscription::EventHandler,
    },
    row,
};
use anyhow::Context;
use chrono::{DateTime, Utc};
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{PgPool, PgTransaction};

use crate::{
    key_text::name,
    rebuild,
    watermark::{AsOf, Snapshot},
};

pub const NAME: &str = "request_status_v1";

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestStatus {
    pub request_id: String,
    pub account: String,
    pub user_id: String,
    /// `chat | completion | embedding`
    pub kind: String,
    /// As the client asked: `auto` or a provider's name.
    pub requested_provider: String,
    pub requested_model: String,
    pub stream: bool,
    /// `accepted | completed | failed | cancelled | abandoned`
    pub status: String,
    /// Completed with nobody left to read the end of the answer.
    pub client_left: bool,
    /// Who answered; `None` where nobody did.
    pub provider: Option<String>,
    /// The model that was asked there, by the name that prices and limits go by.
    pub model: Option<String>,
    /// What the provider called the model that answered, where it said so.
    pub answered_model: Option<String>,
    /// What was held for it in the end.
    pub reserved_microcredits: i64,
    pub charged_microcredits: i64,
    pub input_tokens: i64,
    pub cached_input_tokens: i64,
    pub cache_write_tokens: i64,
    pub cache_write_1h_tokens: i64,
    /// Thinking included.
    pub output_tokens: i64,
    pub reasoning_tokens: i64,
    /// Some of the tokens are our own count.
    pub estimated: bool,
    /// The provider's reason for ending.
    pub finish_reason: Option<String>,
    /// Why it was not completed: the error code that the client was told, the reason of the cancellation
    /// (`client_cancelled`, …), or in words why it was given up.
    pub end_reason: Option<String>,
    /// A list of `domain::request::event::Attempt`.
    pub attempts: Value,
    pub first_chunk_ms: Option<i64>,
    pub duration_ms: Option<i64>,
    pub accepted_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Where its last event stands in the log.
    pub position: i64,
}

row!(
    RequestStatus,
    "request_status_v1",
    request_id,
    account,
    user_id,
    kind,
    requested_provider,
    requested_model,
    stream,
    status,
    client_left,
    provider,
    model,
    answered_model,
    reserved_microcredits,
    charged_microcredits,
    input_tokens,
    cached_input_tokens,
    cache_write_tokens,
    cache_write_1h_tokens,
    output_tokens,
    reasoning_tokens,
    estimated,
    finish_reason,
    end_reason,
    attempts,
    first_chunk_ms,
    duration_ms,
    accepted_at,
    ended_at,
    position,
);

impl RequestStatus {
    fn accepted(request_id: &str, accepted: &Accepted, position: i64) -> anyhow::Result<Self> {
        Ok(Self {
            request_id: request_id.to_owned(),
            account: accepted.account.clone(),
            user_id: accepted.user.clone(),
            kind: name(accepted.kind)?,
            requested_provider: accepted.provider.clone(),
            requested_model: accepted.model.clone(),
            stream: accepted.stream,
            status: "accepted".to_owned(),
            client_left: false,
            provider: None,
            model: None,
            answered_model: None,
            reserved_microcredits: accepted.reserved_microcredits.0,
            charged_microcredits: 0,
            input_tokens: 0,
            cached_input_tokens: 0,
            cache_write_tokens: 0,
            cache_write_1h_tokens: 0,
            output_tokens: 0,
            reasoning_tokens: 0,
            estimated: false,
            finish_reason: None,
            end_reason: None,
            attempts: json!([]),
            first_chunk_ms: None,
            duration_ms: None,
            accepted_at: accepted.accepted_at,
            ended_at: None,
            position,
        })
    }

    fn end(&mut self, event: &RequestEvent) -> anyhow::Result<()> {
        match event {
            RequestEvent::RequestAccepted(_) => {}
            RequestEvent::RequestCompleted { client_left, outcome, .. } => {
                self.client_left = *client_left;
                self.end_with("completed", None, outcome)?;
            }
            RequestEvent::RequestFailed { code, outcome, .. } => {
                self.end_with("failed", Some(code.clone()), outcome)?;
            }
            RequestEvent::RequestCancelled { reason, outcome, .. } => {
                self.end_with("cancelled", Some(name(reason)?), outcome)?;
            }
            RequestEvent::RequestAbandoned { reason, abandoned_at, .. } => {
                "abandoned".clone_into(&mut self.status);
                self.end_reason = Some(reason.clone());
                self.ended_at = Some(*abandoned_at);
            }
        }
        Ok(())
    }

    fn end_with(&mut self, status: &str, end_reason: Option<String>, outcome: &Outcome) -> anyhow::Result<()> {
        status.clone_into(&mut self.status);
        self.end_reason = end_reason;
        self.provider.clone_from(&outcome.provider);
        self.model.clone_from(&outcome.model);
        self.answered_model.clone_from(&outcome.answered_model);
        self.charged_microcredits = outcome.charge.amount.0;
        self.input_tokens = outcome.usage.input.try_into()?;
        self.cached_input_tokens = outcome.usage.cached_input.try_into()?;
        self.cache_write_tokens = outcome.usage.cache_write.try_into()?;
        self.cache_write_1h_tokens = outcome.usage.cache_write_1h.try_into()?;
        self.output_tokens = outcome.usage.output.try_into()?;
        self.reasoning_tokens = outcome.usage.reasoning.try_into()?;
        self.estimated = outcome.is_estimated();
        self.finish_reason.clone_from(&outcome.finish_reason);
        self.attempts = serde_json::to_value(&outcome.attempts)?;
        self.first_chunk_ms = outcome.first_chunk_ms.map(i64::try_from).transpose()?;
        self.duration_ms = Some(outcome.duration_ms.try_into()?);
        self.ended_at = Some(outcome.ended_at);
        Ok(())
    }
}

/// `None` for a request that was never accepted, or not up to the position.
pub async fn find(pool: &PgPool, request_id: &str) -> Result<AsOf<Option<RequestStatus>>, sqlx::Error> {
    let mut snapshot = Snapshot::of(pool, NAME).await?;
    let found = sqlx::query_as!(RequestStatus, "SELECT * FROM request_status_v1 WHERE request_id = $1", request_id)
        .fetch_optional(snapshot.connection())
        .await?;
    snapshot.close(found).await
}

#[derive(Debug, Clone, Copy)]
pub struct View;

impl rebuild::View for View {
    fn tables(&self) -> &'static [&'static str] {
        &[NAME]
    }

    fn event_types(&self) -> &'static [&'static str] {
        &[
            "RequestAccepted",
            "RequestCompleted",
            "RequestFailed",
            "RequestCancelled",
            "RequestAbandoned",
            "ReservationExtended",
        ]
    }
}

impl EventHandler for View {
    fn name(&self) -> &'static str {
        NAME
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        apply(transaction, events).boxed()
    }
}

async fn apply(transaction: &mut PgTransaction<'_>, events: &[Arc<LogEntry>]) -> anyhow::Result<()> {
    let changes = events_of::<Request>(events).collect::<anyhow::Result<Vec<_>>>()?;
    let extensions = extensions(events)?;
    let requests: BTreeSet<&str> = changes
        .iter()
        .map(|(event, _)| event.aggregate_id.as_str())
        .chain(extensions.iter().map(|(request_id, _)| request_id.as_str()))
        .collect();
    if requests.is_empty() {
        return Ok(());
    }
    let known = sqlx::query_as!(
        RequestStatus,
        "SELECT * FROM request_status_v1 WHERE request_id = ANY($1)",
        &requests.into_iter().collect::<Vec<_>>() as &[&str]
    )
    .fetch_all(&mut **transaction)
    .await?;
    let mut rows: BTreeMap<String, RequestStatus> =
        known.into_iter().map(|row| (row.request_id.clone(), row)).collect();
    for (event, change) in changes {
        let (request_id, position) = (&event.aggregate_id, event.position.cast_signed());
        match (rows.get_mut(request_id), change) {
            (Some(row), _) if position <= row.position => {}
            (Some(row), change) => {
                row.end(change)?;
                row.position = position;
            }
            (None, RequestEvent::RequestAccepted(accepted)) => {
                rows.insert(request_id.clone(), RequestStatus::accepted(request_id, accepted, position)?);
            }
            (None, _) => anyhow::bail!("request {request_id} ends at position {position} and was never accepted"),
        }
    }
    for (request_id, reserved_microcredits) in extensions {
        if let Some(row) = rows.get_mut(&request_id) {
            // A hold only ever grows, so an extension that is seen again changes nothing.
            row.reserved_microcredits = row.reserved_microcredits.max(reserved_microcredits);
        }
    }
    write(transaction, rows.into_values().collect()).await
}

/// What is held for a request by then, by the name of the reservation, which is the request's.
fn extensions(events: &[Arc<LogEntry>]) -> anyhow::Result<Vec<(String, i64)>> {
    let mut extensions = Vec::new();
    for change in events_of::<Account>(events) {
        if let AccountEvent::ReservationExtended { reservation_id, reserved_microcredits, .. } = change?.1 {
            extensions.push((reservation_id.clone(), reserved_microcredits.0));
        }
    }
    Ok(extensions)
}

async fn write(transaction: &mut PgTransaction<'_>, rows: Vec<RequestStatus>) -> anyhow::Result<()> {
    sqlx::query!(
        "INSERT INTO request_status_v1 SELECT * FROM unnest($1::rows.request_status_v1[])
         ON CONFLICT (request_id) DO UPDATE SET
             status = excluded.status, client_left = excluded.client_left, provider = excluded.provider, model = excluded.model,
             answered_model = excluded.answered_model,
             reserved_microcredits = excluded.reserved_microcredits,
             charged_microcredits = excluded.charged_microcredits,
             input_tokens = excluded.input_tokens, cached_input_tokens = excluded.cached_input_tokens,
             cache_write_tokens = excluded.cache_write_tokens,
             cache_write_1h_tokens = excluded.cache_write_1h_tokens, output_tokens = excluded.output_tokens,
             reasoning_tokens = excluded.reasoning_tokens, estimated = excluded.estimated,
             finish_reason = excluded.finish_reason, end_reason = excluded.end_reason, attempts = excluded.attempts,
             first_chunk_ms = excluded.first_chunk_ms, duration_ms = excluded.duration_ms,
             ended_at = excluded.ended_at, position = excluded.position",
        rows as _,
    )
    .execute(&mut **transaction)
    .await
    .context("the rows of the requests")?;
    Ok(())
}
