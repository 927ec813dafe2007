//! What a provider says on a bad day, from its bytes to what the client is told and charged: the tables of the simulator, each
//! streamed and whole.

use aihub_domain::money::Microcredits;
use aihub_infrastructure::simulated_providers::{
    SimulatedProvider,
    cases::{self, Case},
};
use aihub_tests::{
    app::TestApp,
    client::{Answer, chat, with},
    until,
};
use futures::future::join_all;
use serde_json::{Value, json};

/// A line of what a case says, by its first word.
fn said<'a>(case: &'a Case, word: &str) -> Option<&'a str> {
    case.says.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '))
}

fn calls(answer: &Value) -> Vec<(&str, &str)> {
    let calls = answer["toolCalls"].as_array().map_or(&[][..], Vec::as_slice);
    calls.iter().map(|call| (call["name"].as_str().unwrap_or(""), call["arguments"].as_str().unwrap())).collect()
}

fn assert_told(case: &Case, provider: &str, streamed: bool, answer: &Answer) {
    let (name, end) = (&case.name, &answer.end);
    let text = said(case, "text");
    let is_shown = text.is_some() || said(case, "call").is_some();
    if let Some(finish) = said(case, "finish") {
        let done = if streamed { answer.done() } else { end };
        let told = if streamed { answer.text() } else { done["data"].as_str().unwrap().to_owned() };
        assert_eq!(told, text.unwrap_or_default(), "{provider} {name} {streamed}");
        let metadata = &done["metadata"];
        let (reason, own) = finish.split_once(' ').map_or((finish, None), |(reason, own)| (reason, Some(own)));
        let reason = match reason {
            "Stop" => "stop",
            "Length" => "length",
            "ToolCalls" => "tool_calls",
            other => panic!("{other}"),
        };
        assert_eq!(metadata["finishReason"], reason, "{provider} {name}: {end}");
        let own = own.map(|own| own.trim_matches(['(', ')']));
        assert_eq!(metadata["providerFinishReason"].as_str(), own, "{provider} {name}: {end}");
        assert_eq!(metadata["estimated"], said(case, "usage").is_none(), "{provider} {name}: {end}");
        if let Some(credits) = &case.credits {
            assert_eq!(end["usage"]["credits"], credits.parse::<f64>().unwrap(), "{provider} {name}: {end}");
        }
        if !streamed {
            let expected: Vec<_> = case.says.lines().filter_map(|line| line.strip_prefix("call ")).collect();
            let told = calls(done);
            assert_eq!(told.len(), expected.len(), "{provider} {name}: {end}");
            for ((name, arguments), expected) in told.iter().zip(expected) {
                assert!(expected.contains(&format!(" {name} {arguments}")), "{expected}: {end}");
            }
        }
    } else if streamed && is_shown {
        let details = &answer.error("STREAM_INTERRUPTED")["details"];
        assert_eq!(details["provider"], provider, "{name}");
        assert_eq!(answer.text(), text.unwrap_or_default(), "{provider} {name}");
    } else {
        let attempts = &answer.error("ALL_PROVIDERS_FAILED")["details"]["attempts"];
        assert!(attempts[0]["kind"].is_string(), "{provider} {name}: {end}");
        assert!(answer.chunks.is_empty(), "{provider} {name}");
    }
}

