//! Whoever waits for a workflow hears of it: over HTTP, on a server of their own, and from the log afterwards.

use std::time::{Duration, Instant};

use aihub_infrastructure::webhooks::deliveries::redeliver;
use aihub_tests::{app::TestApp, receiver::Receiver, until};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{DOOR, ended, show, start, workflow};

#[tokio::test]
async fn a_status_is_waited_for_until_the_workflow_or_one_of_its_videos_changes() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "video_time_ms": 1_000 }));
    let id = start(&app, &workflow("enhance", "a calm sea")).await;
    let (path, token) = (format!("{DOOR}/{id}"), app.token("ada"));
    // Each answer comes with a tag of its own, and the end without having been asked for all the time.
    let (mut tag, mut tags, mut seen) = ("none".to_owned(), Vec::new(), Vec::new());
    loop {
        let (status, headers, answer) = app.get_if(&format!("{path}?wait=30"), &token, &tag).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        tag = headers["etag"].to_str().unwrap().to_owned();
        assert!(!tags.contains(&tag), "{tag} again: {answer}");
        tags.push(tag.clone());
        seen.push(answer["videos"][0]["state"].as_str().unwrap_or("none").to_owned());
        if answer["status"] != "processing" {
            assert_eq!(answer["status"], "completed", "{answer}");
            break;
        }
    }
    assert!(seen.iter().any(|state| state == "rendering"), "its video's own changes are told: {seen:?}");
    let (status, _, _) = app.get_if(&path, &token, &tag).await;
    assert_eq!(status, StatusCode::NOT_MODIFIED);
    let began = Instant::now();
    assert_eq!(app.get_if(&format!("{path}?wait=30"), &token, &tag).await.0, StatusCode::NOT_MODIFIED);
    assert!(began.elapsed() < Duration::from_secs(20), "nothing comes after the end");
    let (status, _, refused) = app.get(&format!("{path}?wait=long"), Some(&token)).await;
    assert_eq!((status, &refused["code"]), (StatusCode::BAD_REQUEST, &json!("VALIDATION_ERROR")));
}

#[tokio::test]
async fn the_end_of_a_workflow_is_told_to_its_owners_server_beside_the_ends_of_its_videos() {
    let app = TestApp::start(|config| {
        config.webhooks.allow_private = true;
        config.workflows.types.get_mut("translate").unwrap().steps[0].output["prompt"] =
            json!({ "type": "string", "pattern": "^never this$" });
    })
    .await;
    let mut receiver = Receiver::start().await;
    let (_, secret) = app.send(Method::GET, "/api/webhooks/secret", &app.token("ada"), None, &[]).await;
    let secret = secret["secret"].as_str().unwrap();
    let told = |kind: &str| {
        let mut body = workflow(kind, "a calm sea");
        body["webhookUrl"] = json!(receiver.url);
        body
    };
    let (completed, failed) = (told("enhance"), told("translate"));

    let id = start(&app, &completed).await;
    let answer = ended(&app, &id).await;
    let messages = [receiver.next(secret).await, receiver.next(secret).await];
    let of =
        |kind: &str| messages.iter().find(|message| message["type"] == kind).unwrap_or_else(|| panic!("{messages:?}"));
    assert_eq!(of("video.completed")["data"]["workflowId"], json!(id));
    let data = &of("workflow.completed")["data"];
    for field in ["workflowId", "status", "steps", "creditsUsed", "completedAt"] {
        assert_eq!(data[field], answer[field], "{field}");
    }
    assert!(data["videos"][0]["url"].is_string(), "{data}");
    // On demand once more, as it would be told now.
    assert!(redeliver(app.database.pool(), &id).await.unwrap());
    assert_eq!(receiver.next(secret).await["type"], "workflow.completed");

    let id = start(&app, &failed).await;
    let message = receiver.next(secret).await;
    assert_eq!((&message["type"], &message["data"]["workflowId"]), (&json!("workflow.failed"), &json!(id)));
    assert_eq!(message["data"]["error"]["step"], "translate", "{message}");

    app.providers.rule(json!({ "hang_late": true }));
    let id = start(&app, &completed).await;
    until("its video is made", async || (show(&app, &id).await["videos"][0]["state"] == "rendering").then_some(()))
        .await;
    app.post(&format!("{DOOR}/{id}/cancel"), &app.token("ada"), &json!({})).await;
    let mut types = [receiver.next(secret).await, receiver.next(secret).await].map(|message| message["type"].clone());
    types.sort_by_key(ToString::to_string);
    assert_eq!(types, ["video.cancelled", "workflow.cancelled"]);

    until("all of it is listed as delivered", async || {
        let (_, _, listed) = app.get("/api/webhooks/deliveries", Some(&app.token("ada"))).await;
        let listed = listed["deliveries"].as_array()?;
        (listed.len() == 5 && listed.iter().all(|one| one["state"] == "delivered")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_workflow_is_shown_as_it_stood_then_and_what_has_changed_since() {
    let app = TestApp::start(|_| {}).await;
    let id = start(&app, &workflow("enhance", "a calm sea at sunset")).await;
    ended(&app, &id).await;
    let begun = "SELECT position FROM events WHERE aggregate_type = 'workflow' AND event_type = 'StepStarted' LIMIT 1";
    let begun: i64 = sqlx::query_scalar(begun).fetch_one(app.database.pool()).await.unwrap();
    let replay = async |more: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_aihub-under-test"));
        let command = command.env_clear().env("DATABASE_URL", &app.database.options.url).current_dir(&directory);
        let command = command.args(["replay", "--as-of", &begun.to_string(), "--workflow", &id]).args(more);
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = replay(&[]).await;
    for line in [
        "status                       \"running\"",
        "workflow_type                \"enhance\"",
        "account                      \"ada\"",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(shown.contains("step enhance") && !shown.contains("sealed"), "{shown}");
    let diff = replay(&["--diff"]).await;
    assert!(diff.contains("\"running\" -> \"completed\""), "{diff}");
    let changed = diff.split_once("since then").unwrap().1;
    assert!(changed.contains("step make") && !changed.contains("account "), "{changed}");
}
