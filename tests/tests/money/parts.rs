//! Whatever a request may carry is held for at a bound, or refused by its name before anybody is asked.

use aihub_domain::money::Microcredits;
use aihub_tests::{
    app::TestApp,
    audit::Audit,
    client::{chat, with},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

const CLAUDE: (&str, &str) = ("claude", "claude-haiku-5-5");
const LUNA: (&str, &str) = ("openai", "gpt-6-luna");

/// A question of one token's answer that carries `part` as well.
fn with_part(id: &str, (provider, model): (&str, &str), part: &Value) -> Value {
    let text = json!({ "type": "text", "text": "What is this?" });
    let more = json!({
        "provider": provider, "model": model, "maxTokens": 1, "prompt": null, "fallback": false,
        "messages": [{ "role": "user", "content": [text, part] }],
    });
    with(chat(id, ""), &more)
}

/// A PNG's signature and header.
fn png(width: u32, height: u32) -> String {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend(b"\x08\x06\0\0\0\0\0\0\0");
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes))
}

fn picture(url: &str) -> Value {
    json!({ "type": "image_url", "image_url": { "url": url } })
}

#[tokio::test]
async fn twenty_documents_by_address_on_five_credits_are_each_refused_by_name_and_cost_nothing() {
    let app = TestApp::start(|_| ()).await;
    app.grant("poor", Microcredits::from_credits(5)).await;
    let mut client = app.connect("poor").await;
    let document = json!({ "type": "document", "source": { "type": "url", "url": "https://example.com/a.pdf" } });
    for nth in 0..20 {
        client.send(&with_part(&nth.to_string(), CLAUDE, &document)).await;
    }
    for nth in 0..20 {
        let refused = client.answer(&nth.to_string()).await;
        let fault = refused.error("VALIDATION_ERROR")["details"]["fields"][0].clone();
        assert_eq!(fault["field"], "messages[0].content[1].document", "{fault}");
        assert!(fault["reason"].as_str().unwrap().contains("pages as pictures"), "it says what to do: {fault}");
    }
    let audit = Audit::at_rest(app.database.pool()).await;
    assert!(app.providers.calls().is_empty() && audit.requests.is_empty());
    assert_eq!((audit.accounts["poor"].spent, audit.accounts["poor"].uncovered), (0, 0));
    app.stop().await;
}

#[tokio::test]
async fn a_part_a_tool_and_an_option_whose_cost_has_no_bound_reach_no_provider() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let source = json!({ "type": "url", "url": "https://example.com/a" });
    let parts = [
        (json!({ "type": "file", "file": { "file_id": "file-1" } }), "messages[0].content[1].file"),
        (json!({ "type": "input_audio", "input_audio": { "data": "AAAA" } }), "messages[0].content[1].input_audio"),
        (json!({ "type": "video_url", "video_url": source }), "messages[0].content[1].video_url"),
        (json!({ "type": "image", "source": source }), "messages[0].content[1].image"),
        (json!({ "type": "thinking", "thinking": "…" }), "messages[0].content[1].thinking"),
        (picture("data:image/png;base64,aGVsbG8="), "messages[0].content[1].image_url"),
    ];
    let mut asked: Vec<(Value, &str)> = parts
        .iter()
        .flat_map(|(part, field)| [LUNA, CLAUDE].map(|whom| (with_part("a", whom, part), *field)))
        .collect();
    for tool in ["web_search_20250305", "web_search", "code_execution_20250825", "computer_use_preview"] {
        let field = format!("tools[0].{tool}");
        let more = json!({ "tools": [{ "type": tool, "name": "x", "max_uses": 3 }] });
        let refused = client.ask(&with(chat("a", "Look it up"), &more)).await;
        assert_eq!(refused.error("VALIDATION_ERROR")["details"]["fields"][0]["field"], field.as_str());
    }
    for option in ["web_search_options", "thinking", "n", "service_tier", "mcp_servers", "best_of"] {
        asked.push((with(chat("a", "Why?"), &json!({ option: 2 })), option));
    }
    for (request, field) in asked {
        let refused = client.ask(&request).await;
        assert_eq!(refused.error("VALIDATION_ERROR")["details"]["fields"][0]["field"], field, "{request}");
    }
    assert!(app.providers.calls().is_empty());
    app.stop().await;
}

#[tokio::test]
async fn a_picture_is_held_for_by_its_pixels_and_one_by_address_by_the_most_that_any_costs_or_refused() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let address = picture("https://example.com/a.png");
    let mut holds = Vec::new();
    for (whom, part) in [
        (CLAUDE, picture(&png(28, 28))),
        (CLAUDE, picture(&png(1_000, 1_000))),
        (CLAUDE, picture(&png(8_000, 8_000))),
        (CLAUDE, address.clone()),
        (LUNA, picture(&png(28, 28))),
        (LUNA, picture(&png(2_800, 2_800))),
    ] {
        let answer = client.ask(&with_part("a", whom, &part)).await;
        let audit = Audit::at_rest(app.database.pool()).await;
        holds.push(audit.requests[answer.request_id()].accepted.reserved_microcredits.0);
    }
    let [small, square, huge, by_address, tiny, large] = holds[..] else { panic!("{holds:?}") };
    // A patch of 28 by 28 pixels is a token, and one of input is 125 microcredits where it goes into a cache.
    assert_eq!(square - small, (36 * 36 - 1) * 125);
    assert_eq!(huge - small, (4_884 - 101) * 125, "no picture counts as more there");
    assert_eq!(by_address, huge);
    assert_eq!(large - tiny, (100 * 100 - 1) * 125);

    let refused = client.ask(&with_part("a", LUNA, &address)).await;
    let fault = &refused.error("VALIDATION_ERROR")["details"]["fields"][0];
    assert_eq!(fault["field"], "messages[0].content[1].image_url", "{fault}");
    assert!(fault["reason"].as_str().unwrap().contains("data URI"), "{fault}");
    app.stop().await;
}

#[tokio::test]
async fn what_is_to_be_cached_for_an_hour_is_held_and_charged_at_twice_the_price_of_the_input() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let mut seen = Vec::new();
    for control in [json!(null), json!({ "type": "ephemeral" }), json!({ "type": "ephemeral", "ttl": "1h" })] {
        let part = json!({ "type": "text", "text": "word ".repeat(50), "cache_control": control });
        let answer = client.ask(&with_part("a", CLAUDE, &part)).await;
        let audit = Audit::at_rest(app.database.pool()).await;
        let request = &audit.requests[answer.request_id()];
        let (usage, charge) = (request.outcome().usage, &request.outcome().charge);
        seen.push((request.accepted.reserved_microcredits.0 - 500, usage, charge.amount.0 - 500));
    }
    let [(plain_held, plain, plain_cost), (minutes_held, minutes, minutes_cost), (hour_held, hour, hour_cost)] =
        seen[..]
    else {
        panic!("{seen:?}")
    };
    let tokens = plain.input;
    assert_eq!((minutes.cache_write, minutes.cache_write_1h), (tokens, 0));
    assert_eq!((hour.cache_write, hour.cache_write_1h), (0, tokens));
    assert_eq!((minutes_cost * 4, hour_cost), (plain_cost * 5, plain_cost * 2));
    // Whoever asks for a cache is held for it at the price of what it asked for.
    assert!(plain_held <= minutes_held && minutes_held * 8 == hour_held * 5, "{plain_held} {minutes_held} {hour_held}");
    app.stop().await;
}
