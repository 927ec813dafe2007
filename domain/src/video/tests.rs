mod any_order;

use std::collections::BTreeMap;

use chrono::TimeDelta;
use cqrs_es::DomainEvent;

use super::{
    event::{Priority, StoredMedia},
    format::{AspectRatio, Resolution},
    price::VideoPrice,
    *,
};
use crate::{
    content::{ContentKind, tests::reference},
    money::{Microcredits, PicoUsd},
};

/// A thousand credits a dollar.
const RATE: MicrocreditsPerUsd = MicrocreditsPerUsd(1_000_000_000);
const AT: DateTime<Utc> = DateTime::UNIX_EPOCH;

fn offer(provider: &str, picousd_per_second: i64) -> Offer {
    Offer {
        provider: provider.into(),
        model: format!("{provider}-video"),
        upstream_model: format!("{provider}-video-001"),
        seconds: None,
        price: VideoPrice {
            id: format!("{provider}/{provider}-video@2026-11-22"),
            per_second: BTreeMap::from([
                (Resolution::P720, PicoUsd(picousd_per_second)),
                (Resolution::P1080, PicoUsd(picousd_per_second * 2)),
            ]),
            valid_from: AT,
            valid_until: None,
            source: "test".into(),
        },
    }
}

/// 8 seconds at 0.30 dollars at most: 2.4 dollars, 2,400 credits.
fn request() -> VideoRequest {
    VideoRequest {
        account: "acme".into(),
        user: "ada".into(),
        provider: "auto".into(),
        model: None,
        seconds: 8,
        resolution: Resolution::P720,
        aspect_ratio: AspectRatio::Wide,
        priority: Priority::Standard,
        offers: vec![offer("openai", 100_000_000_000), offer("veo", 300_000_000_000)],
        reserved_microcredits: Microcredits(2_400_000_000),
        queued_until: AT + TimeDelta::minutes(5),
        session_id: Some("s1".into()),
        workflow_id: None,
        has_webhook: true,
        content: reference(ContentKind::Video),
        requested_at: AT,
    }
}

fn media(duration_ms: Option<u64>) -> Box<Media> {
    let file = |key: &str, content_type: &str, duration_ms| StoredMedia {
        key: key.into(),
        content_type: content_type.into(),
        bytes: 4_096,
        sha256: "00ff".into(),
        width: 1_280,
        height: 720,
        duration_ms,
        codec: duration_ms.map(|_| "avc1".into()),
    };
    Box::new(Media {
        video: file("v/video.mp4", "video/mp4", duration_ms),
        thumbnail: Some(file("v/thumbnail.jpg", "image/jpeg", None)),
    })
}

fn ask() -> VideoCommand {
    VideoCommand::RequestVideo(Box::new(request()))
}

fn start(offer: usize) -> VideoCommand {
    VideoCommand::StartSubmission { offer, node: "n1".into(), deadline_at: AT + TimeDelta::minutes(5), started_at: AT }
}

fn refuse(submission: u32) -> VideoCommand {
    let (failure, status) = ("rate_limited".into(), Some(429));
    VideoCommand::RefuseSubmission { submission, failure, status, refused_at: AT }
}

fn doubt(submission: u32) -> VideoCommand {
    VideoCommand::DoubtSubmission { submission, doubt: Doubt::NoLookup, doubted_at: AT }
}

fn deny(submission: u32) -> VideoCommand {
    VideoCommand::DenySubmission { submission, actor: "ops".into(), denied_at: AT }
}

fn record(submission: u32, actor: Option<&str>) -> VideoCommand {
    let (provider_job_id, actor) = (format!("job-{submission}"), actor.map(str::to_owned));
    VideoCommand::RecordSubmission { submission, provider_job_id, actor, submitted_at: AT }
}

fn progress(percent: u8) -> VideoCommand {
    VideoCommand::RecordProgress { percent, progressed_at: AT }
}

