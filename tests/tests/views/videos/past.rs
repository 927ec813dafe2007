//! What the log tells of a video afterwards: how it stood at a moment, and who did what.

use aihub_infrastructure::audit::{
    scan,
    trail::{TrailOf, entries, positions},
};
use aihub_tests::{TestDatabase, database};

use super::{Filming, at, complete, film, filming, record, request, start, store};
use crate::views::{catch_up, head, open_books, trade};

/// What a command line says on the database, as a process of its own, and its exit code.
async fn aihub(database: &TestDatabase, line: &[&str]) -> (i32, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_aihub-under-test"));
    let dir = tempfile::tempdir().unwrap();
    let command = command.env_clear().env("DATABASE_URL", &database.options.url).current_dir(dir.path()).args(line);
    let output = command.output().await.unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn a_video_is_shown_as_it_stood_then_and_what_has_changed_since() {
    let database = database().await;
    let books = open_books(&database).await;
    let mut video = Filming::request(&books, "v", request(0)).await;
    video.then(start(0, 0)).await;
    video.then(record("veo", 1, 0)).await;
    let then = head(&database).await.to_string();
    video.then(store("v", 8_000, 0)).await;
    video.end(complete(0)).await;

    let (code, shown) = aihub(&database, &["replay", "--as-of", &then, "--video", "v"]).await;
    assert_eq!(code, 0, "{shown}");
    for line in [
        "status                       \"rendering\"",
        "account                      \"acme\"",
        "reserved_microcredits        80",
        "prices                       [\"veo/veo-4@2026-11-22\",\"xai/imagine@2026-11-22\"]",
        "video submitted",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(shown.contains("provider_job_id\":\"veo-job-1\"") && !shown.contains("c2VhbGVk"), "{shown}");
    assert!(!shown.contains("video stored"), "{shown}");
    let (code, diff) = aihub(&database, &["replay", "--as-of", &then, "--video", "v", "--diff"]).await;
    assert!(code == 0 && diff.contains("\"rendering\" -> \"completed\"") && diff.contains("0 -> 100"), "{diff}");
    let changed = diff.split_once("since then").unwrap().1;
    assert!(!changed.contains("account ") && changed.contains("outcome"), "{changed}");
    assert_eq!(aihub(&database, &["replay", "--as-of", "1", "--video", "v"]).await.0, 3, "not yet");
    assert_eq!(aihub(&database, &["replay", "--as-of", &then, "--video", "v", "--request", "v"]).await.0, 2);
}

#[tokio::test]
async fn a_trail_tells_who_did_what_to_a_video_with_its_money_and_the_log_is_intact() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..12).await;
    film(&books, 0..9).await;
    let mut doubtful = Filming::request(&books, "doubtful", request(10)).await;
    for command in [start(0, 10), filming::doubt(1, 10), filming::deny(1, 10)] {
        doubtful.then(command).await;
    }
    let mut connection = scan::connect(&database.database).await.unwrap();
    let mut trail = async |of: TrailOf| {
        let found = positions(&mut connection, &of, 1, 10_000).await.unwrap();
        entries(&mut connection, &found).await.unwrap()
    };
    let of_video = trail(TrailOf::Request("video-0".to_owned())).await;
    let names: Vec<_> = of_video.iter().map(|entry| entry.event.as_str()).collect();
    let expected = "CreditsReserved VideoRequested SubmissionStarted SubmissionRefused SubmissionStarted VideoSubmitted \
                    VideoStored CreditsSettled VideoCompleted";
    assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
    let told = of_video.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for fact in [
        "video requested: account acme",
        "reserved 0.00008 credits",
        "price id xai/imagine@2026-11-22",
        "failure rate_limited, provider veo, status 429",
        "video (bytes 9000 codec avc1",
        "seconds 8",
    ] {
        assert!(told.contains(fact), "{fact}: {told}");
    }
    assert!(!told.contains("c2VhbGVk") && !told.contains(&at(0).to_rfc3339()), "{told}");

    // Every third is of globex, and so is the doubtful one.
    let of_account = trail(TrailOf::Account("globex".to_owned())).await;
    let videos = of_account.iter().filter(|entry| entry.aggregate_type == "video");
    let ids: std::collections::BTreeSet<_> = videos.map(|entry| entry.aggregate_id.as_str()).collect();
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), ["doubtful", "video-1", "video-4", "video-7"]);
    let of_user = trail(TrailOf::User("ann".to_owned())).await;
    assert!(of_user.iter().any(|entry| entry.event == "VideoExpired" && entry.aggregate_id == "video-4"));
    assert!(of_user.iter().any(|entry| entry.event == "MediaErased" && entry.aggregate_id == "video-7"));
    let of_operator = trail(TrailOf::User("ops".to_owned())).await;
    assert!(of_operator.iter().any(|entry| entry.to_string().contains("submission denied: actor ops")));
    assert!(of_operator.iter().all(|entry| entry.aggregate_id == "doubtful"));

    catch_up(&database).await;
    let (code, line) = aihub(&database, &["audit", "trail", "--video", "video-2"]).await;
    assert!(code == 0 && line.contains("video failed") && line.contains("code moderation_blocked"), "{line}");
    let (code, verdict) = aihub(&database, &["audit", "verify"]).await;
    assert!(code == 0 && verdict.contains("3 accounts") && verdict.contains("intact"), "{verdict}");
    let (code, report) = aihub(&database, &["report", "trial-balance", "--format", "watermark"]).await;
    assert!(code == 0 && report.contains("\"usage_difference_credits\": \"0\""), "{report}");
}
