//! Content is private: sealed per subject, and gone with the subject's key.

use std::sync::Arc;

use aihub_application::ports::{
    clock::{Clock, SystemClock},
    vault::{ContentVault, VaultError},
};
use aihub_infrastructure::vault::{
    PostgresVault,
    erasure::destroy_subject,
    master_key::{MasterKey, MasterKeys},
};
use aihub_tests::{
    TestDatabase,
    books::{Books, accepted},
    database,
    log::Node,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::future::join_all;
use tokio_util::task::TaskTracker;

const SECRET: &[u8] = b"the launch code is 0000";

fn master_key(byte: u8) -> MasterKey {
    MasterKey::from_base64(&STANDARD.encode([byte; 32])).unwrap()
}

/// A node's vault, with nothing in memory yet.
fn vault(database: &TestDatabase) -> PostgresVault {
    PostgresVault::new(database.pool().clone(), master_key(1), Arc::new(SystemClock))
}

async fn destroy(database: &TestDatabase, subject: &str) -> u64 {
    let mut transaction = database.pool().begin().await.unwrap();
    let keys = destroy_subject(&mut transaction, subject, SystemClock.now()).await.unwrap();
    transaction.commit().await.unwrap();
    keys
}

#[tokio::test]
async fn what_one_node_sealed_another_one_opens() {
    let database = database().await;
    let sealed = vault(&database).seal("acme", "request-1", SECRET).await.unwrap();
    assert_eq!(sealed.subject, "acme");
    assert_eq!(vault(&database).open("request-1", &sealed).await.unwrap(), SECRET);
}

#[tokio::test]
async fn nodes_that_make_a_subjects_first_key_at_once_agree_on_one() {
    let database = database().await;
    let vaults: Vec<_> = (0..4).map(|_| Arc::new(vault(&database))).collect();
    let sealing = vaults.iter().cycle().take(32).map(|vault| vault.seal("acme", "request-1", SECRET));
    for sealed in join_all(sealing).await {
        let sealed = sealed.unwrap();
        for vault in &vaults {
            assert_eq!(vault.open("request-1", &sealed).await.unwrap(), SECRET);
        }
    }
    let keys: i64 = sqlx::query_scalar("SELECT count(*) FROM subject_keys").fetch_one(database.pool()).await.unwrap();
    assert_eq!(keys, 1);
}

/// Whoever asks whether there is a key may join somebody who asked the same just before it was made.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_refused_because_another_one_makes_its_subjects_key_just_then() {
    let database = database().await;
    let (vault, tasks) = (Arc::new(vault(&database)), TaskTracker::new());
    for round in 0..200 {
        let sealing = (0..8_u32).map(|nth| {
            let vault = vault.clone();
            tasks.spawn(async move {
                // Each comes a little after the one before.
                for _ in 0..nth * 40 {
                    tokio::task::yield_now().await;
                }
                vault.seal(&format!("subject {round}"), "request-1", SECRET).await
            })
        });
        for sealed in join_all(sealing).await {
            assert!(sealed.unwrap().is_ok(), "subject {round}");
        }
    }
}

#[tokio::test]
async fn a_sealed_text_that_was_moved_or_changed_does_not_open() {
    let database = database().await;
    let vault = vault(&database);
    let sealed = vault.seal("acme", "request-1", SECRET).await.unwrap();
    vault.seal("other", "request-1", SECRET).await.unwrap();
    let mut elsewhere = sealed.clone();
    elsewhere.subject = "other".to_owned();
    let mut unknown = sealed.clone();
    unknown.subject = "never seen".to_owned();
    let mut changed = sealed.clone();
    changed.sealed.replace_range(20..21, if &sealed.sealed[20..21] == "A" { "B" } else { "A" });
    let mut cut = sealed.clone();
    cut.sealed.truncate(8);
    for (context, content) in [
        ("request-2", &sealed),
        ("request-1", &elsewhere),
        ("request-1", &unknown),
        ("request-1", &changed),
        ("request-1", &cut),
    ] {
        let outcome = vault.open(context, content).await;
        assert!(matches!(outcome, Err(VaultError::Unreadable)), "{outcome:?}");
    }
}

