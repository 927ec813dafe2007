//! Video providers that answer oddly: a server of `/v1/videos` that says whatever a test wants.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use aihub::{auth::secret::Secret, config::Config};
use aihub_application::{
    ports::clock::{Clock, SystemClock},
    videos::operator::Decision,
};
use aihub_domain::video::event::{Doubt, VideoEvent};
use aihub_tests::{
    app::{TestApp, variables},
    until,
};
use axum::{Router, body::Body, extract::Request, response::Response};
use futures::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    process::Command,
    time::{Duration, Instant},
};
use tokio_util::task::TaskTracker;

use super::{ended, generate, in_state, video};

/// What is asked for, and for the how many'th time, from 0.
type Say = Box<dyn Fn(&Method, &str, usize) -> Said + Send + Sync>;

enum Said {
    Json(u16, Value),
    File(Vec<u8>),
    /// These bytes, and then no more, and no end.
    Beginning(Vec<u8>),
}

struct Odd {
    base_url: String,
    /// `METHOD path`, and when.
    calls: Arc<std::sync::Mutex<Vec<(String, Instant)>>>,
}

impl Odd {
    async fn start(say: Say) -> Self {
        let calls: Arc<std::sync::Mutex<Vec<(String, Instant)>>> = Arc::default();
        let (seen, say) = (calls.clone(), Arc::new(say));
        let answer = move |request: Request| {
            let (seen, say) = (seen.clone(), say.clone());
            async move {
                let (method, path) = (request.method().clone(), request.uri().path().to_owned());
                let _ = axum::body::to_bytes(request.into_body(), 1 << 20).await;
                let call = format!("{method} {path}");
                let nth = {
                    let mut seen = seen.lock().unwrap();
                    seen.push((call.clone(), Instant::now()));
                    seen.iter().filter(|(other, _)| *other == call).count() - 1
                };
                match say(&method, &path, nth) {
                    Said::Json(status, body) => {
                        let mut response =
                            Response::builder().status(status).header("content-type", "application/json");
                        if status == 429 {
                            response = response.header("retry-after", "2");
                        }
                        response.body(Body::from(body.to_string())).unwrap()
                    }
                    Said::File(bytes) => film_of(Body::from(bytes)),
                    Said::Beginning(bytes) => {
                        let beginning = stream::iter([Ok::<_, Infallible>(bytes)]).chain(stream::pending());
                        film_of(Body::from_stream(beginning))
                    }
                }
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        TaskTracker::new().spawn(axum::serve(listener, Router::new().fallback(answer)).into_future());
        Self { base_url, calls }
    }

    fn count(&self, call: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(other, _)| other == call).count()
    }

    /// The service with this provider alone.
    async fn app(&self, change: impl FnOnce(&mut Config)) -> TestApp {
        TestApp::start(|config| {
            self.is_the_one_of(config);
            change(config);
        })
        .await
    }

    fn is_the_one_of(&self, config: &mut Config) {
        config.videos.recover_after_ms = 1_000;
        config.videos.whole_within_ms = 5_000;
        let sora = config.video_providers.get_mut("sora").unwrap();
        (sora.base_url, sora.api_key, sora.idempotent) = (Some(self.base_url.clone()), Some(Secret::new("k")), false);
        sora.timeouts.first_byte_ms = 900;
    }
}

fn film_of(body: Body) -> Response {
    Response::builder().header("content-type", "video/mp4").body(body).unwrap()
}

/// A film of four seconds.
async fn film() -> Vec<u8> {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "video_time_ms": 100 }));
    let id = generate(&app, "ada", &video("a film")).await;
    let url = ended(&app, "ada", &id).await["url"].as_str().unwrap().to_owned();
    let film = app.http.get(url).send().await.unwrap().bytes().await.unwrap().to_vec();
    app.stop().await;
    film
}

fn job(status: &str) -> Said {
    Said::Json(
        200,
        json!({ "id": "job-1", "status": status, "progress": "50", "error": "none", "created_at": "today" }),
    )
}