fn store(duration_ms: u64) -> VideoCommand {
    VideoCommand::StoreVideo { media: media(Some(duration_ms)), stored_at: AT }
}

fn complete() -> VideoCommand {
    VideoCommand::CompleteVideo { rate: RATE, completed_at: AT }
}

fn fail() -> VideoCommand {
    VideoCommand::FailVideo { code: "moderation_blocked".into(), failed_at: AT }
}

fn cancel() -> VideoCommand {
    VideoCommand::CancelVideo { actor: "ada".into(), cancelled_at: AT }
}

fn expire() -> VideoCommand {
    VideoCommand::ExpireVideo { reason: "nobody took it in time".into(), expired_at: AT }
}

fn erase(reason: ErasureReason) -> VideoCommand {
    VideoCommand::EraseMedia { reason, actor: "ada".into(), erased_at: AT }
}

/// What is decided on `command`, which is done.
fn when(job: &mut VideoJob, command: VideoCommand) -> Result<Vec<VideoEvent>, VideoError> {
    let events = job.decide(command)?;
    for event in &events {
        job.evolve(event);
    }
    Ok(events)
}

/// A job that all of these were asked of, and none in vain.
fn given(commands: impl IntoIterator<Item = VideoCommand>) -> VideoJob {
    let mut job = VideoJob::default();
    for command in commands {
        when(&mut job, command).unwrap();
    }
    job
}

fn queued() -> VideoJob {
    given([ask()])
}

fn submitting() -> VideoJob {
    given([ask(), start(0)])
}

fn in_doubt() -> VideoJob {
    given([ask(), start(0), doubt(1)])
}

fn rendering() -> VideoJob {
    given([ask(), start(0), record(1, None)])
}

fn stored(duration_ms: u64) -> VideoJob {
    given([ask(), start(0), record(1, None), store(duration_ms)])
}

fn completed() -> VideoJob {
    given([ask(), start(0), record(1, None), store(8_000), complete()])
}

#[test]
fn a_video_is_requested_once_and_nothing_comes_before_that() {
    assert_eq!(queued().decide(ask()), Err(VideoError::AlreadyRequested));
    assert_eq!(completed().decide(ask()), Err(VideoError::AlreadyRequested));
    for command in [start(0), record(1, None), progress(1), complete(), fail(), cancel(), expire()] {
        assert_eq!(VideoJob::default().decide(command), Err(VideoError::NotRequested));
    }
    assert_eq!(VideoJob::default().decide(erase(ErasureReason::Deleted)), Err(VideoError::NotRequested));
}

#[test]
fn it_is_with_one_provider_at_a_time() {
    assert_eq!(queued().decide(start(2)), Err(VideoError::NoSuchOffer(2)));
    for job in [submitting(), in_doubt(), rendering(), stored(8_000)] {
        assert_eq!(job.decide(start(1)), Err(VideoError::WrongStatus(job.status())));
    }
    let job = rendering();
    assert_eq!(job.decide(record(1, None)), Err(VideoError::WrongStatus(VideoStatus::Rendering)), "said twice");
    assert_eq!(job.submission().unwrap().provider_job_id.as_deref(), Some("job-1"));
}

#[test]
fn what_a_provider_refused_waits_again_and_may_go_to_another() {
    let mut job = submitting();
    when(&mut job, refuse(1)).unwrap();
    assert_eq!(job.status(), VideoStatus::Queued);
    let [Refusal { provider, failure, status: Some(429) }] = job.refusals() else { panic!("{job:?}") };
    assert_eq!((provider.as_str(), failure.as_str()), ("openai", "rate_limited"));
    when(&mut job, start(1)).unwrap();
    let Submission { number: 2, provider, model, provider_job_id: None, .. } = job.submission().unwrap() else {
        panic!("{job:?}")
    };
    assert_eq!((provider.as_str(), model.as_str()), ("veo", "veo-video-001"));
    assert_eq!(job.tried(), request().offers.get(1));
}

