//! The command line: what it exits with, and that what it writes verifies elsewhere.

use std::process::Stdio;

use aihub_infrastructure::os_user::os_user;
use aihub_tests::{TestDatabase, books::accepted};
use sqlx::Executor;
use tokio::process::Command;

use super::a_log;

/// What a command printed, and its exit code.
pub async fn aihub(database: Option<&TestDatabase>, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aihub-under-test"));
    command.env_clear().env("AIHUB__AUDIT__SIGNING_KEY", "dGhlIHRlc3RzJyBzaWduaW5nIGtleSwgMzIgYnl0ZXM=");
    command.env("AIHUB__CONTENT__MASTER_KEY", "dGhlIHRlc3RzJyBtYXN0ZXIga2V5LCAzMiBieXRlcyE=");
    if let Some(database) = database {
        command.env("DATABASE_URL", &database.options.url);
    }
    let output = command.args(arguments).stdin(Stdio::null()).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

pub async fn done(database: &TestDatabase, arguments: &[&str]) -> String {
    let (code, text) = aihub(Some(database), arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {text}");
    text
}

#[tokio::test]
async fn an_auditor_verifies_exports_and_proves_and_is_told_by_the_exit_code_what_is_wrong() {
    let (database, books) = a_log().await;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let note = done(&database, &["audit", "checkpoint"]).await;
    std::fs::write(path("saved"), &note).unwrap();
    books.accept("more", accepted("acme", "ann", "node", 10)).await;
    done(&database, &["audit", "checkpoint"]).await;
    let report = done(&database, &["audit", "verify", "--checkpoint", &path("saved")]).await;
    for line in
        ["1 to 43, contiguous", "2 agree, each with its signature", "goes on from there", "2 accounts", "intact"]
    {
        assert!(report.contains(line), "{line}: {report}");
    }

    let key = done(&database, &["audit", "key"]).await;
    done(&database, &["audit", "export", "--from", "3", &path("bundle")]).await;
    std::fs::write(path("proof"), done(&database, &["audit", "prove", "7"]).await).unwrap();
    for name in ["bundle", "proof"] {
        let (code, text) = aihub(None, &["audit", "verify-bundle", &path(name), "--key", key.trim()]).await;
        assert!(code == 0 && text.contains("intact"), "{text}");
    }
    let trail = done(&database, &["audit", "trail", "--request", "acme-1", "--json"]).await;
    assert!(trail.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{trail}");

    assert_eq!(aihub(Some(&database), &["audit", "verify", "--to", "4100"]).await.0, 3, "it is not there");
    assert_eq!(aihub(Some(&database), &["audit", "prove", "4100"]).await.0, 3);
    assert_eq!(aihub(None, &["audit", "verify-bundle", &path("nothing")]).await.0, 4);
    std::fs::write(path("saved"), note.replace("aihub\n39", "aihub\n38")).unwrap();
    assert_eq!(
        aihub(Some(&database), &["audit", "verify", "--checkpoint", &path("saved")]).await.0,
        4,
        "no checkpoint"
    );
    let bundle = std::fs::read_to_string(path("bundle")).unwrap();
    std::fs::write(path("bundle"), bundle.replacen("CreditsReserved", "CreditsRescued", 1)).unwrap();
    let (code, text) = aihub(None, &["audit", "verify-bundle", &path("bundle"), "--key", key.trim()]).await;
    assert!(code == 2 && text.contains("position 3"), "{text}");
    database
        .pool()
        .execute("ALTER TABLE events DISABLE TRIGGER ALL; UPDATE events SET event_version = '2' WHERE position = 9")
        .await
        .unwrap();
    let (code, text) = aihub(Some(&database), &["audit", "verify"]).await;
    assert!(code == 2 && text.contains("position 9"), "{text}");
    let nowhere = ("DATABASE_URL", "postgres://aihub@127.0.0.1:1/aihub");
    let mut command = Command::new(env!("CARGO_BIN_EXE_aihub-under-test"));
    let status = command.env_clear().env(nowhere.0, nowhere.1).args(["audit", "verify"]).output().await.unwrap().status;
    assert_eq!(status.code(), Some(4));
}

#[tokio::test]
async fn a_system_is_played_into_another_database_and_asked_about_the_past_and_a_subject_is_erased() {
    let (database, _books) = a_log().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log.jsonl").display().to_string();
    done(&database, &["replay", "--to", &file]).await;
    let copy = aihub_tests::database().await;
    let text = done(&database, &["replay", "--from", &file, "--database", &copy.options.url]).await;
    assert!(text.contains("account_balance_v1 is filled"), "{text}");
    assert!(done(&copy, &["audit", "verify"]).await.contains("2 accounts"));

    let then = done(&database, &["replay", "--as-of", "4", "--account", "acme"]).await;
    assert!(then.contains("as of position 4") && then.contains("held_microcredits            30"), "{then}");
    let diff = done(&database, &["replay", "--as-of", "4", "--account", "acme", "--diff"]).await;
    assert!(diff.contains("30 -> 0"), "{diff}");
    let request = done(&database, &["replay", "--as-of", "4", "--request", "acme-0"]).await;
    assert!(request.contains("\"accepted\""), "{request}");
    assert_eq!(aihub(Some(&database), &["replay", "--as-of", "1", "--request", "acme-0"]).await.0, 3);
    for beyond in ["1000000", "2999-01-01"] {
        let (code, said) = aihub(Some(&database), &["replay", "--as-of", beyond, "--account", "acme"]).await;
        assert!(code != 0 && (said.contains("the log ends at position") || said.contains("yet to come")), "{said}");
    }

    for (arguments, why) in [
        (["erase", "--subject", "acmee", "--reason", "asked for"], "no account acmee"),
        (["erase", "--subject", "acme", "--reason", " ."], "say why"),
    ] {
        let (code, said) = aihub(Some(&database), &arguments).await;
        assert!(code != 0 && said.contains(why), "{said}");
    }
    let erase = ["erase", "--subject", "acme", "--reason", "asked for", "--actor", "privacy"];
    assert!(done(&database, &erase).await.contains("recorded at position 46"));
    assert!(done(&database, &erase).await.contains("was erased at"));
    let trail = done(&database, &["audit", "trail", "--account", "acme"]).await;
    assert!(trail.contains("subject erased: actor privacy, reason asked for"), "{trail}");
    assert!(done(&database, &["audit", "verify"]).await.contains("intact"));
    assert!(done(&database, &["keys", "rotate"]).await.contains("0 keys"));
}

/// Who did what with which parameters, in the order of the log.
async fn uses(database: &TestDatabase) -> Vec<String> {
    let said = "SELECT concat_ws(' ', used ->> 'user', '@' || (used ->> 'account'), used ->> 'action', used ->> 'parameters')
                FROM (SELECT position, payload -> 'AccessRecorded' AS used FROM events WHERE aggregate_type = 'access') uses
                ORDER BY position";
    sqlx::query_scalar(said).fetch_all(database.pool()).await.unwrap()
}

#[tokio::test]
async fn what_is_looked_at_on_the_command_line_is_on_record_with_the_operating_systems_user_and_the_name_that_was_said()
{
    let (database, _books) = a_log().await;
    let me = os_user();
    for line in [
        &["report", "usage", "--month", "2024-10", "--group-by", "model"][..],
        &["report", "holds", "--actor", "fin", "--format", "json"],
        &["audit", "trail", "--account", "acme", "--actor", "ada"],
        &["audit", "verify"],
        &["account", "show", "--account", "acme"],
        &["replay", "--as-of", "4", "--account", "acme"],
        &["videos", "in-doubt"],
    ] {
        done(&database, line).await;
    }
    assert_eq!(
        uses(&database).await,
        [
            format!(r#"{me} @ report.usage {{"format":"csv","groupBy":"model","month":"2024-10"}}"#),
            format!(r#"fin @ report.holds {{"format":"json","osUser":"{me}"}}"#),
            format!(r#"ada @ audit.trail {{"account":"acme","osUser":"{me}"}}"#),
            format!(r#"{me} @ audit.verify {{"from":"1"}}"#),
            format!(r#"{me} @ account.show {{"account":"acme"}}"#),
            format!(r#"{me} @ replay.as-of {{"account":"acme","asOf":"4"}}"#),
            format!("{me} @ videos.in-doubt {{}}"),
        ]
    );
    let trail = done(&database, &["audit", "trail", "--user", "ada"]).await;
    assert!(trail.contains("access recorded: action audit.trail, parameters (account acme osUser"), "{trail}");
}

#[tokio::test]
async fn a_use_that_cannot_be_recorded_is_said_and_a_log_that_is_not_whole_is_left_as_it_is() {
    let (database, _books) = a_log().await;
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(database.pool()).await.unwrap();
    let read_only = |value: &str| format!("ALTER DATABASE {name} SET default_transaction_read_only = {value}");
    database.pool().execute(&*read_only("on")).await.unwrap();
    let told = done(&database, &["audit", "trail", "--account", "acme"]).await;
    assert!(told.contains("credits granted") && told.contains("this use is not in the access log"), "{told}");
    assert!(done(&database, &["audit", "verify"]).await.contains("this use is not in the access log"));
    let mut writer = database.pool().acquire().await.unwrap();
    writer.execute("SET default_transaction_read_only = off").await.unwrap();
    writer.execute(&*read_only("off")).await.unwrap();

    // The log has lost its end. It stays as short as it is, however often somebody looks.
    let note = done(&database, &["audit", "checkpoint"]).await;
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("saved").display().to_string();
    std::fs::write(&saved, note).unwrap();
    writer.execute("ALTER TABLE events DISABLE TRIGGER ALL; DELETE FROM events WHERE position > 35").await.unwrap();
    for _ in 0..4 {
        let (code, text) = aihub(Some(&database), &["audit", "verify", "--checkpoint", &saved]).await;
        assert!(code == 3 && text.contains("left as it is"), "{code} {text}");
    }
    // Nor by who looks at something else: a checkpoint has seen more, and so have the views.
    let told = done(&database, &["report", "trial-balance"]).await;
    assert!(told.contains("this use is not in the access log"), "{told}");
    assert_eq!(uses(&database).await, [""; 0]);
}
