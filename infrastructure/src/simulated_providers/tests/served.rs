use std::{sync::Arc, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    super::{
        SimulatedProvider,
        models::MODELS,
        served::{
            MAX_CALLS, MAX_PAGE, MAX_REQUEST_ID_BYTES, Operation, Outcome, ServedCall, Summary,
            ledger::{Arrival, Ledger},
        },
    },
    Harness, events, read_until_cut,
};

#[tokio::test]
async fn a_served_call_is_listed_with_the_callers_id_and_the_true_count() {
    let harness = Harness::start().await;
    let body = json!({"model": "gpt-6-luna+ttft=0s+rate=0+tokens=7+usage=zero", "stream": true,
                      "messages": [{"role": "user", "content": "Why is the sky blue?"}]});
    let request = harness.request(Method::POST, "/v1/chat/completions").bearer_auth("sk-any").json(&body);
    events(request.header("x-client-request-id", "request-1").send().await.unwrap()).await;
    let calls =
        harness.request(Method::GET, "/admin/served").send().await.unwrap().json::<Vec<ServedCall>>().await.unwrap();
    let [call] = calls.as_slice() else { panic!("{calls:?}") };
    assert_eq!(call.call, 1);
    assert_eq!(call.client_request_id.as_deref(), Some("request-1"));
    assert_eq!((call.provider, call.operation), (SimulatedProvider::OpenAi, Operation::Chat));
    assert_eq!((call.model.as_deref(), call.stream), (Some("gpt-6-luna"), true));
    assert_eq!((call.input_tokens, call.output_tokens), (8, 7));
    assert_eq!((call.outcome, call.status), (Outcome::Completed, 200));
}

