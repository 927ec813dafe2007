//! The table of bad days of videos, `simulated_providers/cases/videos.toml`, through the whole service.

use aihub_infrastructure::simulated_providers::cases::{self, Case};
use aihub_tests::{app::TestApp, until_ok};
use futures::future::join_all;
use serde_json::{Value, json};

use super::{generate, video};

/// How a job ends, or stands for as long as nobody decides.
async fn outcome(app: &TestApp, user: &str, id: &str) -> Value {
    until_ok(&format!("{user} ends or waits for an operator"), async || {
        let (_, _, answer) = app.get(&format!("/api/mcp/sora2/status/{id}"), Some(&app.token(user))).await;
        if answer["status"] != "processing" || answer["state"] == "in_doubt" { Ok(answer) } else { Err(answer) }
    })
    .await
}

/// What a table's meaning comes to for the client: the state, or the error's code.
fn expected(case: &Case) -> &str {
    let (asked, says) = (case.video.as_deref().unwrap(), case.says.as_str());
    match asked.split_once(' ').unwrap().1 {
        // Whether the job is there nobody can say, and its provider says the same whenever it is asked.
        "create" if says.ends_with("made: yes") || says.ends_with("made: perhaps") => "in_doubt",
        "create" if says.starts_with("error InvalidRequest") => "rejected_by_provider",
        "create" if says.starts_with("error ModelUnavailable") => "all_providers_failed",
        // An unknown word may mean anything: the file is fetched at the deadline, and is there.
        "status" if says == "completed" || says.starts_with("unclear") => "completed",
        "status" => says.strip_prefix("failed ").unwrap_or("expired"),
        "content" if says.starts_with("file") => "unusable_video",
        // Asked again for as long as a job may wait, a film that is made may take, or a file may not be there.
        _ => "expired",
    }
}

#[tokio::test]
async fn every_bad_day_of_videos_ends_in_a_film_that_is_charged_or_costs_nothing() {
    let cases: Vec<&Case> =
        cases::of_videos().iter().filter(|case| case.video.as_deref().unwrap().starts_with("openai")).collect();
    let app = TestApp::start(|config| {
        let (videos, sora) = (&mut config.videos, config.video_providers.remove("sora").unwrap());
        (videos.deadline_ms, videos.recover_after_ms, videos.whole_within_ms) = (10_000, 500, 2_000);
        (videos.max_wait_ms, videos.storing_ms, videos.poll_ms) = (6_000, 12_000, 100);
        // A provider each: what one of them says makes nobody else wait.
        for nth in 0..cases.len() {
            let mut sora = sora.clone();
            sora.simulated = true;
            config.video_providers.insert(format!("sora-{nth}"), sora);
        }
    })
    .await;
    app.providers.rule(json!({ "video_time_ms": 100 }));
    let (app, all) = (&app, cases.iter().enumerate());
    let outcomes = join_all(all.map(async |(nth, case)| {
        let user = case.name.to_lowercase();
        let mut asked = video(&case.name);
        asked["provider"] = format!("sora-{nth}").into();
        asked["model"] = format!("{}{}", cases::PREFIX, case.name).into();
        asked["fallback"] = false.into();
        let id = generate(app, &user, &asked).await;
        (user.clone(), case, outcome(app, &user, &id).await)
    }))
    .await;
    let audit = app.audit().await;
    let mut wrong = vec![];
    for (user, case, answer) in outcomes {
        let state = answer["state"].as_str().unwrap();
        let told = answer["error"]["code"].as_str().unwrap_or(state);
        if told != expected(case) {
            wrong.push(format!("{}: {told}, not {}: {answer}", case.name, expected(case)));
        }
        let account = &audit.accounts[&user];
        assert_eq!(account.spent > 0, state == "completed", "{}: {answer}", case.name);
        assert_eq!(account.held() > 0, state == "in_doubt", "{}: {answer}", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
