//! A workflow's whole life.

use aihub_tests::{app::TestApp, client::microcredits};
use reqwest::StatusCode;
use serde_json::json;

use super::{ended, names, start, workflow};
use crate::privacy::{disguises, dump};

#[tokio::test]
async fn a_prompt_is_enhanced_and_the_video_is_made_from_what_the_model_wrote() {
    let app = TestApp::start(|_| {}).await;
    let id = start(&app, &workflow("enhance", "a calm sea at sunset")).await;
    let answer = ended(&app, &id).await;
    assert_eq!(answer["status"], "completed", "{answer}");
    assert_eq!(names(&answer), [("enhance", "completed"), ("make", "completed")]);
    let enhanced = answer["steps"][0]["output"]["prompt"].as_str().unwrap();
    assert_eq!(enhanced, "simulated sunset");
    let made = app.providers.simulator.videos();
    assert_eq!(made.iter().map(|video| video.prompt.as_str()).collect::<Vec<_>>(), [enhanced]);

    let video = &answer["videos"][0];
    assert_eq!((&video["status"], &video["workflowId"]), (&json!("completed"), &json!(id)), "{answer}");
    assert_eq!(answer["steps"][1]["videoIds"], json!([video["videoId"]]));
    let client = &app.http;
    let response = client.get(video["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let film = re_mp4::Mp4::read_bytes(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(film.tracks().len(), 1);

    // The text is a request like any other, and what was used is what the account was charged.
    let audit = app.audit().await;
    let request = &audit.requests[answer["steps"][0]["requestId"].as_str().unwrap()];
    assert_eq!(request.accepted.user, "ada");
    let texts = microcredits(&answer["steps"][0]["credits"]);
    assert!(texts > 0, "{answer}");
    assert_eq!(audit.accounts["ada"].spent, microcredits(&answer["creditsUsed"]));
    assert_eq!((audit.accounts["ada"].spent, audit.accounts["ada"].held()), (texts + 400_000_000, 0));
}

#[tokio::test]
async fn a_storyboard_becomes_one_video_for_each_of_its_shots() {
    let app = TestApp::start(|_| {}).await;
    let id = start(&app, &workflow("storyboard", "the life of a lighthouse keeper")).await;
    let answer = ended(&app, &id).await;
    assert_eq!(answer["status"], "completed", "{answer}");
    let shots = answer["steps"][0]["output"]["shots"].as_array().unwrap().len();
    assert_eq!((shots, answer["videos"].as_array().unwrap().len()), (2, 2), "{answer}");
    for video in answer["videos"].as_array().unwrap() {
        assert_eq!(video["status"], "completed", "{answer}");
    }
    assert_eq!(app.providers.simulator.videos().len(), 2);
}

#[tokio::test]
async fn each_step_works_on_what_the_steps_before_have_made() {
    let app = TestApp::start(|_| {}).await;
    let body = json!({
        "workflowType": "translate", "prompt": "eine ruhige See", "language": "Icelandic", "style": "film noir",
        "duration": 4, "aspectRatio": "9:16",
    });
    let id = start(&app, &body).await;
    let answer = ended(&app, &id).await;
    assert_eq!(names(&answer), [("translate", "completed"), ("enhance", "completed"), ("make", "completed")]);
    assert_eq!(answer["steps"][0]["output"]["prompt"], "simulated see");
    assert_eq!(answer["steps"][1]["output"]["prompt"], "simulated see");
    assert_eq!(answer["videos"][0]["aspectRatio"], "9:16");
    let id = start(&app, &workflow("social", "a calm sea at sunset")).await;
    let answer = ended(&app, &id).await;
    assert_eq!(names(&answer), [("enhance", "completed"), ("make", "completed"), ("describe", "completed")]);
    assert_eq!(answer["steps"][2]["output"]["title"], "simulated sunset", "{answer}");
}

#[tokio::test]
async fn what_was_written_stands_in_clear_in_no_table() {
    let marker = "zebrafinch7391";
    let app = TestApp::start(|_| {}).await;
    let mut body = workflow("social", &format!("tell all about the {marker}"));
    body["style"] = json!(format!("{marker} style"));
    body["language"] = json!(marker);
    let id = start(&app, &body).await;
    let answer = ended(&app, &id).await;
    assert!(answer["steps"][2]["output"].to_string().contains(marker), "the answers have it too: {answer}");
    let dump = dump(app.database.pool()).await.to_lowercase();
    assert!(dump.contains("workflowcompleted"));
    for disguise in disguises(marker) {
        assert!(!dump.contains(&disguise.to_lowercase()), "{disguise}");
    }
}
