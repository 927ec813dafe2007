//! Which answer is meant by whoever comes back for one, or ends one.

use aihub_tests::{
    app::TestApp,
    client::{Client, chat, with},
    until,
};
use serde_json::{Value, json};

/// Two tabs of a user that both count from 1, the first of which is cut in the midst.
struct Tabs {
    app: TestApp,
    /// Of the first: its connection, the request and the text so far.
    cut: (Value, Value, String),
    second: Client,
    /// Of the second.
    request_id: Value,
}

const HAD: u64 = 5;

impl Tabs {
    async fn open() -> Self {
        let app = TestApp::start(|_| ()).await;
        app.providers.rule(json!({ "model": "gpt-6-luna", "tokens_per_second": 40 }));
        let mut first = app.connect("ann").await;
        first.send(&chat("1", "Why is the sky blue?")).await;
        let told = first.next_of("1").await;
        let mut text = told["data"].as_str().unwrap().to_owned();
        text += &first.chunks("1", 4).await.concat();
        let cut = (first.ready["connectionId"].clone(), told["requestId"].clone(), text);
        drop(first);
        let mut second = app.connect("ann").await;
        second.send(&chat("1", "How deep is the ocean?")).await;
        let told = second.next_of("1").await;
        assert!(told["requestId"].is_string() && told["seq"] == 1, "{told}");
        let next = second.next_of("1").await;
        assert!(next.get("requestId").is_none(), "told once: {next}");
        Self { app, cut, second, request_id: told["requestId"].clone() }
    }
}

#[tokio::test]
async fn who_comes_back_to_one_of_two_tabs_gets_its_own_answer_by_its_request_or_connection_and_none_by_an_id_alone() {
    let Tabs { app, cut: (connection, request_id, had), second, request_id: others } = Tabs::open().await;
    let mut again = app.connect("ann").await;
    let resume = |more: Value| with(json!({ "type": "resume", "id": "1", "after": HAD }), &more);
    let refused = again.ask(&resume(json!({}))).await;
    let mut both = [request_id.as_str().unwrap(), others.as_str().unwrap()];
    both.sort_unstable();
    assert_eq!(refused.error("AMBIGUOUS_ID")["details"]["requestIds"], json!(both));

    again.send(&resume(json!({ "connectionId": connection }))).await;
    let answer = again.answer_after("1", HAD).await;
    assert_eq!(answer.done()["metadata"]["requestId"], request_id);
    let whole = had + &answer.text();
    assert!(whole.contains("sky") && !whole.contains("ocean"), "{whole}");
    // By its request it goes by any name, on any socket, also beside others of that name.
    for (id, named) in [(json!("x"), "x"), (json!(null), request_id.as_str().unwrap())] {
        let frame = with(resume(json!({ "requestId": request_id, "after": 0 })), &json!({ "id": id }));
        again.send(&frame).await;
        let answer = again.answer(named).await;
        assert_eq!(answer.text(), whole);
    }
    drop(second);
    app.stop().await;
}

