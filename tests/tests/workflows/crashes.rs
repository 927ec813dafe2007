//! A node dies in a step, and another one takes it up again: nothing is done or paid for twice.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use aihub_application::videos::new_video::NewVideo;
use aihub_domain::{
    request::event::RequestEvent,
    video::VideoStatus,
    workflow::{Workflow, event::WorkflowEvent},
};
use aihub_infrastructure::event_store::{
    decode::{entries, events_of},
    reader,
};
use aihub_tests::{
    TestDatabase,
    app::{TestApp, auth, http_client, token, variables},
    audit::Audit,
    client::microcredits,
    database,
    log::verified,
    process::Process,
    providers::Providers,
    until,
};
use chrono::TimeDelta;
use cqrs_es::DomainEvent;
use serde_json::{Value, json};

use super::{DOOR, ended, start, workflow};

const ROUNDS: u32 = 12;
const WORKFLOWS: usize = 6;
const PROGRAM: &str = env!("CARGO_BIN_EXE_aihub-under-test");

/// A dead node is taken for dead soon, and what it had submitted is looked for soon.
fn hasty(database: &TestDatabase, providers: &Providers) -> Vec<(String, String)> {
    let mut variables = variables(database, providers);
    variables.push(("AIHUB__GATEWAY__NODE_TIMEOUT_MS".to_owned(), "2000".to_owned()));
    variables.push(("AIHUB__CREDITS__WELCOME".to_owned(), "100000".to_owned()));
    variables
}

async fn call(address: SocketAddr, path: &str, body: Option<&Value>) -> Value {
    let token = token(&auth(), "ada", "ada", TimeDelta::hours(1));
    let client = http_client();
    let url = format!("http://{address}{path}");
    let request = match body {
        Some(body) => client.post(url).header("content-type", "application/json").body(body.to_string()),
        None => client.get(url),
    };
    request.bearer_auth(token).send().await.unwrap().json().await.unwrap()
}

async fn ended_at(address: SocketAddr, id: &str) -> Value {
    until("the workflow ends", async || {
        let answer = call(address, &format!("{DOOR}/{id}"), None).await;
        (answer["status"] != "processing").then_some(answer)
    })
    .await
}

/// The events of each workflow, by id.
async fn workflows(database: &TestDatabase) -> BTreeMap<String, Vec<WorkflowEvent>> {
    let mut workflows: BTreeMap<String, Vec<WorkflowEvent>> = BTreeMap::new();
    let events = entries(verified(database.pool()).await);
    for event in events_of::<Workflow>(&events) {
        let (event, change) = event.unwrap();
        workflows.entry(event.aggregate_id.clone()).or_default().push(change.clone());
    }
    workflows
}

#[tokio::test]
async fn a_node_that_dies_while_a_model_writes_is_followed_by_one_that_asks_again() {
    let (database, providers) = (database().await, Providers::start().await);
    providers.rule(json!({ "model": "gpt-6-luna", "ttft_ms": 600_000, "times": 1 }));
    let variables = hasty(&database, &providers);
    let process = Process::start(PROGRAM, &variables).await;
    let started = call(process.address, DOOR, Some(&workflow("enhance", "a calm sea"))).await;
    let id = started["workflowId"].as_str().unwrap();
    until("the model writes", async || providers.calls().pop()).await;
    process.kill().await;

    let survivor = Process::start(PROGRAM, &variables).await;
    let answer = ended_at(survivor.address, id).await;
    survivor.kill().await;
    assert_eq!((&answer["status"], &answer["steps"][0]["attempts"]), (&json!("completed"), &json!(2)), "{answer}");
    assert_eq!(providers.simulator.videos().len(), 1);
    let audit = Audit::of(database.pool()).await;
    let ends: Vec<_> = audit.requests.values().map(|request| request.end.as_ref().unwrap().event_type()).collect();
    assert_eq!(ends.len(), 2);
    assert!(ends.contains(&"RequestAbandoned".to_owned()) && ends.contains(&"RequestCompleted".to_owned()), "{ends:?}");
    assert_eq!(audit.accounts["ada"].spent, microcredits(&answer["creditsUsed"]));
}

