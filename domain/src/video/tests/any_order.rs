//! Whatever is asked of a video, in whatever order.

use proptest::prelude::*;

use super::*;

/// What may come right behind an event of this type.
fn followers(event_type: &str) -> &'static [&'static str] {
    match event_type {
        "VideoRequested" | "SubmissionRefused" | "SubmissionDenied" => {
            &["SubmissionStarted", "VideoFailed", "VideoCancelled", "VideoExpired"]
        }
        "SubmissionStarted" => &[
            "SubmissionRefused",
            "SubmissionDoubted",
            "VideoSubmitted",
            "VideoFailed",
            "VideoCancelled",
            "VideoExpired",
        ],
        "SubmissionDoubted" => &["SubmissionDenied", "VideoSubmitted", "VideoFailed", "VideoCancelled"],
        "VideoSubmitted" | "VideoProgressed" => {
            &["VideoProgressed", "VideoStored", "VideoFailed", "VideoCancelled", "VideoExpired"]
        }
        "VideoStored" => &["VideoCompleted"],
        "VideoCompleted" => &["MediaErased"],
        _ => &[],
    }
}

fn any_command() -> impl Strategy<Value = VideoCommand> {
    let submission = 1..4_u32;
    prop_oneof![
        1 => Just(ask()),
        6 => (0..3_usize).prop_map(start),
        3 => submission.clone().prop_map(refuse),
        2 => submission.clone().prop_map(doubt),
        2 => submission.clone().prop_map(deny),
        6 => (submission, any::<bool>()).prop_map(|(number, found)| record(number, found.then_some("ops"))),
        4 => any::<u8>().prop_map(progress),
        3 => (0..20_000_u64).prop_map(store),
        3 => (0..3_000_000_000_u64).prop_map(|rate| VideoCommand::CompleteVideo {
            rate: MicrocreditsPerUsd(rate.try_into().unwrap()),
            completed_at: AT,
        }),
        1 => prop_oneof![Just(fail()), Just(cancel()), Just(expire())],
        1 => Just(erase(ErasureReason::Retention)),
    ]
}

proptest! {
    #[test]
    fn whatever_is_asked_in_whatever_order_a_video_has_one_end_at_most_and_the_shape_that_is_documented(
        commands in prop::collection::vec(any_command(), 1..80),
    ) {
        let (mut job, mut log) = (VideoJob::default(), Vec::new());
        when(&mut job, ask()).unwrap();
        log.push(VideoEvent::VideoRequested(Box::new(request())));
        for command in commands {
            let before = job.clone();
            if let Ok(events) = when(&mut job, command) {
                log.extend(events);
            } else {
                prop_assert_eq!(&job, &before);
            }
            prop_assert!(job.percent() >= before.percent() && job.percent() <= 100);
            prop_assert!(!before.status().is_end() || job.status() == before.status());
        }
        for pair in log.windows(2) {
            let (one, next) = (pair[0].event_type(), pair[1].event_type());
            prop_assert!(followers(&one).contains(&next.as_str()), "{} behind {}", next, one);
        }
        let ends: Vec<_> = log.iter().filter_map(VideoEvent::ended).collect();
        prop_assert_eq!(ends.len(), usize::from(job.status().is_end()));
        let submitted = log.iter().filter(|event| matches!(event, VideoEvent::VideoSubmitted { .. })).count();
        prop_assert!(submitted <= 1);
        if let Some(Outcome { charge, seconds, .. }) = job.outcome() {
            prop_assert!(charge.amount <= request().reserved_microcredits && charge.amount <= charge.list);
            prop_assert!(*seconds <= request().seconds);
        }
        let mut again = VideoJob::default();
        for event in &log {
            again.evolve(event);
        }
        prop_assert_eq!(again, job);
    }
}
