//! What a provider says about its usage, and what it does not say.

use aihub_tests::{
    app::TestApp,
    client::{chat, with},
};
use serde_json::{Value, json};

const PROVIDERS: [(&str, &str); 2] = [("openai", "gpt-6-luna"), ("claude", "claude-haiku-5-5")];

#[tokio::test]
async fn an_explicit_zero_is_zero_and_a_missing_usage_is_estimated_and_marked() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let mut spent = 0;
    for (provider, model) in PROVIDERS {
        for stream in [true, false] {
            let request = with(
                chat("a", "Why is the sky blue?"),
                &json!({ "provider": provider, "model": model, "stream": stream }),
            );
            let told = async |usage: &str, client: &mut aihub_tests::client::Client| {
                app.providers.rule(json!({ "model": model, "usage": usage, "output_tokens": 30 }));
                let end = client.ask(&request).await.end;
                assert_eq!(end["metadata"]["finishReason"], "stop", "{end}");
                let usage = &end["usage"];
                let tokens = (usage["promptTokens"].as_u64().unwrap(), usage["completionTokens"].as_u64().unwrap());
                (tokens, aihub_tests::client::microcredits(&usage["credits"]), end["metadata"]["estimated"] == true)
            };
            let case = format!("{provider}, stream {stream}");
            let normal = told("normal", &mut client).await;
            let price = |(input, output): (u64, u64)| i64::try_from(input * 100 + output * 500).unwrap();
            assert_eq!((normal.0.1, normal.1, normal.2), (30, price(normal.0), false), "{case}");
            assert_eq!(told("zero", &mut client).await, ((0, 0), 0, false), "{case}");
            assert_eq!(told("repeated", &mut client).await, normal, "{case}: counted twice");
            assert_eq!(told("corrected", &mut client).await, normal, "{case}: the last word counts");
            let estimated = told("missing", &mut client).await;
            assert!(estimated.2, "{case}: an estimate is marked");
            assert_eq!(estimated.1, price(estimated.0), "{case}");
            let (input, output) = estimated.0;
            assert!(input >= 1 && if stream { output == 30 } else { output >= 30 }, "{case}: {input} in, {output} out");
            spent += normal.1 * 3 + estimated.1;
        }
    }
    let audit = app.audit().await;
    assert_eq!(audit.accounts["ann"].spent, spent);
    let marked = audit.requests.values().filter(|request| request.outcome().estimated).count();
    assert_eq!(marked, PROVIDERS.len() * 2);
    app.stop().await;
}

#[tokio::test]
async fn every_bill_is_what_the_provider_counted() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    for nth in 0..30_u64 {
        let (provider, model) = PROVIDERS[usize::try_from(nth % 2).unwrap()];
        let more = json!({
            "provider": provider, "model": model, "stream": nth % 3 > 0, "maxTokens": 1 + nth * 7,
            "system": (nth % 5 == 0).then_some("Be brief."),
        });
        client.send(&with(chat(&nth.to_string(), &"word ".repeat(1 + usize::try_from(nth).unwrap())), &more)).await;
    }
    for nth in 0..30 {
        let end = client.answer(&nth.to_string()).await.end;
        let [call] = &app.providers.calls_of(end["metadata"]["requestId"].as_str().unwrap())[..] else {
            panic!("{end}")
        };
        let counted = (Value::from(call.input_tokens), Value::from(call.output_tokens));
        assert_eq!((end["usage"]["promptTokens"].clone(), end["usage"]["completionTokens"].clone()), counted, "{end}");
    }
    let total = app.providers.simulator.ledger().summary().total;
    let spent = i64::try_from(total.input_tokens * 100 + total.output_tokens * 500).unwrap();
    let audit = app.audit().await;
    assert_eq!((audit.accounts["ann"].spent, audit.reconcile(app.providers.calls()).len()), (spent, 30));
    app.stop().await;
}
