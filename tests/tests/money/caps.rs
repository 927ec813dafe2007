//! What is asked of a provider is no more than what is held, however much a model would like to write.

use std::{collections::BTreeSet, time::Duration};

use aihub::config::{Config, providers::StreamsSetting};
use aihub_domain::{
    money::Microcredits,
    price::Charge,
    request::event::{CancelReason, RequestEvent},
};
use aihub_infrastructure::simulated_providers::served::ServedCall;
use aihub_tests::{
    app::TestApp,
    audit::{Audit, AuditedRequest},
    client::{Answer, Client, chat, with},
};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::timeout;

/// One whose output may be hidden, and one that shows all of it. Both cost 100 microcredits a token of input, and 500 of output.
const MODELS: [(&str, &str); 2] = [("openai", "gpt-6-luna"), ("claude", "claude-haiku-5-5")];
/// Pays for nearly 4,000 tokens.
const TWO_CREDITS: Microcredits = Microcredits::from_credits(2);

/// A service whose models write on and on.
async fn endless(change: impl FnOnce(&mut Config)) -> TestApp {
    let app = TestApp::start(change).await;
    for (_, model) in MODELS {
        app.providers.rule(json!({ "model": model, "output_tokens": 100_000 }));
    }
    app
}

fn unlimited((provider, model): (&str, &str), stream: bool) -> Value {
    let more = json!({ "provider": provider, "model": model, "stream": stream, "maxTokens": null, "fallback": false });
    with(chat("a", "Go on for as long as you can"), &more)
}

/// Asks as `account`, and finds what the log and the provider say about it.
async fn ask(app: &TestApp, account: &str, request: &Value) -> (Answer, AuditedRequest, ServedCall) {
    let answer = app.connect(account).await.ask(request).await;
    let mut audit = Audit::at_rest(app.database.pool()).await;
    let audited = audit.requests.remove(answer.request_id()).unwrap();
    let [call] = &app.providers.calls_of(answer.request_id())[..] else { panic!("{:?}", answer.end) };
    (answer, audited, call.clone())
}

fn cost(input: u64, output: u64) -> i64 {
    i64::try_from(input * 100 + output * 500).unwrap()
}

/// Checks that an answer without a limit took what its account had, and nothing beyond.
async fn took_what_there_was(app: &TestApp, account: &str, request: &Value) -> ServedCall {
    app.grant(account, TWO_CREDITS).await;
    let (answer, audited, call) = ask(app, account, request).await;
    assert_eq!(answer.end["metadata"]["finishReason"], "credits_exhausted", "{account}");
    let Some(RequestEvent::RequestCancelled { reason: CancelReason::CreditsExhausted, outcome, .. }) = &audited.end
    else {
        panic!("{account}: {:?}", audited.end)
    };
    assert!(!outcome.estimated, "{account}: the provider told what was used");
    assert_eq!((outcome.usage.input, outcome.usage.output), (call.input_tokens.into(), call.output_tokens.into()));
    let balance = &app.audit().await.accounts[account];
    assert_eq!((balance.uncovered, balance.held()), (0, 0), "{account}");
    assert_eq!((balance.spent, answer.charged()), (cost(outcome.usage.input, outcome.usage.output), balance.spent));
    // What is left is what the input was held for beyond what it came to.
    assert!((0..30_000).contains(&balance.available()), "{account}: {} are left", balance.available());
    if request["stream"] == true {
        assert_eq!(answer.chunks.len(), usize::try_from(call.output_tokens).unwrap(), "{account}");
    } else {
        let words = answer.end["data"].as_str().unwrap().split(' ').count();
        assert_eq!(words, usize::try_from(call.output_tokens).unwrap(), "{account}");
    }
    call
}