#[tokio::test]
async fn odd_words_types_and_files_that_are_not_there_yet_do_not_cost_a_finished_video() {
    let film = film().await;
    let odd = Odd::start(Box::new(move |method, path, nth| match (method, path) {
        (&Method::POST, _) => job("QUEUED"),
        (_, "/v1/videos/job-1") => job(if nth == 0 { "Processing" } else { "SUCCEEDED" }),
        // Nothing, a page, a half, and then the file; there is no thumbnail.
        (_, "/v1/videos/job-1/content") => Said::File(match nth {
            0 => vec![],
            1 => b"<html>not yet</html>".to_vec(),
            2 => film[..film.len() / 2].to_vec(),
            _ => film.clone(),
        }),
        _ => Said::Json(404, json!({})),
    }))
    .await;
    let app = odd.app(|_| {}).await;
    let id = generate(&app, "ada", &video("odd")).await;
    let answer = ended(&app, "ada", &id).await;
    assert_eq!(answer["status"], "completed", "{answer}");
    assert_eq!(odd.count("POST /v1/videos"), 1);
    app.stop().await;
}

#[tokio::test]
async fn a_yes_without_a_usable_name_is_never_submitted_again_and_waits_for_an_operator() {
    let odd = Odd::start(Box::new(|method, path, _| match (method, path) {
        (&Method::POST, _) => Said::Json(200, json!({ "id": "a b" })),
        (_, "/v1/videos") => Said::Json(200, json!({ "data": [] })),
        _ => Said::Json(404, json!({})),
    }))
    .await;
    let app = odd.app(|_| {}).await;
    let id = generate(&app, "ada", &video("unnamed")).await;
    in_state(&app, "ada", &id, "in_doubt").await;
    // Longer than lost ones are looked for after.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(odd.count("POST /v1/videos"), 1);
    let events = app.audit().await.videos[&id].events.clone();
    assert!(events.iter().any(|event| matches!(event, VideoEvent::SubmissionDoubted { doubt: Doubt::Unnamed, .. })));
    app.stop().await;
}

#[tokio::test]
async fn one_film_is_one_jobs_and_a_second_job_of_the_same_name_waits_for_an_operator() {
    let odd =
        Odd::start(Box::new(|method, _, _| if method == Method::POST { job("queued") } else { job("running") })).await;
    let app = odd.app(|_| {}).await;
    let first = generate(&app, "ada", &video("one")).await;
    in_state(&app, "ada", &first, "rendering").await;
    let second = generate(&app, "ada", &video("two")).await;
    in_state(&app, "ada", &second, "in_doubt").await;
    let events = app.audit().await.videos[&second].events.clone();
    assert!(events.iter().any(|event| matches!(event, VideoEvent::SubmissionDoubted { doubt: Doubt::NamedTwice, .. })));
    app.stop().await;
}

#[tokio::test]
async fn a_model_that_no_provider_has_and_an_error_in_a_200_end_a_job_at_once() {
    let errors = [
        Said::Json(404, json!({ "error": { "code": "model_not_found", "message": "no such model" } })),
        Said::Json(200, json!({ "error": { "code": "model_not_found", "message": "no such model" } })),
        Said::Json(302, json!({})),
    ];
    for error in errors {
        let Said::Json(status, body) = error else { panic!() };
        let odd = Odd::start(Box::new(move |_, _, _| Said::Json(status, body.clone()))).await;
        let app = odd.app(|_| {}).await;
        let id = generate(&app, "ada", &video("nobody makes")).await;
        let answer = ended(&app, "ada", &id).await;
        assert_eq!(answer["error"]["code"], "all_providers_failed", "{status}: {answer}");
        assert_eq!(odd.count("POST /v1/videos"), 1, "{status}");
        app.stop().await;
    }
}

