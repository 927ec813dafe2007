//! Videos with every kind of end, put into the log with their money.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use aihub_application::ports::event_log::{Metadata, StreamAppend};
use aihub_domain::{
    account::{command::AccountCommand, event::AccountEvent},
    content::ContentKind,
    money::{Microcredits, MicrocreditsPerUsd, PicoUsd},
    video::{
        VideoJob,
        command::VideoCommand,
        event::{Doubt, ErasureReason, Media, Offer, Priority, StoredMedia, VideoRequest},
        format::{AspectRatio, Resolution},
        price::VideoPrice,
    },
};
use aihub_tests::{books::Books, content, log::unit};
use chrono::{DateTime, TimeDelta, Utc};

use crate::views::ACCOUNTS;

/// A microcredit for a microdollar: a second costs ten.
const RATE: MicrocreditsPerUsd = MicrocreditsPerUsd(1_000_000);

/// When the `nth` is requested: seven hours after the one before, from October 2024 on.
pub fn at(nth: u64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::hours(7) * i32::try_from(nth).unwrap()
}

fn offer(provider: &str, model: &str) -> Offer {
    Offer {
        provider: provider.to_owned(),
        model: model.to_owned(),
        upstream_model: format!("{model}-001"),
        seconds: None,
        price: VideoPrice {
            id: format!("{provider}/{model}@2026-11-22"),
            per_second: BTreeMap::from([(Resolution::P720, PicoUsd(10_000_000))]),
            valid_from: DateTime::UNIX_EPOCH,
            valid_until: None,
            source: "test".to_owned(),
        },
    }
}

/// Every fourth is ann's; some belong to a workflow.
pub fn request(nth: u64) -> VideoRequest {
    let account = ACCOUNTS[usize::try_from(nth % 3).unwrap()];
    VideoRequest {
        account: account.to_owned(),
        user: if nth.is_multiple_of(4) { "ann" } else { "bob" }.to_owned(),
        provider: "auto".to_owned(),
        model: None,
        seconds: 8,
        resolution: Resolution::P720,
        aspect_ratio: AspectRatio::Wide,
        priority: Priority::Standard,
        offers: vec![offer("veo", "veo-4"), offer("xai", "imagine")],
        reserved_microcredits: Microcredits(80),
        queued_until: at(nth) + TimeDelta::minutes(5),
        session_id: Some(format!("session-{nth}")),
        workflow_id: (nth % 4 == 1).then(|| format!("workflow-{}", nth / 8)),
        has_webhook: false,
        content: content::nothing(account, ContentKind::Video),
        requested_at: at(nth),
    }
}

pub fn start(offer: usize, nth: u64) -> VideoCommand {
    let deadline_at = at(nth) + TimeDelta::minutes(10);
    VideoCommand::StartSubmission {
        offer,
        node: "node-1".to_owned(),
        deadline_at,
        started_at: at(nth) + TimeDelta::seconds(10),
    }
}

fn refuse(submission: u32, nth: u64) -> VideoCommand {
    let refused_at = at(nth) + TimeDelta::seconds(11);
    VideoCommand::RefuseSubmission { submission, failure: "rate_limited".to_owned(), status: Some(429), refused_at }
}

pub fn doubt(submission: u32, nth: u64) -> VideoCommand {
    let doubted_at = at(nth) + TimeDelta::seconds(12);
    VideoCommand::DoubtSubmission { submission, doubt: Doubt::NoLookup, doubted_at }
}

pub fn deny(submission: u32, nth: u64) -> VideoCommand {
    VideoCommand::DenySubmission { submission, actor: "ops".to_owned(), denied_at: at(nth) + TimeDelta::seconds(40) }
}

pub fn record(provider: &str, submission: u32, nth: u64) -> VideoCommand {
    VideoCommand::RecordSubmission {
        submission,
        provider_job_id: format!("{provider}-job-{submission}"),
        actor: None,
        submitted_at: at(nth) + TimeDelta::seconds(13),
    }
}

fn progress(percent: u8, nth: u64) -> VideoCommand {
    VideoCommand::RecordProgress { percent, progressed_at: at(nth) + TimeDelta::seconds(60) }
}

pub fn store(video_id: &str, duration_ms: u64, nth: u64) -> VideoCommand {
    let file = |name: &str, content_type: &str, duration_ms| StoredMedia {
        key: format!("{video_id}/{name}"),
        content_type: content_type.to_owned(),
        bytes: 9_000,
        sha256: "00ff".to_owned(),
        width: 1_280,
        height: 720,
        duration_ms,
        codec: Some("avc1".to_owned()),
    };
    let video = file("video.mp4", "video/mp4", Some(duration_ms));
    let thumbnail = Some(file("thumbnail.jpg", "image/jpeg", None));
    VideoCommand::StoreVideo {
        media: Box::new(Media { video, thumbnail }),
        stored_at: at(nth) + TimeDelta::seconds(110),
    }
}

