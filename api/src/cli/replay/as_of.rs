use std::collections::BTreeSet;

use aihub_domain::{
    account::Account,
    request::{Request, event::RequestEvent},
    video::VideoJob,
    workflow::Workflow,
};
use aihub_infrastructure::{
    audit::{scan, trail::Entry},
    database::Database,
    event_store::{
        reader::{self, RecordedEvent},
        upcast::Upcasters,
    },
};
use cqrs_es::Aggregate;
use serde_json::{Map, Value, json};
use sqlx::PgConnection;

use super::Whose;
use crate::cli::{audit::Finding, output::out_line};
use crate::point::Point;

/// What is known of it, by name.
type State = Map<String, Value>;

/// The state then, and either the events that led to it or what has changed since.
pub async fn show(database: &Database, point: Point, whose: Whose, diff: bool) -> anyhow::Result<()> {
    let mut connection = scan::connect(database).await?;
    let mut snapshot = scan::snapshot(&mut connection).await?;
    point.require_past(&mut snapshot).await?;
    let position = point.last(&mut snapshot).await?;
    let (then, events) = known(&mut snapshot, &whose, position).await?;
    out_line(format_args!("as of position {position}"))?;
    for (name, value) in &then {
        out_line(format_args!("{name:<28} {value}"))?;
    }
    if diff {
        let (now, _) = known(&mut snapshot, &whose, u64::MAX >> 1).await?;
        let names: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
        let shown = |value: Option<&Value>| value.map_or_else(|| "-".to_owned(), Value::to_string);
        out_line("\nsince then")?;
        for name in names {
            let (before, after) = (then.get(name), now.get(name));
            if before != after {
                out_line(format_args!("{name:<28} {} -> {}", shown(before), shown(after)))?;
            }
        }
        return Ok(());
    }
    out_line("\nby")?;
    for event in &events {
        out_line(Entry::of(event))?;
    }
    Ok(())
}

/// What is known of it up to the position, and the events that say so.
async fn known(
    connection: &mut PgConnection,
    whose: &Whose,
    position: u64,
) -> anyhow::Result<(State, Vec<RecordedEvent>)> {
    match whose {
        Whose { account: Some(id), .. } => state::<Account>(connection, id, position, account).await,
        Whose { request: Some(id), .. } => state::<Request>(connection, id, position, request).await,
        Whose { video: Some(id), .. } => state::<VideoJob>(connection, id, position, video).await,
        Whose { workflow: Some(id), .. } => state::<Workflow>(connection, id, position, workflow).await,
        _ => anyhow::bail!("say whose state: --account, --request, --video or --workflow"),
    }
}

/// The stream's state at the position, as `describe` tells it, and its events up to there.
async fn state<A: Aggregate>(
    connection: &mut PgConnection,
    id: &str,
    position: u64,
    describe: fn(&A, &[RecordedEvent]) -> anyhow::Result<State>,
) -> anyhow::Result<(State, Vec<RecordedEvent>)> {
    let mut events = reader::stream_from(connection, A::TYPE, id, 1).await?;
    events.retain(|event| event.position <= position);
    if events.is_empty() {
        let what = format!("{} {id} is not in the log up to position {position}", A::TYPE);
        return Err(Finding::Incomplete(what).into());
    }
    let mut aggregate = A::default();
    let current = Upcasters::default().apply(events.clone())?;
    for event in &current {
        aggregate.apply(event.decode()?);
    }
    Ok((describe(&aggregate, &current)?, events))
}

fn account(account: &Account, _: &[RecordedEvent]) -> anyhow::Result<State> {
    let mut fields = Map::new();
    for (name, value) in [
        ("granted_microcredits", account.granted()),
        ("available_microcredits", account.available()),
        ("held_microcredits", account.held()),
        ("spent_microcredits", account.spent()),
    ] {
        fields.insert(name.to_owned(), json!(value));
    }
    // What the aggregate keeps beside that: open holds, limits, the running day and month.
    if let Value::Object(kept) = serde_json::to_value(account)? {
        for (name, value) in kept {
            if !["granted", "held", "spent", "grants", "opened"].contains(&name.as_str()) {
                fields.insert(name, value);
            }
        }
    }
    Ok(fields)
}

fn request(request: &Request, events: &[RecordedEvent]) -> anyhow::Result<State> {
    let mut fields = Map::from_iter([("status".to_owned(), serde_json::to_value(request.status())?)]);
    for event in events {
        match event.decode()? {
            RequestEvent::RequestAccepted(accepted) => {
                fields.insert("account".to_owned(), json!(accepted.account));
                fields.insert("user".to_owned(), json!(accepted.user));
                fields.insert("model".to_owned(), json!(accepted.model));
                fields.insert("reserved_microcredits".to_owned(), json!(accepted.reserved_microcredits));
                fields.insert("price_id".to_owned(), json!(accepted.price_id));
            }
            end => {
                if let Some(outcome) = end.outcome() {
                    fields.insert("provider".to_owned(), json!(outcome.provider));
                    fields.insert("model".to_owned(), json!(outcome.model));
                    fields.insert("charged_microcredits".to_owned(), json!(outcome.charge.amount));
                    fields.insert("usage".to_owned(), json!(outcome.usage));
                    fields.insert("ended_at".to_owned(), json!(outcome.ended_at));
                }
            }
        }
    }
    Ok(fields)
}

fn video(job: &VideoJob, _: &[RecordedEvent]) -> anyhow::Result<State> {
    let mut fields = Map::new();
    let Value::Object(kept) = serde_json::to_value(job)? else { return Ok(fields) };
    for (name, value) in kept {
        match value {
            Value::Null => {}
            // Everything but the content, and of the offers the prices that were frozen.
            Value::Object(request) if name == "request" => {
                let asked = request
                    .into_iter()
                    .filter(|(name, value)| !value.is_null() && !["content", "offers"].contains(&name.as_str()));
                fields.extend(asked);
                let offers = job.request().map(|request| &request.offers);
                let prices: Vec<_> = offers.into_iter().flatten().map(|offer| &offer.price.id).collect();
                fields.insert("prices".to_owned(), json!(prices));
            }
            value => {
                fields.insert(name, value);
            }
        }
    }
    Ok(fields)
}

fn workflow(workflow: &Workflow, _: &[RecordedEvent]) -> anyhow::Result<State> {
    let mut fields = Map::from_iter([("status".to_owned(), json!(workflow.status()))]);
    let Some(request) = workflow.request() else { return Ok(fields) };
    fields.insert("account".to_owned(), json!(request.account));
    fields.insert("user".to_owned(), json!(request.user));
    fields.insert("workflow_type".to_owned(), json!(request.workflow_type));
    fields.insert("started_at".to_owned(), json!(request.started_at));
    if let Some(ended_at) = workflow.ended_at() {
        fields.insert("ended_at".to_owned(), json!(ended_at));
    }
    if let Value::Object(video) = serde_json::to_value(&request.video)? {
        fields.extend(video.into_iter().filter(|(_, value)| !value.is_null()));
    }
    // Everything but what the steps have made, which is content.
    for (step, state) in workflow.steps() {
        let Value::Object(mut known) = serde_json::to_value(state)? else { continue };
        known.retain(|name, value| name != "output" && !value.is_null() && *value != json!([]));
        fields.insert(format!("step {}", step.name), Value::Object(known));
    }
    Ok(fields)
}
