//! Videos in the views: how each stands, and what becomes of them there.

mod filming;
mod money;
mod past;

use std::{collections::BTreeMap, sync::Arc};

use aihub_application::ports::event_log::NewEvent;
use aihub_domain::video::{
    VideoJob, VideoStatus,
    event::{ErasureReason, VideoEvent},
};
use aihub_infrastructure::event_store::{
    decode::entries,
    subscription::{EventHandler as _, SubscriptionError},
};
use aihub_projections::{
    provider_health,
    rebuild::{Rebuild, views},
    video_status::{self, Cursor, Filter, View, list, media_due},
};
use aihub_tests::{
    TestDatabase,
    books::now,
    database,
    log::{stream, unit, verified},
};
use chrono::{DateTime, TimeDelta, Utc};

pub use self::filming::film;
use self::filming::{Filming, at, complete, record, request, start, store};
use super::{assert_same, catch_up, copy, head, open_books, rows, run, trade};

async fn find(database: &TestDatabase, video_id: &str) -> video_status::VideoRow {
    video_status::find(database.pool(), video_id).await.unwrap().value.unwrap()
}

#[tokio::test]
async fn a_video_is_shown_with_what_became_of_it_and_without_what_was_written() {
    let database = database().await;
    let books = open_books(&database).await;
    film(&books, 0..9).await;
    run(&database, Arc::new(View)).await.unwrap();

    let shown = find(&database, "video-0").await;
    assert_eq!((shown.account.as_str(), shown.user_id.as_str(), shown.status.as_str()), ("acme", "ann", "completed"));
    assert_eq!((shown.requested_provider.as_str(), shown.requested_model.as_deref()), ("auto", None));
    // The first one refused.
    assert_eq!((shown.provider.as_deref(), shown.model.as_deref()), (Some("xai"), Some("imagine")));
    assert_eq!((shown.submissions, shown.provider_job_id.as_deref()), (2, Some("xai-job-2")));
    assert_eq!((shown.seconds, shown.resolution.as_str(), shown.aspect_ratio.as_str()), (8, "720p", "16:9"));
    assert_eq!((shown.priority.as_str(), shown.percent), ("standard", 100));
    assert_eq!((shown.reserved_microcredits, shown.charged_microcredits, shown.billed_seconds), (80, 80, Some(8)));
    assert_eq!((shown.cost_picousd, shown.price_id.as_deref()), (80_000_000, Some("xai/imagine@2026-11-22")));
    assert_eq!(
        (shown.bytes, shown.sha256.as_deref(), shown.codec.as_deref()),
        (Some(9_000), Some("00ff"), Some("avc1"))
    );
    assert_eq!((shown.width, shown.height, shown.duration_ms), (Some(1_280), Some(720), Some(7_960)));
    assert_eq!(shown.media_key.as_deref(), Some("video-0/video.mp4"));
    assert_eq!(shown.thumbnail_key.as_deref(), Some("video-0/thumbnail.jpg"));
    assert_eq!((shown.session_id.as_deref(), shown.workflow_id), (Some("session-0"), None));
    assert_eq!((shown.requested_at, shown.ended_at), (at(0), Some(at(0) + TimeDelta::minutes(2))));
    assert_eq!((shown.changed_at, shown.media_erased_at), (at(0) + TimeDelta::minutes(2), None));
    for (video_id, status, end_reason) in [
        ("video-1", "completed", None),
        ("video-2", "failed", Some("moderation_blocked")),
        ("video-3", "cancelled", None),
        ("video-4", "expired", Some("nobody took it in time")),
        ("video-5", "rendering", None),
        ("video-6", "in_doubt", None),
        ("video-7", "completed", None),
        ("video-8", "queued", None),
    ] {
        let video = find(&database, video_id).await;
        assert_eq!((video.status.as_str(), video.end_reason.as_deref()), (status, end_reason), "{video_id}");
        assert_eq!(video.ended_at.is_some(), end_reason.is_some() || ["completed", "cancelled"].contains(&status));
    }
    let short = find(&database, "video-1").await;
    assert_eq!((short.billed_seconds, short.charged_microcredits, short.reserved_microcredits), (Some(5), 50, 80));
    assert_eq!(find(&database, "video-5").await.percent, 40);
    assert!(find(&database, "video-7").await.media_erased_at.is_some());
    let unheard_of = video_status::find(database.pool(), "unheard of").await.unwrap();
    assert_eq!((unheard_of.position, unheard_of.value), (head(&database).await, None));
    let everything = rows(&database, &View).await.concat();
    assert!(!everything.contains("c2VhbGVk"), "no content");
}

