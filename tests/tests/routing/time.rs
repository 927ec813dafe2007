//! How long a provider is waited for.

use std::sync::Arc;

use aihub::config::Config;
use aihub_tests::{
    app::TestApp,
    client::{chat, with},
    database,
    providers::Providers,
    proxy::Proxy,
    until,
};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{Duration, sleep},
};
use tokio_util::task::TaskTracker;

/// As little time as a test may have for what is never to come.
const BRIEF_MS: u64 = 400;

fn hurry(config: &mut Config) {
    for provider in config.providers.values_mut() {
        provider.timeouts.first_piece_ms = BRIEF_MS;
    }
}

fn question(more: &Value) -> Value {
    with(chat("a", "Why is the sky blue?"), more)
}

#[tokio::test]
async fn a_provider_that_hangs_is_left_for_the_next_one_streamed_or_not() {
    let app = TestApp::start(hurry).await;
    for trouble in ["hang", "hang_after_tokens"] {
        let value = if trouble == "hang" { json!(true) } else { json!(0) };
        app.providers.rule(json!({ "model": "gpt-6-luna", trouble: value }));
        for stream in [true, false] {
            let answer = app.connect("ann").await.ask(&question(&json!({ "stream": stream }))).await;
            let metadata = &answer.end["metadata"];
            assert_eq!((&metadata["provider"], &metadata["attempts"]), (&json!("claude"), &json!(2)), "{trouble}");
        }
    }
    let audit = app.audit().await;
    for request in audit.requests.values() {
        assert_eq!(request.outcome().attempts[0].failure.as_deref(), Some("timeout"));
        assert!(request.outcome().attempts[0].duration_ms < 10 * BRIEF_MS);
    }
    app.stop().await;
}

#[tokio::test]
async fn the_last_candidate_is_waited_for_as_long_as_the_request_allows_and_asked_once() {
    let app = TestApp::start(hurry).await;
    let slow = json!({ "model": "gpt-6-luna", "ttft_ms": 4 * BRIEF_MS });
    app.providers.rule(slow);
    let mut client = app.connect("ann").await;
    for stream in [true, false] {
        let answer = client.ask(&question(&json!({ "stream": stream, "fallback": false }))).await;
        let metadata = &answer.end["metadata"];
        assert_eq!((&metadata["provider"], &metadata["attempts"]), (&json!("openai"), &json!(1)));
    }
    // The other one's key is refused, and it rests: then the first is the last that can be asked.
    app.providers.rule(json!({ "model": "claude-haiku-5-5", "fail_before": { "kind": "unauthorized" } }));
    let refused = question(&json!({ "provider": "claude", "model": "claude-haiku-5-5", "fallback": false }));
    client.ask(&refused).await.error("ALL_PROVIDERS_FAILED");
    let answer = client.ask(&question(&json!({}))).await;
    assert_eq!(answer.end["metadata"]["provider"], "openai");
    app.stop().await;
}

#[tokio::test]
async fn a_time_out_is_not_repeated_at_the_same_provider() {
    let app = TestApp::start(hurry).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang": true }));
    app.providers.rule(json!({ "model": "claude-haiku-5-5", "fail_before": { "kind": "server_error" } }));
    let answer = app.connect("ann").await.ask(&question(&json!({}))).await;
    let attempts = answer.error("ALL_PROVIDERS_FAILED")["details"]["attempts"].clone();
    let of = |provider: &str| attempts.as_array().unwrap().iter().filter(|one| one["provider"] == provider).count();
    assert_eq!((of("openai"), of("claude")), (1, 3), "{attempts}");
    app.stop().await;
}

#[tokio::test]
async fn an_embedding_that_hangs_is_made_by_the_next_provider_that_has_the_model() {
    let app = TestApp::start(|config| {
        hurry(config);
        let mut other = config.providers["openai"].clone();
        other.priority += 1;
        config.providers.insert("other".to_owned(), other);
    })
    .await;
    app.providers.rule(json!({ "model": "text-embedding-3-small", "hang": true, "times": 1 }));
    let request = json!({ "id": "a", "type": "embedding", "model": "text-embedding-3-small", "input": ["a"] });
    let answer = app.connect("ann").await.ask(&request).await;
    let metadata = &answer.end["metadata"];
    assert_eq!((&metadata["provider"], &metadata["attempts"]), (&json!("other"), &json!(2)));
    app.stop().await;
}

