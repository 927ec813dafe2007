//! What is erased is gone, wherever it was kept, and the log stays what it was.

mod traces;

use std::sync::Arc;

use aihub_application::{
    erasure::{Erasure, erase_subject, expire_content},
    ports::{
        clock::{Clock, SystemClock},
        event_log::Metadata,
        vault::{ContentVault, VaultError},
    },
};
use aihub_domain::subject::SubjectCommand;
use aihub_infrastructure::{
    audit::{
        note::SigningKey,
        verify::{Scope, Verdict, verify},
    },
    vault::{
        PostgresVault,
        erasure::{destroy_subject, keys_of},
        master_key::{MasterKey, MasterKeys},
        rotation::{Rotated, rotate},
    },
};
use aihub_projections::account_balance;
use aihub_tests::{
    TestDatabase,
    app::TestApp,
    client::{chat, with},
    database,
    log::Node,
    until,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use serde_json::json;

const MARKER: &str = "zebrafinch7391";

fn master_key(byte: u8) -> MasterKey {
    MasterKey::from_base64(&STANDARD.encode([byte; 32])).unwrap()
}

/// A clock that stands still.
struct At(DateTime<Utc>);

impl Clock for At {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }
}

fn vault_at(database: &TestDatabase, time: &str) -> PostgresVault {
    PostgresVault::new(database.pool().clone(), master_key(1), Arc::new(At(time.parse().unwrap())))
}

async fn erase(node: &Node, database: &TestDatabase, subject: &str) -> Erasure {
    let command = SubjectCommand::EraseSubject {
        reason: "asked for by the person".to_owned(),
        actor: "privacy".to_owned(),
        key_ids: keys_of(database.pool(), subject).await.unwrap(),
        erased_at: SystemClock.now(),
    };
    erase_subject(&*node.log, subject, &command, &Arc::new(Metadata::new())).await.unwrap()
}

async fn is_intact(database: &TestDatabase) -> bool {
    let keys: Vec<_> =
        [SigningKey::from_base64("aihub", &STANDARD.encode("the tests' signing key, 32 bytes")).unwrap()]
            .iter()
            .map(SigningKey::verifier)
            .collect();
    let scope = Scope { from: 1, to: None, saved: None, keys, balances: account_balance::AUDITED };
    verify(&database.database, &scope, |_| ()).await.unwrap().verdict == Verdict::Intact
}

#[tokio::test]
async fn the_event_alone_erases_on_every_node_and_what_was_kept_in_memory_is_gone() {
    let app = TestApp::start(|_| ()).await;
    let other = TestApp::start_on(&app.database, &app.providers, |_| ()).await;
    let mut ann = app.connect("ann").await;
    let prompt = chat("a", &format!("Tell me about the {MARKER}"));
    ann.ask(&with(prompt.clone(), &json!({ "idempotencyKey": "k" }))).await.done();
    other.connect("ann").await.ask(&prompt).await.done();
    let mut bob = app.connect("bob").await;
    bob.ask(&prompt).await.done();
    // Only the event: whoever wrote it has crashed.
    let node = Node::start(&app.database.database);
    let recorded = erase(&node, &app.database, "ann").await;
    assert!(matches!(recorded, Erasure::Recorded { .. }));
    until("the keys are destroyed", async || {
        keys_of(app.database.pool(), "ann").await.unwrap().is_empty().then_some(())
    })
    .await;
    // Neither node seals for ann any more, although both had the key in memory.
    for app in [&app, &other] {
        until("the node has heard of it", async || {
            let refused = app.hub.gateway.vault.seal("ann", "x", b"x").await;
            matches!(refused, Err(VaultError::Erased)).then_some(())
        })
        .await;
    }
    let refused = ann.ask(&with(prompt.clone(), &json!({ "id": "b" }))).await;
    refused.error("FORBIDDEN");
    // The answer of a minute ago cannot be resumed.
    until("the answer is forgotten", async || {
        let mut again = app.connect("ann").await;
        let resumed = again.ask(&json!({ "type": "resume", "id": "a", "after": 0 })).await;
        (resumed.end["type"] == "error").then_some(())
    })
    .await;
    bob.ask(&with(prompt, &json!({ "id": "c" }))).await.done();
    assert!(matches!(erase(&node, &app.database, "ann").await, Erasure::Before { .. }), "once");
    assert!(is_intact(&app.database).await);
}