#[tokio::test]
async fn a_node_that_dies_while_a_video_is_made_is_followed_by_one_that_waits_for_the_same_video() {
    let (database, providers) = (database().await, Providers::start().await);
    providers.rule(json!({ "video_time_ms": 2_500 }));
    let variables = hasty(&database, &providers);
    let process = Process::start(PROGRAM, &variables).await;
    let started = call(process.address, DOOR, Some(&workflow("social", "a calm sea"))).await;
    let id = started["workflowId"].as_str().unwrap();
    until("the provider has it", async || providers.simulator.videos().pop()).await;
    process.kill().await;

    let survivor = Process::start(PROGRAM, &variables).await;
    let answer = ended_at(survivor.address, id).await;
    survivor.kill().await;
    assert_eq!(answer["status"], "completed", "{answer}");
    assert_eq!(providers.simulator.videos().len(), 1);
    let audit = Audit::of(database.pool()).await;
    assert_eq!((audit.requests.len(), audit.videos.len()), (2, 1));
    assert_eq!(audit.accounts["ada"].spent, microcredits(&answer["creditsUsed"]));
}

/// The log takes everything but events of this type.
async fn refuse(database: &TestDatabase, event_type: &str) {
    let block = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW
         WHEN (NEW.event_type = '{event_type}') EXECUTE FUNCTION refuse()"
    );
    sqlx::raw_sql(&block).execute(database.pool()).await.unwrap();
}

#[tokio::test]
async fn a_video_that_was_asked_for_and_not_written_down_is_called_off_with_its_workflow() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "hang_late": true }));
    refuse(&app.database, "ShotRequested").await;
    let id = start(&app, &workflow("enhance", "a calm sea")).await;
    until("the provider has it", async || app.providers.simulator.videos().pop()).await;
    let cancel = format!("{DOOR}/{id}/cancel");
    let (_, cancelled) = app.post(&cancel, &app.token("ada"), &json!({})).await;
    assert_eq!((&cancelled["state"], &cancelled["videos"]), (&json!("cancelled"), &json!([])), "{cancelled}");
    let audit = app.audit().await;
    let ends: Vec<_> = audit.videos.values().map(|video| video.end().unwrap().event_type()).collect();
    assert_eq!(ends, ["VideoCancelled"]);
    assert_eq!(audit.accounts["ada"].held(), 0);
}

/// A video of the workflow that the workflow does not know of, as of a node that died before it could say so.
async fn ask_for(app: &TestApp, workflow_id: &str) -> String {
    let Value::Object(video) = json!({ "prompt": "a calm sea", "duration": 4 }) else { unreachable!() };
    let video = NewVideo::from_fields(video, "ada").unwrap();
    let ada = app.hub.authenticator.authenticate(&app.token("ada")).await.unwrap();
    app.hub.videos.request(&ada, video, None, Some(workflow_id)).await.unwrap().video_id
}

#[tokio::test]
async fn a_cancelled_workflow_makes_no_video_though_nobody_lived_to_call_it_off() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "hang": true }));
    let id = start(&app, &workflow("enhance", "a calm sea")).await;
    until("a model is asked", async || app.providers.calls().pop()).await;
    app.providers.rule(json!({ "video_time_ms": 60_000 }));
    let being_made = ask_for(&app, &id).await;
    until("the provider has it", async || app.providers.simulator.videos().pop()).await;
    app.post(&format!("{DOOR}/{id}/cancel"), &app.token("ada"), &json!({})).await;
    for video_id in [being_made, ask_for(&app, &id).await] {
        let ended = until("the video ends", async || {
            let known = app.hub.videos.jobs.load(&video_id).await.unwrap().unwrap();
            known.status().is_end().then_some(known)
        });
        assert_eq!(ended.await.status(), VideoStatus::Cancelled);
    }
    assert_eq!(app.providers.simulator.videos().len(), 1);
    assert_eq!(app.audit().await.accounts["ada"].held(), 0);
}

#[tokio::test]
async fn an_answer_that_came_and_was_not_written_down_is_found_again_and_not_paid_for_twice() {
    let (database, providers) = (Arc::new(database().await), Arc::new(Providers::start().await));
    let app = TestApp::start_on(&database, &providers, |_| {}).await;
    // As if its node had died right before the step's outcome was written down.
    refuse(&database, "StepCompleted").await;
    let id = start(&app, &workflow("enhance", "a calm sea")).await;
    let completed = "SELECT count(*) FROM events WHERE event_type = 'RequestCompleted'";
    until("the model has answered", async || {
        let count: i64 = sqlx::query_scalar(completed).fetch_one(database.pool()).await.unwrap();
        (count == 1).then_some(())
    })
    .await;
    app.stop().await;
    sqlx::raw_sql("DROP TRIGGER refuse ON events").execute(database.pool()).await.unwrap();

    let app = TestApp::start_on(&database, &providers, |_| {}).await;
    let answer = ended(&app, &id).await;
    assert_eq!((&answer["status"], &answer["steps"][0]["attempts"]), (&json!("completed"), &json!(1)), "{answer}");
    let audit = app.audit().await;
    assert_eq!(audit.requests.len(), 1);
    assert_eq!(audit.accounts["ada"].spent, microcredits(&answer["creditsUsed"]));
}

