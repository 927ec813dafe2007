//! `kill -9` of the service, at any instant.

use std::time::Duration;

use aihub_domain::request::event::RequestEvent;
use aihub_infrastructure::{event_store::reader, simulated_providers::SimulatedProvider};
use aihub_tests::{
    TestDatabase,
    app::{auth, token, variables},
    audit::Audit,
    client::{Client, chat, with},
    database,
    process::Process,
    providers::Providers,
    until,
};
use chrono::TimeDelta;
use serde_json::json;

const ROUNDS: u32 = 20;
const SOCKETS: usize = 8;
const STREAMS_A_SOCKET: usize = 4;
/// The last one fails, and gpt-6.1-sol answers for it.
const ASKED: [(&str, &str); 3] =
    [("openai", "gpt-6-luna"), ("claude", "claude-haiku-5-5"), ("claude", "claude-sonnet-5-5")];

#[tokio::test]
async fn killed_at_any_instant_the_service_loses_and_doubles_nothing() {
    let (database, providers) = (database().await, Providers::start().await);
    // A stream takes about as long as the service lives.
    providers.rule(json!({ "ttft_ms": 20, "tokens_per_second": 100, "output_tokens": 25 }));
    providers.rule(json!({ "model": "claude-sonnet-5-5", "fail_before": { "kind": "server_error" } }));
    let mut variables = variables(&database, &providers);
    let token = token(&auth(), "ann", "ann", TimeDelta::hours(1));
    let program = env!("CARGO_BIN_EXE_aihub-under-test");
    for _ in 0..ROUNDS {
        let process = Process::start(program, &variables).await;
        let before = head(&database).await;
        let mut clients = Vec::new();
        for _ in 0..SOCKETS {
            clients.push(Client::connect(process.address, &token).await);
        }
        for (nth, client) in clients.iter_mut().enumerate() {
            for stream in 0..STREAMS_A_SOCKET {
                let (provider, model) = ASKED[nth % ASKED.len()];
                let more = json!({ "provider": provider, "model": model, "stream": stream > 0 });
                client.send(&with(chat(&stream.to_string(), "Why is the sky blue?"), &more)).await;
            }
        }
        // Anywhere between the first acceptance and the last end, however fast the machine is: an opening and an end
        // are two events each.
        let instant = before + rand::random_range(0..SOCKETS * STREAMS_A_SOCKET * 4 - 10) as u64;
        until("so much is in the log", async || (head(&database).await >= instant).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..20))).await;
        process.kill().await;
    }

    // Another process ends what the dead ones left behind.
    variables.push(("AIHUB__GATEWAY__NODE_TIMEOUT_MS".to_owned(), "4000".to_owned()));
    let survivor = Process::start(program, &variables).await;
    let audit = Audit::at_rest(database.pool()).await;
    survivor.kill().await;

    let mut calls = audit.reconcile(providers.calls());
    let (mut completed, mut abandoned) = (0, 0);
    for (id, request) in &audit.requests {
        let served = calls.remove(id).unwrap_or_default();
        match request.end.as_ref().unwrap() {
            RequestEvent::RequestAbandoned { .. } => {
                abandoned += 1;
                let asked = |provider| served.iter().filter(|call| call.provider == provider).count();
                let (openai, claude) = (asked(SimulatedProvider::OpenAi), asked(SimulatedProvider::Claude));
                assert!(openai <= 1 && claude <= 1, "{id}: {served:?}");
            }
            RequestEvent::RequestCompleted { outcome, .. } => {
                completed += 1;
                assert_eq!(served.len(), request.calls().len(), "{id}: {served:?} and {outcome:?}");
                let last = served.last().unwrap();
                let counted = (u64::from(last.input_tokens), u64::from(last.output_tokens));
                assert_eq!((outcome.usage.prompt_tokens(), outcome.usage.output), counted);
            }
            // The client's sockets died with the service, so nothing else ended any of them.
            other => panic!("{id}: {other:?}"),
        }
    }
    assert!(completed > 0 && abandoned > 0, "the kills came too early or too late: {completed}, {abandoned}");
    assert_eq!(audit.accounts["ann"].held(), 0);
}

async fn head(database: &TestDatabase) -> u64 {
    reader::head(database.pool()).await.unwrap().position
}