#[tokio::test]
async fn every_bad_day_is_told_and_charged_as_its_table_says_streamed_and_whole() {
    let app = TestApp::start(|config| {
        for provider in config.providers.values_mut() {
            provider.simulated = true;
            (provider.breaker.min_calls, provider.breaker.consecutive_failures) = (u32::MAX, u32::MAX);
        }
    })
    .await;
    let asked = [("openai", SimulatedProvider::OpenAi), ("claude", SimulatedProvider::Claude)]
        .into_iter()
        .flat_map(|(name, provider)| cases::of(provider).iter().map(move |case| (name, case)))
        .flat_map(|(name, case)| [(name, case, true), (name, case, false)]);
    let told = join_all(asked.enumerate().map(async |(nth, (provider, case, streamed))| {
        let user = format!("user-{nth}");
        let model = format!("{}{}", cases::PREFIX, case.name);
        let more =
            json!({ "provider": provider, "model": model, "fallback": false, "stream": streamed, "maxTokens": 20_000 });
        let answer = app.connect(&user).await.ask(&with(chat("a", "Why is the sky blue?"), &more)).await;
        assert_told(case, provider, streamed, &answer);
        (user, case, streamed)
    }))
    .await;
    let audit = app.audit().await;
    for (user, case, streamed) in told {
        let account = &audit.accounts[&user];
        assert_eq!((account.held(), account.uncovered), (0, 0), "{}", case.name);
        let produced = ["text", "call", "thinking"].iter().any(|word| said(case, word).is_some());
        if said(case, "error").is_some() && !produced {
            assert_eq!(account.spent, 0, "{} {streamed}: nothing came, and nothing is charged", case.name);
        } else {
            assert!(account.spent > 0, "{} {streamed}", case.name);
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn every_bad_day_of_embeddings_is_told_and_charged_as_its_table_says() {
    let app = TestApp::start(|config| {
        let openai = config.providers.get_mut("openai").unwrap();
        openai.simulated = true;
        (openai.breaker.min_calls, openai.breaker.consecutive_failures) = (u32::MAX, u32::MAX);
    })
    .await;
    for case in cases::of_embeddings() {
        let model = format!("{}{}", cases::PREFIX, case.name);
        let request = json!({ "id": "a", "type": "embedding", "provider": "openai", "model": model, "fallback": false,
                              "input": ["one text", "another"] });
        let answer = app.connect(&case.name.to_lowercase()).await.ask(&request).await;
        if let Some(kind) = said(case, "error") {
            let attempts = &answer.error("ALL_PROVIDERS_FAILED")["details"]["attempts"];
            assert_eq!(attempts[0]["kind"], kind.to_lowercase(), "{}: {}", case.name, answer.end);
        } else {
            let vectors: Vec<Vec<f64>> = serde_json::from_value(answer.end["data"].clone()).unwrap();
            assert_eq!(vectors, [[1.0, 0.0], [0.0, 1.0]], "{}", case.name);
        }
    }
    let audit = app.audit().await;
    for case in cases::of_embeddings() {
        let account = &audit.accounts[&case.name.to_lowercase()];
        assert_eq!((account.held(), account.uncovered), (0, 0), "{}", case.name);
        assert_eq!(account.spent > 0, said(case, "error").is_none(), "{}", case.name);
    }
    app.stop().await;
}

#[tokio::test]
async fn what_a_provider_would_refuse_and_has_no_other_form_for_is_asked_of_others_or_refused_by_its_field() {
    let app = TestApp::start(|_| {}).await;
    let mut client = app.connect("ann").await;
    let model = "claude-haiku-5-5";
    let blank =
        |fallback: bool| json!({ "provider": "claude", "model": model, "stop": ["END", "\n\n"], "fallback": fallback });
    let answer = client.ask(&with(chat("a", "Why is the sky blue?"), &blank(true))).await;
    assert_eq!(answer.done()["metadata"]["provider"], "openai");
    let refused = client.ask(&with(chat("b", "Why is the sky blue?"), &blank(false))).await;
    let faults = &refused.error("VALIDATION_ERROR")["details"]["fields"];
    assert_eq!(faults[0]["field"], "stop[1]", "{}", refused.end);
    let audit = app.audit().await;
    assert_eq!((audit.requests.len(), app.providers.calls().len()), (1, 1));
    app.stop().await;
}

/// What a report says to Ann, once it has seen all there is.
async fn told(app: &TestApp, path: &str) -> Value {
    until("the views have caught up", async || {
        let (_, _, report) = app.get(path, Some(&app.token("ann"))).await;
        let is_there = report["rows"].as_array().is_some_and(|rows| !rows.is_empty()) || report["endedAt"].is_string();
        is_there.then_some(report)
    })
    .await
}

/// The first provider has a bad day, and whoever is asked next a good one.
async fn with_bad_day(case: &str) -> TestApp {
    let name = format!("{}{case}", cases::PREFIX);
    TestApp::start(|config| {
        let openai = config.providers.get_mut("openai").unwrap();
        openai.models.get_mut("gpt-6-luna").unwrap().upstream_name = Some(name);
    })
    .await
}

#[tokio::test]
async fn an_error_in_a_200_counts_for_the_breaker_and_the_next_provider_answers() {
    let app = with_bad_day("A11").await;
    let mut client = app.connect("ann").await;
    for nth in 0..6 {
        let answer = client.ask(&chat(&nth.to_string(), "Why is the sky blue?")).await;
        assert_eq!(answer.done()["metadata"]["provider"], "claude");
        let audit = app.audit().await;
        let first = &audit.requests[answer.request_id()].outcome().attempts[0];
        let (skipped, failure) = if nth < 5 { (false, "overloaded") } else { (true, "breaker_open") };
        assert_eq!((first.skipped, first.failure.as_deref()), (skipped, Some(failure)), "{nth}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_whole_answer_that_breaks_off_is_made_by_the_next_provider_and_what_was_left_is_paid_for_by_rule() {
    for (charges, case) in [(true, "A1-no-end"), (false, "A1-no-end"), (true, "A12-whole")] {
        let name = format!("{}{case}", cases::PREFIX);
        let app = TestApp::start(|config| {
            config.gateway.charge_abandoned = charges;
            let openai = config.providers.get_mut("openai").unwrap();
            openai.models.get_mut("gpt-6-luna").unwrap().upstream_name = Some(name);
        })
        .await;
        let request = with(chat("a", "Why is the sky blue?"), &json!({ "stream": false }));
        let answer = app.connect("ann").await.ask(&request).await;
        let metadata = &answer.end["metadata"];
        assert_eq!((&metadata["provider"], &metadata["attempts"]), (&json!("claude"), &json!(2)));
        assert!(answer.end["data"].as_str().unwrap().starts_with("Simulated"), "nothing of the first: {}", answer.end);
        let audit = app.audit().await;
        let left = &audit.requests[answer.request_id()].outcome().attempts[0];
        let billed = left.billed.as_ref().map(|billed| billed.charge.amount > Microcredits::ZERO && billed.estimated);
        assert_eq!(billed, charges.then_some(true), "{case}");
        app.stop().await;
    }
}

#[tokio::test]
async fn what_was_malformed_stands_in_the_attempt_and_in_the_report_of_the_request() {
    let app = with_bad_day("garbled").await;
    let answer = app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await;
    answer.error("STREAM_INTERRUPTED");
    let audit = app.audit().await;
    let (id, request) = audit.requests.iter().next().unwrap();
    let flaw = &request.outcome().attempts[0].flaws[0];
    assert_eq!((flaw.class.as_str(), flaw.field.as_deref()), ("no_json", None));
    assert!(flaw.offset.unwrap() > 70, "{flaw:?}");
    let report = told(&app, &format!("/api/requests/{id}")).await;
    assert_eq!(report["attempts"][0]["flaws"][0]["class"], "no_json", "{report}");
    app.stop().await;
}

#[tokio::test]
async fn the_name_that_was_asked_for_is_the_one_of_reports_and_the_answered_one_stands_beside_it() {
    let app = with_bad_day("A20").await;
    let answer = app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await;
    let metadata = &answer.done()["metadata"];
    assert_eq!(
        (&metadata["model"], &metadata["answeredModel"]),
        (&json!("gpt-6-luna"), &json!("gpt-6-luna-2026-08-01"))
    );
    let report = told(&app, "/api/usage?model=gpt-6-luna&groupBy=model").await;
    assert_eq!(report["rows"][0]["requests"], 1, "{report}");
    let report = told(&app, &format!("/api/requests/{}", answer.request_id())).await;
    assert_eq!((&report["model"], &report["answeredModel"]), (&json!("gpt-6-luna"), &json!("gpt-6-luna-2026-08-01")));
    let row: (String, String, Option<String>) =
        sqlx::query_as("SELECT model, requested_model, answered_model FROM usage_ledger_v1")
            .fetch_one(app.database.pool())
            .await
            .unwrap();
    assert_eq!(row, ("gpt-6-luna".into(), "gpt-6-luna".into(), Some("gpt-6-luna-2026-08-01".into())));
    app.stop().await;
}
