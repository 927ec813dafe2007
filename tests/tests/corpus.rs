//! Every event that was ever written still loads: `tests/corpus` has one of each type and version, as it was stored. Nothing
//! there is ever changed or removed once it was released; a new version comes beside the old one.

use std::{collections::BTreeSet, path::Path};

use aihub_domain::{
    access::{Access, AccessEvent},
    account::{Account, event::AccountEvent},
    audit_key::{AuditKeyEvent, AuditKeys},
    period::{Period, event::PeriodEvent},
    refusal::{Refusal, RefusalEvent},
    request::{Request, event::RequestEvent},
    retention::{Retention, RetentionEvent},
    subject::{Subject, SubjectEvent},
    video::{VideoJob, event::VideoEvent},
    workflow::{Workflow, event::WorkflowEvent},
};
use aihub_infrastructure::event_store::{decode::LogEntry, reader::RecordedEvent, upcast::Upcasters};
use chrono::DateTime;
use cqrs_es::{Aggregate, DomainEvent};
use serde::Serialize;

/// Counts the events of each aggregate as they are today: a new one does not compile here until it has a number, and does
/// not pass until it has a file.
trait Numbered {
    const COUNT: usize;
    fn number(&self) -> usize;
}

impl Numbered for AccountEvent {
    const COUNT: usize = 10;
    fn number(&self) -> usize {
        match self {
            Self::AccountOpened { .. } => 0,
            Self::CreditsGranted { .. } => 1,
            Self::UsageLimitsSet { .. } => 2,
            Self::CreditsReserved { .. } => 3,
            Self::ReservationExtended { .. } => 4,
            Self::CreditsSettled { .. } => 5,
            Self::CreditsReleased { .. } => 6,
            Self::CreditsExpired { .. } => 7,
            Self::CreditsAdjusted { .. } => 8,
            Self::GrantVoided { .. } => 9,
        }
    }
}

impl Numbered for RequestEvent {
    const COUNT: usize = 5;
    fn number(&self) -> usize {
        match self {
            Self::RequestAccepted(_) => 0,
            Self::RequestCompleted { .. } => 1,
            Self::RequestFailed { .. } => 2,
            Self::RequestCancelled { .. } => 3,
            Self::RequestAbandoned { .. } => 4,
        }
    }
}

impl Numbered for VideoEvent {
    const COUNT: usize = 13;
    fn number(&self) -> usize {
        match self {
            Self::VideoRequested(_) => 0,
            Self::SubmissionStarted { .. } => 1,
            Self::SubmissionRefused { .. } => 2,
            Self::SubmissionDoubted { .. } => 3,
            Self::SubmissionDenied { .. } => 4,
            Self::VideoSubmitted { .. } => 5,
            Self::VideoProgressed { .. } => 6,
            Self::VideoStored { .. } => 7,
            Self::VideoCompleted { .. } => 8,
            Self::VideoFailed { .. } => 9,
            Self::VideoCancelled { .. } => 10,
            Self::VideoExpired { .. } => 11,
            Self::MediaErased { .. } => 12,
        }
    }
}

impl Numbered for PeriodEvent {
    const COUNT: usize = 1;
    fn number(&self) -> usize {
        let Self::MonthClosed { .. } = self;
        0
    }
}

impl Numbered for SubjectEvent {
    const COUNT: usize = 1;
    fn number(&self) -> usize {
        let Self::SubjectErased { .. } = self;
        0
    }
}

impl Numbered for RetentionEvent {
    const COUNT: usize = 1;
    fn number(&self) -> usize {
        let Self::ContentExpired { .. } = self;
        0
    }
}

impl Numbered for AuditKeyEvent {
    const COUNT: usize = 1;
    fn number(&self) -> usize {
        let Self::AuditKeyIntroduced(_) = self;
        0
    }
}

impl Numbered for AccessEvent {
    const COUNT: usize = 1;
    fn number(&self) -> usize {
        let Self::AccessRecorded(_) = self;
        0
    }
}

impl Numbered for RefusalEvent {
    const COUNT: usize = 1;
    fn number(&self) -> usize {
        let Self::RequestsRefused(_) = self;
        0
    }
}

impl Numbered for WorkflowEvent {
    const COUNT: usize = 8;
    fn number(&self) -> usize {
        match self {
            Self::WorkflowStarted(_) => 0,
            Self::StepStarted { .. } => 1,
            Self::ShotRequested { .. } => 2,
            Self::StepCompleted { .. } => 3,
            Self::StepFailed { .. } => 4,
            Self::WorkflowCompleted { .. } => 5,
            Self::WorkflowFailed { .. } => 6,
            Self::WorkflowCancelled { .. } => 7,
        }
    }
}

