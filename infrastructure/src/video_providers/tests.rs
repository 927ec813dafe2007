//! The adapters with their real HTTP client against a real server that answers with recorded traffic.

use std::time::Duration;

use aihub_application::ports::{
    provider::FailureKind,
    video_provider::{Download, JobState, JobStatus, Recovery, SubmitError, Variant, VideoCall, VideoProvider},
};
use aihub_domain::video::format::{AspectRatio, Resolution};
use chrono::DateTime;
use futures::TryStreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    code_of,
    openai::{OpenAiVideoOptions, OpenAiVideoProvider},
    veo::VeoProvider,
    xai::XaiVideoProvider,
};
use crate::providers::{
    http::ProviderHttp,
    json::Json,
    tests::replay::{End, Recorded, Seen, Server, json_file, recorded},
};

const MADE_AT: i64 = 1_758_941_485;

fn openai(settings: &ProviderHttp) -> OpenAiVideoProvider {
    OpenAiVideoProvider::new(settings, OpenAiVideoOptions::default()).unwrap()
}

pub(super) fn call() -> VideoCall {
    VideoCall {
        token: "0190-token".into(),
        model: "sora-2-pro".into(),
        prompt: "a calm ocean wave at sunset".into(),
        style: None,
        seconds: 8,
        resolution: Resolution::P720,
        aspect_ratio: AspectRatio::Wide,
    }
}

/// A job as OpenAI's documentation shows it, with some of its fields changed.
fn video(name: &str, changes: &Value) -> Value {
    let mut video = json_file("openai/videos-constructed.json")[name].clone();
    video.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    video
}

fn answers(answers: impl IntoIterator<Item = Value>) -> Vec<(Recorded, End)> {
    answers.into_iter().map(|answer| (Recorded::json(200, answer.to_string()), End::Close)).collect()
}

fn header<'a>(seen: &'a Seen, name: &str) -> &'a str {
    seen.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

async fn read(file: Download) -> Vec<u8> {
    file.content.try_collect::<Vec<_>>().await.unwrap().concat()
}

/// A recording whose URLs lead to `server` instead of `host`.
fn at_home(recording: &Recorded, host: &str, base_url: &str) -> Recorded {
    let mut answer = recording.clone();
    answer.body = answer.body.replace(host, base_url);
    for (_, value) in &mut answer.headers {
        *value = value.replace(host, base_url);
    }
    answer
}

#[tokio::test]
async fn openai_is_sent_a_form_with_the_token_in_its_headers() {
    let mut server = Server::start(answers([video("create", &json!({}))])).await;
    let call = VideoCall { style: Some("watercolour".into()), ..call() };
    let id = openai(&server.settings()).submit(&call).await.unwrap();
    assert_eq!(id, "video_68d7512d07848190b3e45da0ecbebcde004da08e1e0678d5");
    let seen = server.seen().await;
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/videos"));
    assert!(header(&seen, "content-type").starts_with("multipart/form-data; boundary="));
    assert_eq!(header(&seen, "authorization"), "Bearer sk-test");
    assert_eq!((header(&seen, "idempotency-key"), header(&seen, "x-client-request-id")), ("0190-token", "0190-token"));
    let form = seen.body.as_str().unwrap();
    for (name, value) in [
        ("prompt", "a calm ocean wave at sunset\n\nStyle: watercolour"),
        ("model", "sora-2-pro"),
        ("seconds", "8"),
        ("size", "1280x720"),
    ] {
        assert!(form.contains(&format!("form-data; name=\"{name}\"\r\n\r\n{value}\r\n--")), "{name} in {form}");
    }
}

