//! What the service works with is made from the log again by the command that fills views, and what is not in the log stays.

use std::sync::Arc;

use aihub::bootstrap::handlers;
use aihub_domain::content::ContentKind;
use aihub_infrastructure::event_store::{subscription::EventHandler, upcast::Upcasters};
use aihub_projections::rebuild::{Rebuild, View, working_tables};
use aihub_tests::{TestDatabase, app::TestApp, database, until};
use serde_json::json;
use sqlx::Executor;

use super::{assert_same, copy, head, open_books, subscriptions, trade, videos};

/// Everything in the schema, and the deliveries.
async fn rows(database: &TestDatabase) -> Vec<String> {
    let mut rows = Vec::new();
    for view in working_tables() {
        for table in view.tables() {
            rows.extend(
                copy(database, &format!("SELECT '{table}', t.* FROM {table} t ORDER BY t::text COLLATE \"C\"")).await,
            );
        }
    }
    rows
}

async fn rebuild(database: &TestDatabase) {
    for view in working_tables() {
        let rebuild = Rebuild::begin(&database.database, Arc::new(Upcasters::default()), view).await.unwrap();
        assert_eq!(rebuild.run(|_| ()).await.unwrap(), head(database).await);
    }
}

async fn catch_up(database: &TestDatabase) {
    let (subscriptions, _guard) = subscriptions(database);
    for view in working_tables() {
        let handler: Arc<dyn EventHandler> = view;
        subscriptions.run_until(handler, head(database).await).await.unwrap();
    }
}

#[tokio::test]
async fn each_working_table_is_filled_again_to_the_same_rows_however_it_was_damaged() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..30).await;
    videos::film(&books, 0..30).await;
    catch_up(&database).await;
    let before = rows(&database).await;
    for table in ["open_requests", "open_videos", "video_turns", "video_submissions", "kept_media"] {
        assert!(before.iter().any(|row| row.starts_with(table)), "there is nothing in {table}");
    }
    let definitions = async || {
        copy(
            &database,
            "SELECT c.relname, c.relkind, c.reloptions, c.relacl FROM pg_class c
                         WHERE c.relnamespace = 'work'::regnamespace ORDER BY c.relname",
        )
        .await
    };
    let defined = definitions().await;
    rebuild(&database).await;
    assert_same("rebuilt", &rows(&database).await, &before);

    let damage =
        "DELETE FROM work.open_requests; UPDATE work.open_videos SET status = 'rendering', provider = 'nobody';
                  TRUNCATE work.kept_media; DELETE FROM work.video_submissions";
    database.pool().execute(damage).await.unwrap();
    // One that stopped for that goes on.
    database
        .pool()
        .execute("UPDATE subscriptions SET error = 'x', error_position = 1, failed_at = now()")
        .await
        .unwrap();
    rebuild(&database).await;
    assert_same("mended", &rows(&database).await, &before);
    assert_same("definitions", &definitions().await, &defined);
    let stopped: i64 = sqlx::query_scalar("SELECT count(*) FROM subscriptions WHERE error IS NOT NULL")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!(stopped, 0);
    // And it is fed on from there.
    trade(&books, 30..60).await;
    catch_up(&database).await;
    let fed = rows(&database).await;
    rebuild(&database).await;
    assert_same("fed on", &rows(&database).await, &fed);
}

#[tokio::test]
async fn what_is_not_in_the_log_stays_as_it_is_and_nobody_is_told_twice() {
    let database = database().await;
    open_books(&database).await;
    let state = "INSERT INTO queue_seats (aggregate_type, aggregate_id, account) VALUES ('video', 'on-its-way', 'acme');
                 INSERT INTO webhook_deliveries (delivery_id, job_id, job_kind, account, user_id, event_type, occurred_at, state,
                     attempts, next_attempt_at, give_up_at, changed_at)
                 VALUES ('msg_1', 'v', 'video', 'acme', 'ann', 'video.completed', now(), 'delivered', 3, now(), now(), now())";
    database.pool().execute(state).await.unwrap();
    let kept = async || {
        let mut kept = copy(&database, "SELECT * FROM queue_seats").await;
        kept.extend(copy(&database, "SELECT * FROM webhook_deliveries").await);
        kept
    };
    let before = kept().await;
    assert_eq!(before.len(), 2);
    rebuild(&database).await;
    assert_eq!(kept().await, before);
}

#[tokio::test]
async fn an_erasure_that_a_restored_backup_has_undone_is_done_again() {
    let app = TestApp::start(|_| {}).await;
    let vault = &app.hub.gateway.vault;
    vault.seal("ann", ContentKind::Chat, &[b"x"]).await.unwrap();
    let database = &app.database;
    let backup =
        copy(database, "SELECT key_id, encode(wrapped_key, 'hex') FROM subject_keys WHERE subject = 'ann'").await;
    let (_, wrapped) = backup[0].split_once('\t').unwrap();
    crate::audit::cli::done(database, &["erase", "--subject", "ann", "--reason", "asked for", "--actor", "privacy"])
        .await;
    until("the keys are destroyed", async || {
        let left = copy(database, "SELECT 1 FROM subject_keys WHERE subject = 'ann' AND wrapped_key IS NOT NULL").await;
        left.is_empty().then_some(())
    })
    .await;
    let restore = format!(
        "UPDATE subject_keys SET wrapped_key = decode('{wrapped}', 'hex'), destroyed_at = NULL WHERE subject = 'ann';
         UPDATE subjects SET erased_at = NULL WHERE subject = 'ann'"
    );
    database.pool().execute(&*restore).await.unwrap();
    let said = crate::audit::cli::done(database, &["projections", "rebuild", "erasures"]).await;
    assert!(said.contains("erasures is rebuilt"), "{said}");
    assert_eq!(
        copy(database, "SELECT 1 FROM subject_keys WHERE subject = 'ann' AND wrapped_key IS NOT NULL").await,
        [""; 0]
    );
    app.stop().await;
}

#[tokio::test]
async fn the_command_knows_every_handler_by_its_name_and_all_of_them() {
    let app = TestApp::start(|_| {}).await;
    app.grant("ann", aihub_domain::money::Microcredits::from_credits(10)).await;
    let said = crate::audit::cli::done(&app.database, &["projections", "rebuild", "--all"]).await;
    for handler in handlers() {
        assert!(said.contains(&format!("{} is rebuilt", handler.name())), "{}: {said}", handler.name());
    }
    let said = crate::audit::cli::done(&app.database, &["projections", "rebuild", "orphaned-requests"]).await;
    assert!(said.contains("orphaned-requests is rebuilt"), "{said}");
    let mut client = app.connect("ann").await;
    client.ask(&json!({ "id": "a", "type": "chat", "provider": "auto", "model": "gpt-6-luna", "stream": true, "maxTokens": 20,
                        "messages": [{ "role": "user", "content": "Why is the sky blue?" }] })).await.done();
    app.stop().await;
}

#[test]
fn every_handler_of_the_service_can_be_made_from_the_log_again() {
    let names = |views: Vec<Arc<dyn View>>| views.into_iter().map(|view| view.name()).collect::<Vec<_>>();
    let mut all = names(working_tables());
    all.extend(names(aihub_projections::rebuild::views()));
    let mut handlers: Vec<_> = handlers().iter().map(|handler| handler.name()).collect();
    all.sort_unstable();
    handlers.sort_unstable();
    assert_eq!(all, handlers);
}