#[test]
fn a_late_word_on_an_earlier_submission_changes_nothing() {
    let mut job = given([ask(), start(0), refuse(1), start(1)]);
    for late in [refuse(1), doubt(1), record(1, None)] {
        assert_eq!(job.decide(late), Err(VideoError::OtherSubmission));
    }
    when(&mut job, doubt(2)).unwrap();
    for late in [deny(1), record(1, Some("ops"))] {
        assert_eq!(job.decide(late), Err(VideoError::OtherSubmission));
    }
}

#[test]
fn a_doubt_is_left_to_an_operator_who_denies_or_finds_it() {
    let job = in_doubt();
    assert_eq!((job.status(), job.submission().unwrap().doubt), (VideoStatus::InDoubt, Some(Doubt::NoLookup)));
    // Time alone does not tell whether a provider has it.
    for command in [start(1), expire(), refuse(1)] {
        assert_eq!(job.decide(command), Err(VideoError::WrongStatus(VideoStatus::InDoubt)));
    }
    let mut denied = job.clone();
    when(&mut denied, deny(1)).unwrap();
    assert_eq!(denied.status(), VideoStatus::Queued);
    assert_eq!(submitting().decide(deny(1)), Err(VideoError::WrongStatus(VideoStatus::Submitting)));
    let mut found = job;
    let events = when(&mut found, record(1, Some("ops"))).unwrap();
    assert!(matches!(&events[..], [VideoEvent::VideoSubmitted { actor: Some(actor), .. }] if actor == "ops"));
    assert_eq!(found.status(), VideoStatus::Rendering);
}

#[test]
fn progress_goes_forward_only_and_no_further_than_to_the_end() {
    let mut job = rendering();
    for (percent, seen) in [(0, 0), (40, 40), (40, 40), (30, 40), (41, 41), (255, 100), (100, 100)] {
        let before = job.percent();
        let events = when(&mut job, progress(percent)).unwrap();
        assert_eq!((job.percent(), events.len()), (seen, usize::from(before != seen)), "{percent}");
    }
    assert_eq!(submitting().decide(progress(1)), Err(VideoError::WrongStatus(VideoStatus::Submitting)));
    assert_eq!(stored(8_000).percent(), 100);
}

#[test]
fn what_came_is_charged_at_the_price_of_who_made_it() {
    for (duration_ms, seconds) in [(8_000, 8), (7_960, 8), (5_499, 5), (12_000, 8), (400, 0)] {
        let mut job = stored(duration_ms);
        when(&mut job, complete()).unwrap();
        let Outcome { provider, model, seconds: charged, charge } = job.outcome().unwrap();
        assert_eq!((provider.as_str(), model.as_str(), *charged), ("openai", "openai-video", seconds));
        assert_eq!(charge.price_id.as_deref(), Some("openai/openai-video@2026-11-22"));
        assert_eq!(charge.cost, PicoUsd(i64::from(seconds) * 100_000_000_000));
        assert_eq!((charge.list, charge.amount), (charge.amount, Microcredits(i64::from(seconds) * 100_000_000)));
    }
}

#[test]
fn no_more_is_charged_than_was_held_whatever_the_rate_is_by_then() {
    let mut job = given([ask(), start(1), record(1, None), store(8_000)]);
    let dearer = VideoCommand::CompleteVideo { rate: MicrocreditsPerUsd(RATE.0 * 2), completed_at: AT };
    when(&mut job, dearer).unwrap();
    let Outcome { charge, .. } = job.outcome().unwrap();
    assert_eq!((charge.list, charge.amount), (Microcredits(4_800_000_000), request().reserved_microcredits));
}

#[test]
fn a_file_without_a_length_cannot_be_charged_for() {
    let mut job = rendering();
    when(&mut job, VideoCommand::StoreVideo { media: media(None), stored_at: AT }).unwrap();
    assert_eq!(job.decide(complete()), Err(VideoError::WrongStatus(VideoStatus::Stored)));
}