#[tokio::test]
async fn a_client_that_leaves_mid_stream_is_seen_to_leave_with_what_was_sent_so_far() {
    let harness = Harness::start().await;
    let mut answer = harness.chat("", json!({"stream": true, "model": "gpt-6-luna+ttft=0s+rate=50+tokens=1000"})).await;
    for _ in 0..4 {
        answer.chunk().await.unwrap().unwrap();
    }
    drop(answer);
    let call = harness.served(Outcome::ClientLeft).await;
    assert!((3..200).contains(&call.output_tokens), "{call:?}");
    assert_eq!((call.input_tokens, call.status), (8, 200));
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_token_was_served_nothing() {
    let harness = Harness::start().await;
    let answer = harness.chat("", json!({"stream": true, "model": "gpt-6-luna+ttft=60s"}));
    assert!(timeout(Duration::from_millis(50), answer).await.is_err());
    let call = harness.served(Outcome::ClientLeft).await;
    assert_eq!((call.input_tokens, call.output_tokens, call.status), (0, 0, 0));
}

#[tokio::test]
async fn a_client_that_leaves_a_silent_stream_leaves_it_hung() {
    let harness = Harness::start().await;
    let mut answer = harness.message("+hang=after:2", json!({"stream": true})).await;
    for _ in 0..5 {
        answer.chunk().await.unwrap().unwrap();
    }
    drop(answer);
    assert_eq!(harness.served(Outcome::Hung).await.output_tokens, 2);
}

#[tokio::test]
async fn what_fails_or_is_torn_counts_what_was_sent_before() {
    let harness = Harness::start().await;
    let streamed = || json!({"stream": true});
    events(harness.chat("+fail=after:3", streamed()).await).await;
    let failed = harness.served(Outcome::Failed).await;
    assert_eq!((failed.input_tokens, failed.output_tokens, failed.status), (8, 3, 200));
    let _ = read_until_cut(harness.message("+tear=after:5", streamed()).await).await;
    let torn = harness.served(Outcome::Torn).await;
    assert_eq!((torn.input_tokens, torn.output_tokens, torn.status), (8, 5, 200));
    harness.message("+fail=before:529", json!({})).await;
    let failed = harness.served(Outcome::Failed).await;
    assert_eq!((failed.input_tokens, failed.output_tokens, failed.status), (0, 0, 529));
    harness.chat("+fail=after:3", json!({})).await;
    let failed = harness.served(Outcome::Failed).await;
    assert_eq!((failed.output_tokens, failed.status), (0, 500));
}

#[tokio::test]
async fn calls_that_were_refused_are_listed_as_well() {
    let harness = Harness::start().await;
    harness.chat("", json!({"model": "gpt-9"})).await;
    let refused = harness.served(Outcome::Failed).await;
    assert_eq!((refused.model, refused.status), (None, 404));
    let anthropic = harness.request(Method::POST, "/v1/messages").header("x-api-key", "sk-invalid");
    anthropic.header("x-client-request-id", "x".repeat(500)).send().await.unwrap();
    let refused = harness.served(Outcome::Failed).await;
    assert_eq!((refused.provider, refused.status), (SimulatedProvider::Claude, 401));
    assert_eq!(refused.client_request_id.unwrap().len(), MAX_REQUEST_ID_BYTES);
}

#[tokio::test]
async fn the_list_goes_on_after_the_call_that_the_reader_has() {
    let harness = Harness::start().await;
    for _ in 0..3 {
        harness.chat("", json!({})).await.text().await.unwrap();
    }
    let since = async |n: &str| {
        let calls = harness.request(Method::GET, &format!("/admin/served?since={n}")).send().await.unwrap();
        calls.json::<Vec<ServedCall>>().await.unwrap().iter().map(|call| call.call).collect::<Vec<_>>()
    };
    assert_eq!(since("0").await, [1, 2, 3]);
    assert_eq!(since("1").await, [2, 3]);
    assert_eq!(since("3").await, [0; 0]);
    assert_eq!(since("99").await, [0; 0]);
    let wrong = harness.request(Method::GET, "/admin/served?since=x").send().await.unwrap();
    assert_eq!(wrong.status(), 400);
}

#[tokio::test]
async fn the_summary_adds_up_to_the_list() {
    let harness = Harness::start().await;
    harness.chat("+tokens=4", json!({})).await.text().await.unwrap();
    events(harness.chat("+tokens=5", json!({"stream": true})).await).await;
    harness.message("+fail=before", json!({})).await.text().await.unwrap();
    let embed = json!({"model": "text-embedding-3-small+ttft=0s", "input": "one two three"});
    harness.openai("/v1/embeddings", &embed).await.text().await.unwrap();
    harness.chat("", json!({"model": "gpt-9"})).await.text().await.unwrap();
    let mut open = harness.chat("+hang=after:1", json!({"stream": true, "model": "gpt-6-astra+rate=0.01"})).await;
    open.chunk().await.unwrap().unwrap();
    open.chunk().await.unwrap().unwrap();

    let answer = harness.request(Method::GET, "/admin/served/summary").send().await.unwrap();
    let text = answer.text().await.unwrap();
    let summary: Summary = serde_json::from_str(&text).unwrap();
    assert_eq!(summary.listed_calls, 6);
    let total = &summary.total;
    assert_eq!((total.calls, total.completed, total.failed, total.in_progress), (6, 3, 2, 1));
    let calls = harness.simulator.ledger().calls_since(0);
    assert_eq!(total.input_tokens, calls.iter().map(|call| u64::from(call.input_tokens)).sum::<u64>());
    assert_eq!(total.output_tokens, calls.iter().map(|call| u64::from(call.output_tokens)).sum::<u64>());
    let luna = summary.models.iter().find(|model| model.model == "gpt-6-luna").unwrap();
    assert_eq!((luna.totals.calls, luna.totals.input_tokens, luna.totals.output_tokens), (2, 16, 9));
    // Flat, so that it reads as one row a model.
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["models"][0]["in_progress"], 1);
}

#[test]
fn over_the_limit_the_oldest_calls_are_forgotten_and_the_counters_go_on() {
    let ledger = Arc::new(Ledger::default());
    for _ in 0..MAX_CALLS + 2 {
        let serving = ledger.open(Arrival {
            client_request_id: None,
            provider: SimulatedProvider::OpenAi,
            operation: Operation::Chat,
            model: MODELS.first(),
            stream: false,
        });
        serving.add_output(1);
        serving.end(Outcome::Completed);
    }
    let limit = MAX_CALLS as u64;
    let page = ledger.calls_since(0);
    assert_eq!((page.len(), page[0].call), (MAX_PAGE, 3));
    assert_eq!(ledger.calls_since(limit + 1).len(), 1);
    let summary = ledger.summary();
    assert_eq!((summary.listed_calls, summary.total.calls, summary.total.completed), (limit, limit + 2, limit + 2));
    assert_eq!(summary.models[0].totals.output_tokens, limit + 2);
}
