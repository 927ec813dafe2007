//! An event may be larger than anything that is read at once: it was appended, so it is read, everywhere.

use std::sync::Arc;

use aihub::bootstrap::handlers;
use aihub_application::ports::event_log::{AppendError, NewEvent};
use aihub_infrastructure::{
    audit::{
        file::{LogFile, export},
        restore::restore,
        verify::{Scope, Verdict, verify},
    },
    event_store::{batch::MAX_EVENT_BYTES, reader, subscription::Subscriptions, upcast::Upcasters},
};
use aihub_projections::{
    account_balance,
    rebuild::{Rebuild, views},
};
use aihub_tests::{
    TestDatabase,
    app::TestApp,
    books::{Books, accepted},
    client::{Answer, Client, chat, with},
    database,
    log::{Node, stream, unit, verified},
    until,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Beyond what is read at once: 4 MiB by handlers, 16 MiB by rebuilds, 32 MiB kept in memory.
const SIZES: [usize; 4] = [5 << 20, 6 << 20, 17 << 20, 33 << 20];

/// Events of some other program, as large as it likes, one after another and with ours between them.
async fn a_log_with_large_events(database: &TestDatabase) -> u64 {
    let books = Books::open(Node::start(&database.database));
    books.grant("acme", 10_000).await;
    for (nth, bytes) in SIZES.iter().enumerate() {
        for twice in 0..2 {
            sqlx::query(
                "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                 VALUES ('other', $1, 1, 'SomethingLarge', '1', json_build_object('text', repeat('x', $2)), '{}')",
            )
            .bind(format!("{nth}-{twice}"))
            .bind(i32::try_from(*bytes).unwrap())
            .execute(database.pool())
            .await
            .unwrap();
        }
        books.accept(&format!("request-{nth}"), accepted("acme", "ann", "node-1", 10)).await;
    }
    reader::head(database.pool()).await.unwrap().position
}

#[tokio::test]
async fn an_event_that_is_larger_than_any_read_is_read_by_every_handler_rebuild_verification_and_copy() {
    let database = database().await;
    let head = a_log_with_large_events(&database).await;
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let upcasters = Arc::new(Upcasters::default());
    let node = Subscriptions::start(database.database.clone(), upcasters.clone(), tasks, shutdown.clone());
    for handler in handlers() {
        node.run_until(handler, head).await.unwrap();
    }
    // Some of them read while the log grows.
    let names: Vec<_> = handlers().iter().map(|handler| handler.name()).collect();
    for handler in handlers() {
        node.run(handler);
    }
    Books::open(Node::start(&database.database)).accept("more", accepted("acme", "ann", "node-1", 10)).await;
    let large = "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                 SELECT 'other', 'live-' || n, 1, 'SomethingLarge', '1', json_build_object('text', repeat('x', 5242880)), '{}'
                 FROM generate_series(1, 3) AS n";
    sqlx::query(large).execute(database.pool()).await.unwrap();
    let head = reader::head(database.pool()).await.unwrap().position;
    for name in names {
        node.wait_for(name, head, aihub_tests::PATIENCE).await.unwrap();
    }
    shutdown.cancel();

    for view in views() {
        let rebuild = Rebuild::begin(&database.database, upcasters.clone(), view).await.unwrap();
        assert_eq!(rebuild.run(|_| ()).await.unwrap(), head);
    }
    let scope =
        Scope { from: 1, to: None, saved: None, keys: vec![], balances: account_balance::AUDITED, contents: true };
    let report = verify(&database.database, &scope, |_| ()).await.unwrap();
    assert_eq!((report.verdict, report.head.position), (Verdict::Intact, head));

    let mut file = Vec::new();
    export(&database.database, (1, None), &mut file, |_| ()).await.unwrap();
    let copy = aihub_tests::database().await;
    restore(&copy.database, LogFile::open(&*file).unwrap(), |_| ()).await.unwrap();
    assert_eq!(reader::head(copy.pool()).await.unwrap(), reader::head(database.pool()).await.unwrap());
}

/// All handlers of the service have applied everything.
async fn everybody_reads_on(app: &TestApp) {
    let head = reader::head(app.database.pool()).await.unwrap().position;
    until("every handler has read everything", async || {
        let statuses = app.hub.subscriptions.statuses().await.unwrap();
        statuses.iter().all(|status| status.position >= head && status.failure.is_none()).then_some(())
    })
    .await;
}

async fn ask(client: &mut Client, prompt: &serde_json::Value) -> Answer {
    client
        .ask(&with(chat("a", ""), &json!({ "prompt": null, "messages": [{ "role": "user", "content": prompt }] })))
        .await
}

#[tokio::test]
async fn no_prompt_and_no_picture_that_the_door_takes_keeps_anybody_from_reading_on() {
    let app = TestApp::start(|_| ()).await;
    let mut ann = app.connect("ann").await;
    let noise: Vec<u8> = (0..1_800_000).map(|_| rand::random()).collect();
    let picture = format!("data:image/png;base64,{}", STANDARD.encode(&noise));
    let picture = json!([{ "type": "image_url", "image_url": { "url": picture } }, { "type": "text", "text": "?" }]);
    for prompt in [json!("lorem ipsum ".repeat(270_000)), picture, json!("word".repeat(1_040_000))] {
        // Whatever becomes of it: what was accepted is in the log.
        drop(ask(&mut ann, &prompt).await);
        everybody_reads_on(&app).await;
    }
    ann.ask(&chat("b", "Is anybody there?")).await.done();
    everybody_reads_on(&app).await;
    let events = verified(app.database.pool()).await;
    assert!(events.iter().any(|event| event.event_type == "RequestAccepted"));
    for event in events {
        assert!(event.payload.len() + event.metadata.len() < MAX_EVENT_BYTES, "position {}", event.position);
    }
}

#[tokio::test]
async fn an_event_beyond_its_limit_is_refused_and_nothing_is_appended() {
    let database = database().await;
    let node = Node::start(&database.database);
    let mut large = stream("large", 0, 1);
    large.events = vec![NewEvent { payload: format!("\"{}\"", "x".repeat(MAX_EVENT_BYTES)), ..large.events.remove(0) }];
    let refused = node.append(unit([stream("small", 0, 1), large])).await;
    assert!(matches!(refused, Err(AppendError::TooLarge { limit: MAX_EVENT_BYTES, .. })), "{refused:?}");
    assert_eq!(reader::head(database.pool()).await.unwrap().position, 0);
}
