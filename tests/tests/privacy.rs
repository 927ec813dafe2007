//! Content and secrets stand in clear nowhere: not in a table, not in a log line, not in a metric.

use std::fmt::Write as _;

use aihub_tests::{
    app::{SECRET, TestApp},
    client::{chat, with},
    logging,
};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_tungstenite::tungstenite::Message;

/// A word that the simulated answers take up when it stands at the end of a prompt.
const MARKER: &str = "zebrafinch7391";

/// Every row of every table, as text.
pub async fn dump(pool: &PgPool) -> String {
    let tables = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname IN ('public', 'work')";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(pool).await.unwrap();
    assert!(tables.len() >= 5, "{tables:?}");
    let mut dump = String::new();
    for table in tables {
        let rows: Vec<String> =
            sqlx::query_scalar(&format!("SELECT t::text FROM {table} t")).fetch_all(pool).await.unwrap();
        dump.push_str(&rows.join("\n"));
    }
    dump
}

fn hexadecimal(text: &str) -> String {
    text.bytes().fold(String::new(), |mut shown, byte| {
        let _ = write!(shown, "{byte:02x}");
        shown
    })
}

/// `secret` as it stands, and as hexadecimal and Base64 show it, wherever it begins.
pub fn disguises(secret: &str) -> Vec<String> {
    let mut disguises = vec![secret.to_lowercase(), hexadecimal(secret)];
    for before in 0..3 {
        let encoded = STANDARD_NO_PAD.encode(format!("{}{secret}", "x".repeat(before)));
        // Without the characters that the neighbours have a part in.
        disguises.push(encoded[2 * before..encoded.len() - 2].to_owned());
    }
    disguises
}

#[test]
fn a_secret_is_found_behind_its_disguises() {
    for before in 0..3 {
        let text = format!("{}{MARKER} and more", "{".repeat(before));
        for shown in [text.clone(), STANDARD_NO_PAD.encode(&text), hexadecimal(&text)] {
            assert!(disguises(MARKER).iter().any(|disguise| shown.contains(disguise)), "{shown}");
        }
    }
}

#[tokio::test]
async fn content_and_secrets_are_in_clear_in_no_table_no_log_line_and_no_metric() {
    logging::keep();
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _measuring = metrics::set_default_local_recorder(&recorder);

    let app = TestApp::start(|_| ()).await;
    let token = app.token("ann");
    let mut client = app.connect("ann").await;
    let prompt = format!("Tell me all about the {MARKER}");
    let function = json!({ "name": "look_up", "description": MARKER, "parameters": {
        "type": "object", "properties": { "what": { "type": "string" } },
    } });
    let more = json!({
        "system": format!("You know the {MARKER}."), "user": MARKER, "stop": [format!("{MARKER}!")],
        "idempotencyKey": "k", "tools": [{ "type": "function", "function": function }], "toolChoice": "none",
    });
    for (provider, model) in [("openai", "gpt-6-luna"), ("claude", "claude-haiku-5-5")] {
        let request = with(chat("a", &prompt), &json!({ "provider": provider, "model": model }));
        let answer =
            client.ask(&with(request.clone(), &with(more.clone(), &json!({ "idempotencyKey": provider })))).await;
        answer.done();
        assert!(answer.text().contains(MARKER), "the answer has it too: {}", answer.text());
        client.ask(&with(request.clone(), &json!({ "stream": false }))).await;
        let tools = json!({ "tools": more["tools"], "toolChoice": "required" });
        let called = client.ask(&with(request.clone(), &tools)).await;
        assert!(Value::from(called.tool_calls.clone()).to_string().contains("zebra"), "{:?}", called.tool_calls);
        for trouble in [
            json!({ "fail_after_tokens": 30 }),
            json!({ "fail_before": { "kind": "bad_request" } }),
            json!({ "fail_before": { "kind": "context_length" } }),
            json!({ "fail_before": { "kind": "unauthorized" } }),
        ] {
            app.providers.rule(with(trouble, &json!({ "model": model })));
            client.ask(&with(request.clone(), &json!({ "fallback": false }))).await;
        }
    }
    client.ask(&json!({ "id": "e", "type": "embedding", "input": [prompt.clone(), MARKER] })).await;
    client.ask(&with(chat("f", &prompt), &json!({ MARKER: 1, "temperature": MARKER, "messages": MARKER }))).await;
    client.send_message(Message::text(format!("{{\"{MARKER}"))).await;
    client.send_message(Message::binary(MARKER.as_bytes().to_vec())).await;
    client.ping().await;
    // What shows that there was something to be found.
    let position = sqlx::query_scalar::<_, i64>("SELECT max(position) FROM events").fetch_one(app.database.pool());
    assert!(position.await.unwrap() > 30);
    assert!(logging::kept().contains("a provider failed"), "nothing is logged here");
    assert!(handle.render().contains("aihub_requests_total"), "nothing is measured here");

    let dump = dump(app.database.pool()).await;
    app.stop().await;
    let haystacks = [("a table", dump), ("the log", logging::kept()), ("a metric", handle.render())];
    for secret in [MARKER, SECRET, "sk-simulated", &token, token.rsplit('.').next().unwrap()] {
        for (place, haystack) in &haystacks {
            let haystack_lowercase = haystack.to_lowercase();
            for disguise in disguises(secret) {
                let found = haystack.find(&disguise).or(haystack_lowercase.find(&disguise));
                let around =
                    |at: usize| &haystack[haystack.floor_char_boundary(at.saturating_sub(300))..at + disguise.len()];
                assert!(found.is_none(), "{disguise} stands in {place}: …{}", around(found.unwrap()));
            }
        }
    }
}