#[tokio::test]
async fn a_key_that_is_asked_for_while_its_subject_is_erased_is_not_used_afterwards() {
    let database = database().await;
    let vault = Arc::new(vault_at(&database, "2026-11-22T00:00:00Z"));
    for nth in 0..20 {
        let subject = format!("subject-{nth}");
        let (sealing, erasing) = tokio::join!(vault.seal(&subject, "x", b"x"), async {
            let mut transaction = database.pool().begin().await.unwrap();
            destroy_subject(&mut transaction, &subject, SystemClock.now()).await.unwrap();
            transaction.commit().await.unwrap();
            vault.forget_keys();
        });
        drop((sealing, erasing));
        assert!(matches!(vault.seal(&subject, "x", b"x").await, Err(VaultError::Erased)));
        assert!(keys_of(database.pool(), &subject).await.unwrap().is_empty(), "no key came after the erasure");
    }
}

#[tokio::test]
async fn content_that_is_too_old_is_erased_by_the_month_and_the_rest_stays() {
    let app = TestApp::start(|config| config.content.retention_days = Some(30)).await;
    let (old, new) = (
        vault_at(&app.database, "2020-01-31T23:59:59Z"),
        PostgresVault::new(app.database.pool().clone(), master_key(1), Arc::new(SystemClock)),
    );
    let before = old.seal("ann", "x", b"old").await.unwrap();
    let after = new.seal("ann", "x", b"new").await.unwrap();
    assert_eq!(before.month.to_string(), "2020-01-01");
    // The service has looked when it started, so the month has to turn.
    let node = Node::start(&app.database.database);
    let later = SystemClock.now() + chrono::TimeDelta::days(31);
    assert!(expire_content(&*node.log, 30, later, "test").await.unwrap().is_some());
    assert!(expire_content(&*node.log, 30, later, "test").await.unwrap().is_none(), "once a month");
    until("the old key is destroyed", async || {
        (keys_of(app.database.pool(), "ann").await.unwrap().len() == 1).then_some(())
    })
    .await;
    let fresh = PostgresVault::new(app.database.pool().clone(), master_key(1), Arc::new(SystemClock));
    assert!(matches!(fresh.open("x", &before).await, Err(VaultError::Erased)));
    assert_eq!(fresh.open("x", &after).await.unwrap(), b"new");
    let old = vault_at(&app.database, "2020-01-31T23:59:59Z");
    assert!(matches!(old.seal("ann", "x", b"x").await, Err(VaultError::Erased)), "no new key in its place");
    assert!(is_intact(&app.database).await);
}

#[tokio::test]
async fn another_master_key_takes_over_without_a_change_of_what_was_sealed() {
    let database = database().await;
    let vault = |current, former: &[u8]| {
        let former = former.iter().map(|byte| master_key(*byte)).collect();
        let masters = MasterKeys { current: master_key(current), former };
        PostgresVault::new(database.pool().clone(), masters, Arc::new(SystemClock))
    };
    let sealed = vault(1, &[]).seal("ann", "x", b"x").await.unwrap();
    vault(1, &[]).seal("gone", "x", b"x").await.unwrap();
    let mut transaction = database.pool().begin().await.unwrap();
    destroy_subject(&mut transaction, "gone", SystemClock.now()).await.unwrap();
    transaction.commit().await.unwrap();
    // Both are configured: what the old one wrapped opens, and new keys are wrapped with the new one.
    let both = vault(2, &[1]);
    assert_eq!(both.open("x", &sealed).await.unwrap(), b"x");
    both.seal("bob", "x", b"x").await.unwrap();
    vault(3, &[]).seal("stranger", "x", b"x").await.unwrap();
    let masters = MasterKeys { current: master_key(2), former: vec![master_key(1)] };
    let rotated = rotate(&database.database, &masters, |_| ()).await.unwrap();
    assert_eq!(rotated, Rotated { keys: 1, unreadable: 1 });
    assert_eq!(rotate(&database.database, &masters, |_| ()).await.unwrap(), Rotated { keys: 0, unreadable: 1 });
    assert_eq!(vault(2, &[]).open("x", &sealed).await.unwrap(), b"x");
    assert!(matches!(vault(1, &[]).open("x", &sealed).await, Err(VaultError::Unreadable)));
    assert!(matches!(vault(2, &[]).seal("gone", "x", b"x").await, Err(VaultError::Erased)));
}
