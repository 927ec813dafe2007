//! Who signs what the log is stands in the log first: a node with another key spoils nothing.

use std::process::Stdio;

use aihub_application::ports::clock::SystemClock;
use aihub_domain::audit_key::{AuditKeyEvent, KeyIntroduction};
use aihub_infrastructure::audit::{
    AuditError, checkpoint,
    note::{SigningKey, VerifierKey},
    signers::Signers,
    verify::{Report, Scope, Verdict, verify},
};
use aihub_projections::account_balance;
use aihub_tests::{TestDatabase, app::TestApp, client::chat, until_ok};
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::process::Command;

use super::notices;

fn key(byte: u8) -> SigningKey {
    SigningKey::from_base64("aihub", &STANDARD.encode([byte; 32])).unwrap()
}

async fn make(database: &TestDatabase, key: &SigningKey) -> Result<String, AuditError> {
    Ok(checkpoint::make(&database.database, key, &SystemClock).await?.unwrap().1)
}

async fn verified(database: &TestDatabase, keys: Vec<VerifierKey>) -> Report {
    let scope = Scope { from: 1, to: None, saved: None, keys, contents: true, balances: account_balance::AUDITED };
    verify(&database.database, &scope, |_| ()).await.unwrap()
}

#[tokio::test]
async fn a_node_with_another_audit_key_signs_nothing_says_so_and_the_log_stays_intact() {
    let app = TestApp::start(|config| config.audit.checkpoint_interval_ms = 100).await;
    app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await.done();
    until_ok("the log is signed", async || {
        let latest = checkpoint::latest(app.database.pool()).await.unwrap();
        latest.map(drop).ok_or(())
    })
    .await;
    let foreign = TestApp::try_start(&app.database, &app.providers, SystemClock, |config| {
        config.audit.checkpoint_interval_ms = 100;
        config.audit.signing_key = Some(aihub::auth::secret::Secret::new(STANDARD.encode([9; 32])));
    });
    let foreign = foreign.await.unwrap();
    until_ok("it is told", async || {
        let notices = notices(&foreign).await;
        if notices.contains("signs no checkpoints") && notices.contains("audit.signing_key") {
            Ok(())
        } else {
            Err(notices)
        }
    })
    .await;
    foreign.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await.done();
    foreign.stop().await;
    let database = app.database.clone();
    app.stop().await;
    let report = verified(&database, vec![key_of_the_tests()]).await;
    assert_eq!(report.verdict, Verdict::Intact);
}

fn key_of_the_tests() -> VerifierKey {
    SigningKey::from_base64("aihub", "dGhlIHRlc3RzJyBzaWduaW5nIGtleSwgMzIgYnl0ZXM=").unwrap().verifier()
}

#[tokio::test]
async fn of_two_nodes_with_different_keys_the_first_is_the_logs() {
    let (database, _books) = crate::audit::a_log().await;
    let (one, other) = (key(1), key(2));
    let (by_one, by_other) = tokio::join!(make(&database, &one), make(&database, &other));
    let refused: Vec<_> = [by_one, by_other].into_iter().filter_map(Result::err).collect();
    assert!(matches!(&refused[..], [AuditError::ForeignKey { .. }]), "{refused:?}");
    let signers = Signers::of_log(database.pool()).await.unwrap();
    assert_eq!(signers.all().len(), 1);
    let report = verified(&database, vec![signers.current().unwrap().clone()]).await;
    assert_eq!(report.verdict, Verdict::Intact);
}

/// `aihub audit change-key`, on a machine with this key and the former one.
async fn change_key(database: &TestDatabase, key: u8, former: Option<u8>) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aihub-under-test"));
    command.env_clear().env("DATABASE_URL", &database.options.url);
    command.env("AIHUB__AUDIT__SIGNING_KEY", STANDARD.encode([key; 32]));
    if let Some(former) = former {
        command.env("AIHUB__AUDIT__FORMER_SIGNING_KEY", STANDARD.encode([former; 32]));
    }
    let arguments = ["audit", "change-key", "--reason", "a new year", "--actor", "ops"];
    let output = command.args(arguments).stdin(Stdio::null()).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

#[tokio::test]
async fn a_change_of_the_key_is_an_event_and_what_the_former_one_signed_still_counts() {
    let (database, _books) = crate::audit::a_log().await;
    make(&database, &key(1)).await.unwrap();
    // A former key that is not named, or is another one.
    let (code, said) = change_key(&database, 2, None).await;
    assert!(code != 0 && said.contains("audit.former_signing_key"), "{said}");
    let (code, said) = change_key(&database, 2, Some(3)).await;
    assert!(code != 0 && said.contains("not the key that signs this log"), "{said}");
    let (code, said) = change_key(&database, 2, Some(1)).await;
    assert!(code == 0 && said.contains("signs from position"), "{said}");
    // The former one signs nothing any more.
    assert!(matches!(make(&database, &key(1)).await, Err(AuditError::ForeignKey { .. })));
    // Who knows the new key, and who knows the old one only: it has endorsed the new one.
    for known in [2, 1] {
        let report = verified(&database, vec![key(known).verifier()]).await;
        assert_eq!(report.verdict, Verdict::Intact, "{known}");
        let line = report.lines.iter().find(|line| line.what == "keys").unwrap();
        assert!(line.text.contains(&key(2).verifier().to_string()), "{line:?}");
    }
    let report = verified(&database, vec![key(4).verifier()]).await;
    assert!(matches!(report.verdict, Verdict::Tampered(_)), "{:?}", report.verdict);
}

#[tokio::test]
async fn a_key_that_somebody_wrote_into_the_log_is_not_believed_without_an_endorsement() {
    let (database, _books) = crate::audit::a_log().await;
    make(&database, &key(1)).await.unwrap();
    let forged = AuditKeyEvent::AuditKeyIntroduced(KeyIntroduction {
        key: key(6).verifier().to_string(),
        endorsement: Some(key(6).endorse(&key(6).verifier())),
        actor: "ops".to_owned(),
        reason: "believe me".to_owned(),
        introduced_at: aihub_tests::books::now(),
    });
    let insert =
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                  VALUES ('audit_key', 'checkpoints', 2, 'AuditKeyIntroduced', '1.0', $1::text::json, '{}')";
    sqlx::query(insert).bind(serde_json::to_string(&forged).unwrap()).execute(database.pool()).await.unwrap();
    make(&database, &key(6)).await.unwrap();
    let report = verified(&database, vec![key(1).verifier()]).await;
    assert!(matches!(report.verdict, Verdict::Tampered(_)), "{:?}", report.verdict);
}
