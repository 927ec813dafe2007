//! Content is private: sealed per subject, and gone with the subject's key.

use std::{collections::BTreeMap, sync::Arc};

use aihub_application::ports::{
    clock::{Clock, SystemClock},
    event_log::Piece,
    vault::{ContentVault, Sealed, VaultError},
};
use aihub_domain::content::{ContentKind, ContentRef, Keep};
use aihub_infrastructure::{
    contents::sweep::sweep,
    vault::{
        PostgresVault,
        erasure::destroy_subject,
        master_key::{MasterKey, MasterKeys},
        rules::{ContentRules, Keeping, Rule},
    },
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

/// Seals a chat's text.
async fn seal(vault: &PostgresVault, subject: &str, text: &[u8]) -> Result<Sealed, VaultError> {
    Ok(vault.seal(subject, ContentKind::Chat, &[text]).await?.unwrap())
}

/// Seals it, and keeps it as it is kept beside an event.
async fn kept(database: &TestDatabase, vault: &PostgresVault, subject: &str, text: &[u8]) -> ContentRef {
    let Sealed { content, pieces } = seal(vault, subject, text).await.unwrap();
    Node::start(&database.database).keep(pieces).await;
    content
}

async fn count(database: &TestDatabase, table: &str) -> i64 {
    sqlx::query_scalar(&format!("SELECT count(*) FROM {table}")).fetch_one(database.pool()).await.unwrap()
}

#[tokio::test]
async fn what_one_node_sealed_another_one_opens() {
    let database = database().await;
    let content = kept(&database, &vault(&database), "acme", SECRET).await;
    assert_eq!((content.subject.as_str(), content.kind), ("acme", ContentKind::Chat));
    assert_eq!(vault(&database).open(&content).await.unwrap(), SECRET);
}

#[tokio::test]
async fn nodes_that_make_a_subjects_first_key_at_once_agree_on_one() {
    let database = database().await;
    let vaults: Vec<_> = (0..4).map(|_| Arc::new(vault(&database))).collect();
    let sealing = vaults.iter().cycle().take(32).map(|vault| seal(vault, "acme", SECRET));
    let node = Node::start(&database.database);
    for sealed in join_all(sealing).await {
        let Sealed { content, pieces } = sealed.unwrap();
        node.keep(pieces).await;
        for vault in &vaults {
            assert_eq!(vault.open(&content).await.unwrap(), SECRET);
        }
    }
    assert_eq!(count(&database, "subject_keys").await, 1);
    assert_eq!(count(&database, "contents").await, 1, "the same text is kept once");
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
                seal(&vault, &format!("subject {round}"), SECRET).await
            })
        });
        for sealed in join_all(sealing).await {
            assert!(sealed.unwrap().is_ok(), "subject {round}");
        }
    }
}

#[tokio::test]
async fn a_text_that_was_moved_changed_or_lost_does_not_open() {
    let database = database().await;
    let vault = vault(&database);
    let content = kept(&database, &vault, "acme", SECRET).await;
    let other = kept(&database, &vault, "other", SECRET).await;
    assert_ne!(content.hash, other.hash, "nobody learns what another one has said");
    let longer = ContentRef { bytes: content.bytes + 1, ..content.clone() };
    assert!(matches!(vault.open(&longer).await, Err(VaultError::Unreadable)));
    for (subject, kind) in
        [("other", ContentKind::Chat), ("acme", ContentKind::Embedding), ("nobody", ContentKind::Chat)]
    {
        let elsewhere = ContentRef { subject: subject.to_owned(), kind, ..content.clone() };
        let outcome = vault.open(&elsewhere).await;
        assert!(matches!(outcome, Err(VaultError::Unreadable | VaultError::Missing)), "{subject} {kind}: {outcome:?}");
    }
    // Somebody puts what another subject has said in its place.
    sqlx::query(
        "UPDATE contents SET bytes = (SELECT bytes FROM contents WHERE subject = 'other') WHERE subject = 'acme'",
    )
    .execute(database.pool())
    .await
    .unwrap();
    assert!(matches!(vault.open(&content).await, Err(VaultError::Unreadable)));
    sqlx::query("DELETE FROM contents WHERE subject = 'acme'").execute(database.pool()).await.unwrap();
    assert!(matches!(vault.open(&content).await, Err(VaultError::Missing)));
    assert_eq!(vault.open(&other).await.unwrap(), SECRET);
}

#[tokio::test]
async fn destroying_a_key_erases_what_it_sealed_for_good() {
    let database = database().await;
    let here = vault(&database);
    let erased = kept(&database, &here, "acme", SECRET).await;
    let left = kept(&database, &here, "other", SECRET).await;
    assert_eq!(destroy(&database, "acme").await, 1);
    assert_eq!(destroy(&database, "acme").await, 0, "there is nothing left to destroy");
    here.forget_keys();
    // A node that had it in memory and heard of it, and one that comes later.
    for vault in [&here, &vault(&database)] {
        assert!(matches!(vault.open(&erased).await, Err(VaultError::Erased)));
        assert!(matches!(seal(vault, "acme", SECRET).await, Err(VaultError::Erased)));
        assert_eq!(vault.open(&left).await.unwrap(), SECRET);
    }
    // A node that was cut off may have used the key for a little longer, so what it sealed is taken away after that.
    assert_eq!(sweep(database.pool()).await.unwrap(), 0);
    sqlx::query("UPDATE subject_keys SET destroyed_at = destroyed_at - interval '6 minutes'")
        .execute(database.pool())
        .await
        .unwrap();
    assert_eq!((sweep(database.pool()).await.unwrap(), sweep(database.pool()).await.unwrap()), (1, 0));
    assert_eq!(count(&database, "contents").await, 1);
    assert_eq!(vault(&database).open(&left).await.unwrap(), SECRET);
}

