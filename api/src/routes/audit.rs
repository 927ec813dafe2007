//! `/api/audit/…`: what `aihub audit` does, for the role `auditor`. Each use is an event before it is answered, and stands in
//! the view `access_log`.
//!
//! | route | |
//! |---|---|
//! | `verify?from&to` | checks the log: JSON lines of progress, the last one with the result |
//! | `checkpoint` | the last signed checkpoint |
//! | `prove/{position}` | the proof that an event is in the log, for `aihub audit verify-bundle` |
//! | `trail?request|account|user&from&to` | who did what, and why something was refused, as JSON lines |
//! | `events?from&to` | the stored events, as JSON lines, see `infrastructure::audit::file` |

mod lines;

use std::sync::Arc;

use aihub_application::principal::Principal;
use aihub_infrastructure::audit::{
    AuditError, checkpoint,
    file::{export, write_bundle},
    scan,
    trail::{BATCH, TrailOf, entries, positions},
    verify::{Line, Progress, Scope, Verdict, verify as verify_log},
};
use aihub_projections::account_balance;
use axum::{
    Json,
    extract::{FromRequestParts, State},
    response::Response,
};
use http::request::Parts;
use serde::Deserialize;
use serde_json::{Value, json};

use self::lines::{of_bytes, of_lines, place};
use super::{
    Caller, access,
    parameters::{Path, Query},
};
use crate::{hub::Hub, point::Point, problem::Problem};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stretch {
    from: Option<String>,
    to: Option<String>,
    /// The authentication has read it.
    #[serde(rename = "token")]
    _token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrailParameters {
    request: Option<String>,
    account: Option<String>,
    user: Option<String>,
    from: Option<String>,
    to: Option<String>,
    #[serde(rename = "token")]
    _token: Option<String>,
}

/// Whoever may audit; others are refused before anything else.
pub struct Auditor(Principal);

impl FromRequestParts<Arc<Hub>> for Auditor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> Result<Self, Problem> {
        let Caller(caller) = Caller::from_request_parts(parts, hub).await?;
        caller.capabilities.require_audit().map_err(|missing| hub.forbidden(&caller, missing))?;
        Ok(Self(caller))
    }
}

pub async fn verify(
    State(hub): State<Arc<Hub>>,
    Auditor(caller): Auditor,
    Query(asked): Query<Stretch>,
) -> Result<Response, Problem> {
    let place = place(&hub, &caller)?;
    let (from, to) = points(asked.from.as_deref(), asked.to.as_deref())?;
    access::record(&hub, &caller, "audit.verify", [("from", asked.from), ("to", asked.to)]).await?;
    let (from, to) = stretch(&hub, from, to).await?;
    let keys = vec![hub.settings.audit_key.clone()];
    let scope = Scope { from, to, saved: None, keys, balances: account_balance::AUDITED, contents: true };
    Ok(of_lines(place, |sender| async move {
        let progress = |Progress { position, last }| {
            // Whoever reads slowly hears of fewer positions.
            let _ = sender.try_send(line(&json!({ "position": position, "last": last })));
        };
        let result = match verify_log(&hub.reads, &scope, progress).await {
            Ok(report) => {
                let lines: Vec<Value> =
                    report.lines.iter().map(|Line { what, text }| json!({ "what": what, "text": text })).collect();
                let verdict = match &report.verdict {
                    Verdict::Intact => json!({ "verdict": "intact" }),
                    Verdict::Tampered(fault) => json!({
                        "verdict": "tampered", "position": fault.position, "what": fault.what,
                        "expected": fault.expected, "found": fault.found,
                    }),
                    Verdict::Incomplete(what) => json!({ "verdict": "incomplete", "what": what }),
                };
                json!({ "result": verdict, "events": report.events, "checked": lines })
            }
            Err(error) => json!({ "result": { "verdict": "unreadable", "what": problem(error).message } }),
        };
        // A client that left wants no result.
        let _ = sender.send(line(&result)).await;
        Ok(())
    }))
}

pub async fn latest_checkpoint(State(hub): State<Arc<Hub>>, Auditor(caller): Auditor) -> Result<Json<Value>, Problem> {
    access::record(&hub, &caller, "audit.checkpoint", []).await?;
    let Some((checkpoint, note)) = checkpoint::latest(hub.reads.pool()).await.map_err(problem)? else {
        return Err(Problem::not_found("no checkpoint has been signed yet"));
    };
    Ok(Json(json!({
        "checkpoint": note,
        "position": checkpoint.head.position,
        "signedAt": checkpoint.signed_at,
        "key": hub.settings.audit_key.to_string(),
    })))
}

