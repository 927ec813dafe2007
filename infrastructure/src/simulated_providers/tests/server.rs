use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    super::{
        SimulatedProviders,
        knobs::{Knobs, Trouble, rules::Rule},
    },
    Harness, PATIENCE, header, parse,
};

#[tokio::test]
async fn every_answer_is_marked_as_simulated() {
    let harness = Harness::start().await;
    let answers = [
        harness.chat("", json!({})).await,
        harness.chat("", json!({"stream": true})).await,
        harness.message("+fail=before", json!({})).await,
        harness.request(Method::GET, "/v1/models").send().await.unwrap(),
        harness.request(Method::GET, "/admin/served").send().await.unwrap(),
        harness.request(Method::GET, "/nowhere").send().await.unwrap(),
    ];
    for answer in answers {
        assert_eq!(header(&answer, "x-simulated"), Some("true"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_path_that_does_not_exist_is_a_404_in_the_callers_own_envelope() {
    let harness = Harness::start().await;
    let openai = harness.openai("/v1/responses", &json!({})).await;
    assert_eq!(openai.status(), 404);
    let body = parse(&openai.text().await.unwrap());
    assert_eq!(body["error"]["message"], "Invalid URL (POST /v1/responses)");
    let anthropic = harness.anthropic("/v1/complete", "2023-06-01", &json!({})).await;
    assert_eq!(anthropic.status(), 404);
    assert_eq!(parse(&anthropic.text().await.unwrap())["error"]["type"], "not_found_error");
}

#[tokio::test]
async fn models_are_listed_in_the_form_of_whoever_asks() {
    let harness = Harness::start().await;
    let list = || harness.request(Method::GET, "/v1/models").bearer_auth("sk-any");
    let openai = parse(&list().send().await.unwrap().text().await.unwrap());
    assert_eq!(openai["object"], "list");
    assert_eq!(
        super::keys(&openai["data"][0]),
        super::sorted(["id", "object", "created", "owned_by", "shutdown_date"])
    );
    assert_eq!(openai["data"].as_array().unwrap().len(), 10);
    let anthropic = list().header("anthropic-version", "2026-10-21").send().await.unwrap();
    let anthropic = parse(&anthropic.text().await.unwrap());
    assert_eq!(super::keys(&anthropic), super::sorted(["data", "has_more", "first_id", "last_id"]));
    let model = ["type", "id", "display_name", "created_at", "lifecycle", "max_input_tokens", "max_tokens"];
    assert_eq!(super::keys(&anthropic["data"][0]), super::sorted(model));
    assert_eq!(anthropic["last_id"], "claude-haiku-4-5");
}

#[tokio::test]
async fn a_body_over_the_limit_is_a_413() {
    let harness = Harness::start().await;
    let big = " ".repeat(super::super::MAX_BODY_BYTES + 1);
    let openai = harness.request(Method::POST, "/v1/chat/completions").bearer_auth("sk-any").body(big.clone());
    assert_eq!(openai.send().await.unwrap().status(), 413);
    let anthropic = harness.request(Method::POST, "/v1/messages").bearer_auth("sk-any").body(big);
    let anthropic = anthropic.header("anthropic-version", "2023-06-01").send().await.unwrap();
    assert_eq!(anthropic.status(), 413);
    assert_eq!(parse(&anthropic.text().await.unwrap())["error"]["type"], "request_too_large");
}

#[tokio::test]
async fn shutdown_lets_the_streams_in_flight_end() {
    let harness = Harness::start().await;
    let mut answer = harness.chat("", json!({"stream": true, "model": "gpt-6-luna+ttft=0s+rate=200+tokens=20"})).await;
    answer.chunk().await.unwrap().unwrap();
    harness.shutdown.cancel();
    harness.tasks.close();
    assert!(answer.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    timeout(PATIENCE, harness.tasks.wait()).await.unwrap();
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever_for_a_call_that_hangs() {
    let providers = SimulatedProviders::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let (addr, simulator) = (providers.local_addr().unwrap(), providers.simulator());
    simulator
        .put_rule(Rule { knobs: Knobs { trouble: Some(Trouble::HangBefore), ..Knobs::default() }, ..Rule::default() })
        .unwrap();
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    let run = tasks.spawn(providers.run_with_drain(shutdown.clone(), Duration::from_millis(50)));
    let mut caller = TcpStream::connect(addr).await.unwrap();
    let body = r#"{"model":"gpt-6-luna","messages":[{"role":"user","content":"x"}]}"#;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    caller.write_all(request.as_bytes()).await.unwrap();
    while simulator.ledger().summary().total.hung == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    shutdown.cancel();
    timeout(PATIENCE, run).await.unwrap().unwrap().unwrap();
}