/// What is stored in `corpus/<aggregate>/<event type>@<version>.json`, by name.
fn stored(aggregate: &str) -> Vec<RecordedEvent> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(aggregate);
    let mut events = Vec::new();
    for entry in std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (event_type, event_version) = name.split_once('@').expect("type@version");
        events.push(RecordedEvent {
            position: 1,
            recorded_at: DateTime::UNIX_EPOCH,
            aggregate_type: aggregate.to_owned(),
            aggregate_id: "a".to_owned(),
            sequence: 1,
            event_type: event_type.to_owned(),
            event_version: event_version.to_owned(),
            payload: std::fs::read_to_string(path).unwrap(),
            metadata: "{}".to_owned(),
            command_id: None,
            leaf_hash: [0; 32],
            chain_hash: [0; 32],
        });
    }
    events.sort_by(|one, other| one.event_type.cmp(&other.event_type));
    events
}

/// Loads each as the aggregate does; what is of today's version is written again as it was.
fn check<A>()
where
    A: Aggregate,
    A::Event: Numbered + DomainEvent + Serialize + 'static,
{
    let mut numbers = BTreeSet::new();
    for event in stored(A::TYPE) {
        let (name, text) = (format!("{}@{}", event.event_type, event.event_version), event.payload.clone());
        let meanings = Upcasters::default().apply(vec![event.clone()]).unwrap();
        let is_current = meanings == [event];
        for meaning in meanings {
            let entry = LogEntry::new(meaning);
            let loaded = entry.event::<A>().unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert_eq!(
                (loaded.event_type(), loaded.event_version()),
                (entry.event_type.clone(), entry.event_version.clone())
            );
            if is_current {
                assert_eq!(
                    serde_json::to_value(loaded).unwrap(),
                    serde_json::from_str::<serde_json::Value>(&text).unwrap(),
                    "{name}"
                );
            }
            numbers.insert(loaded.number());
        }
    }
    assert_eq!(numbers, (0..A::Event::COUNT).collect(), "an event of {} has no file in the corpus", A::TYPE);
}

#[test]
fn every_event_of_every_version_that_was_ever_written_still_loads() {
    check::<Account>();
    check::<Period>();
    check::<Request>();
    check::<Subject>();
    check::<Retention>();
    check::<AuditKeys>();
    check::<Access>();
    check::<Refusal>();
    check::<VideoJob>();
    check::<Workflow>();
}

#[test]
fn no_version_is_dropped_from_the_corpus() {
    let aggregates =
        ["access", "account", "audit_key", "period", "refusal", "request", "retention", "subject", "video", "workflow"];
    let all: Vec<String> = aggregates
        .iter()
        .flat_map(|aggregate| stored(aggregate))
        .map(|event| format!("{}@{}", event.event_type, event.event_version))
        .collect();
    assert_eq!(
        all,
        [
            "AccessRecorded@1.0",
            "AccountOpened@1.0",
            "CreditsAdjusted@1.0",
            "CreditsExpired@1.0",
            "CreditsGranted@1.0",
            "CreditsReleased@1.0",
            "CreditsReserved@1.0",
            "CreditsSettled@1.0",
            "GrantVoided@1.0",
            "ReservationExtended@1.0",
            "UsageLimitsSet@1.0",
            "AuditKeyIntroduced@1.0",
            "MonthClosed@1.0",
            "RequestsRefused@1.0",
            "RequestAbandoned@1.0",
            "RequestAccepted@1.0",
            "RequestCancelled@1.0",
            "RequestCompleted@1.0",
            "RequestFailed@1.0",
            "ContentExpired@1.0",
            "SubjectErased@1.0",
            "MediaErased@1.0",
            "SubmissionDenied@1.0",
            "SubmissionDoubted@1.0",
            "SubmissionRefused@1.0",
            "SubmissionStarted@1.0",
            "VideoCancelled@1.0",
            "VideoCompleted@1.0",
            "VideoExpired@1.0",
            "VideoFailed@1.0",
            "VideoProgressed@1.0",
            "VideoRequested@1.0",
            "VideoStored@1.0",
            "VideoSubmitted@1.0",
            "ShotRequested@1.0",
            "StepCompleted@1.0",
            "StepFailed@1.0",
            "StepStarted@1.0",
            "WorkflowCancelled@1.0",
            "WorkflowCompleted@1.0",
            "WorkflowFailed@1.0",
            "WorkflowStarted@1.0",
        ]
    );
}