#[test]
fn what_we_have_is_charged_for_and_does_not_end_otherwise() {
    for end in [fail(), cancel(), expire()] {
        assert_eq!(stored(8_000).decide(end), Err(VideoError::WrongStatus(VideoStatus::Stored)));
    }
    for job in [queued(), submitting(), in_doubt(), rendering()] {
        assert_eq!(job.decide(complete()), Err(VideoError::WrongStatus(job.status())));
    }
}

#[test]
fn whichever_end_comes_first_no_other_follows() {
    let ends = [
        completed(),
        given([ask(), fail()]),
        given([ask(), start(0), cancel()]),
        given([ask(), start(0), record(1, None), expire()]),
        given([ask(), start(0), doubt(1), cancel()]),
    ];
    for mut job in ends {
        assert!(job.status().is_end() && job.ended_at() == Some(AT), "{job:?}");
        let before = job.clone();
        for late in [start(0), refuse(1), doubt(1), deny(1), record(1, None), progress(99), store(8_000)] {
            assert_eq!(when(&mut job, late), Err(VideoError::AlreadyEnded(before.status())));
        }
        for second in [complete(), fail(), cancel(), expire()] {
            assert_eq!(when(&mut job, second), Err(VideoError::AlreadyEnded(before.status())));
        }
        assert_eq!(job, before);
    }
}

#[test]
fn every_end_says_whose_the_video_was_and_what_it_asked_for() {
    for (job, end, provider, model) in [
        (stored(8_000), complete(), "openai", "openai-video"),
        (given([ask(), start(0), refuse(1), start(1)]), fail(), "veo", "veo-video"),
        (queued(), cancel(), "auto", "openai-video"),
        (queued(), expire(), "auto", "openai-video"),
    ] {
        let events = job.decide(end).unwrap();
        let [(asked, at)] = events.iter().filter_map(VideoEvent::ended).collect::<Vec<_>>()[..] else {
            panic!("{events:?}")
        };
        let Asked { account, user, seconds, resolution, .. } = asked;
        assert_eq!((account.as_str(), user.as_str(), *seconds, *resolution), ("acme", "ada", 8, Resolution::P720));
        assert_eq!((asked.provider.as_str(), asked.model.as_str(), at), (provider, model, AT));
    }
}

#[test]
fn its_media_are_erased_once_and_only_after_its_end() {
    for job in [queued(), rendering(), stored(8_000)] {
        assert_eq!(job.decide(erase(ErasureReason::Deleted)), Err(VideoError::NotEnded));
    }
    let mut job = completed();
    assert_eq!(when(&mut job, erase(ErasureReason::Retention)).unwrap().len(), 1);
    assert_eq!(when(&mut job, erase(ErasureReason::SubjectErased)), Ok(vec![]));
    assert_eq!((job.media_erased(), job.status()), (Some(ErasureReason::Retention), VideoStatus::Completed));
    let without = given([ask(), fail()]);
    assert_eq!(without.decide(erase(ErasureReason::Deleted)), Ok(vec![]));
}

/// One of each.
fn all_events() -> Vec<VideoEvent> {
    let mut events = Vec::new();
    let mut job = VideoJob::default();
    let all_done = [
        ask(),
        start(0),
        refuse(1),
        start(0),
        doubt(2),
        deny(2),
        start(1),
        record(3, None),
        progress(50),
        store(8_000),
        complete(),
        erase(ErasureReason::Deleted),
    ];
    for command in all_done {
        events.extend(when(&mut job, command).unwrap());
    }
    for end in [fail(), cancel(), expire()] {
        events.extend(submitting().decide(end).unwrap());
    }
    events.extend(in_doubt().decide(record(1, Some("ops"))).unwrap());
    events
}

#[test]
fn the_text_of_every_event_is_pinned() {
    let events = all_events();
    insta::assert_json_snapshot!(events);
    for event in events {
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<VideoEvent>(&text).unwrap(), event);
        assert!(text.starts_with(&format!("{{\"{}\":", event.event_type())), "{text}");
    }
}
