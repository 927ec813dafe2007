//! The service does all of its work as a login that has its role and nothing else; finance and auditors see what is theirs to see.

use std::sync::Arc;

use aihub::auth::secret::Secret;
use aihub_application::ports::clock::SystemClock;
use aihub_domain::money::Microcredits;
use aihub_infrastructure::{
    audit::{
        checkpoint,
        note::SigningKey,
        verify::{Scope, Verdict, verify},
    },
    database::{Database, DatabaseOptions},
    event_store::upcast::Upcasters,
    vault::{erasure::keys_of, master_key::MasterKeys, rotation::rotate},
};
use aihub_projections::{
    account_balance,
    rebuild::{Rebuild, views, working_tables},
};
use aihub_tests::{
    TestDatabase,
    app::{SECRET, TestApp},
    client::{chat, with},
    providers::Providers,
    until,
};
use serde_json::json;
use sqlx::Executor;

use super::{connect, connect_like_us};

const SIGNING_KEY: &str = "dGhlIHRlc3RzJyBzaWduaW5nIGtleSwgMzIgYnl0ZXM=";

/// A service on a login with these roles alone.
async fn service_as(database: &Arc<TestDatabase>, options: &DatabaseOptions) -> TestApp {
    let providers = Arc::new(Providers::start().await);
    let url = json!(options.url);
    TestApp::start_on(database, &providers, |config| config.database.url = Some(serde_json::from_value(url).unwrap()))
        .await
}

fn signing_key() -> SigningKey {
    SigningKey::from_base64("aihub", SIGNING_KEY).unwrap()
}

