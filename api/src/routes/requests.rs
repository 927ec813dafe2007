//! `GET /api/requests/{id}`: how a request stands. One's own, or anybody's for those who read all reports.

use std::sync::Arc;

use aihub_application::principal::Reports;
use aihub_domain::money::Microcredits;
use aihub_projections::request_status;
use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{Caller, access, parameters::Path};
use crate::{hub::Hub, problem::Problem};

pub async fn show(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    caller.capabilities.require_reports(Reports::Own).map_err(|missing| hub.forbidden(&caller, missing))?;
    let reads_all = caller.capabilities.require_reports(Reports::All).is_ok();
    let view = request_status::find(hub.reads.pool(), &id).await.map_err(|error| Problem::internal(&error))?;
    // Whether somebody else's request exists is nobody's business.
    let own = |found: &request_status::RequestStatus| found.account == caller.account && found.user_id == caller.user;
    let Some(found) = view.value.filter(|found| reads_all || own(found)) else {
        return Err(Problem::not_found(format!("there is no request {id} of yours, up to position {}", view.position)));
    };
    if !own(&found) {
        access::record(&hub, &caller, "request.show", [("request", Some(id))]).await?;
    }
    let credits = |microcredits| Microcredits(microcredits).as_credits();
    let prompt_tokens =
        [found.input_tokens, found.cached_input_tokens, found.cache_write_tokens, found.cache_write_1h_tokens];
    let prompt_tokens: i64 = prompt_tokens.into_iter().sum();
    Ok(Json(json!({
        "requestId": found.request_id,
        "account": found.account,
        "user": found.user_id,
        "type": found.kind,
        "status": found.status,
        "requested": { "provider": found.requested_provider, "model": found.requested_model, "stream": found.stream },
        "provider": found.provider,
        "model": found.model,
        "answeredModel": found.answered_model,
        "usage": {
            "promptTokens": prompt_tokens,
            "completionTokens": found.output_tokens,
            "totalTokens": prompt_tokens + found.output_tokens,
            "cachedPromptTokens": found.cached_input_tokens,
            "reasoningTokens": found.reasoning_tokens,
            "estimated": found.estimated,
            "reserved": credits(found.reserved_microcredits),
            "credits": credits(found.charged_microcredits),
        },
        "clientLeft": found.client_left,
        "finishReason": found.finish_reason,
        "endReason": found.end_reason,
        "attempts": found.attempts,
        "firstChunkMs": found.first_chunk_ms,
        "latency": found.duration_ms,
        "acceptedAt": found.accepted_at,
        "endedAt": found.ended_at,
        "position": view.position,
    })))
}