/// A provider that says only that it is still there, for ever.
async fn keeps_alive(listener: TcpListener) {
    let tasks = TaskTracker::new();
    loop {
        let (mut connection, _) = listener.accept().await.unwrap();
        tasks.spawn(async move {
            let mut request = vec![0; 64 << 10];
            let _ = connection.read(&mut request).await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            let mut piece = connection.write_all(head.as_bytes()).await;
            while piece.is_ok() {
                sleep(Duration::from_millis(50)).await;
                piece = connection.write_all(b"e\r\n: still here\n\n\r\n").await;
            }
        });
    }
}

#[tokio::test]
async fn keep_alives_do_not_prolong_the_wait_for_the_first_piece_and_thoughts_do() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let alive = TaskTracker::new().spawn(keeps_alive(listener));
    let app = TestApp::start(|config| {
        hurry(config);
        let openai = config.providers.get_mut("openai").unwrap();
        (openai.base_url, openai.simulated) = (Some(format!("http://{address}/v1")), true);
    })
    .await;
    let answer = app.connect("ann").await.ask(&question(&json!({}))).await;
    assert_eq!(answer.done()["metadata"]["provider"], "claude");
    app.stop().await;
    alive.abort();

    let app = TestApp::start(hurry).await;
    // It thinks for much longer than the first piece may take.
    app.providers.rule(json!({ "model": "gpt-6-luna", "thinking": "shown", "tokens_per_second": 10 }));
    let answer = app.connect("ann").await.ask(&question(&json!({ "maxTokens": 40 }))).await;
    assert_eq!(answer.done()["metadata"]["provider"], "openai");
    app.stop().await;
}

#[tokio::test]
async fn all_attempts_together_fit_into_the_requests_time_with_room_for_each() {
    let app = TestApp::start(|config| config.gateway.request_timeout_ms = 3_000).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang": true }));
    let answer = app.connect("ann").await.ask(&question(&json!({ "maxTokens": 5 }))).await;
    assert_eq!(answer.done()["metadata"]["provider"], "claude");
    app.stop().await;
}

/// The attempts of the only request, in their order: who, why it failed, and whether it was paid for.
async fn attempts(app: &TestApp) -> Vec<(String, Option<String>, bool)> {
    let audit = app.audit().await;
    let attempts = &audit.request().outcome().attempts;
    attempts.iter().map(|one| (one.provider.clone(), one.failure.clone(), one.billed.is_some())).collect()
}

#[tokio::test]
async fn where_it_is_wanted_the_next_provider_is_asked_beside_one_that_shows_nothing_and_the_first_to_speak_wins() {
    for (slow, hedge_after_ms, streamed, expected) in [
        // The first one is slower: it is left, and paid for by rule.
        (3_000, Some(100), true, vec![("openai", Some("hedged"), true), ("claude", None, false)]),
        (3_000, Some(100), false, vec![("openai", Some("hedged"), true), ("claude", None, false)]),
        // The second one is slower.
        (300, Some(100), true, vec![("claude", Some("hedged"), true), ("openai", None, false)]),
        (300, Some(100), false, vec![("claude", Some("hedged"), true), ("openai", None, false)]),
        (300, None, true, vec![("openai", None, false)]),
    ] {
        let app = TestApp::start(|config| config.gateway.hedge_after_ms = hedge_after_ms).await;
        app.providers.rule(json!({ "model": "gpt-6-luna", "ttft_ms": slow }));
        let of_second = if slow == 300 { 3_000 } else { 0 };
        app.providers.rule(json!({ "model": "claude-haiku-5-5", "ttft_ms": of_second }));
        let answer = app.connect("ann").await.ask(&question(&json!({ "stream": streamed }))).await;
        let metadata = &answer.end["metadata"];
        let expected: Vec<(String, Option<String>, bool)> = expected
            .into_iter()
            .map(|(provider, failure, billed)| (provider.to_owned(), failure.map(str::to_owned), billed))
            .collect();
        let (winner, ..) = expected.last().unwrap();
        assert_eq!((&metadata["provider"], &metadata["attempts"]), (&json!(winner), &json!(expected.len())));
        assert_eq!(attempts(&app).await, expected);
        let audit = app.audit().await;
        let account = &audit.accounts["ann"];
        assert_eq!((account.held(), account.uncovered), (0, 0));
        assert_eq!(account.spent, audit.request().outcome().charge.amount.0);
        app.stop().await;
    }
}