#[tokio::test]
async fn openai_tells_progress_when_to_ask_again_and_every_end() {
    let mut running = Recorded::json(200, video("in_progress", &json!({})).to_string());
    running.headers.push(("openai-poll-after-ms".into(), "2500".into()));
    let mut all = vec![(running, End::Close)];
    all.extend(answers([
        video("create", &json!({ "progress": null })),
        video("completed", &json!({})),
        video("failed", &json!({})),
        video("failed", &json!({ "error": { "code": 500, "message": "a calm ocean" } })),
        video("failed", &json!({ "error": null })),
        video("failed", &json!({ "status": "expired" })),
    ]));
    all.push((Recorded::json(404, r#"{"error":{"message":"no such video"}}"#), End::Close));
    let mut server = Server::start(all).await;
    let provider = openai(&server.settings());
    let failed = |code: &str| JobState::Failed { code: code.into() };
    let running = |progress| JobState::Running { progress };
    let mut poll_after = Some(Duration::from_millis(2_500));
    for state in [
        running(Some(33)),
        running(None),
        JobState::Completed,
        failed("moderation_blocked"),
        failed("500"),
        failed("unknown"),
        failed("expired"),
        JobState::Gone,
    ] {
        let poll_after = poll_after.take();
        assert_eq!(provider.status("video/../1").await.unwrap(), JobStatus { state, poll_after });
        assert_eq!(server.seen().await.path, "/videos/video%2F..%2F1");
    }
}

#[tokio::test]
async fn a_job_is_read_whatever_is_odd_about_what_nobody_needs() {
    let cases = [
        (
            json!({ "status": "COMPLETED", "created_at": "now", "size": 7, "progress": "50", "error": "none" }),
            JobState::Completed,
        ),
        (json!({ "status": "succeeded", "progress": {} }), JobState::Completed),
        (json!({ "status": "In-Progress", "progress": "50%" }), JobState::Running { progress: Some(50) }),
        (json!({ "status": "error", "error": "content_policy" }), JobState::Failed { code: "content_policy".into() }),
        (json!({ "status": "failed", "error": "It was about a sunset." }), JobState::Failed { code: "unknown".into() }),
        (json!({ "status": "mulling" }), JobState::Unclear { word: "mulling".into() }),
    ];
    let server = Server::start(answers(cases.clone().map(|(changes, _)| video("in_progress", &changes)))).await;
    let provider = openai(&server.settings());
    for (changes, state) in cases {
        assert_eq!(provider.status("v").await.unwrap().state, state, "{changes}");
    }
}

#[tokio::test]
async fn an_answer_that_said_yes_is_never_taken_for_a_no_and_an_error_in_a_200_is_one() {
    let long = "x".repeat(1_000);
    let all = [
        json!({ "id": long }),
        json!({ "id": 7 }),
        json!({ "id": "a b" }),
        json!({ "error": { "message": "no", "code": "model_not_found" } }),
    ];
    let server = Server::start(answers(all)).await;
    let provider = openai(&server.settings());
    assert_eq!(provider.submit(&call()).await.unwrap(), long);
    assert_eq!(provider.submit(&call()).await.unwrap(), "7");
    let unnamed = provider.submit(&call()).await.unwrap_err();
    assert!(unnamed.in_doubt && unnamed.said_yes);
    let refused = provider.submit(&call()).await.unwrap_err();
    assert_eq!((refused.error.kind, refused.in_doubt), (FailureKind::ModelUnavailable, false));
}

#[tokio::test]
async fn a_lookup_compares_what_is_meant_and_takes_one_id_for_one_job() {
    let like = |id: &str, changes: Value| {
        let mut video = video("completed", &changes);
        video["id"] = id.into();
        video
    };
    let page = |data: Vec<Value>, has_more: bool| json!({ "data": data, "has_more": has_more });
    let server = Server::start(answers([
        page(
            vec![
                json!("odd"),
                like("cut-prompt", json!({ "prompt": "a calm ocean wave at…" })),
                like(
                    "spaced",
                    json!({ "prompt": "a calm  ocean wave\nat sunset", "model": "openai/sora-2-pro", "size": "720p" }),
                ),
            ],
            true,
        ),
        page(vec![like("spaced", json!({}))], false),
    ]))
    .await;
    let since = DateTime::from_timestamp(MADE_AT, 0).unwrap();
    let found = openai(&server.settings()).find(&call(), since).await.unwrap();
    let found: Vec<_> = found.iter().map(|found| (found.provider_job_id.as_str(), found.is_certain)).collect();
    assert_eq!(found, [("cut-prompt", true), ("spaced", true)]);
}

#[tokio::test]
async fn openai_sends_files_and_a_thumbnail_where_it_has_one() {
    let file = |content_type: &str| Recorded {
        status: 200,
        headers: vec![("content-type".into(), content_type.into()), ("content-length".into(), "300".into())],
        body: "x".repeat(300),
    };
    let all = [file("video/mp4"), file("image/webp"), file("video/mp4"), Recorded::json(404, "{}")];
    let mut server = Server::start(all.map(|answer| (answer, End::Close)).into()).await;
    let provider = openai(&server.settings());
    let video = provider.download("video_1", Variant::Video).await.unwrap().unwrap();
    assert_eq!((video.content_type.as_deref(), video.content_length), (Some("video/mp4"), Some(300)));
    assert_eq!(read(video).await.len(), 300);
    let seen = server.seen().await;
    assert_eq!((seen.path.as_str(), seen.query.as_deref()), ("/videos/video_1/content", None));
    assert_eq!(header(&seen, "authorization"), "Bearer sk-test");

    assert!(provider.download("video_1", Variant::Thumbnail).await.unwrap().is_some());
    assert_eq!(server.seen().await.query.as_deref(), Some("variant=thumbnail"));
    assert!(
        provider.download("video_1", Variant::Thumbnail).await.unwrap().is_none(),
        "the variant was not understood"
    );
    assert!(provider.download("video_1", Variant::Thumbnail).await.unwrap().is_none());
}

#[tokio::test]
async fn a_file_that_stands_still_or_is_torn_is_a_failure() {
    let half = Recorded { status: 200, headers: vec![("content-length".into(), "900".into())], body: "x".repeat(300) };
    let server = Server::start(vec![(half.clone(), End::Hang), (half, End::Tear)]).await;
    let mut settings = server.settings();
    settings.idle_timeout = Duration::from_millis(50);
    for kind in [FailureKind::Timeout, FailureKind::Connection] {
        let file = openai(&settings).download("video_1", Variant::Video).await.unwrap().unwrap();
        assert_eq!(file.content.try_collect::<Vec<_>>().await.unwrap_err().kind, kind);
    }
}

#[tokio::test]
async fn a_job_is_ended_by_its_deletion_and_one_that_is_gone_has_ended() {
    let deleted = Recorded::json(200, json_file("openai/videos-constructed.json")["deleted"].to_string());
    let all = [deleted, Recorded::json(404, "{}"), Recorded::json(500, "{}")];
    let mut server = Server::start(all.map(|answer| (answer, End::Close)).into()).await;
    let provider = openai(&server.settings());
    provider.cancel("video_1").await.unwrap();
    let seen = server.seen().await;
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("DELETE", "/videos/video_1"));
    provider.cancel("video_1").await.unwrap();
    assert_eq!(provider.cancel("video_1").await.unwrap_err().kind, FailureKind::ServerError);
}

#[tokio::test]
async fn a_lookup_finds_all_that_may_be_the_job_and_reads_no_further_than_it_must() {
    let like = |id: &str, changes: Value| {
        let mut video = video("completed", &changes);
        video["id"] = id.into();
        video
    };
    let page = |data: Vec<Value>| json!({ "object": "list", "data": data, "has_more": true });
    let mut server = Server::start(answers([
        page(vec![
            like("shows-no-prompt", json!({ "prompt": null, "created_at": MADE_AT + 9 })),
            like("shows-no-length", json!({ "seconds": null })),
            like("other-prompt", json!({ "prompt": "a storm" })),
            like("other-model", json!({ "model": "sora-2" })),
            like("other-length", json!({ "seconds": "4" })),
            like("other-size", json!({ "size": "720x1280" })),
        ]),
        page(vec![
            like("full-name", json!({ "model": "sora-2-pro-2025-10-06", "seconds": 8 })),
            like("a-clock-behind", json!({ "created_at": MADE_AT - 300 })),
            like("too-old", json!({ "created_at": MADE_AT - 301 })),
        ]),
    ]))
    .await;
    let provider = openai(&server.settings());
    let since = DateTime::from_timestamp(MADE_AT, 900_000_000).unwrap();
    let found = provider.find(&call(), since).await.unwrap();
    let found: Vec<_> = found.iter().map(|found| (found.provider_job_id.as_str(), found.is_certain)).collect();
    let expected =
        [("shows-no-prompt", false), ("shows-no-length", false), ("full-name", true), ("a-clock-behind", true)];
    assert_eq!(found, expected);
    assert_eq!(server.seen().await.query.as_deref(), Some("limit=100&order=desc"));
    assert_eq!(server.seen().await.query.as_deref(), Some("limit=100&order=desc&after=other-size"));
}

#[tokio::test]
async fn a_lookup_that_cannot_see_everything_finds_nothing() {
    let page = json!({ "data": [video("completed", &json!({}))], "has_more": true });
    let server = Server::start(answers(vec![page; 20])).await;
    let since = DateTime::from_timestamp(MADE_AT, 0).unwrap();
    assert_eq!(openai(&server.settings()).find(&call(), since).await.unwrap_err().kind, FailureKind::Malformed);
    let server = Server::one(Recorded::json(404, "{}")).await;
    assert_eq!(openai(&server.settings()).find(&call(), since).await.unwrap_err().kind, FailureKind::Malformed);
}

#[tokio::test]
async fn a_submission_is_in_doubt_exactly_when_the_provider_may_have_taken_it() {
    let in_doubt = async |answer: Recorded, end: End, options: OpenAiVideoOptions| {
        let server = Server::start(vec![(answer, end)]).await;
        let mut settings = server.settings();
        settings.first_byte_timeout = Duration::from_millis(300);
        let provider = OpenAiVideoProvider::new(&settings, options).unwrap();
        let SubmitError { error, in_doubt, .. } = provider.submit(&call()).await.unwrap_err();
        assert!(!error.message.contains("sunset"), "{error}");
        in_doubt
    };
    let (once, again) = (OpenAiVideoOptions::default(), OpenAiVideoOptions { idempotent: true });
    for status in [302, 400, 401, 404, 409, 422, 429, 529] {
        assert!(!in_doubt(Recorded::json(status, "{}"), End::Close, once).await, "{status}");
    }
    // Something between may have passed it on.
    for status in [408, 500, 502, 503, 504, 520] {
        assert!(in_doubt(Recorded::json(status, "{}"), End::Close, once).await, "{status}");
    }
    assert!(in_doubt(Recorded::json(409, "{}"), End::Close, again).await, "the first try is at work");
    for unreadable in ["", "<html>", "{}", r#"{"id":""}"#, r#"{"id":"a b"}"#, r#"{"prompt":"sunset","id":".."}"#] {
        assert!(in_doubt(Recorded::json(200, unreadable), End::Close, once).await, "{unreadable}");
    }
    assert!(in_doubt(Recorded::json(200, r#"{"id":"#), End::Tear, once).await);
    assert!(in_doubt(Recorded::json(200, r#"{"id":"#), End::Hang, once).await);
}

#[tokio::test]
async fn a_submission_without_a_connection_is_not_in_doubt_and_one_without_an_answer_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = ProviderHttp::new(format!("http://{}/v1", listener.local_addr().unwrap()), None);
    settings.first_byte_timeout = Duration::from_millis(300);
    let silent = openai(&settings).submit(&call()).await.unwrap_err();
    assert_eq!((silent.error.kind, silent.in_doubt), (FailureKind::Timeout, true));
    let hang_up = async {
        loop {
            drop(listener.accept().await.unwrap());
        }
    };
    let torn = tokio::select! { torn = async { openai(&settings).submit(&call()).await } => torn, () = hang_up => unreachable!() };
    assert!(torn.unwrap_err().in_doubt);
    drop(listener);
    let refused = openai(&settings).submit(&call()).await.unwrap_err();
    assert_eq!((refused.error.kind, refused.in_doubt), (FailureKind::Connection, false));
}

#[tokio::test]
async fn veo_runs_an_operation_whose_file_is_one_redirect_away() {
    let host = "https://generativelanguage.googleapis.com";
    let recording: Vec<_> = recorded("gemini/veo-3.1-lite-video.json").into_iter().map(|(_, answer)| answer).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let home = |at: usize| at_home(&recording[at], host, &base_url);
    let order = [home(0), home(1), home(5), home(5), home(6), home(7)];
    let mut server = Server::start_on(listener, order.map(|answer| (answer, End::Close)).into());
    let mut settings = server.settings();
    settings.base_url.push_str("/v1beta");
    let provider = VeoProvider::new(&settings).unwrap();
    assert_eq!(provider.recovery(), Recovery::None);

    let call = VideoCall { model: "veo-3.1".into(), seconds: 4, resolution: Resolution::K4, ..call() };
    let name = provider.submit(&call).await.unwrap();
    let seen = server.seen().await;
    assert_eq!(seen.path, "/v1beta/models/veo-3.1:predictLongRunning");
    assert_eq!(header(&seen, "x-goog-api-key"), "sk-test");
    let parameters = json!({ "aspectRatio": "16:9", "resolution": "4k", "durationSeconds": 4 });
    assert_eq!(
        seen.body,
        json!({ "instances": [{ "prompt": "a calm ocean wave at sunset" }], "parameters": parameters })
    );

    let states = [JobState::Running { progress: None }, JobState::Completed];
    for state in states {
        assert_eq!(provider.status(&name).await.unwrap(), JobStatus { state, poll_after: None });
        assert_eq!(server.seen().await.path, "/v1beta/models/veo-3.1-lite-generate-preview/operations/umz7sqimep69");
    }
    let file = provider.download(&name, Variant::Video).await.unwrap().unwrap();
    assert_eq!(file.content_type.as_deref(), Some("video/mp4"));
    assert!(read(file).await.starts_with(b"base64:AAAAIGZ0eXBpc29t"));
    server.seen().await;
    for path in ["/v1beta/files/zqw12cp8qc38:download", "/download/v1beta/files/zqw12cp8qc38:download"] {
        let seen = server.seen().await;
        assert_eq!((seen.path.as_str(), header(&seen, "x-goog-api-key")), (path, "sk-test"));
    }
    assert!(provider.download(&name, Variant::Thumbnail).await.unwrap().is_none());
    provider.cancel(&name).await.unwrap();
}

#[tokio::test]
async fn veo_tells_why_there_is_no_video_without_its_words() {
    let done = |more: Value| {
        let mut operation = json!({ "name": "models/m/operations/o", "done": true });
        operation.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        operation
    };
    let generated = |response: Value| done(json!({ "response": { "generateVideoResponse": response } }));
    let reason = "your prompt about the sunset violates … Support codes: 58061214";
    let operations = [
        (done(json!({ "error": { "code": 3, "message": reason } })), "invalid_argument"),
        (done(json!({ "error": { "code": 99, "message": reason } })), "99"),
        (generated(json!({ "raiMediaFilteredCount": 1, "raiMediaFilteredReasons": [reason] })), "rai_media_filtered"),
        (generated(json!({})), "no_video"),
        (done(json!({})), "no_video"),
    ];
    let server = Server::start(answers(operations.clone().map(|(operation, _)| operation))).await;
    let provider = VeoProvider::new(&server.settings()).unwrap();
    for (operation, code) in operations {
        let state = provider.status("models/m/operations/o").await.unwrap().state;
        assert_eq!(state, JobState::Failed { code: code.into() }, "{operation}");
    }
}

#[tokio::test]
async fn a_second_redirect_and_one_to_plain_http_elsewhere_are_not_followed() {
    let to = |location: &str| {
        let mut answer = Recorded::json(302, "{}");
        answer.headers.push(("location".into(), location.into()));
        (answer, End::Close)
    };
    let mut elsewhere = Server::start(vec![]).await;
    let server = Server::start(vec![to("/twice"), to("/thrice"), to(&elsewhere.base_url)]).await;
    for _ in 0..2 {
        let failed = openai(&server.settings()).download("video_1", Variant::Video).await.err().unwrap();
        assert_eq!(failed.kind, FailureKind::Malformed);
    }
    assert!(elsewhere.saw_nothing());
}

#[tokio::test]
async fn xai_defers_a_generation_until_its_url_is_there() {
    let recording: Vec<_> =
        recorded("other/xai-grok-imagine-video.json").into_iter().map(|(_, answer)| answer).collect();
    let [accepted, pending, .., done, file] = &recording[..] else { panic!("too short") };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let done = at_home(done, "https://vidgen.x.ai", &base_url);
    let order = [accepted.clone(), pending.clone(), done.clone(), done, file.clone()];
    let mut server = Server::start_on(listener, order.map(|answer| (answer, End::Close)).into());
    let provider = XaiVideoProvider::new(&server.settings()).unwrap();

    let call = VideoCall { aspect_ratio: AspectRatio::Tall, model: "grok-imagine-video".into(), ..call() };
    let id = provider.submit(&call).await.unwrap();
    let seen = server.seen().await;
    assert_eq!((seen.path.as_str(), header(&seen, "authorization")), ("/videos/generations", "Bearer sk-test"));
    let expected = json!({
        "model": "grok-imagine-video", "prompt": "a calm ocean wave at sunset",
        "duration": 8, "aspect_ratio": "9:16", "resolution": "720p",
    });
    assert_eq!(seen.body, expected);
    for state in [JobState::Running { progress: Some(1) }, JobState::Completed] {
        assert_eq!(provider.status(&id).await.unwrap(), JobStatus { state, poll_after: None });
        assert_eq!(server.seen().await.path, "/videos/c84748c1-5ec7-9c62-b013-dc6e71a83de7");
    }
    let file = provider.download(&id, Variant::Video).await.unwrap().unwrap();
    assert!(read(file).await.starts_with(b"base64:"));
    assert!(provider.download(&id, Variant::Thumbnail).await.unwrap().is_none());
}

#[tokio::test]
async fn xai_has_failures_in_answers_that_are_successes() {
    let blocked = json!({ "status": "done", "video": { "url": "https://a/b", "respect_moderation": false } });
    let failed = json!({ "status": "failed", "error": { "code": "internal_error", "message": "…" } });
    let states = [
        (failed, JobState::Failed { code: "internal_error".into() }),
        (blocked, JobState::Failed { code: "moderation_blocked".into() }),
        (json!({ "status": "done" }), JobState::Failed { code: "no_video".into() }),
        (json!({ "status": "expired" }), JobState::Gone),
    ];
    let server = Server::start(answers(states.clone().map(|(answer, _)| answer))).await;
    let provider = XaiVideoProvider::new(&server.settings()).unwrap();
    for (answer, state) in states {
        assert_eq!(provider.status("r").await.unwrap().state, state, "{answer}");
    }
}

#[test]
fn a_failure_has_a_name_and_never_a_sentence() {
    for (code, name) in [
        (json!("Moderation-Blocked"), "moderation_blocked"),
        (json!("input.invalid"), "input_invalid"),
        (json!(500), "500"),
        (json!("the prompt says: sunset"), "unknown"),
        (json!("é"), "unknown"),
        (json!(""), "unknown"),
        (json!(null), "unknown"),
        (json!("x".repeat(65)), "unknown"),
    ] {
        let error = json!({ "code": code }).to_string();
        assert_eq!(code_of(Json::parse(&error).ok()), name);
    }
}
