//! `GET /api/requests/{id}`: how a request stands. One's own, or anybody's for those who read all reports; and one's own answer
//! again, for as long as it is kept.

use std::{convert::Infallible, sync::Arc};

use aihub_application::{
    answer::{Answer, AnswerEnd, AnswerItem, RUNNING_BYTES, name::Wanted},
    error::GatewayError,
    principal::{Principal, Reports},
};
use aihub_domain::money::Microcredits;
use aihub_projections::request_status;
use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use http::header;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Caller, access, parameters::Path};
use crate::{doors, hub::Hub, problem::Problem, ws::whole::Whole};

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

/// `GET /api/requests/{id}/answer`: the whole answer as a socket is told it, however it was asked for. One that is still being made is
/// waited for as long as a status is.
pub async fn answer(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let caller = Arc::new(caller);
    let answer = find(&hub, &caller, &id)?;
    let _place = if answer.has_ended() { None } else { Some(doors::take(&hub, &hub.doors.long_polls, &caller, 1)?) };
    let mut items = answer.read(u64::MAX);
    let ended = async {
        loop {
            match items.next().await {
                Some(AnswerItem::End(end)) => return Some(end),
                Some(_) => {}
                None => return None,
            }
        }
    };
    let Ok(end) = timeout(hub.settings.max_long_poll, ended).await else {
        let making = Problem::new("CONFLICT", format!("request {id} is still being answered: come back, or cancel it"));
        return Err(Problem { retry_after_ms: Some(1_000), ..making });
    };
    match end.as_deref() {
        None => Err(Problem::internal("an answer ended without an end")),
        Some(AnswerEnd::Failed(failed)) => Err(failed.into()),
        Some(AnswerEnd::Done(_)) => {
            let whole = Whole::new(id.into(), answer);
            let pieces = stream::unfold((whole, end), async |(mut whole, end)| {
                let Some(AnswerEnd::Done(done)) = end.as_deref() else { return None };
                let piece = (!whole.is_done()).then(|| whole.piece(done))?;
                Some((Ok::<_, Infallible>(piece), (whole, end)))
            });
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            Ok((headers, Body::from_stream(pieces)).into_response())
        }
    }
}

/// The answer, or one that ends with what became of it.
fn find(hub: &Hub, caller: &Arc<Principal>, id: &str) -> Result<Arc<Answer>, GatewayError> {
    let (gateway, wanted) = (&hub.gateway, Wanted::Request(id.to_owned()));
    if let Some(kept) = gateway.answers.find(caller, &wanted)? {
        return Ok(kept.answer);
    }
    let running =
        gateway.limits.admit(caller, 0).and_then(|running| Ok((gateway.answers.room(caller, RUNNING_BYTES)?, running)));
    let (room, running) = running.inspect_err(|error| gateway.note(caller, error))?;
    Ok(hub.settings.lost_answers.look_up(caller, wanted, room, running))
}