/// By its position, the proof that an event is in the log.
#[derive(Debug, Deserialize)]
pub struct Proven {
    position: u64,
}

pub async fn prove(
    State(hub): State<Arc<Hub>>,
    Auditor(caller): Auditor,
    Path(Proven { position }): Path<Proven>,
) -> Result<Response, Problem> {
    let place = place(&hub, &caller)?;
    access::record(&hub, &caller, "audit.prove", [("position", Some(position.to_string()))]).await?;
    let mut proof = Vec::new();
    let key = &hub.settings.audit_key;
    write_bundle(&hub.reads, (position, position), Some(key), &mut proof).await.map_err(problem)?;
    Ok(of_lines(place, |sender| async move {
        let _ = sender.send(proof.into()).await;
        Ok(())
    }))
}

pub async fn trail(
    State(hub): State<Arc<Hub>>,
    Auditor(caller): Auditor,
    Query(parameters): Query<TrailParameters>,
) -> Result<Response, Problem> {
    let TrailParameters { request, account, user, from, to, .. } = parameters;
    let place = place(&hub, &caller)?;
    let of = match (&request, &account, &user) {
        (Some(id), None, None) => TrailOf::Request(id.clone()),
        (None, Some(id), None) => TrailOf::Account(id.clone()),
        (None, None, Some(name)) => TrailOf::User(name.clone()),
        _ => return Err(Problem::faulty("(query)", "give one of request, account and user")),
    };
    let (first, last) = points(from.as_deref(), to.as_deref())?;
    let asked = [("request", request), ("account", account), ("user", user), ("from", from), ("to", to)];
    access::record(&hub, &caller, "audit.trail", asked).await?;
    let (from, to) = stretch(&hub, first, last).await?;
    let mut connection = scan::connect(&hub.reads).await.map_err(|error| Problem::internal(&error))?;
    let to = to.unwrap_or(u64::MAX >> 1);
    let found = positions(&mut connection, &of, from, to).await.map_err(|error| Problem::internal(&error))?;
    Ok(of_lines(place, |sender| async move {
        for batch in found.chunks(BATCH) {
            for entry in entries(&mut connection, batch).await? {
                if sender.send(line(&json!(entry))).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }))
}

pub async fn events(
    State(hub): State<Arc<Hub>>,
    Auditor(caller): Auditor,
    Query(asked): Query<Stretch>,
) -> Result<Response, Problem> {
    let place = place(&hub, &caller)?;
    let (from, to) = points(asked.from.as_deref(), asked.to.as_deref())?;
    access::record(&hub, &caller, "audit.events", [("from", asked.from), ("to", asked.to)]).await?;
    let (from, to) = stretch(&hub, from, to).await?;
    Ok(of_bytes(place, |bytes| async move { export(&hub.reads, (from, to), bytes, |_| ()).await.map(drop) }))
}

/// The positions that times or positions name; without an end, none.
async fn stretch(hub: &Hub, from: Option<Point>, to: Option<Point>) -> Result<(u64, Option<u64>), Problem> {
    let mut connection = hub.reads.pool().acquire().await.map_err(|error| Problem::internal(&error))?;
    let from = match from {
        None => Ok(1),
        Some(from) => from.first(&mut connection).await,
    };
    let to = match to {
        None => Ok(None),
        Some(to) => to.last(&mut connection).await.map(Some),
    };
    let unavailable = |error: sqlx::Error| Problem::internal(&error);
    Ok((from.map_err(unavailable)?.max(1), to.map_err(unavailable)?))
}

/// Times or positions.
fn points(from: Option<&str>, to: Option<&str>) -> Result<(Option<Point>, Option<Point>), Problem> {
    let point = |name: &str, text: Option<&str>| {
        text.map(|text| text.parse::<Point>().map_err(|error| Problem::faulty(name, error.to_string()))).transpose()
    };
    Ok((point("from", from)?, point("to", to)?))
}

fn line(value: &Value) -> bytes::Bytes {
    format!("{value}\n").into()
}

fn problem(error: AuditError) -> Problem {
    match error {
        AuditError::Tampered(fault) => Problem::new("LOG_TAMPERED", fault.to_string()),
        AuditError::Incomplete(what) => Problem::not_found(what),
        AuditError::Malformed(what) => Problem::faulty("(query)", what),
        error @ AuditError::ForeignKey { .. } => Problem::new("CONFLICT", error.to_string()),
        error @ (AuditError::Database(_) | AuditError::File(_)) => Problem::internal(&error),
    }
}