#[tokio::test]
async fn at_every_step_a_row_says_what_the_aggregate_says() {
    let database = database().await;
    let books = open_books(&database).await;
    film(&books, 0..16).await;
    let mut jobs = BTreeMap::<String, VideoJob>::new();
    for entry in entries(verified(database.pool()).await) {
        let mut transaction = database.pool().begin().await.unwrap();
        View.apply(&mut transaction, std::slice::from_ref(&entry)).await.unwrap();
        transaction.commit().await.unwrap();
        if entry.aggregate_type != "video" {
            continue;
        }
        let job = jobs.entry(entry.aggregate_id.clone()).or_default();
        job.evolve(entry.event::<VideoJob>().unwrap());
        let row = find(&database, &entry.aggregate_id).await;
        assert_eq!(row.status, job.status().as_str());
        assert_eq!((row.percent, row.end_reason.as_deref()), (job.percent().into(), job.end_reason()));
        let submission = job.submission();
        assert_eq!(row.submissions.unsigned_abs(), submission.map_or(0, |last| last.number));
        assert_eq!(row.model.as_deref(), job.tried().map(|offer| offer.model.as_str()));
        assert_eq!(row.provider.as_deref(), submission.map(|last| last.provider.as_str()));
        assert_eq!(row.billed_seconds.map(i32::unsigned_abs), job.outcome().map(|outcome| outcome.seconds));
        assert_eq!((row.ended_at, Some(row.changed_at)), (job.ended_at(), job.changed_at()));
        assert_eq!(row.media_erased_at.is_some(), job.media_erased().is_some());
        assert_eq!(row.position.cast_unsigned(), entry.position);
    }
    assert_eq!(jobs.len(), 16);
}

#[tokio::test]
async fn the_pages_of_a_list_go_from_the_newest_to_the_oldest_and_nothing_new_moves_them() {
    let database = database().await;
    let books = open_books(&database).await;
    film(&books, 0..20).await;
    // At one and the same instant.
    for id in ["same-a", "same-b", "same-c"] {
        Filming::request(&books, id, request(3)).await;
    }
    run(&database, Arc::new(View)).await.unwrap();
    let list = async |filter: &Filter| list(database.pool(), filter).await.unwrap().value;
    let ids = |rows: &[video_status::VideoRow]| rows.iter().map(|row| row.video_id.clone()).collect::<Vec<_>>();
    let whole = Filter { limit: 100, ..Filter::default() };
    let all = list(&whole).await;
    assert_eq!(all.len(), 23);
    assert!(all.is_sorted_by(|one, next| (one.requested_at, &one.video_id) > (next.requested_at, &next.video_id)));

    let (mut pages, mut before, mut more) = (Vec::new(), None::<Cursor>, 20);
    loop {
        let page = list(&Filter { before: before.clone(), limit: 4, ..Filter::default() }).await;
        pages.extend(ids(&page));
        film(&books, more..more + 1).await;
        more += 1;
        run(&database, Arc::new(View)).await.unwrap();
        let Some(oldest) = page.last() else { break };
        // As it goes out and comes back.
        before = Some(oldest.cursor().to_string().parse().unwrap());
    }
    assert_eq!(pages, ids(&all));
    for wrong in ["", "5", "x_video-1", "9223372036854775807_video-1", "5_\0"] {
        assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
    }

    let to = Some(at(20));
    for (filter, expected) in [
        (Filter { account: Some("acme".to_owned()), ..Filter::default() }, vec!["video-18", "video-15", "video-12"]),
        (Filter { user: Some("ann".to_owned()), ..Filter::default() }, vec!["video-16", "video-12", "video-8"]),
        (Filter { statuses: Some(vec![VideoStatus::InDoubt]), ..Filter::default() }, vec!["video-15", "video-6"]),
        (Filter { session_id: Some("session-7".to_owned()), ..Filter::default() }, vec!["video-7"]),
        (Filter { workflow_id: Some("workflow-1".to_owned()), ..Filter::default() }, vec!["video-13", "video-9"]),
        (Filter { from: Some(at(17)), ..Filter::default() }, vec!["video-19", "video-18", "video-17"]),
        (Filter { account: Some("nobody".to_owned()), ..Filter::default() }, vec![]),
    ] {
        assert_eq!(ids(&list(&Filter { to, limit: 3, ..filter.clone() }).await), expected, "{filter:?}");
    }
}

