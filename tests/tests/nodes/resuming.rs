//! Answers whose node is gone, or is another one: whoever comes back for one is told what became of it and what it cost.

use std::{sync::Arc, time::Duration};

use aihub_tests::{
    app::{TestApp, auth, token, variables},
    client::{Answer, Client, chat, microcredits},
    database,
    process::Process,
    providers::Providers,
    until,
};
use chrono::TimeDelta;
use serde_json::json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_aihub-under-test");

async fn resume(client: &mut Client, id: &str) -> Answer {
    client.send(&json!({ "type": "resume", "id": id, "after": 1 })).await;
    client.answer_after(id, 1).await
}

#[tokio::test]
async fn who_resumes_what_died_with_its_node_is_told_to_wait_until_it_is_settled_and_then_what_was_charged() {
    let (database, providers) = (Arc::new(database().await), Arc::new(Providers::start().await));
    let mut variables = variables(&database, &providers);
    variables.push(("AIHUB__GATEWAY__NODE_TIMEOUT_MS".to_owned(), "3000".to_owned()));
    let dying = Process::start(PROGRAM, &variables).await;
    let survivor = TestApp::start_on(&database, &providers, |config| config.gateway.node_timeout_ms = 3_000).await;
    providers.rule(json!({ "hang_after_tokens": 5 }));
    let mut client = Client::connect(dying.address, &token(&auth(), "ann", "ann", TimeDelta::hours(1))).await;
    client.send(&chat("lost", "Why is the sky blue?")).await;
    client.chunks("lost", 3).await;
    // While it is made elsewhere, that is said.
    let mut client = survivor.connect("ann").await;
    let answer = resume(&mut client, "lost").await;
    let error = answer.error("ANSWER_ELSEWHERE");
    assert!(error["message"].as_str().unwrap().contains("another node"), "{error}");
    assert!(error["retryAfterMs"].as_u64().is_some(), "{error}");
    dying.kill().await;
    let settled = until("it is settled", async || {
        let answer = resume(&mut client, "lost").await;
        let error = answer.end["error"].clone();
        if error["code"] == "ANSWER_ELSEWHERE" || error["code"] == "UNAVAILABLE" {
            assert!(error["retryAfterMs"].as_u64().is_some(), "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            return None;
        }
        Some(error)
    })
    .await;
    assert_eq!(settled["code"], "STREAM_INTERRUPTED", "{settled}");
    let audit = survivor.audit().await;
    let (request_id, request) = audit.requests.iter().next().unwrap();
    let charged = request.end.as_ref().unwrap().outcome().map_or(0, |outcome| outcome.charge.amount.0);
    assert_eq!(
        (&settled["details"]["requestId"], &settled["details"]["ended"]),
        (&json!(request_id), &json!("abandoned"))
    );
    assert_eq!(microcredits(&settled["details"]["credits"]), charged);
    // Nobody else's.
    let mut eve = survivor.connect("eve").await;
    resume(&mut eve, "lost").await.error("NOT_FOUND");
    let others = eve.ask(&json!({ "type": "resume", "id": "b", "requestId": request_id })).await;
    others.error("FORBIDDEN");
    survivor.stop().await;
}

#[tokio::test]
async fn what_ended_on_another_node_is_told_with_its_charge_and_what_nobody_asked_for_is_not_known() {
    let one = TestApp::start(|_| {}).await;
    let other = TestApp::start_on(&one.database, &one.providers, |_| {}).await;
    let first = one.connect("ann").await.ask(&chat("1", "Why is the sky blue?")).await;
    first.done();
    let mut client = other.connect("ann").await;
    let answer = resume(&mut client, "1").await;
    let error = answer.error("ANSWER_GONE");
    assert_eq!(
        (&error["details"]["requestId"], &error["details"]["ended"]),
        (&json!(first.request_id()), &json!("completed"))
    );
    assert_eq!(microcredits(&error["details"]["credits"]), first.charged());
    let answer = resume(&mut client, "2").await;
    let error = answer.error("NOT_FOUND");
    assert!(error["message"].as_str().unwrap().contains("no answer is known"), "{error}");
    // Where two connections have one of this name, on whichever nodes, it means neither, from the very moment on.
    let second = other.connect("ann").await.ask(&chat("1", "And the sea?")).await;
    for node in [&one, &other] {
        let answer = resume(&mut node.connect("ann").await, "1").await;
        let told = &answer.error("AMBIGUOUS_ID")["details"]["requestIds"];
        let mut both = [first.request_id(), second.request_id()];
        both.sort_unstable();
        assert_eq!(told, &json!(both));
    }
    let named = json!({ "type": "resume", "id": "b", "requestId": second.request_id() });
    assert_eq!(client.ask(&named).await.done()["metadata"]["requestId"], second.request_id());
    let named = json!({ "type": "resume", "id": "b", "requestId": first.request_id() });
    client.ask(&named).await.error("ANSWER_GONE");
    let answer = resume(&mut one.connect("bob").await, "1").await;
    answer.error("NOT_FOUND");
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_clients_name_for_its_request_stands_nowhere_in_the_log() {
    let app = TestApp::start(|_| {}).await;
    app.connect("ann").await.ask(&chat("my secret name", "Why is the sky blue?")).await.done();
    let told: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM events WHERE payload::text LIKE '%my secret name%' OR metadata::text LIKE '%my secret name%'",
    )
    .fetch_one(app.database.pool())
    .await
    .unwrap();
    assert_eq!(told, 0);
    app.stop().await;
}