#[tokio::test]
async fn a_provider_that_says_when_to_come_back_is_left_alone_until_then_by_all_jobs() {
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = polls.clone();
    let odd = Odd::start(Box::new(move |method, path, _| {
        if method == Method::POST {
            let id = format!("job-{}", counted.fetch_add(1, Ordering::SeqCst));
            return Said::Json(200, json!({ "id": id, "status": "queued" }));
        }
        let _ = path;
        Said::Json(429, json!({ "error": { "message": "slow down" } }))
    }))
    .await;
    let app = odd.app(|config| config.videos.poll_ms = 50).await;
    for user in ["ada", "ben", "eve"] {
        let id = generate(&app, user, &video("of each")).await;
        in_state(&app, user, &id, "rendering").await;
    }
    // Each job may have asked before it heard of the first refusal; then none until the provider's two seconds are over.
    let before = until("one asks again after a rest", async || {
        let calls = odd.calls.lock().unwrap();
        let polls: Vec<Instant> = calls.iter().filter(|(call, _)| call.starts_with("GET")).map(|(_, at)| *at).collect();
        let rested = polls.windows(2).position(|two| two[1] - two[0] > Duration::from_millis(1_500))?;
        Some(rested + 1)
    })
    .await;
    assert!((1..=9).contains(&before), "{before} polls");
    app.stop().await;
}

