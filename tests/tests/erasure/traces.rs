//! After an erasure there is nothing to be found: not in a table, not in a file of the database, not in its write-ahead
//! log, not in what the process wrote, and no key that would open what is sealed.

use std::{path::Path, process::Stdio, time::SystemTime};

use aihub_application::ports::{
    clock::SystemClock,
    vault::{ContentVault, VaultError},
};
use aihub_infrastructure::vault::{PostgresVault, master_key::MasterKey};
use aihub_tests::{
    TestDatabase,
    app::{auth, token, variables},
    audit::Audit,
    client::{Client, chat},
    database,
    providers::Providers,
    until,
};
use chrono::TimeDelta;
use sqlx::PgPool;
use tokio::process::Command;

use crate::privacy::{disguises, dump};

const MARKER: &str = "wallcreeper5150";
const MASTER_KEY: &str = "dGhlIHRlc3RzJyBtYXN0ZXIga2V5LCAzMiBieXRlcyE=";

/// The files under `dir` that were written since `since` and have any of `needles` in them.
async fn files_with(dir: &Path, needles: &[String], since: SystemTime) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        // Files and directories may come and go meanwhile: other tests have databases in the same server.
        let Ok(mut entries) = tokio::fs::read_dir(&dir).await else { continue };
        while let Some(entry) = entries.next_entry().await.unwrap() {
            let Ok(metadata) = entry.metadata().await else { continue };
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else if metadata.is_file() && metadata.modified().unwrap() >= since {
                let mut grep = Command::new("grep");
                grep.args(["-q", "-a", "-i", "-F"]);
                for needle in needles {
                    grep.arg("-e").arg(needle);
                }
                if grep.arg(entry.path()).stderr(Stdio::null()).status().await.unwrap().success() {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

async fn data_directory(pool: &PgPool) -> String {
    sqlx::query_scalar("SHOW data_directory").fetch_one(pool).await.unwrap()
}

async fn aihub(database: &TestDatabase, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aihub-under-test"));
    command.env_clear().env("DATABASE_URL", &database.options.url).args(arguments);
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn no_plaintext_and_no_key_of_an_erased_subject_is_left_anywhere() {
    let since = SystemTime::now();
    let (database, providers) = (database().await, Providers::start().await);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| std::fs::File::create(dir.path().join(name)).unwrap();
    let mut variables = variables(&database, &providers);
    variables.extend([
        ("RUST_LOG".to_owned(), "debug,sqlx=trace".to_owned()),
        ("AIHUB__SERVER__DATA_DIR".to_owned(), dir.path().join("data").display().to_string()),
    ]);
    let mut service = Command::new(env!("CARGO_BIN_EXE_aihub-under-test"));
    service.env_clear().envs(variables).stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
    let mut service = service.kill_on_drop(true).spawn().unwrap();
    let address = until("it listens", async || {
        let said = std::fs::read_to_string(dir.path().join("stdout")).unwrap();
        said.split_once("http://")?.1.split_whitespace().next()?.parse().ok()
    })
    .await;
    let mut ann = Client::connect(address, &token(&auth(), "ann", "acme", TimeDelta::hours(1))).await;
    let answer = ann.ask(&chat("a", &format!("Tell me about the {MARKER}"))).await;
    answer.done();
    assert!(answer.text().contains(MARKER), "there is something to be found: {}", answer.text());

    let prompt = Audit::of(database.pool()).await.request().accepted.prompt.clone().unwrap();
    let vault = || {
        PostgresVault::new(
            database.pool().clone(),
            MasterKey::from_base64(MASTER_KEY).unwrap(),
            std::sync::Arc::new(SystemClock),
        )
    };
    let opened = String::from_utf8(vault().open(&prompt).await.unwrap()).unwrap();
    assert!(opened.contains(MARKER), "before, whoever has the master key can read it");

    let said = aihub(&database, &["erase", "--subject", "acme", "--reason", "asked for"]).await;
    assert!(said.contains("1 keys destroyed"), "{said}");
    assert!(matches!(vault().open(&prompt).await, Err(VaultError::Erased)));
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM subject_keys WHERE wrapped_key IS NOT NULL")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!(kept, 0, "not with the master key either");
    let audit = Audit::of(database.pool()).await;
    let outcome = audit.request().outcome();
    assert!(matches!(vault().open(outcome.answer.as_ref().unwrap()).await, Err(VaultError::Erased)));

    let id = service.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    service.wait().await.unwrap();
    let needles = disguises(MARKER);
    let dump = dump(database.pool()).await;
    assert!(needles.iter().all(|needle| !dump.contains(needle)), "in a table");
    let written = files_with(dir.path(), &needles, SystemTime::UNIX_EPOCH).await;
    assert!(written.is_empty(), "in what the process wrote: {written:?}");
    assert!(std::fs::metadata(dir.path().join("stderr")).unwrap().len() > 1_000, "it did write something");
    sqlx::query("CHECKPOINT").execute(database.pool()).await.unwrap();
    let files = files_with(Path::new(&data_directory(database.pool()).await), &needles, since).await;
    assert!(files.is_empty(), "in the database's files: {files:?}");
    assert!(aihub(&database, &["audit", "trail", "--account", "acme"]).await.contains("subject erased"));
}