#[tokio::test]
async fn what_cannot_be_gone_on_with_is_told_apart() {
    let Tabs { app, cut: (_, request_id, _), mut second, request_id: others } = Tabs::open().await;
    let resume = |more: Value| with(json!({ "type": "resume", "id": "r" }), &more);
    let mut again = app.connect("ann").await;
    let beyond = again.ask(&resume(json!({ "requestId": request_id, "after": 10_000 }))).await;
    assert_eq!(beyond.error("VALIDATION_ERROR")["details"]["fields"][0]["field"], "after");
    // It runs on that very socket.
    let here = json!({ "type": "resume", "id": "1", "requestId": others });
    second.send(&here).await;
    loop {
        let told = second.next_of("1").await;
        if told["type"] == "error" {
            assert_eq!(told["error"]["code"], "DUPLICATE_REQUEST", "{told}");
            break;
        }
    }
    let nobody = "00000000-0000-7000-8000-000000000000";
    for (named, code) in [
        (json!({ "requestId": nobody }), "NOT_FOUND"),
        (json!({ "id": "1", "connectionId": nobody }), "NOT_FOUND"),
        (json!({ "requestId": "1" }), "VALIDATION_ERROR"),
        (json!({ "connectionId": 7 }), "VALIDATION_ERROR"),
    ] {
        let refused = again.ask(&resume(named.clone())).await;
        assert_eq!(refused.end["error"]["code"], code, "{named}: {}", refused.end);
    }
    let mut eve = app.connect("eve").await;
    for kind in ["resume", "cancel"] {
        let others = json!({ "type": kind, "id": "r", "requestId": request_id });
        eve.ask(&others).await.error("FORBIDDEN");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_request_is_cancelled_from_another_socket_by_its_name_and_both_are_told_its_end() {
    let Tabs { app, cut: (connection, _, _), mut second, request_id } = Tabs::open().await;
    let mut other = app.connect("ann").await;
    // Under a name that another has here, nothing is: the two ends could not be told apart.
    app.providers.rule(json!({ "model": "gpt-6-astra", "hang": true }));
    other.send(&with(chat("mine", "Go on"), &json!({ "model": "gpt-6-astra" }))).await;
    other.ask(&json!({ "type": "cancel", "id": "mine", "requestId": request_id })).await.error("DUPLICATE_REQUEST");
    // By an id alone only this socket's own are meant.
    other.ask(&json!({ "type": "cancel", "id": "1" })).await.error("NOT_FOUND");
    let answer = other.ask(&json!({ "type": "cancel", "id": "c", "requestId": request_id })).await;
    assert_eq!(answer.done()["metadata"]["finishReason"], "cancelled");
    assert!(answer.chunks.is_empty());
    loop {
        let told = second.next_of("1").await;
        if told["type"] == "done" {
            assert_eq!(told["metadata"], answer.end["metadata"]);
            break;
        }
    }
    let first = other.ask(&json!({ "type": "cancel", "id": "1", "connectionId": connection })).await;
    assert_eq!(first.done()["metadata"]["finishReason"], "cancelled");
    app.stop().await;
}

#[tokio::test]
async fn who_comes_back_too_late_for_an_answer_is_not_given_that_of_another_tab_under_the_same_name() {
    let app = TestApp::start(|config| config.gateway.resumable_for_ms = 100).await;
    let first = app.connect("ann").await.ask(&chat("1", "Why is the sky blue?")).await;
    let mut again = app.connect("ann").await;
    until("it is gone", async || {
        let named = json!({ "type": "resume", "id": "gone", "requestId": first.request_id() });
        (again.ask(&named).await.end["error"]["code"] == "ANSWER_GONE").then_some(())
    })
    .await;
    // It is the only one of that name, and that one is gone.
    let alone = json!({ "type": "resume", "id": "1" });
    again.ask(&alone).await.error("ANSWER_GONE");
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang_after_tokens": 5 }));
    let mut second = app.connect("ann").await;
    second.send(&chat("1", "How deep is the ocean?")).await;
    let request_id = second.next_of("1").await["requestId"].clone();
    let refused = again.ask(&alone).await;
    let mut both = [first.request_id(), request_id.as_str().unwrap()];
    both.sort_unstable();
    assert_eq!(refused.error("AMBIGUOUS_ID")["details"]["requestIds"], json!(both));
    app.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_gone_on_with_under_another_name_is_not_mistaken_for_what_another_tab_asked_under_it() {
    let Tabs { app, cut: (_, request_id, had), second, request_id: others } = Tabs::open().await;
    // In the name that the other tab has, and cut again.
    let mut again = app.connect("ann").await;
    let frame = json!({ "type": "resume", "id": "mine", "requestId": request_id, "after": HAD });
    again.send(&frame).await;
    let told = again.next_of("mine").await;
    assert_eq!(told["seq"], HAD + 1, "{told}");
    let connection = again.ready["connectionId"].clone();
    drop(again);
    let mut other = app.connect("ann").await;
    other.send(&chat("mine", "How deep is the ocean?")).await;
    other.next_of("mine").await;
    let mut last = app.connect("ann").await;
    last.ask(&json!({ "type": "resume", "id": "mine" })).await.error("AMBIGUOUS_ID");
    last.send(&json!({ "type": "resume", "id": "mine", "connectionId": connection, "after": HAD })).await;
    let answer = last.answer_after("mine", HAD).await;
    assert_eq!(answer.done()["metadata"]["requestId"], request_id);
    let whole = had + &answer.text();
    assert!(whole.contains("sky") && !whole.contains("ocean") && request_id != others, "{whole}");
    drop(second);
    app.stop().await;
}
