//! SIGTERM: what runs may end, what is new is refused, and what does not end is ended.

use aihub_domain::request::event::{CancelReason, RequestEvent};
use aihub_tests::{
    app::{auth, token, variables},
    audit::Audit,
    client::{Client, chat, with},
    database,
    process::Process,
    providers::Providers,
};
use chrono::TimeDelta;
use serde_json::json;

#[tokio::test]
async fn at_sigterm_running_streams_finish_new_ones_are_refused_and_the_rest_ends_typed_and_billed() {
    let (database, providers) = (database().await, Providers::start().await);
    providers.rule(json!({ "model": "gpt-6-luna", "tokens_per_second": 40, "output_tokens": 20 }));
    providers.rule(json!({ "model": "gpt-6-astra", "hang_after_tokens": 3 }));
    let mut variables = variables(&database, &providers);
    variables.push(("AIHUB__SERVER__DRAIN_MS".to_owned(), "2000".to_owned()));
    let process = Process::start(env!("CARGO_BIN_EXE_aihub-under-test"), &variables).await;
    let mut client = Client::connect(process.address, &token(&auth(), "ann", "ann", TimeDelta::hours(1))).await;
    let short = chat("short", "Why is the sky blue?");
    client.send(&with(chat("long", "Why is the sky blue?"), &json!({ "model": "gpt-6-astra" }))).await;
    client.chunks("long", 3).await;
    client.send(&short).await;
    client.chunks("short", 1).await;
    process.terminate().await;

    // The signal takes a moment to arrive.
    let mut refused = json!(null);
    for nth in 0.. {
        let quick = json!({ "id": format!("new{nth}"), "type": "embedding", "input": "x" });
        refused = client.ask(&quick).await.end;
        if refused["type"] == "error" {
            break;
        }
    }
    assert_eq!(refused["error"]["code"], "SHUTTING_DOWN");
    let short = client.answer_after("short", 1).await;
    assert_eq!(short.done()["usage"]["completionTokens"], 20);
    client.answer_after("long", 3).await.error("SHUTTING_DOWN");
    assert_eq!(client.closed().await.0, 1001);
    assert_eq!(process.exit_code().await, Some(0));

    let audit = Audit::of(database.pool()).await;
    assert!(audit.open().is_empty(), "nothing is left to others");
    let cut = audit.requests.values().find(|request| request.accepted.model == "gpt-6-astra").unwrap();
    let Some(RequestEvent::RequestCancelled { reason, outcome, .. }) = &cut.end else { panic!("{:?}", cut.end) };
    assert_eq!((*reason, outcome.usage.output), (CancelReason::Shutdown, 3));
    assert!(outcome.charge.amount.0 >= 3 * 50_000, "billed for what was produced: {outcome:?}");
}