#[tokio::test]
async fn a_hedged_request_that_is_cancelled_pays_both_by_rule_and_where_one_fails_the_other_answers() {
    let app = TestApp::start(|config| config.gateway.hedge_after_ms = Some(100)).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang": true }));
    app.providers.rule(json!({ "model": "claude-haiku-5-5", "hang": true }));
    let mut client = app.connect("ann").await;
    client.send(&question(&json!({}))).await;
    until("both are asked", async || (app.providers.calls().len() == 2).then_some(())).await;
    client.send(&json!({ "type": "cancel", "id": "a" })).await;
    assert_eq!(client.answer("a").await.end["metadata"]["finishReason"], "cancelled");
    let audit = app.audit().await;
    let outcome = audit.request().outcome();
    assert_eq!(outcome.attempts.len(), 2);
    assert!(outcome.parts().iter().all(|part| part.billed.usage.input > 0), "{outcome:?}");
    assert_eq!(audit.accounts["ann"].held(), 0);
    app.stop().await;

    let app = TestApp::start(|config| config.gateway.hedge_after_ms = Some(100)).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "ttft_ms": 1_000 }));
    app.providers.rule(json!({ "model": "claude-haiku-5-5", "fail_before": { "kind": "unauthorized" } }));
    let answer = app.connect("ann").await.ask(&question(&json!({}))).await;
    assert_eq!(answer.done()["metadata"]["provider"], "openai");
    app.stop().await;
}

#[tokio::test]
async fn a_hedged_whole_answer_that_breaks_off_is_made_by_whoever_is_left() {
    let app = TestApp::start(|config| {
        config.gateway.hedge_after_ms = Some(100);
        let mut third = config.providers["openai"].clone();
        third.priority = 3;
        config.providers.insert("third".to_owned(), third);
    })
    .await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang": true, "times": 1 }));
    app.providers.rule(json!({ "model": "claude-haiku-5-5", "tear_after_tokens": 3 }));
    let answer = app.connect("ann").await.ask(&question(&json!({ "stream": false }))).await;
    assert_eq!(answer.end["metadata"]["provider"], "third");
    let mut asked: Vec<_> =
        attempts(&app).await.into_iter().map(|(who, failure, _)| (who, failure.is_some())).collect();
    asked.sort();
    assert_eq!(
        asked,
        [("claude", true), ("openai", true), ("third", false)].map(|(who, failed)| (who.to_owned(), failed))
    );
    app.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn kept_connections_that_were_dropped_without_a_word_cost_no_attempt() {
    let (database, providers) = (Arc::new(database().await), Arc::new(Providers::start().await));
    let way = Proxy::start(providers.address).await;
    // Not by a name that is this machine's: there nothing is dropped, and nothing looked for.
    let elsewhere = format!("http://0.0.0.0:{}/v1", way.address.port());
    let app = TestApp::start_on(&database, &providers, |config| {
        let openai = config.providers.get_mut("openai").unwrap();
        openai.base_url = Some(elsewhere);
    })
    .await;
    // Long enough that each has a connection of its own.
    providers.rule(json!({ "model": "gpt-6-luna", "ttft_ms": 2_000 }));
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(app.connect("ann").await);
    }
    let request = question(&json!({ "fallback": false }));
    join_all(clients.iter_mut().map(|client| client.ask(&request))).await;
    assert_eq!(way.forget_connections(), 3);
    for answer in join_all(clients.iter_mut().map(|client| client.ask(&request))).await {
        let metadata = &answer.done()["metadata"];
        assert_eq!((&metadata["provider"], &metadata["attempts"]), (&json!("openai"), &json!(1)));
    }
    let (_, _, metrics) = app.get("/api/providers", Some(&app.token("ann"))).await;
    assert_eq!(metrics["providers"][0]["breaker"], "closed");
    app.stop().await;
}