#[tokio::test]
async fn media_are_due_when_they_are_old_or_their_account_was_erased_and_until_they_are_gone() {
    let database = database().await;
    let books = open_books(&database).await;
    // Of these, 0, 1, 9 and 10 have media; those of 7 and 16 are erased already.
    film(&books, 0..18).await;
    run(&database, Arc::new(View)).await.unwrap();
    let due =
        async |before: Option<DateTime<Utc>>, limit: u32| media_due(database.pool(), before, limit).await.unwrap();
    let ids = |due: &[video_status::MediaDue]| due.iter().map(|due| due.video_id.clone()).collect::<Vec<_>>();
    assert_eq!(due(None, 10).await, []);
    assert_eq!(ids(&due(Some(at(9)), 10).await), ["video-0", "video-1"]);
    assert_eq!(ids(&due(Some(now()), 3).await), ["video-0", "video-1", "video-9"]);
    sqlx::query("INSERT INTO subjects VALUES ('globex', now()), ('acme', NULL)")
        .execute(database.pool())
        .await
        .unwrap();
    let erased = due(None, 10).await;
    assert_eq!(ids(&erased), ["video-1", "video-10"]);
    assert!(erased.iter().all(|due| due.reason == ErasureReason::SubjectErased && due.account == "globex"));
    assert_eq!(erased[1].media_key, "video-10/video.mp4");
    assert_eq!(erased[1].thumbnail_key.as_deref(), Some("video-10/thumbnail.jpg"));
    let both = due(Some(at(9)), 10).await;
    assert_eq!(ids(&both), ["video-0", "video-1", "video-10"]);
    assert_eq!(both[0].reason, ErasureReason::Retention);
}

#[tokio::test]
async fn a_change_of_a_video_that_was_never_requested_stops_the_view() {
    let database = database().await;
    let books = open_books(&database).await;
    let last_good = head(&database).await;
    let mut orphan = stream("video-1", 0, 1);
    orphan.aggregate_type = "video";
    let event = VideoEvent::VideoProgressed { percent: 5, progressed_at: now() };
    orphan.events[0] = NewEvent::of(&event).unwrap();
    books.node.append(unit([orphan])).await.unwrap();
    let stopped = run(&database, Arc::new(View)).await.unwrap_err();
    let SubscriptionError::Stopped { position, error, .. } = stopped else { panic!("{stopped:?}") };
    assert!(position == last_good + 1 && error.contains("never requested"), "{error}");
}

#[tokio::test]
async fn views_with_videos_count_each_event_once_and_are_rebuilt_to_the_same_bytes() {
    let database = database().await;
    let books = open_books(&database).await;
    for from in [0, 20] {
        trade(&books, from..from + 20).await;
        film(&books, from..from + 20).await;
        catch_up(&database).await;
    }
    let events = entries(verified(database.pool()).await);
    for view in views().into_iter().filter(|view| view.name() != "access_log_v1") {
        let before = rows(&database, &*view).await;
        assert!(!before.is_empty());
        for batch in events.chunks(5) {
            let mut transaction = database.pool().begin().await.unwrap();
            view.apply(&mut transaction, batch).await.unwrap();
            transaction.commit().await.unwrap();
        }
        assert_same(view.name(), &rows(&database, &*view).await, &before);
        let rebuild = Rebuild::begin(&database.database, Arc::default(), view.clone()).await.unwrap();
        rebuild.run(|_| ()).await.unwrap();
        assert_same(view.name(), &rows(&database, &*view).await, &before);
    }
}

#[tokio::test]
async fn a_provider_is_as_healthy_as_its_videos_and_these_stand_apart_from_answers() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..10).await;
    film(&books, 0..9).await;
    let mut found = Filming::request(&books, "found", request(6)).await;
    for command in [start(0, 6), filming::doubt(1, 6), filming::deny(1, 6), start(0, 6), record("veo", 2, 6)] {
        found.then(command).await;
    }
    catch_up(&database).await;
    let hours = provider_health::report(database.pool(), DateTime::UNIX_EPOCH, now()).await.unwrap().value;
    let video =
        |provider: &'static str| hours.iter().filter(move |hour| hour.kind == "video" && hour.provider == provider);
    // 1 and 7 came, 0 was refused, 2 failed, and "found" was denied; 3 was cancelled, and 4 and 8 never came there.
    let sum = |count: fn(&provider_health::ProviderHealth) -> i64| video("veo").map(count).sum::<i64>();
    assert_eq!((sum(|hour| hour.called), sum(|hour| hour.answered)), (5, 2));
    let failures: Vec<&String> = video("veo").flat_map(|hour| hour.failed.keys()).collect();
    assert_eq!(failures, ["rate_limited", "moderation_blocked", "in_doubt"]);
    let xai: Vec<_> = video("xai").collect();
    // From the call on.
    assert_eq!((xai.len(), xai[0].answered, xai[0].p50_ms), (1, 1, Some(114_688)));
    assert!(hours.iter().any(|hour| hour.kind == "chat" && hour.provider == "openai"));
    let open = copy(&database, "SELECT video_id FROM provider_health_open_v1 ORDER BY 1").await;
    assert_eq!(open, ["found", "video-5", "video-6"]);
}