#[tokio::test]
async fn a_node_that_is_shut_down_leaves_its_workflows_to_another_one() {
    let (database, providers) = (Arc::new(database().await), Arc::new(Providers::start().await));
    // The text takes longer than the drain: it is ended, and asked for again.
    providers.rule(json!({ "model": "gpt-6-luna", "ttft_ms": 600_000, "times": 1 }));
    let first = TestApp::start_on(&database, &providers, |_| {}).await;
    let id = start(&first, &workflow("enhance", "a calm sea")).await;
    until("the model writes", async || providers.calls().pop()).await;
    let second = TestApp::start_on(&database, &providers, |_| {}).await;
    first.stop().await;
    let answer = ended(&second, &id).await;
    assert_eq!((&answer["status"], &answer["steps"][0]["attempts"]), (&json!("completed"), &json!(2)), "{answer}");
    let audit = second.audit().await;
    assert_eq!(audit.accounts["ada"].spent, microcredits(&answer["creditsUsed"]));
}

#[tokio::test]
async fn killed_at_any_instant_every_workflow_ends_once_and_pays_for_each_part_once() {
    let (database, providers) = (database().await, Providers::start().await);
    providers.rule(json!({ "video_time_ms": 300 }));
    providers.rule(json!({ "model": "gpt-6-luna", "ttft_ms": 50, "tokens_per_second": 200 }));
    let mut variables = hasty(&database, &providers);
    // One more than can die: whatever a node dies in is done by another one in the end.
    variables.push(("AIHUB__WORKFLOWS__MAX_ATTEMPTS".to_owned(), (ROUNDS + 1).to_string()));
    let mut started: Vec<String> = Vec::new();
    for _ in 0..ROUNDS {
        let process = Process::start(PROGRAM, &variables).await;
        let before = reader::head(database.pool()).await.unwrap().position;
        if started.len() < WORKFLOWS * 4 {
            for _ in 0..WORKFLOWS {
                let answer = call(process.address, DOOR, Some(&workflow("social", "a calm sea"))).await;
                started.push(answer["workflowId"].as_str().unwrap().to_owned());
            }
        }
        let instant = before + rand::random_range(4..60_u64);
        let reached = until("so much is in the log, or all is done", async || {
            let head = reader::head(database.pool()).await.unwrap().position;
            let open: i64 = sqlx::query_scalar("SELECT count(*) FROM workflows WHERE running")
                .fetch_one(database.pool())
                .await
                .unwrap();
            (head >= instant || open == 0).then_some(())
        });
        reached.await;
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..30))).await;
        process.kill().await;
    }
    let survivor = Process::start(PROGRAM, &variables).await;
    let mut used = 0;
    let mut answers = BTreeMap::new();
    for id in &started {
        let answer = ended_at(survivor.address, id).await;
        used += microcredits(&answer["creditsUsed"]);
        answers.insert(id.clone(), answer);
    }
    let audit = Audit::at_rest(database.pool()).await;
    survivor.kill().await;

    for (id, events) in workflows(&database).await {
        let ends: Vec<_> = events.iter().filter(|event| event.ended().is_some()).collect();
        assert_eq!(ends.len(), 1, "{id}: {events:?}");
        assert_eq!(events.last(), Some(ends[0]), "{id}");
        let answer = &answers[&id];
        assert_eq!(answer["status"], "completed", "{answer}");
        assert_eq!(answer["videos"].as_array().unwrap().len(), 1, "{answer}");
        let of_workflow = audit.videos.values().filter(|video| video.request.workflow_id.as_deref() == Some(&id));
        assert_eq!(of_workflow.count(), 1);
    }
    // A model's whole answer is never asked for again: two texts for each workflow.
    let completed = audit.requests.values();
    let completed = completed.filter(|request| matches!(request.end, Some(RequestEvent::RequestCompleted { .. })));
    assert_eq!(completed.count(), 2 * started.len());
    assert_eq!(providers.simulator.videos().len(), audit.videos.len());
    assert_eq!((audit.accounts["ada"].spent, audit.accounts["ada"].held()), (used, 0));
}
