//! What a provider was asked for and is left alone with is charged; what it refused, or never heard of, is not.

use aihub::config::{Config, sections::Disconnect};
use aihub_domain::{
    money::Microcredits,
    request::event::{CancelReason, RequestEvent},
};
use aihub_infrastructure::simulated_providers::served::Outcome;
use aihub_tests::{
    app::TestApp,
    audit::Audit,
    client::{chat, with},
    until,
};
use serde_json::{Value, json};

fn cost(input: u64, output: u64) -> i64 {
    i64::try_from(input * 100 + output * 500).unwrap()
}

/// A call that a provider never answers.
async fn hanging(change: impl FnOnce(&mut Config)) -> TestApp {
    let app = TestApp::start(change).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang": true }));
    app
}

#[tokio::test]
async fn a_whole_answer_that_is_cancelled_near_its_end_is_charged_like_a_stream() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let mut spent = 0;
    for (provider, model) in [("openai", "gpt-6-luna"), ("claude", "claude-haiku-5-5")] {
        app.providers
            .rule(json!({ "model": model, "output_tokens": 100, "hang_after_tokens": 90, "tokens_per_second": 300 }));
        for max_tokens in [json!(null), json!(200)] {
            let whole = json!({ "provider": provider, "model": model, "stream": false, "maxTokens": max_tokens });
            let calls = app.providers.calls().len();
            client.send(&with(chat("a", "Why is the sky blue?"), &whole)).await;
            until("90 tokens were written", async || {
                let written = app.providers.calls().into_iter().nth(calls)?;
                (written.outcome == Outcome::Hung).then_some(())
            })
            .await;
            client.ping().await;
            client.send(&json!({ "type": "cancel", "id": "a" })).await;
            let answer = client.answer("a").await;
            assert_eq!(answer.end["metadata"]["finishReason"], "cancelled", "{}", answer.end);
            assert_eq!(answer.end["metadata"]["estimated"], true);
            let usage = &answer.end["usage"];
            let tokens = |name: &str| usage[name].as_u64().unwrap();
            let (input, output) = (tokens("promptTokens"), tokens("completionTokens"));
            assert!((60..=90).contains(&output), "{usage}");
            let words = answer.end["data"].as_str().unwrap().split(' ').count();
            assert_eq!(u64::try_from(words).unwrap(), output, "what was produced by then is handed out");
            assert_eq!(answer.charged(), cost(input, output));
            spent += answer.charged();
        }
    }
    let audit = app.audit().await;
    assert_eq!((audit.accounts["ann"].spent, audit.accounts["ann"].held()), (spent, 0));
    app.stop().await;
}

#[tokio::test]
async fn whoever_leaves_before_the_first_piece_has_asked_all_the_same_and_pays_the_input() {
    let app = hanging(|config| config.gateway.on_disconnect = Disconnect::Abort).await;
    let mut client = app.connect("ann").await;
    client.send(&chat("a", "Why is the sky blue?")).await;
    app.providers.ended(Outcome::Hung).await;
    drop(client);
    let audit = Audit::at_rest(app.database.pool()).await;
    let Some(RequestEvent::RequestCancelled { reason: CancelReason::ClientLeft, outcome, .. }) = &audit.request().end
    else {
        panic!("{:?}", audit.request().end)
    };
    assert!(outcome.estimated && outcome.usage.input > 0 && outcome.usage.output == 0, "{outcome:?}");
    assert_eq!(audit.accounts["ann"].spent, cost(outcome.usage.input, 0));
    app.stop().await;
}

#[tokio::test]
async fn what_a_shutdown_cuts_off_is_charged_as_far_as_it_had_come() {
    let app = hanging(|_| ()).await;
    let mut client = app.connect("ann").await;
    client.send(&chat("a", "Why is the sky blue?")).await;
    app.providers.ended(Outcome::Hung).await;
    let database = app.database.clone();
    app.stop().await;
    let audit = Audit::of(database.pool()).await;
    let Some(RequestEvent::RequestCancelled { reason: CancelReason::Shutdown, outcome, .. }) = &audit.request().end
    else {
        panic!("{:?}", audit.request().end)
    };
    assert!(outcome.estimated && outcome.usage.input > 0, "{outcome:?}");
    assert_eq!(audit.accounts["ann"].spent, cost(outcome.usage.input, 0));
}

#[tokio::test]
async fn where_the_operator_says_so_what_was_left_before_it_showed_anything_costs_nothing() {
    let app = hanging(|config| config.gateway.charge_abandoned = false).await;
    let mut client = app.connect("ann").await;
    client.send(&chat("a", "Why is the sky blue?")).await;
    app.providers.ended(Outcome::Hung).await;
    client.send(&json!({ "type": "cancel", "id": "a" })).await;
    assert_eq!(client.answer("a").await.charged(), 0);
    // What was shown is paid for by any rule.
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang_after_tokens": 3 }));
    client.send(&chat("b", "Why is the sky blue?")).await;
    client.chunks("b", 3).await;
    client.send(&json!({ "type": "cancel", "id": "b" })).await;
    let answer = client.answer_after("b", 3).await;
    let input = answer.done()["usage"]["promptTokens"].as_u64().unwrap();
    assert_eq!(answer.charged(), cost(input, 3));
    assert_eq!(app.audit().await.accounts["ann"].spent, answer.charged());
    app.stop().await;
}