#[tokio::test]
async fn the_service_does_all_of_its_work_with_the_rights_of_its_role_alone() {
    let database = Arc::new(aihub_tests::database().await);
    let options = database.login("", &["aihub_service"]).await;
    let app = service_as(&database, &options).await;
    app.grant("ann", Microcredits::from_credits(100_000)).await;
    let mut client = app.connect("ann").await;
    client.ask(&with(chat("a", "Why is the sky blue?"), &json!({ "maxTokens": null }))).await.done();
    let token = app.token("ann");
    let video = json!({ "prompt": "a calm sea at sunset", "duration": 8, "resolution": "720p" });
    let (_, film) = app.post("/api/mcp/sora2/generate", &token, &video).await;
    let workflow = json!({ "prompt": "a calm sea", "workflowType": "enhance", "duration": 8, "resolution": "720p" });
    let (_, begun) = app.post("/api/mcp/gpt/video-workflow", &token, &workflow).await;
    for path in [
        format!("/api/mcp/sora2/status/{}?wait=30", film["videoId"].as_str().unwrap()),
        format!("/api/mcp/gpt/video-workflow/{}?wait=30", begun["workflowId"].as_str().unwrap()),
    ] {
        until("it is made", async || {
            let (_, _, job) = app.get(&path, Some(&token)).await;
            (job["status"] == "completed").then_some(())
        })
        .await;
    }
    let service = Database::connect(&options).await.unwrap();
    for view in views().into_iter().chain(working_tables()) {
        let name = view.name();
        let rebuild = Rebuild::begin(&service, Arc::new(Upcasters::default()), view).await.unwrap();
        rebuild.run(|_| ()).await.unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
    checkpoint::make(&service, &signing_key(), &SystemClock).await.unwrap().unwrap();
    let masters: MasterKeys =
        aihub_infrastructure::vault::master_key::MasterKey::from_base64("dGhlIHRlc3RzJyBtYXN0ZXIga2V5LCAzMiBieXRlcyE=")
            .unwrap()
            .into();
    assert_eq!(rotate(&service, &masters, |_| ()).await.unwrap().unreadable, 0);
    let (_, _, ready) = app.get("/health/ready", None).await;
    assert_eq!(ready["status"], "ready", "{ready}");
    let audit = app.audit().await;
    assert!(audit.requests.len() > 1, "the workflow asked for a text");
    app.stop().await;
}

#[tokio::test]
async fn an_auditor_verifies_everything_and_has_no_key() {
    let app = TestApp::start(|_| {}).await;
    let mut client = app.connect("ann").await;
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    checkpoint::make(&app.database.database, &signing_key(), &SystemClock).await.unwrap();
    let options = app.database.login("", &["aihub_auditor"]).await;
    let auditor = Database::connect(&options).await.unwrap();
    let keys = vec![signing_key().verifier()];
    let scope = Scope { from: 1, to: None, saved: None, keys, contents: true, balances: account_balance::AUDITED };
    until("the balances are those of the log's end", async || {
        (verify(&auditor, &scope, |_| ()).await.unwrap().verdict == Verdict::Intact).then_some(())
    })
    .await;
    assert_eq!(keys_of(auditor.pool(), "ann").await.unwrap().len(), 1, "which keys there are is no secret");
    let mut session = connect_like_us(&options).await;
    for sql in [
        "SELECT * FROM public.subject_keys",
        "DELETE FROM events",
        "DELETE FROM checkpoints",
        "UPDATE read.account_balance_v1 SET available_microcredits = 0",
        "SELECT public.lock_log()",
        "SELECT public.append_first('account', 'a', 'x', '1', '{}', '{}', gen_random_uuid())",
        "UPDATE subscriptions SET position = 0",
    ] {
        let refused = session.execute(sql).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{sql}: {refused}");
    }
    let columns = "SELECT string_agg(attname::text, ' ' ORDER BY attnum) FROM pg_attribute
                   WHERE attrelid = 'subject_keys'::regclass AND attnum > 0";
    let columns: String = sqlx::query_scalar(columns).fetch_one(&mut session).await.unwrap();
    assert_eq!(columns, "subject kind month key_id master_key_id created_at destroyed_at swept_at");
    app.stop().await;
}

#[tokio::test]
async fn finance_finds_its_views_in_a_plain_session_and_nothing_else_also_after_a_rebuild() {
    let app = TestApp::start(|_| {}).await;
    let mut admin = app.database.admin().await;
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut admin).await.unwrap();
    // As `aihub migrate` has it for a database that was not copied from another.
    admin.execute(&*format!("ALTER DATABASE {name} SET search_path = public, read, work, audit")).await.unwrap();
    for view in views() {
        Rebuild::begin(&app.database.database, Arc::default(), view).await.unwrap().run(|_| ()).await.unwrap();
    }
    let options = app.database.login("", &["aihub_finance"]).await;
    let mut finance = connect(&options).await;
    for view in views() {
        for table in view.tables() {
            finance.execute(&*format!("SELECT * FROM {table}")).await.unwrap();
            finance.execute(&*format!("DELETE FROM read.{table}")).await.unwrap_err();
        }
    }
    for table in ["events", "work.open_requests", "subscriptions", "leases", "subject_keys", "read_next.usage_daily_v1"]
    {
        finance.execute(&*format!("SELECT * FROM {table}")).await.unwrap_err();
    }
    finance.execute("CALL public.take_seat('video', 'x', 'x', 1, 1, NULL, NULL, NULL)").await.unwrap_err();
    app.stop().await;
}

#[tokio::test]
async fn an_owner_is_taken_in_development_and_warned_of_in_production() {
    let database = Arc::new(aihub_tests::database().await);
    let options = database.login("", &["aihub_service"]).await;
    let providers = Arc::new(Providers::start().await);
    let notices = async |url: String, production: bool| {
        let app = TestApp::start_on(&database, &providers, |config| {
            config.database.url = Some(serde_json::from_value(json!(url)).unwrap());
            if production {
                config.environment = aihub::config::Environment::Production;
                config.auth.audience = Some("aihub".to_owned());
                config.webhooks.secret = Some(Secret::new(SECRET));
            }
        })
        .await;
        let (_, _, ready) = app.get("/health/ready", None).await;
        app.stop().await;
        ready["notices"].to_string()
    };
    let owner = database.options.url.clone();
    assert!(!notices(owner.clone(), false).await.contains("which the service does not need"));
    assert!(notices(owner, true).await.contains("is a superuser, which the service does not need"));
    assert!(!notices(options.url.clone(), true).await.contains("which the service does not need"));
}
