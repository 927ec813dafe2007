use std::time::{Duration, Instant};

use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    super::{
        SimulatedProvider,
        knobs::{
            CapKnob, Failure, FailureKind, Knobs, ThinkingKnob, Trouble, UsageReport, WorkKnobs, rules::Rule, suffix,
        },
        served::Outcome,
    },
    Harness, PATIENCE, events, header, parse, parse_events, read_until_cut,
};

fn streamed() -> Value {
    json!({"stream": true, "stream_options": {"include_usage": true}})
}

#[test]
fn every_knob_has_its_place_in_the_name() {
    let (model, knobs) =
        suffix::parse("gpt-6-luna+ttft=2s+rate=0.5+tokens=7+hidden=9+thinking=shown+cap=ignored+usage=zero+fail=before:429+retry_after=1500ms").unwrap();
    let failure = Failure { kind: FailureKind::RateLimit, status: Some(429), retry_after_ms: Some(1500) };
    let expected = Knobs {
        ttft: Some(Duration::from_secs(2)),
        tokens_per_second: Some(0.5),
        output_tokens: Some(7),
        work: WorkKnobs { hidden_tokens: Some(9), thinking: Some(ThinkingKnob::Shown), cap: Some(CapKnob::Ignored) },
        trouble: Some(Trouble::FailBefore(failure)),
        usage: Some(UsageReport::Zero),
        ..Knobs::default()
    };
    assert_eq!((model, knobs), ("gpt-6-luna", expected));
    let trouble = |knob: &str| suffix::parse(&format!("m+{knob}")).unwrap().1.trouble.unwrap();
    assert_eq!(trouble("fail=after:3"), Trouble::FailAfter(3));
    assert_eq!(trouble("tear=after:3"), Trouble::TearAfter(3));
    assert_eq!(trouble("hang=after:0"), Trouble::HangAfter(0));
    assert_eq!(trouble("hang=before"), Trouble::HangBefore);
    assert_eq!(trouble("fail=before"), Trouble::FailBefore(Failure::of(FailureKind::ServerError)));
    assert_eq!(
        trouble("fail=before:insufficient_quota"),
        Trouble::FailBefore(Failure::of(FailureKind::InsufficientQuota))
    );
}

#[tokio::test]
async fn a_knob_that_is_not_understood_is_a_400_and_not_ignored() {
    let harness = Harness::start().await;
    let wrong = [
        "+",
        "+ttft",
        "+ttft=",
        "+ttft=5",
        "+ttft=5m",
        "+ttft=-5s",
        "+ttft=7200s",
        "+rate=fast",
        "+rate=inf",
        "+rate=NaN",
        "+rate=0.0000001",
        "+tokens=1.5",
        "+tokens=128001",
        "+tokens=+5",
        "+usage=none",
        "+fail=after",
        "+fail=before:418",
        "+fail=before5",
        "+tear=before",
        "+hang=5",
        "+ttft=1s+ttft=1s",
        "+fail=before+hang=before",
        "+retry_after=1s",
        "+fail=after:1+retry_after=1s",
        "+colour=blue",
        "+TTFT=1s",
    ];
    for knobs in wrong {
        let answer = harness.chat("", json!({"model": format!("gpt-6-luna{knobs}")})).await;
        assert_eq!(answer.status(), 400, "{knobs}");
        let error = parse(&answer.text().await.unwrap())["error"].take();
        assert_eq!(error["param"], "model", "{error}");
    }
}

