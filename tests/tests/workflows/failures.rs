//! A step that fails names itself, and what was made stays.

use aihub::config::workflows::StepSettings;
use aihub_tests::{app::TestApp, client::microcredits};
use serde_json::json;

use super::{ended, names, start, workflow};

#[tokio::test]
async fn a_step_that_fails_after_the_video_was_made_leaves_the_video_usable() {
    let app = TestApp::start(|config| {
        let steps = &mut config.workflows.types.get_mut("social").unwrap().steps;
        steps[2].model = Some("gpt-6.1-sol".to_owned());
    })
    .await;
    for model in ["gpt-6.1-sol", "claude-sonnet-5-5"] {
        app.providers.rule(json!({ "model": model, "fail_before": { "kind": "server_error" } }));
    }
    let id = start(&app, &workflow("social", "a calm sea")).await;
    let answer = ended(&app, &id).await;
    assert_eq!(answer["status"], "failed", "{answer}");
    assert_eq!(names(&answer), [("enhance", "completed"), ("make", "completed"), ("describe", "failed")]);
    assert_eq!(
        (&answer["error"]["step"], &answer["error"]["code"]),
        (&json!("describe"), &json!("ALL_PROVIDERS_FAILED")),
        "{answer}"
    );
    assert_eq!(answer["steps"][2]["attempts"], 3, "it was tried again");
    assert!(answer["steps"][0]["output"]["prompt"].is_string() && answer["videos"][0]["url"].is_string(), "{answer}");
    let audit = app.audit().await;
    assert_eq!(audit.accounts["ada"].spent, microcredits(&answer["creditsUsed"]));
}

#[tokio::test]
async fn an_answer_that_is_not_what_was_asked_for_is_asked_for_once_more() {
    // The simulated model writes the last word that it was told: first the prompt's, then the fault's.
    let change = |pattern: &'static str| {
        move |config: &mut aihub::config::Config| {
            let steps: &mut Vec<StepSettings> = &mut config.workflows.types.get_mut("enhance").unwrap().steps;
            steps[0].output["prompt"] = json!({ "type": "string", "pattern": pattern });
        }
    };
    let app = TestApp::start(change("^simulated (?!sunset)[a-z0-9]{1,300}$")).await;
    let answer = ended(&app, &start(&app, &workflow("enhance", "a calm sea at sunset")).await).await;
    assert_eq!((&answer["status"], &answer["steps"][0]["attempts"]), (&json!("completed"), &json!(2)), "{answer}");
    let audit = app.audit().await;
    assert_eq!(audit.accounts["ada"].spent, microcredits(&answer["creditsUsed"]), "both answers are paid for");

    let app = TestApp::start(change("^never this$")).await;
    let answer = ended(&app, &start(&app, &workflow("enhance", "a calm sea at sunset")).await).await;
    assert_eq!(answer["status"], "failed", "{answer}");
    let error = &answer["error"];
    assert_eq!((&error["step"], &error["code"]), (&json!("enhance"), &json!("INVALID_OUTPUT")), "{answer}");
    assert!(error["message"].as_str().unwrap().contains("/properties/prompt/pattern"), "{answer}");
    assert_eq!(app.providers.calls().len(), 2);
    assert!(app.providers.simulator.videos().is_empty());
}

#[tokio::test]
async fn a_shot_that_cannot_be_paid_for_is_named_and_the_others_are_made() {
    let app = TestApp::start(|_| {}).await;
    // 800 credits a shot, and 1,000 to begin with.
    let body = json!({ "workflowType": "storyboard", "prompt": "a calm sea", "duration": 8 });
    let answer = ended(&app, &start(&app, &body).await).await;
    assert_eq!((&answer["status"], &answer["error"]["step"]), (&json!("failed"), &json!("make")), "{answer}");
    assert_eq!(answer["error"]["code"], "INSUFFICIENT_CREDITS");
    assert!(answer["error"]["message"].as_str().unwrap().contains("video 2 of 2 was refused"), "{answer}");
    assert_eq!(answer["videos"][0]["status"], "completed", "{answer}");
    // Its own event tells it. The user was refused nothing.
    let database = app.database.clone();
    app.stop().await;
    let refusals = "SELECT count(*) FROM events WHERE aggregate_type = 'refusal'";
    assert_eq!(sqlx::query_scalar::<_, i64>(refusals).fetch_one(database.pool()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_video_that_fails_fails_its_step_and_is_named() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "model": "sora-2", "fail_late": true, "video_time_ms": 200, "times": 1 }));
    let answer = ended(&app, &start(&app, &workflow("storyboard", "a calm sea")).await).await;
    assert_eq!((&answer["status"], &answer["error"]["code"]), (&json!("failed"), &json!("VIDEO_FAILED")), "{answer}");
    let ends: Vec<_> = answer["videos"].as_array().unwrap().iter().map(|video| video["status"].clone()).collect();
    assert!(ends.contains(&json!("failed")) && ends.contains(&json!("completed")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("moderation_blocked"), "{answer}");
    let audit = app.audit().await;
    assert_eq!(audit.accounts["ada"].spent, microcredits(&answer["creditsUsed"]));
}