#[tokio::test]
async fn a_revoked_key_is_told_as_what_it_is_and_an_unknown_word_deletes_nothing() {
    for (status, body, reason) in [
        (401, json!({ "error": { "message": "revoked" } }), "its provider refuses our key"),
        (200, json!({ "id": "job-1", "status": "mulling" }), "did not say in known words"),
    ] {
        let odd = Odd::start(Box::new(move |method, _, _| match *method {
            Method::POST => job("queued"),
            Method::DELETE => Said::Json(200, json!({})),
            _ => Said::Json(status, body.clone()),
        }))
        .await;
        let app = odd.app(|config| config.videos.deadline_ms = 2_000).await;
        let id = generate(&app, "ada", &video("for ever")).await;
        let answer = ended(&app, "ada", &id).await;
        assert_eq!(answer["error"]["code"], "expired", "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(reason), "{answer}");
        // Whoever would still delete it is waited for.
        app.stop().await;
        assert_eq!(odd.count("DELETE /v1/videos/job-1"), 0, "{status}: it may be finished");
    }
}

#[tokio::test]
async fn a_file_that_is_there_is_fetched_though_its_provider_never_found_a_known_word_for_it() {
    let film = film().await;
    let odd = Odd::start(Box::new(move |method, path, _| match (method, path) {
        (&Method::POST, _) => job("queued"),
        (_, "/v1/videos/job-1") => job("mulling"),
        (_, "/v1/videos/job-1/content") => Said::File(film.clone()),
        _ => Said::Json(404, json!({})),
    }))
    .await;
    let app = odd.app(|config| config.videos.deadline_ms = 1_000).await;
    let id = generate(&app, "ada", &video("mulled over")).await;
    let answer = ended(&app, "ada", &id).await;
    assert_eq!(answer["status"], "completed", "{answer}");
    app.stop().await;
}

#[tokio::test]
async fn a_file_that_is_being_fetched_when_its_node_is_shut_down_is_fetched_by_the_next_one() {
    let film = film().await;
    let odd = Odd::start(Box::new(move |method, path, nth| match (method, path) {
        (&Method::POST, _) => job("queued"),
        (_, "/v1/videos/job-1") => job("completed"),
        (_, "/v1/videos/job-1/content") if nth == 0 => Said::Beginning(film[..film.len() / 2].to_vec()),
        (_, "/v1/videos/job-1/content") => Said::File(film.clone()),
        _ => Said::Json(404, json!({})),
    }))
    .await;
    let app = odd.app(|_| {}).await;
    let (database, providers) = (app.database.clone(), app.providers.clone());
    let id = generate(&app, "ada", &video("in the midst")).await;
    until("its file is asked for", async || (odd.count("GET /v1/videos/job-1/content") == 1).then_some(())).await;
    app.stop().await;
    let at_the_end = odd.calls.lock().unwrap().len();
    let next = TestApp::start_on(&database, &providers, |config| odd.is_the_one_of(config)).await;
    assert_eq!(ended(&next, "ada", &id).await["status"], "completed");
    assert!(odd.calls.lock().unwrap().len() > at_the_end);
    assert_eq!((odd.count("POST /v1/videos"), odd.count("DELETE /v1/videos/job-1")), (1, 0));
    next.stop().await;
}

/// Says yes and gives the job no name; it has it as `found`.
async fn nameless() -> Odd {
    let film = film().await;
    Odd::start(Box::new(move |method, path, _| match (method, path) {
        (&Method::POST, _) => Said::Json(200, json!({ "id": "" })),
        (_, "/v1/videos/found") => job("completed"),
        (_, "/v1/videos/found/content") => Said::File(film.clone()),
        _ => Said::Json(404, json!({})),
    }))
    .await
}

#[tokio::test]
async fn the_time_of_a_job_that_is_adopted_begins_anew() {
    let odd = nameless().await;
    let app = odd.app(|config| config.videos.deadline_ms = 1_000).await;
    let id = generate(&app, "ada", &video("late")).await;
    in_state(&app, "ada", &id, "in_doubt").await;
    let doubted_at = SystemClock.now();
    until("its deadline is over", async || {
        (SystemClock.now() - doubted_at > chrono::TimeDelta::milliseconds(1_200)).then_some(())
    })
    .await;
    let adopt = Decision::Adopt { provider_job_id: "found".to_owned() };
    app.hub.videos.jobs.decide(&*app.hub.videos.queue, &id, adopt, "operator").await.unwrap();
    assert_eq!(ended(&app, "ada", &id).await["status"], "completed");
    app.stop().await;
}

#[tokio::test]
async fn a_name_that_the_provider_does_not_know_is_not_adopted_and_the_right_one_is() {
    let odd = nameless().await;
    let app = odd.app(|_| {}).await;
    let id = generate(&app, "ada", &video("mistyped")).await;
    in_state(&app, "ada", &id, "in_doubt").await;
    let adopt = async |name: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_aihub-under-test"))
            .env_clear()
            .envs(variables(&app.database, &app.providers))
            .env("AIHUB__VIDEO_PROVIDERS__SORA__BASE_URL", &odd.base_url)
            .env("AIHUB__VIDEO_PROVIDERS__SORA__API_KEY", "k")
            .args(["videos", "adopt", &id, "--provider-job", name])
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let (done, said) = adopt("fuond").await;
    assert!(!done && said.contains("sora knows no job of the name \"fuond\""), "{said}");
    in_state(&app, "ada", &id, "in_doubt").await;
    let (done, said) = adopt("found").await;
    assert!(done, "{said}");
    assert_eq!(ended(&app, "ada", &id).await["status"], "completed");
    assert_eq!(odd.count("DELETE /v1/videos/found"), 0);
    app.stop().await;
}

#[tokio::test]
async fn lists_are_filtered_by_the_words_that_answers_use() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "hang_late": true }));
    let id = generate(&app, "ada", &video("waits")).await;
    in_state(&app, "ada", &id, "rendering").await;
    let page = async |query: &str| {
        let (_, _, page) = app.get(&format!("/api/mcp/sora2/videos?{query}"), Some(&app.token("ada"))).await;
        page["videos"].as_array().map(Vec::len)
    };
    until("the view has it", async || (page("status=processing").await == Some(1)).then_some(())).await;
    assert_eq!((page("state=rendering").await, page("status=failed").await), (Some(1), Some(0)));
    assert_eq!((page("status=processing&state=stored").await, page("status=lost").await), (Some(0), None));
    app.stop().await;
}
