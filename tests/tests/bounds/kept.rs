//! Answers that are kept: each user has a share of memory for them, and who needs more loses their own.

use aihub_tests::{
    app::TestApp,
    client::{Client, chat, with},
    until,
};
use serde_json::{Value, json};

/// An embedding of so many texts; 2,048 of them have some 13 MB of vectors.
fn large(id: &str, texts: usize) -> Value {
    let inputs: Vec<String> = (0..texts).map(|nth| format!("text {nth}")).collect();
    let of = json!({ "type": "embedding", "model": "text-embedding-3-small", "provider": "openai", "stream": false });
    with(of, &json!({ "id": id, "input": inputs }))
}

fn vectors(end: &Value) -> usize {
    end["data"].as_array().unwrap_or_else(|| panic!("{:.500}", end.to_string())).len()
}

#[tokio::test]
async fn embeddings_that_nobody_takes_are_refused_from_the_share_on_and_are_settled_and_there_to_be_fetched() {
    let app = TestApp::start(|_| ()).await;
    let answers = |app: &TestApp| app.hub.gateway.answers.memory().taken();
    let mut unread = Vec::new();
    let refused = loop {
        let mut socket = Client::narrow(app.address, &app.token("ann"), 4_096).await;
        socket.send(&large("large", 2_048)).await;
        // What is refused is said before anything large waits.
        let (before, nth) = (app.audit().await.requests.len(), unread.len());
        let told = async { socket.receive().await };
        tokio::select! {
            told = told => {
                let told = told.unwrap();
                if told["error"].is_object() {
                    break told;
                }
                // It was here before it was seen to be accepted: somebody has taken it.
                continue;
            }
            () = until("it is accepted", async || (app.audit().await.requests.len() > before).then_some(())) => {}
        }
        until("it ends", async || app.audit().await.open().is_empty().then_some(())).await;
        assert!(nth < 5, "there is no bound");
        unread.push(socket);
    };
    assert_eq!(refused["error"]["code"], "RATE_LIMIT_EXCEEDED", "{refused}");
    let details = &refused["error"]["details"];
    assert_eq!((&details["what"], &details["scope"]), (&json!("bytes of answers that are kept"), &json!("user")));
    assert!(answers(&app) <= app.hub.gateway.answers.memory().portions().of_user);
    app.connect("bob").await.ask(&chat("b", "Why is the sky blue?")).await.done();
    // It was paid for, and is there for whoever takes it, also on another socket.
    let mut first = unread.remove(0);
    drop(unread);
    assert_eq!(vectors(&first.answer("large").await.end), 2_048);
    drop(first);
    let mut again = app.connect("ann").await;
    again.send(&json!({ "id": "large", "type": "resume", "after": 0 })).await;
    assert_eq!(vectors(&again.answer("large").await.end), 2_048);
    app.stop().await;
}

#[tokio::test]
async fn large_answers_of_others_do_not_shorten_how_long_ones_own_is_kept() {
    let app = TestApp::start(|_| ()).await;
    let mut ann = app.connect("ann").await;
    ann.ask(&chat("mine", "Why is the sky blue?")).await.done();
    drop(ann);
    let mut bob = app.connect("bob").await;
    for nth in 0..14 {
        bob.ask(&large(&nth.to_string(), 500)).await;
    }
    // Whoever has more than their share loses their own, the oldest first.
    bob.send(&json!({ "id": "0", "type": "resume", "after": 0 })).await;
    let gone = bob.next_of("0").await;
    assert_eq!(gone["error"]["code"], "ANSWER_GONE", "{:.200}", gone.to_string());
    assert_eq!(gone["error"]["details"]["ended"], "completed");
    let mut ann = app.connect("ann").await;
    ann.send(&json!({ "id": "mine", "type": "resume", "after": 0 })).await;
    ann.answer("mine").await.done();
    app.stop().await;
}
