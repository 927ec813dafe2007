//! What is erased is gone, wherever it was kept, and the log stays what it was.

mod traces;

use std::sync::Arc;

use aihub::config::content::{AccountRuleSettings, RuleSettings};
use aihub_application::{
    erasure::{Erasure, erase_subject},
    ports::{
        clock::{Clock, SystemClock},
        event_log::Metadata,
        vault::{ContentVault, Sealed, VaultError},
    },
};
use aihub_domain::{content::ContentKind, subject::SubjectCommand};
use aihub_infrastructure::{
    audit::{
        note::SigningKey,
        verify::{Scope, Verdict, verify},
    },
    vault::{
        PostgresVault,
        erasure::{destroy_subject, keys_of},
        master_key::{MasterKey, MasterKeys},
        retention::due_keys,
        rotation::{Rotated, rotate},
        rules::{ContentRules, Rule},
    },
};
use aihub_projections::account_balance;
use aihub_tests::{
    TestDatabase,
    app::TestApp,
    client::{chat, with},
    database,
    log::Node,
    providers::Providers,
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

async fn seal(vault: &PostgresVault, subject: &str) -> Result<Sealed, VaultError> {
    Ok(vault.seal(subject, ContentKind::Chat, &[b"x"]).await?.unwrap())
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
    let scope = Scope { from: 1, to: None, saved: None, keys, balances: account_balance::AUDITED, contents: true };
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
            let refused = app.hub.gateway.vault.seal("ann", ContentKind::Chat, &[b"x"]).await;
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
        let (sealing, erasing) = tokio::join!(vault.seal(&subject, ContentKind::Chat, &[b"x"]), async {
            let mut transaction = database.pool().begin().await.unwrap();
            destroy_subject(&mut transaction, &subject, SystemClock.now()).await.unwrap();
            transaction.commit().await.unwrap();
            vault.forget_keys();
        });
        drop((sealing, erasing));
        let sealed = vault.seal(&subject, ContentKind::Chat, &[b"x"]).await;
        assert!(matches!(sealed, Err(VaultError::Erased)));
        assert!(keys_of(database.pool(), &subject).await.unwrap().is_empty(), "no key came after the erasure");
    }
}

#[tokio::test]
async fn content_that_is_too_old_is_erased_by_account_kind_and_month_and_the_rest_stays() {
    let database = database().await;
    let old = vault_at(&database, "2020-01-31T23:59:59Z");
    let new = PostgresVault::new(database.pool().clone(), master_key(1), Arc::new(SystemClock));
    let node = Node::start(&database.database);
    let keep = async |vault: &PostgresVault, subject: &str, kind: ContentKind, text: &[u8]| {
        let Sealed { content, pieces } = vault.seal(subject, kind, &[text]).await.unwrap().unwrap();
        node.keep(pieces).await;
        content
    };
    let chat = keep(&old, "ann", ContentKind::Chat, b"old").await;
    assert_eq!(chat.month.to_string(), "2020-01-01");
    let embedding = keep(&old, "ann", ContentKind::Embedding, b"old").await;
    let others = keep(&old, "bob", ContentKind::Chat, b"old").await;
    let recent = keep(&new, "ann", ContentKind::Chat, b"new").await;
    // Embeddings and bob's content are kept for longer than there have been computers.
    let providers = Arc::new(Providers::start().await);
    let app = TestApp::start_on(&Arc::new(database), &providers, |config| {
        config.content.retention_days = Some(30);
        let ever = RuleSettings { keep: None, retention_days: Some(100_000) };
        config.content.kinds.insert(ContentKind::Embedding, ever);
        let of_bob = AccountRuleSettings { retention_days: Some(100_000), ..AccountRuleSettings::default() };
        config.content.accounts.insert("bob".to_owned(), of_bob);
    })
    .await;
    until("the old key is destroyed", async || {
        (keys_of(app.database.pool(), "ann").await.unwrap().len() == 2).then_some(())
    })
    .await;
    let fresh = PostgresVault::new(app.database.pool().clone(), master_key(1), Arc::new(SystemClock));
    assert!(matches!(fresh.open(&chat).await, Err(VaultError::Erased)));
    for (content, text) in [(&embedding, b"old"), (&others, b"old"), (&recent, b"new")] {
        assert_eq!(fresh.open(content).await.unwrap(), text);
    }
    let old = vault_at(&app.database, "2020-01-31T23:59:59Z");
    let sealed = old.seal("ann", ContentKind::Chat, &[b"x"]).await;
    assert!(matches!(sealed, Err(VaultError::Erased)), "no new key in its place");
    let rules = ContentRules { all: Rule { keep: None, retention_days: Some(30) }, ..ContentRules::default() };
    let (due, _) = due_keys(app.database.pool(), &rules).await.unwrap();
    assert_eq!(due.len(), 2, "what would be due by other rules, and nothing twice");
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
    let Sealed { content, pieces } = seal(&vault(1, &[]), "ann").await.unwrap();
    Node::start(&database.database).keep(pieces).await;
    seal(&vault(1, &[]), "gone").await.unwrap();
    let mut transaction = database.pool().begin().await.unwrap();
    destroy_subject(&mut transaction, "gone", SystemClock.now()).await.unwrap();
    transaction.commit().await.unwrap();
    // Both are configured: what the old one wrapped opens, and new keys are wrapped with the new one.
    let both = vault(2, &[1]);
    assert_eq!(both.open(&content).await.unwrap(), b"x");
    seal(&both, "bob").await.unwrap();
    seal(&vault(3, &[]), "stranger").await.unwrap();
    let masters = MasterKeys { current: master_key(2), former: vec![master_key(1)] };
    let rotated = rotate(&database.database, &masters, |_| ()).await.unwrap();
    assert_eq!(rotated, Rotated { keys: 1, unreadable: 1 });
    assert_eq!(rotate(&database.database, &masters, |_| ()).await.unwrap(), Rotated { keys: 0, unreadable: 1 });
    assert_eq!(vault(2, &[]).open(&content).await.unwrap(), b"x");
    assert!(matches!(vault(1, &[]).open(&content).await, Err(VaultError::Unreadable)));
    assert!(matches!(seal(&vault(2, &[]), "gone").await, Err(VaultError::Erased)));
}