pub fn complete(nth: u64) -> VideoCommand {
    VideoCommand::CompleteVideo { rate: RATE, completed_at: at(nth) + TimeDelta::minutes(2) }
}

/// Of nine, three are completed, the second of them short and the third with its media erased; one each fails, is
/// cancelled and expires; and one each renders, is in doubt and waits.
pub async fn film(books: &Books, videos: Range<u64>) {
    for nth in videos {
        let id = format!("video-{nth}");
        let mut job = Filming::request(books, &id, request(nth)).await;
        let ended_at = at(nth) + TimeDelta::minutes(2);
        let (steps, end) = match nth % 9 {
            0 => {
                let steps =
                    [start(0, nth), refuse(1, nth), start(1, nth), record("xai", 2, nth), store(&id, 7_960, nth)];
                (steps.to_vec(), Some(complete(nth)))
            }
            1 => (vec![start(0, nth), record("veo", 1, nth), store(&id, 5_100, nth)], Some(complete(nth))),
            2 => {
                let fail = VideoCommand::FailVideo { code: "moderation_blocked".to_owned(), failed_at: ended_at };
                (vec![start(0, nth), record("veo", 1, nth), progress(20, nth)], Some(fail))
            }
            3 => {
                let cancel = VideoCommand::CancelVideo { actor: "ann".to_owned(), cancelled_at: ended_at };
                (vec![start(0, nth), record("veo", 1, nth)], Some(cancel))
            }
            4 => {
                let reason = "nobody took it in time".to_owned();
                (vec![], Some(VideoCommand::ExpireVideo { reason, expired_at: ended_at }))
            }
            5 => (vec![start(0, nth), record("veo", 1, nth), progress(40, nth)], None),
            6 => (vec![start(0, nth), doubt(1, nth)], None),
            7 => (vec![start(0, nth), record("veo", 1, nth), store(&id, 8_000, nth)], Some(complete(nth))),
            _ => (vec![], None),
        };
        for step in steps {
            job.then(step).await;
        }
        if let Some(end) = end {
            job.end(end).await;
        }
        if nth % 9 == 7 {
            let (reason, actor) = (ErasureReason::Deleted, "ann".to_owned());
            job.then(VideoCommand::EraseMedia { reason, actor, erased_at: ended_at + TimeDelta::hours(1) }).await;
        }
    }
}

/// A video as it is worked on.
pub struct Filming<'a> {
    books: &'a Books,
    id: String,
    account: String,
    job: VideoJob,
    sequence: u64,
}

impl<'a> Filming<'a> {
    /// Holds the credits and requests it, in one commit.
    pub async fn request(books: &'a Books, id: &str, request: VideoRequest) -> Self {
        let reserve = AccountCommand::ReserveCredits {
            reservation_id: id.to_owned(),
            amount: request.reserved_microcredits,
            at_least: request.reserved_microcredits,
            reserved_at: request.requested_at,
        };
        let account = request.account.clone();
        let mut filming = Self { books, id: id.to_owned(), account, job: VideoJob::default(), sequence: 0 };
        let append = filming.decide(VideoCommand::RequestVideo(Box::new(request)));
        filming.execute(&reserve, append).await;
        filming
    }

    /// What has nothing to do with money.
    pub async fn then(&mut self, command: VideoCommand) {
        let append = self.decide(command);
        self.books.node.append(unit([append])).await.unwrap();
    }

    /// Ends it and its hold, in one commit.
    pub async fn end(&mut self, command: VideoCommand) {
        let append = self.decide(command);
        let (reservation_id, at) = (self.id.clone(), self.job.ended_at().unwrap());
        let money = match self.job.outcome() {
            Some(outcome) => {
                AccountCommand::SettleReservation { reservation_id, charge: outcome.charge.clone(), settled_at: at }
            }
            None => AccountCommand::ReleaseReservation { reservation_id, released_at: at },
        };
        self.execute(&money, append).await;
    }

    fn decide(&mut self, command: VideoCommand) -> StreamAppend {
        let events = self.job.decide(command).unwrap();
        for event in &events {
            self.job.evolve(event);
        }
        let expected_sequence = self.sequence;
        self.sequence += events.len() as u64;
        StreamAppend::of::<VideoJob>(&self.id, expected_sequence, &events).unwrap()
    }

    async fn execute(&self, command: &AccountCommand, append: StreamAppend) {
        let companions = |_: &[AccountEvent]| Ok(vec![append.clone()]);
        self.books.accounts.execute(&self.account, command, &companions, &Arc::new(Metadata::new())).await.unwrap();
    }
}