#[tokio::test]
async fn by_default_the_first_token_takes_150_ms_and_the_others_a_sixtieth_of_a_second() {
    let harness = Harness::start().await;
    let begin = Instant::now();
    let mut answer = harness.chat("", json!({"stream": true, "model": "gpt-6-luna+tokens=13"})).await;
    answer.chunk().await.unwrap().unwrap();
    let first = begin.elapsed();
    assert!(first >= Duration::from_millis(150), "{first:?}");
    answer.text().await.unwrap();
    let all = begin.elapsed();
    assert!(
        all >= Duration::from_millis(150 + 12 * 1_000 / 60),
        "12 further tokens took {:?}",
        all.saturating_sub(first)
    );
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_whole_answer_takes_as_long_as_its_stream_would() {
    let harness = Harness::start().await;
    let begin = Instant::now();
    harness.chat("", json!({"model": "gpt-6-luna+ttft=100ms+rate=50+tokens=11"})).await.text().await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn each_word_arrives_in_a_body_frame_of_its_own() {
    let harness = Harness::start().await;
    let mut answer = harness.message("+tokens=30", json!({"stream": true})).await;
    let mut chunks = 0;
    while let Some(chunk) = answer.chunk().await.unwrap() {
        let text = std::str::from_utf8(&chunk).unwrap();
        assert_eq!(parse_events(text).len(), 1, "{text}");
        chunks += 1;
    }
    assert_eq!(chunks, 30 + 6);
}

#[tokio::test]
async fn a_failure_before_the_answer_has_the_providers_own_body_and_status() {
    let harness = Harness::start().await;
    let openai = [
        ("400", 400, "invalid_request_error", Value::Null),
        ("context_length", 400, "invalid_request_error", json!("context_length_exceeded")),
        ("401", 401, "invalid_request_error", json!("invalid_api_key")),
        ("404", 404, "invalid_request_error", json!("model_not_found")),
        ("429", 429, "tokens", json!("rate_limit_exceeded")),
        ("insufficient_quota", 429, "insufficient_quota", json!("insufficient_quota")),
        ("500", 500, "server_error", Value::Null),
        ("503", 503, "service_unavailable_error", json!("server_is_overloaded")),
        ("529", 529, "service_unavailable_error", json!("server_is_overloaded")),
    ];
    for (name, status, kind, code) in openai {
        let answer = harness.chat(&format!("+fail=before:{name}"), streamed()).await;
        assert_eq!(answer.status(), status);
        let error = parse(&answer.text().await.unwrap())["error"].take();
        assert_eq!((&error["type"], &error["code"]), (&json!(kind), &code), "{name}");
    }
    let anthropic = [
        ("400", 400, "invalid_request_error"),
        ("401", 401, "authentication_error"),
        ("404", 404, "not_found_error"),
        ("429", 429, "rate_limit_error"),
        ("insufficient_quota", 429, "rate_limit_error"),
        ("500", 500, "api_error"),
        ("503", 503, "overloaded_error"),
        ("overloaded", 529, "overloaded_error"),
    ];
    for (name, status, kind) in anthropic {
        let answer = harness.message(&format!("+fail=before:{name}"), json!({"stream": true})).await;
        assert_eq!(answer.status(), status);
        assert_eq!(parse(&answer.text().await.unwrap())["error"]["type"], kind, "{name}");
    }
}

#[tokio::test]
async fn a_rate_limit_says_when_to_come_back_and_a_spent_quota_does_not() {
    let harness = Harness::start().await;
    let limited = harness.chat("+fail=before:429+retry_after=1500ms", json!({})).await;
    assert_eq!((header(&limited, "retry-after"), header(&limited, "retry-after-ms")), (Some("2"), Some("1500")));
    let limited = harness.message("+fail=before:429", json!({})).await;
    assert_eq!(header(&limited, "retry-after"), Some("1"));
    for silent in ["+fail=before:insufficient_quota", "+fail=before:429+retry_after=0s"] {
        assert_eq!(header(&harness.chat(silent, json!({})).await, "retry-after"), None);
    }
    let spent = harness.message("+fail=before:insufficient_quota", json!({})).await;
    assert_eq!(header(&spent, "retry-after"), None);
    assert_eq!(parse(&spent.text().await.unwrap())["error"]["details"]["error_code"], "enforced_spend_limit_reached");
}

#[tokio::test]
async fn a_failure_in_the_stream_is_an_error_event_after_so_many_tokens() {
    let harness = Harness::start().await;
    let openai = events(harness.chat("+fail=after:3", streamed()).await).await;
    assert_eq!(openai.len(), 1 + 3 + 2);
    assert_eq!(parse(&openai[4].1)["error"]["type"], "server_error");
    assert_eq!(openai[5].1, "[DONE]");
    let anthropic = events(harness.message("+fail=after:3", json!({"stream": true})).await).await;
    assert_eq!(anthropic.len(), 3 + 3 + 1);
    assert_eq!(anthropic[6].0, "error");
    let error = parse(&anthropic[6].1);
    assert_eq!(
        error["error"],
        json!({"type": "overloaded_error", "message": "Overloaded (simulated)", "details": null})
    );
    assert!(error["request_id"].as_str().unwrap().starts_with("req_sim"));
}

#[tokio::test]
async fn a_torn_stream_ends_without_its_end_and_with_an_error_at_the_client() {
    let harness = Harness::start().await;
    let torn = [
        harness.chat("+tear=after:4", streamed()).await,
        harness.message("+tear=after:4", json!({"stream": true})).await,
        // After all of its words, and before it says why it stops.
        harness.chat("+tear=after:4+tokens=4", streamed()).await,
    ];
    for answer in torn {
        assert_eq!(answer.status(), 200);
        let (text, end) = timeout(PATIENCE, read_until_cut(answer)).await.unwrap();
        let words = parse_events(&text).iter().filter(|(_, data)| is_word(&parse(data))).count();
        assert_eq!(words, 4, "{text}");
        end.unwrap_err();
    }
    let answer = harness.chat("+tear=after:4", json!({})).await;
    assert!(answer.text().await.is_err(), "a whole answer is torn as well");
}

fn is_word(event: &Value) -> bool {
    let openai = &event["choices"][0]["delta"]["content"];
    event["delta"]["type"] == "text_delta" || openai.as_str().is_some_and(|text| !text.is_empty())
}

#[tokio::test]
async fn a_hanging_stream_falls_silent_and_stays_open() {
    let harness = Harness::start().await;
    for tokens in [0, 2] {
        let knobs = format!("+hang=after:{tokens}");
        let mut answer = harness.chat(&knobs, json!({"stream": true})).await;
        for _ in 0..=tokens {
            answer.chunk().await.unwrap().unwrap();
        }
        let silence = timeout(Duration::from_millis(100), answer.chunk()).await;
        assert!(silence.is_err(), "{silence:?}");
    }
}

#[tokio::test]
async fn a_hanging_call_never_gets_a_status() {
    let harness = Harness::start().await;
    let silence = timeout(Duration::from_millis(100), harness.chat("+hang=before", json!({}))).await;
    assert!(silence.is_err(), "{silence:?}");
    assert_eq!(harness.served(Outcome::Hung).await.status, 0);
}

async fn openai_usages(answer: Response) -> Vec<Value> {
    let chunks = events(answer).await.into_iter().filter(|(_, data)| data != "[DONE]").map(|(_, data)| parse(&data));
    chunks.map(|mut chunk| chunk["usage"].take()).filter(|usage| !usage.is_null()).collect()
}

async fn anthropic_usages(answer: Response) -> Vec<Value> {
    let data = events(answer).await.into_iter().map(|(_, data)| parse(&data));
    let usages = data.flat_map(|mut event| [event["message"]["usage"].take(), event["usage"].take()]);
    usages.filter(|usage| !usage.is_null()).collect()
}

#[tokio::test]
async fn usage_can_be_missing_zero_repeated_or_corrected() {
    let harness = Harness::start().await;
    let openai =
        async |report: &str| openai_usages(harness.chat(&format!("+tokens=6+usage={report}"), streamed()).await).await;
    let anthropic = async |report: &str| {
        anthropic_usages(harness.message(&format!("+tokens=6+usage={report}"), json!({"stream": true})).await).await
    };
    let counts = |usages: Vec<Value>, input: &str, output: &str| -> Vec<(u64, u64)> {
        usages.iter().map(|usage| (usage[input].as_u64().unwrap(), usage[output].as_u64().unwrap())).collect()
    };
    let openai = async |report: &str| counts(openai(report).await, "prompt_tokens", "completion_tokens");
    let anthropic = async |report: &str| counts(anthropic(report).await, "input_tokens", "output_tokens");
    assert_eq!(openai("normal").await, [(8, 6)]);
    assert_eq!(openai("missing").await, []);
    assert_eq!(openai("zero").await, [(0, 0)]);
    assert_eq!(openai("repeated").await, [(8, 6), (8, 6)]);
    assert_eq!(openai("corrected").await, [(4, 6), (8, 6)]);
    assert_eq!(anthropic("normal").await, [(8, 1), (8, 6)]);
    assert_eq!(anthropic("missing").await, []);
    assert_eq!(anthropic("zero").await, [(0, 0), (0, 0)]);
    assert_eq!(anthropic("repeated").await, [(8, 1), (8, 6), (8, 6)]);
    assert_eq!(anthropic("corrected").await, [(4, 1), (8, 6)]);

    let whole = parse(&harness.chat("+usage=missing", json!({})).await.text().await.unwrap());
    assert!(whole.get("usage").is_none());
    let whole = parse(&harness.message("+usage=missing", json!({})).await.text().await.unwrap());
    assert!(whole.get("usage").is_none());
    let whole = parse(&harness.message("+usage=zero", json!({})).await.text().await.unwrap());
    assert_eq!((&whole["usage"]["input_tokens"], &whole["usage"]["output_tokens"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn a_rule_applies_as_many_times_as_it_says_and_to_whom_it_says() {
    let harness = Harness::start().await;
    let rule = json!({"provider": "openai", "model": null, "times": 2, "fail_before": {"status": 503}});
    let rules = harness.put_knobs(&rule).await;
    assert_eq!(rules.status(), 200);
    assert_eq!(parse(&rules.text().await.unwrap())[0]["times"], 2);
    assert_eq!(harness.message("", json!({})).await.status(), 200);
    assert_eq!(harness.chat("", json!({})).await.status(), 503);
    assert_eq!(harness.chat("", json!({})).await.status(), 503);
    assert_eq!(harness.chat("", json!({})).await.status(), 200);
    let rules = harness.request(Method::GET, "/admin/knobs").send().await.unwrap();
    assert_eq!(parse(&rules.text().await.unwrap()), json!([]));
}

#[tokio::test]
async fn the_name_goes_before_the_models_rule_and_this_before_the_providers() {
    let harness = Harness::start().await;
    let words = async |knobs: &str| {
        let body = parse(&harness.chat(knobs, json!({})).await.text().await.unwrap());
        body["usage"]["completion_tokens"].as_u64().unwrap()
    };
    let rule = |provider, model: Option<&str>, output_tokens| Rule {
        provider,
        model: model.map(str::to_owned),
        times: None,
        knobs: Knobs { output_tokens: Some(output_tokens), ..Knobs::default() },
    };
    harness.simulator.put_rule(rule(None, None, 1)).unwrap();
    assert_eq!(words("").await, 1);
    harness.simulator.put_rule(rule(None, Some("gpt-6-luna"), 3)).unwrap();
    harness.simulator.put_rule(rule(Some(SimulatedProvider::OpenAi), None, 2)).unwrap();
    assert_eq!(words("").await, 3);
    assert_eq!(words("+tokens=4").await, 4);
    harness.simulator.put_rule(rule(None, Some("gpt-6-luna"), 5)).unwrap();
    assert_eq!(words("").await, 5);
    let cleared = harness.request(Method::DELETE, "/admin/knobs").send().await.unwrap();
    assert_eq!(cleared.status(), 204);
    assert!(words("").await > 50);
}

#[tokio::test]
async fn a_rule_reads_back_as_it_was_written() {
    let harness = Harness::start().await;
    let rules = [
        json!({"provider": "claude", "model": "claude-opus-5-5", "ttft_ms": 5, "tokens_per_second": 20.0, "output_tokens": 9,
               "usage": "corrected", "fail_before": {"kind": "rate_limit", "status": 429, "retry_after_ms": 2000}}),
        json!({"provider": "openai", "model": "gpt-6-luna", "hang": true}),
        json!({"provider": "openai", "model": null, "fail_after_tokens": 3}),
        json!({"provider": "claude", "model": null, "tear_after_tokens": 3}),
        json!({"provider": null, "model": null, "hang_after_tokens": 3}),
    ];
    for rule in rules {
        harness.simulator.clear_rules();
        let read = parse(&harness.put_knobs(&rule).await.text().await.unwrap());
        assert_eq!(read, json!([rule]));
    }
}

#[tokio::test]
async fn a_rule_that_is_not_understood_is_refused_with_a_reason() {
    let harness = Harness::start().await;
    let wrong = [
        (json!({"colour": "blue"}), "colour"),
        (json!({"model": "gpt-9"}), "no model 'gpt-9'"),
        (json!({"hang": true, "tear_after_tokens": 1}), "at a time"),
        (json!({"fail_before": {}}), "needs a kind"),
        (json!({"fail_before": {"status": 418}}), "needs a kind"),
        (json!({"fail_before": {"kind": "server_error", "status": 200}}), "400 to 599"),
        (json!({"tokens_per_second": -1}), "rate"),
        (json!({"ttft_ms": 3_600_001}), "ttft"),
        (json!({"output_tokens": 128_001}), "128000"),
        (json!({"usage": "none"}), "none"),
    ];
    for (rule, reason) in wrong {
        let answer = harness.put_knobs(&rule).await;
        assert_eq!(answer.status(), 400, "{rule}");
        let body = parse(&answer.text().await.unwrap());
        assert!(body["error"].as_str().unwrap().contains(reason), "{rule}: {body}");
    }
    assert!(harness.simulator.rules.list().is_empty());
}