#[tokio::test]
async fn a_model_that_would_write_100_000_tokens_writes_what_two_credits_pay_for_and_every_one_is_billed() {
    let app = endless(|_| ()).await;
    for (provider, model) in MODELS {
        for stream in [false, true] {
            let account = format!("{provider}-{stream}");
            let call = took_what_there_was(&app, &account, &unlimited((provider, model), stream)).await;
            assert!(call.stream, "whole answers are gathered from a stream as well");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_provider_that_cannot_stream_is_asked_for_no_more_than_is_held_either() {
    let app =
        endless(|config| config.providers.values_mut().for_each(|provider| provider.streams = StreamsSetting::Never))
            .await;
    for (provider, model) in MODELS {
        for stream in [false, true] {
            app.grant(&format!("rich-{provider}-{stream}"), Microcredits::from_credits(1_000)).await;
            let request = unlimited((provider, model), stream);
            let (answer, audited, call) = ask(&app, &format!("rich-{provider}-{stream}"), &request).await;
            // The most that is asked for unseen.
            assert_eq!((call.stream, call.output_tokens), (false, 32_768));
            assert_eq!(answer.end["metadata"]["finishReason"], "length");
            assert!(audited.accepted.reserved_microcredits.0 >= cost(0, 32_768));

            let account = format!("{provider}-{stream}");
            app.grant(&account, TWO_CREDITS).await;
            let (answer, audited, call) = ask(&app, &account, &request).await;
            assert_eq!(answer.end["metadata"]["finishReason"], "credits_exhausted");
            let held = audited.accepted.reserved_microcredits.0;
            assert!((1..=held).contains(&cost(call.input_tokens.into(), call.output_tokens.into())) && !call.stream);
            let balance = &app.audit().await.accounts[&account];
            assert_eq!((balance.uncovered, balance.spent), (0, answer.charged()));
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn what_the_client_limits_itself_is_held_whole_or_refused_and_never_lowered() {
    let app = endless(|_| ()).await;
    app.grant("poor", TWO_CREDITS).await;
    for model in MODELS {
        let request = with(unlimited(model, true), &json!({ "maxTokens": 5_000 }));
        let refused = app.connect("poor").await.ask(&request).await;
        let details = &refused.error("INSUFFICIENT_CREDITS")["details"];
        assert_eq!(details["available"], 2.0);
        assert!(details["required"].as_f64().unwrap() > 2.5, "{details}");
        assert!(app.providers.calls().is_empty());
    }
    for model in MODELS {
        let request = with(unlimited(model, true), &json!({ "maxTokens": 1_500 }));
        let (answer, _, call) = ask(&app, "poor", &request).await;
        assert_eq!((answer.done()["metadata"]["finishReason"].as_str(), call.output_tokens), (Some("length"), 1_500));
    }
    app.stop().await;
}

#[tokio::test]
async fn what_a_model_thinks_unseen_is_held_for_and_counts_within_its_cap() {
    let app = endless(|_| ()).await;
    let luna = MODELS[0];
    app.providers.rule(json!({ "model": luna.1, "output_tokens": 100_000, "hidden_tokens": 3_000 }));
    for stream in [false, true] {
        let account = format!("poor-{stream}");
        app.grant(&account, TWO_CREDITS).await;
        let (answer, audited, call) = ask(&app, &account, &unlimited(luna, stream)).await;
        let usage = audited.outcome().usage;
        assert_eq!((usage.reasoning, usage.output), (3_000, call.output_tokens.into()));
        assert!(usage.output > 3_500, "and there was room for an answer: {usage:?}");
        let balance = &app.audit().await.accounts[&account];
        assert_eq!((balance.uncovered, balance.spent), (0, cost(usage.input, usage.output)));
        assert_eq!(answer.end["metadata"]["finishReason"], "credits_exhausted");
    }
    // It thinks until nothing is left to answer with.
    app.providers.rule(json!({ "model": luna.1, "output_tokens": 100_000, "hidden_tokens": 128_000 }));
    app.grant("thinker", TWO_CREDITS).await;
    let (answer, audited, call) = ask(&app, "thinker", &unlimited(luna, true)).await;
    assert_eq!((answer.chunks.len(), audited.outcome().usage.output), (0, call.output_tokens.into()));
    let balance = &app.audit().await.accounts["thinker"];
    assert_eq!((balance.uncovered, balance.spent), (0, answer.charged()));
    assert!(balance.spent > 1_900_000, "what was thought is paid for");
    app.stop().await;
}

#[tokio::test]
async fn a_provider_that_ignores_its_cap_is_left_there_and_nothing_beyond_it_is_handed_out_or_charged() {
    let app = endless(|_| ()).await;
    for (provider, model) in MODELS {
        app.providers.rule(json!({ "model": model, "output_tokens": 20_000, "cap": "ignored" }));
        for stream in [false, true] {
            let limited = with(unlimited((provider, model), stream), &json!({ "maxTokens": 200 }));
            let (answer, audited, _) = ask(&app, "ann", &limited).await;
            let case = format!("{provider}, stream {stream}");
            assert_eq!(answer.end["metadata"]["finishReason"], "length", "{case}");
            let held = audited.accepted.reserved_microcredits.0;
            assert!(answer.charged() <= held, "{case}: {} of {held}", answer.charged());
            let words = answer.chunks.len() + answer.end["data"].as_str().map_or(0, |text| text.split(' ').count());
            assert_eq!(words, 200, "{case}");

            let account = format!("poor-{provider}-{stream}");
            app.grant(&account, TWO_CREDITS).await;
            let (answer, ..) = ask(&app, &account, &unlimited((provider, model), stream)).await;
            assert_eq!(answer.end["metadata"]["finishReason"], "credits_exhausted", "{case}");
            let words = answer.chunks.len() + answer.end["data"].as_str().map_or(0, |text| text.split(' ').count());
            assert!(words <= 4_000, "{case}: {words}");
            let balance = &app.audit().await.accounts[&account];
            assert!(balance.uncovered == 0 && balance.spent <= TWO_CREDITS.0, "{case}: {balance:?}");
        }
    }
    app.stop().await;
}

/// Every kind of answer without a limit, many at a time, on one account that cannot pay for all.
async fn ask_at_once(apps: &[&TestApp], each: usize) -> Vec<Answer> {
    let ask = async |client: &mut Client| {
        for nth in 0..each {
            let request = unlimited(MODELS[nth % 2], nth % 4 < 2);
            client.send(&with(request, &json!({ "id": nth.to_string() }))).await;
        }
        let mut answers = Vec::new();
        for nth in 0..each {
            answers.push(client.answer(&nth.to_string()).await);
        }
        answers
    };
    let mut clients = Vec::new();
    for app in apps {
        clients.push(app.connect("poor").await);
    }
    join_all(clients.iter_mut().map(ask)).await.into_iter().flatten().collect()
}

#[tokio::test]
async fn however_many_write_at_once_on_two_nodes_nothing_is_uncovered() {
    let change = |config: &mut Config| {
        config.gateway.output_hold_tokens = 100;
        config.gateway.hidden_output_hold_tokens = 600;
    };
    let first = endless(change).await;
    let second = TestApp::start_on(&first.database, &first.providers, change).await;
    for (_, model) in MODELS {
        first.providers.rule(json!({ "model": model, "output_tokens": 700 }));
    }
    first.grant("poor", Microcredits::from_credits(3)).await;
    let answers = ask_at_once(&[&first, &second], 12).await;
    let ends: BTreeSet<_> =
        answers.iter().map(|answer| answer.end["metadata"]["finishReason"].as_str().unwrap_or("refused")).collect();
    assert!(ends.contains("credits_exhausted"), "{ends:?}");
    let audit = Audit::at_rest(first.database.pool()).await;
    let balance = &audit.accounts["poor"];
    assert_eq!((balance.uncovered, balance.held()), (0, 0));
    let charged: i64 = answers
        .iter()
        .filter(|answer| answer.end["usage"].is_object())
        .map(|answer| aihub_tests::client::microcredits(&answer.end["usage"]["credits"]))
        .sum();
    assert_eq!(balance.spent, charged);
    for audited in audit.requests.values() {
        let Charge { amount, list, .. } = audited.outcome().charge;
        assert!(amount <= list, "{amount:?} of {list:?}");
    }
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn what_waited_for_credits_comes_in_its_order_once_another_request_has_given_some_back() {
    let app = TestApp::start(|config| config.gateway.output_hold_tokens = 32).await;
    let (provider, model) = MODELS[1];
    app.providers.rule(json!({ "model": model, "output_tokens": 150, "tokens_per_second": 30 }));
    app.providers.rule(json!({ "model": MODELS[0].1, "hang": true }));
    let request = unlimited((provider, model), true);
    app.grant("rich", Microcredits::from_credits(100)).await;
    let whole = app.connect("rich").await.ask(&request).await.chunks.concat();

    // Pays for all of it, and while the other one holds 150 tokens for some 66 of it.
    app.grant("poor", Microcredits(150_000)).await;
    let (mut client, mut other) = (app.connect("poor").await, app.connect("poor").await);
    client.send(&request).await;
    let mut begun = vec![client.next().await];
    other.send(&with(chat("b", "Why is the sky blue?"), &json!({ "maxTokens": 150, "fallback": false }))).await;
    // From two thirds of that on nobody knows whether it is enough, and nothing is handed out.
    while let Ok(frame) = timeout(Duration::from_millis(300), client.next()).await {
        begun.push(frame);
    }
    other.send(&json!({ "type": "cancel", "id": "b" })).await;
    let given = begun.len();
    let end = loop {
        let frame = client.next().await;
        if frame["type"] != "chunk" {
            break frame;
        }
        begun.push(frame);
    };
    assert_eq!(end["metadata"]["finishReason"], "stop", "{end}");
    assert!(given < 60, "{given} of 150 were given before the other one left");
    let said: String = begun.iter().map(|frame| frame["data"].as_str().unwrap()).collect();
    assert_eq!(said, whole);
    app.stop().await;
}