#[tokio::test]
async fn destroying_a_key_erases_what_it_sealed_for_good() {
    let database = database().await;
    let here = vault(&database);
    let sealed = here.seal("acme", "request-1", SECRET).await.unwrap();
    let kept = here.seal("other", "request-1", SECRET).await.unwrap();
    assert_eq!(destroy(&database, "acme").await, 1);
    assert_eq!(destroy(&database, "acme").await, 0, "there is nothing left to destroy");
    here.forget_keys();
    // A node that had it in memory and heard of it, and one that comes later.
    for vault in [&here, &vault(&database)] {
        assert!(matches!(vault.open("request-1", &sealed).await, Err(VaultError::Erased)));
        assert!(matches!(vault.seal("acme", "request-2", SECRET).await, Err(VaultError::Erased)));
        assert_eq!(vault.open("request-1", &kept).await.unwrap(), SECRET);
    }
}

#[tokio::test]
async fn another_master_key_opens_nothing_and_leaves_the_keys_alone() {
    let database = database().await;
    let sealed = vault(&database).seal("acme", "request-1", SECRET).await.unwrap();
    let stranger = PostgresVault::new(database.pool().clone(), master_key(2), Arc::new(SystemClock));
    assert!(matches!(stranger.open("request-1", &sealed).await, Err(VaultError::Unreadable)));
    assert!(matches!(stranger.seal("acme", "request-2", SECRET).await, Err(VaultError::Unreadable)));
    stranger.seal("other", "request-3", SECRET).await.unwrap();
    assert_eq!(vault(&database).open("request-1", &sealed).await.unwrap(), SECRET);
    assert_eq!((stranger.unreadable_keys().await.unwrap(), vault(&database).unreadable_keys().await.unwrap()), (1, 1));
    let masters = MasterKeys { current: master_key(2), former: vec![master_key(1)] };
    let both = PostgresVault::new(database.pool().clone(), masters, Arc::new(SystemClock));
    assert_eq!(both.unreadable_keys().await.unwrap(), 0);
    destroy(&database, "acme").await;
    assert_eq!(stranger.unreadable_keys().await.unwrap(), 0);
}

#[tokio::test]
async fn a_subject_whose_key_is_in_memory_needs_no_database() {
    let database = database().await;
    let vault = vault(&database);
    vault.seal("acme", "request-1", SECRET).await.unwrap();
    database.pool().close().await;
    let sealed = vault.seal("acme", "request-2", SECRET).await.unwrap();
    assert_eq!(vault.open("request-2", &sealed).await.unwrap(), SECRET);
    assert!(matches!(vault.seal("other", "request-3", SECRET).await, Err(VaultError::Unavailable(_))));
}

#[tokio::test]
async fn no_plaintext_and_no_key_stands_anywhere_in_the_database() {
    let database = database().await;
    let vault = vault(&database);
    let books = Books::open(Node::start(&database.database));
    books.grant("acme", 1_000).await;
    let mut request = accepted("acme", "ann", "node-1", 10);
    request.prompt = vault.seal("acme", "request-1", SECRET).await.unwrap();
    books.accept("request-1", request.clone()).await;
    assert_eq!(vault.open("request-1", &request.prompt).await.unwrap(), SECRET);

    let tables: Vec<String> =
        sqlx::query_scalar("SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'")
            .fetch_all(database.pool())
            .await
            .unwrap();
    assert!(tables.iter().any(|table| table == "events"));
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let traces = [String::from_utf8(SECRET.to_vec()).unwrap(), STANDARD.encode(SECRET), hex(SECRET), hex(&[1; 32])];
    for table in tables {
        for trace in &traces {
            let found: i64 =
                sqlx::query_scalar(&format!("SELECT count(*) FROM {table} t WHERE strpos(t::text, $1) > 0"))
                    .bind(trace)
                    .fetch_one(database.pool())
                    .await
                    .unwrap();
            assert_eq!(found, 0, "{trace} in {table}");
        }
    }
    let wrapped: Vec<u8> =
        sqlx::query_scalar("SELECT wrapped_key FROM subject_keys").fetch_one(database.pool()).await.unwrap();
    assert_eq!(wrapped.len(), 60);
}