#[tokio::test]
async fn what_no_provider_heard_of_or_what_it_refused_costs_nothing() {
    let app = TestApp::start(|config| {
        // Nothing listens on a port that was bound and given back.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        config.providers.get_mut("openai").unwrap().base_url = Some(format!("http://{free}/v1"));
        config.gateway.request_timeout_ms = 700;
    })
    .await;
    let mut client = app.connect("ann").await;
    let alone = json!({ "fallback": false });
    let request = with(chat("a", "Why is the sky blue?"), &alone);
    let end = client.ask(&request).await.end;
    assert_eq!(end["type"], "error", "{end}");
    app.providers.rule(json!({ "model": "claude-haiku-5-5", "fail_before": { "status": 500 } }));
    let claude = json!({ "fallback": false, "provider": "claude", "model": "claude-haiku-5-5" });
    let end = client.ask(&with(chat("b", "Why is the sky blue?"), &claude)).await.end;
    assert_eq!(end["type"], "error", "{end}");
    let audit = app.audit().await;
    let ann = &audit.accounts["ann"];
    assert_eq!((audit.requests.len(), ann.spent, ann.held()), (2, 0, 0));
    app.stop().await;
}

/// A model that thinks aloud and then breaks off, before it has said anything; another one may answer for it.
fn thinks_and_fails() -> Value {
    json!({ "model": "gpt-6-luna", "thinking": "shown", "fail_after_tokens": 10 })
}

#[tokio::test]
async fn thinking_that_came_to_nothing_is_paid_to_its_provider_and_the_answer_to_the_one_that_gave_it() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(thinks_and_fails());
    let answer = app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await;
    let metadata = &answer.done()["metadata"];
    assert_eq!((&metadata["provider"], &metadata["attempts"]), (&json!("claude"), &json!(2)));
    assert_eq!(metadata["estimated"], true);

    let audit = app.audit().await;
    let outcome = audit.request().outcome();
    let parts = outcome.parts();
    let [thought, answered] = &parts[..] else { panic!("{parts:?}") };
    assert_eq!((thought.provider, answered.provider), (Some("openai"), Some("claude")));
    assert!(thought.billed.estimated && !answered.billed.estimated);
    assert_eq!(thought.billed.usage.output, 10);
    let call = app.providers.calls_of(answer.request_id()).pop().unwrap();
    let usage = answered.billed.usage;
    assert_eq!((usage.input, usage.output), (call.input_tokens.into(), call.output_tokens.into()));
    let prices = parts.iter().map(|part| part.billed.charge.price_id.as_deref().unwrap().split('@').next().unwrap());
    assert_eq!(prices.collect::<Vec<_>>(), ["openai/gpt-6-luna", "claude/claude-haiku-5-5"]);
    let costs = [&parts[0], &parts[1]].map(|part| cost(part.billed.usage.input, part.billed.usage.output));
    assert_eq!(parts.iter().map(|part| part.billed.charge.amount.0).collect::<Vec<_>>(), costs);
    assert_eq!((answer.charged(), audit.accounts["ann"].spent), (costs.iter().sum(), costs.iter().sum()));

    // In the views each provider has what is its own, and the request counts once.
    let rows = "SELECT provider, requests::bigint, output_tokens, charged_microcredits FROM read.usage_ledger_v1 ORDER BY part";
    let rows: Vec<(String, i64, i64, i64)> = until("the end is in the ledger", async || {
        let rows = sqlx::query_as(rows).fetch_all(app.database.pool()).await.unwrap();
        (!rows.is_empty()).then_some(rows)
    })
    .await;
    let output = i64::from(call.output_tokens);
    assert_eq!(rows, [("openai".to_owned(), 0, 10, costs[0]), ("claude".to_owned(), 1, output, costs[1])]);
    app.stop().await;
}

#[tokio::test]
async fn another_provider_is_asked_only_where_the_account_can_pay_for_both() {
    let app = TestApp::start(|_| ()).await;
    app.connect("probe").await.ask(&chat("a", "Why is the sky blue?")).await.done();
    let hold = app.audit().await.request().accepted.reserved_microcredits;
    app.providers.rule(thinks_and_fails());
    app.grant("poor", hold).await;
    let refused = app.connect("poor").await.ask(&chat("a", "Why is the sky blue?")).await;
    let attempts = refused.error("ALL_PROVIDERS_FAILED")["details"]["attempts"].as_array().unwrap().clone();
    let [failed, skipped, ..] = &attempts[..] else { panic!("{attempts:?}") };
    assert_eq!((&failed["provider"], &failed["kind"]), (&json!("openai"), &json!("server_error")));
    assert_eq!((&skipped["provider"], &skipped["kind"]), (&json!("claude"), &json!("insufficient_credits")));
    let audit = Audit::at_rest(app.database.pool()).await;
    let poor = &audit.accounts["poor"];
    let thought = audit.requests.values().find(|request| request.accepted.account == "poor").unwrap().outcome();
    let input = thought.attempts[0].billed.as_ref().unwrap().usage.input;
    assert!(poor.spent >= cost(input, 10) && poor.uncovered == 0, "{thought:?}");
    assert_eq!(poor.spent, thought.charge.amount.0);

    app.grant("rich", Microcredits(2 * hold.0)).await;
    app.connect("rich").await.ask(&chat("a", "Why is the sky blue?")).await.done();
    app.stop().await;
}
