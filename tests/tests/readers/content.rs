//! Prompts and answers stand beside the events that name them: checked with them, copied with them, whole or not at all.

use std::sync::Arc;

use aihub_application::ports::{
    clock::SystemClock,
    vault::{ContentVault, Sealed},
};
use aihub_domain::content::{ContentKind, ContentRef};
use aihub_infrastructure::{
    audit::{
        AuditError,
        file::{LogFile, export},
        restore::restore,
        verify::{Line, Scope, Verdict, verify},
    },
    vault::{PostgresVault, erasure::destroy_subject, master_key::MasterKey},
};
use aihub_projections::account_balance;
use aihub_tests::{
    TestDatabase,
    app::TestApp,
    books::{Books, accepted, now},
    client::{chat, with},
    database,
    log::Node,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

/// A long conversation, of which the next request has all and a little more.
const MESSAGES: usize = 40;

fn vault(database: &TestDatabase) -> PostgresVault {
    let master = MasterKey::from_base64(&STANDARD.encode([1; 32])).unwrap();
    PostgresVault::new(database.pool().clone(), master, Arc::new(SystemClock))
}

fn messages() -> Vec<String> {
    (0..MESSAGES).map(|nth| format!(r#",{{"role":"user","content":"{nth} {}"}}"#, "words ".repeat(200 + nth))).collect()
}

/// Three requests: one with half of the conversation, one with all of it, and one of somebody else.
async fn a_log_with_content(database: &TestDatabase) -> Vec<ContentRef> {
    let books = Books::open(Node::start(&database.database));
    let vault = vault(database);
    let messages = messages();
    let parts: Vec<&[u8]> = messages.iter().map(String::as_bytes).collect();
    let mut named = Vec::new();
    for (account, count) in [("acme", MESSAGES / 2), ("acme", MESSAGES), ("other", 1)] {
        let sealed = vault.seal(account, ContentKind::Chat, &parts[..count]).await.unwrap().unwrap();
        let Sealed { content, pieces } = sealed;
        books.node.keep(pieces).await;
        books.grant(account, 100).await;
        let mut request = accepted(account, "ann", "node-1", 10);
        request.prompt = Some(content.clone());
        books.accept(&format!("request-{}", named.len()), request).await;
        named.push(content);
    }
    named
}

async fn checked(database: &TestDatabase) -> (Verdict, String) {
    let scope =
        Scope { from: 1, to: None, saved: None, keys: vec![], balances: account_balance::AUDITED, contents: true };
    let report = verify(&database.database, &scope, |_| ()).await.unwrap();
    let line = report.lines.iter().find(|Line { what, .. }| *what == "contents").map(|line| line.text.clone());
    (report.verdict, line.unwrap_or_default())
}

async fn file_of(database: &TestDatabase) -> String {
    let mut file = Vec::new();
    export(&database.database, (1, None), &mut file, |_| ()).await.unwrap();
    String::from_utf8(file).unwrap()
}

async fn run(database: &TestDatabase, sql: &str) {
    assert_eq!(sqlx::query(sql).execute(database.pool()).await.unwrap().rows_affected(), 1, "{sql}");
}

#[tokio::test]
async fn a_log_is_verified_with_its_content_and_what_is_not_there_is_named() {
    let database = database().await;
    let named = a_log_with_content(&database).await;
    assert_eq!(checked(&database).await, (Verdict::Intact, "3 texts are kept as they were said".to_owned()));

    // What was erased is no loss, whether it is still there or not.
    let mut transaction = database.pool().begin().await.unwrap();
    destroy_subject(&mut transaction, "other", now()).await.unwrap();
    transaction.commit().await.unwrap();
    let erased = "2 texts are kept as they were said, 1 are erased";
    assert_eq!(checked(&database).await, (Verdict::Intact, erased.to_owned()));
    run(&database, "DELETE FROM contents WHERE subject = 'other'").await;
    assert_eq!(checked(&database).await, (Verdict::Intact, erased.to_owned()));

    // A piece of both others.
    let piece = "(SELECT hash FROM contents WHERE octet_length(bytes) > 100 ORDER BY octet_length(bytes) DESC LIMIT 1)";
    let list = named[1].hash;
    run(&database, &format!("DELETE FROM contents WHERE hash = '\\x{list}'")).await;
    let (verdict, _) = checked(&database).await;
    let Verdict::Incomplete(missing) = verdict else { panic!("{verdict:?}") };
    assert!(missing.contains("1 are not there, the first of position"), "{missing}");
    run(&database, &format!("UPDATE contents SET bytes = bytes || '\\x00' WHERE hash = {piece}")).await;
    let (verdict, _) = checked(&database).await;
    assert!(matches!(verdict, Verdict::Tampered(_)), "{verdict:?}");
}

#[tokio::test]
async fn a_copy_of_the_log_has_its_content_and_opens_with_the_same_keys() {
    let database = database().await;
    let named = a_log_with_content(&database).await;
    let file = file_of(&database).await;
    let copy = aihub_tests::database().await;
    restore(&copy.database, LogFile::open(file.as_bytes()).unwrap(), |_| ()).await.unwrap();
    assert_eq!(file_of(&copy).await, file, "the same file comes out of it");
    let lines = file.lines().filter(|line| line.starts_with("{\"content\"")).count();
    assert!(lines < MESSAGES + 10, "what is named twice is there once: {lines}");

    for table in ["subjects", "subject_keys"] {
        let rows = format!("SELECT coalesce(json_agg(t), '[]')::text FROM {table} t");
        let rows: String = sqlx::query_scalar(&rows).fetch_one(database.pool()).await.unwrap();
        let insert = format!("INSERT INTO {table} SELECT * FROM json_populate_recordset(null::{table}, $1::json)");
        sqlx::query(&insert).bind(rows).execute(copy.pool()).await.unwrap();
    }
    for content in &named {
        let text = vault(&database).open(content).await.unwrap();
        assert_eq!(vault(&copy).open(content).await.unwrap(), text);
    }
}

#[tokio::test]
async fn no_piece_of_content_in_a_file_can_be_changed_left_out_or_added() {
    let database = database().await;
    a_log_with_content(&database).await;
    let file = file_of(&database).await;
    let read = |text: &str| -> Result<(), AuditError> {
        let mut file = LogFile::open(text.as_bytes())?;
        while file.next_event()?.is_some() {}
        file.finish().map(drop)
    };
    read(&file).unwrap();
    let lines: Vec<&str> = file.split_inclusive('\n').collect();
    let contents: Vec<usize> = (0..lines.len()).filter(|nth| lines[*nth].starts_with("{\"content\"")).collect();
    for nth in &contents {
        let without: String =
            lines.iter().enumerate().filter(|(other, _)| other != nth).map(|(_, line)| *line).collect();
        assert!(read(&without).is_err(), "without line {nth}");
        let at = lines[*nth].find("\"bytes\":\"").unwrap() + 9;
        let mut changed = lines[*nth].as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let text: String =
            lines.iter().enumerate().map(|(other, line)| if other == *nth { changed.as_str() } else { line }).collect();
        assert!(read(&text).is_err(), "line {nth} changed");
        let twice: String = lines
            .iter()
            .enumerate()
            .map(|(other, line)| if other == *nth { line.repeat(2) } else { (*line).to_owned() })
            .collect();
        assert!(read(&twice).is_err(), "line {nth} twice");
    }
}

#[tokio::test]
async fn an_account_whose_prompts_are_not_kept_is_served_like_any_other() {
    let app = TestApp::start(|config| {
        let keep = |keep: &str| serde_json::from_value(json!({ "keep": keep, "retention_days": null })).unwrap();
        config.content.kinds.insert(ContentKind::Chat, keep("none"));
        config.content.kinds.insert(ContentKind::Embedding, keep("hash"));
    })
    .await;
    let mut ann = app.connect("ann").await;
    ann.ask(&chat("a", "Tell me of the sea")).await.done();
    ann.ask(&json!({ "id": "b", "type": "embedding", "input": ["of the sea"] })).await;
    ann.ask(&with(chat("c", "kept"), &json!({ "type": "completion" }))).await.done();
    let audit = app.audit().await;
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM contents").fetch_one(app.database.pool()).await.unwrap();
    assert_eq!(kept, 2, "the completion's prompt and answer");
    let prompts: Vec<_> = audit.requests.values().map(|request| request.accepted.prompt.clone()).collect();
    assert_eq!(prompts.iter().flatten().count(), 2);
    let (verdict, line) = checked(&app.database).await;
    assert_eq!((verdict, line.as_str()), (Verdict::Intact, "2 texts are kept as they were said, of 1 only a hash"));
}