#[tokio::test]
async fn another_master_key_opens_nothing_and_leaves_the_keys_alone() {
    let database = database().await;
    let content = kept(&database, &vault(&database), "acme", SECRET).await;
    let stranger = PostgresVault::new(database.pool().clone(), master_key(2), Arc::new(SystemClock));
    assert!(matches!(stranger.open(&content).await, Err(VaultError::Unreadable)));
    assert!(matches!(seal(&stranger, "acme", SECRET).await, Err(VaultError::Unreadable)));
    seal(&stranger, "other", SECRET).await.unwrap();
    assert_eq!(vault(&database).open(&content).await.unwrap(), SECRET);
    assert_eq!((stranger.unreadable_keys().await.unwrap(), vault(&database).unreadable_keys().await.unwrap()), (1, 1));
    let masters = MasterKeys { current: master_key(2), former: vec![master_key(1)] };
    let both = PostgresVault::new(database.pool().clone(), masters, Arc::new(SystemClock));
    assert_eq!(both.unreadable_keys().await.unwrap(), 0);
    destroy(&database, "acme").await;
    assert_eq!(stranger.unreadable_keys().await.unwrap(), 0);
}

#[tokio::test]
async fn a_subject_whose_key_is_in_memory_needs_no_database_to_seal() {
    let database = database().await;
    let vault = vault(&database);
    seal(&vault, "acme", SECRET).await.unwrap();
    database.pool().close().await;
    seal(&vault, "acme", b"something else").await.unwrap();
    assert!(matches!(seal(&vault, "other", SECRET).await, Err(VaultError::Unavailable(_))));
}

#[tokio::test]
async fn what_is_not_to_be_kept_is_not_and_a_hash_proves_what_was_said() {
    let database = database().await;
    let rule = |keep| Rule { keep: Some(keep), retention_days: None };
    let rules = ContentRules {
        kinds: BTreeMap::from([
            (ContentKind::Chat, rule(Keeping::As(Keep::Hash))),
            (ContentKind::Embedding, rule(Keeping::Nothing)),
            (ContentKind::Video, rule(Keeping::Nothing)),
        ]),
        ..ContentRules::default()
    };
    let vault = vault(&database).with(rules, Arc::default());
    let long = SECRET.repeat(1_000);
    let Sealed { content, pieces } = seal(&vault, "acme", &long).await.unwrap();
    assert!(pieces.is_empty() && content.keep == Keep::Hash && content.bytes == long.len() as u64);
    assert_eq!(seal(&vault, "acme", &long).await.unwrap().content, content, "the same text, the same hash");
    assert_ne!(seal(&vault, "acme", &long[1..]).await.unwrap().content.hash, content.hash);
    assert!(matches!(vault.open(&content).await, Err(VaultError::NotKept)));
    assert!(vault.seal("acme", ContentKind::Embedding, &[SECRET]).await.unwrap().is_none());
    assert!(vault.seal("acme", ContentKind::Video, &[SECRET]).await.unwrap().is_some(), "it is read again");
    destroy(&database, "gone").await;
    let refused = vault.seal("gone", ContentKind::Embedding, &[SECRET]).await;
    assert!(matches!(refused, Err(VaultError::Erased)), "also where nothing would be kept");
}

#[tokio::test]
async fn a_history_that_is_sent_again_costs_its_hashes() {
    let database = database().await;
    let node = Node::start(&database.database);
    let vault = vault(&database).with(ContentRules::default(), node.log.known_pieces());
    let messages: Vec<String> =
        (0..60).map(|nth| format!("message {nth}: {}", "what was said ".repeat(nth * 9))).collect();
    let parts: Vec<&[u8]> = messages.iter().map(String::as_bytes).collect();
    let first = vault.seal("acme", ContentKind::Chat, &parts[..58]).await.unwrap().unwrap();
    node.keep(first.pieces.clone()).await;
    let again = vault.seal("acme", ContentKind::Chat, &parts).await.unwrap().unwrap();
    let bytes = |pieces: &[Piece]| pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>();
    // The list, and the two messages that are new.
    assert!(again.pieces.len() <= 3 && bytes(&again.pieces) < 6_000, "{}", bytes(&again.pieces));
    node.keep(again.pieces).await;
    for (content, count) in [(&first.content, 58), (&again.content, 60)] {
        assert_eq!(vault.open(content).await.unwrap(), parts[..count].concat());
    }
    // A node that knows nothing sends it, and it is not kept twice; another account's is another text.
    let before = count(&database, "contents").await;
    let elsewhere = self::vault(&database);
    node.keep(elsewhere.seal("acme", ContentKind::Chat, &parts).await.unwrap().unwrap().pieces).await;
    assert_eq!(count(&database, "contents").await, before);
    node.keep(elsewhere.seal("other", ContentKind::Chat, &parts).await.unwrap().unwrap().pieces).await;
    assert!(count(&database, "contents").await > before + 50);
}

#[tokio::test]
async fn no_plaintext_and_no_key_stands_anywhere_in_the_database() {
    let database = database().await;
    let vault = vault(&database);
    let books = Books::open(Node::start(&database.database));
    books.grant("acme", 1_000).await;
    let mut request = accepted("acme", "ann", "node-1", 10);
    let content = kept(&database, &vault, "acme", SECRET).await;
    request.prompt = Some(content.clone());
    books.accept("request-1", request).await;
    assert_eq!(vault.open(&content).await.unwrap(), SECRET);

    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema IN ('public', 'work')",
    )
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
