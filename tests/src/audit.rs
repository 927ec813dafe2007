//! The log, read as an auditor would: with nothing but the events, and none of the product's own arithmetic.

use std::collections::{BTreeMap, BTreeSet};

use aihub_domain::{
    account::{Account, AdjustmentKind, event::AccountEvent},
    money::Microcredits,
    request::{
        Request,
        event::{Accepted, Attempt, Outcome, RequestEvent},
    },
    video::{
        VideoJob,
        event::{VideoEvent, VideoRequest},
    },
};
use aihub_infrastructure::{
    event_store::{
        chain::{self, ChainHead},
        reader::{self, ReadLimit, RecordedEvent},
    },
    simulated_providers::served::ServedCall,
};
use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use sqlx::PgPool;

use crate::{until, until_ok};

#[derive(Debug, Default)]
pub struct Audit {
    pub requests: BTreeMap<String, AuditedRequest>,
    pub videos: BTreeMap<String, AuditedVideo>,
    pub accounts: BTreeMap<String, Balance>,
}

#[derive(Debug)]
pub struct AuditedRequest {
    pub accepted: Accepted,
    /// When its acceptance went into the log, on the log's clock, which is this machine's.
    pub recorded_at: DateTime<Utc>,
    pub end: Option<RequestEvent>,
}

#[derive(Debug)]
pub struct AuditedVideo {
    pub request: VideoRequest,
    /// What happened after its request, in its order.
    pub events: Vec<VideoEvent>,
}

/// In microcredits.
#[derive(Debug, Default)]
pub struct Balance {
    pub granted: i64,
    pub spent: i64,
    pub expired: i64,
    /// Used and not paid for.
    pub uncovered: i64,
    pub holds: BTreeMap<String, i64>,
    settled: BTreeSet<String>,
}

impl Audit {
    /// Reads everything, verifies the chain, and checks of each event that it follows from those before: no account is
    /// overspent, every balance that an event states is true, a hold comes in one unit with its request and goes in one
    /// unit with that request's only end, and both state the same charge and the same instant: what was used and what was
    /// spent are of the same month.
    pub async fn of(pool: &PgPool) -> Self {
        let events = events(pool).await;
        let mut audit = Self::default();
        for unit in events.chunk_by(|_, next| next.command_id.is_none()) {
            audit.check_unit(unit);
        }
        for account in audit.accounts.values() {
            for hold in account.holds.keys() {
                let video = audit.videos.get(hold);
                let has_ended = video.map_or_else(|| audit.requests[hold].end.is_some(), |video| video.end().is_some());
                assert!(!has_ended, "{hold} has ended and its hold has not");
            }
        }
        for (id, request) in &audit.requests {
            let holds = &audit.accounts[&request.accepted.account].holds;
            assert_eq!(request.end.is_none(), holds.contains_key(id), "{id}");
        }
        for (id, video) in &audit.videos {
            let holds = &audit.accounts[&video.request.account].holds;
            assert_eq!(video.end().is_none(), holds.contains_key(id), "{id}");
        }
        audit
    }

    /// The same, once every accepted request has ended.
    pub async fn at_rest(pool: &PgPool) -> Self {
        // A request has two events: its acceptance and its end.
        let open = "SELECT count(*) FILTER (WHERE sequence = 1) - count(*) FILTER (WHERE sequence > 1)
                    FROM events WHERE aggregate_type = $1";
        until("every accepted request has ended", async || {
            let open: i64 = sqlx::query_scalar(open).bind(Request::TYPE).fetch_one(pool).await.unwrap();
            (open == 0).then_some(())
        })
        .await;
        Self::of(pool).await
    }

    fn check_unit(&mut self, unit: &[RecordedEvent]) {
        // What the unit does to holds, by id: reserved, or ended with this charge at this instant.
        let (mut reserved, mut ended) = (BTreeMap::new(), BTreeMap::new());
        for event in unit {
            if event.aggregate_type == Account::TYPE {
                let account = self.accounts.entry(event.aggregate_id.clone()).or_default();
                account.apply(&event.decode().unwrap(), &mut reserved, &mut ended);
            }
        }
        for event in unit {
            if event.aggregate_type == VideoJob::TYPE {
                self.check_video(event, &mut reserved, &mut ended);
            }
            if event.aggregate_type != Request::TYPE {
                continue;
            }
            let id = &event.aggregate_id;
            match event.decode().unwrap() {
                RequestEvent::RequestAccepted(accepted) => {
                    assert_eq!(event.sequence, 1);
                    assert_eq!(reserved.remove(id), Some(accepted.reserved_microcredits.0), "{id}");
                    let request = AuditedRequest { accepted: *accepted, recorded_at: event.recorded_at, end: None };
                    assert!(self.requests.insert(id.clone(), request).is_none(), "{id} was accepted twice");
                }
                end => {
                    let charged = end.outcome().map_or(0, |outcome| outcome.charge.amount.0);
                    let (asked, ended_at) = end.ended().expect("an end");
                    assert_eq!(ended.remove(id), Some((charged, ended_at)), "{id}: {end:?}");
                    let request = self.requests.get_mut(id).expect("accepted before it ended");
                    assert_eq!(*asked, request.accepted.asked());
                    let before = request.end.replace(end);
                    assert!(before.is_none(), "{id} has two ends");
                }
            }
        }
        assert!(reserved.is_empty() && ended.is_empty(), "holds without requests: {reserved:?} {ended:?}");
    }

    fn check_video(
        &mut self,
        event: &RecordedEvent,
        reserved: &mut BTreeMap<String, i64>,
        ended: &mut BTreeMap<String, (i64, DateTime<Utc>)>,
    ) {
        let id = &event.aggregate_id;
        let change: VideoEvent = event.decode().unwrap();
        if let VideoEvent::VideoRequested(request) = change {
            assert_eq!(event.sequence, 1);
            assert_eq!(reserved.remove(id), Some(request.reserved_microcredits.0), "{id}");
            let video = AuditedVideo { request: *request, events: vec![] };
            assert!(self.videos.insert(id.clone(), video).is_none(), "{id} was requested twice");
            return;
        }
        let video = self.videos.get_mut(id).expect("requested before anything else");
        if let Some((_, ended_at)) = change.ended() {
            let charged = match &change {
                VideoEvent::VideoCompleted { outcome, .. } => outcome.charge.amount.0,
                _ => 0,
            };
            assert_eq!(ended.remove(id), Some((charged, ended_at)), "{id}: {change:?}");
            assert!(video.end().is_none(), "{id} has two ends");
        } else {
            let after_the_end = matches!(change, VideoEvent::MediaErased { .. });
            assert_eq!(video.end().is_some(), after_the_end, "{id}: {change:?}");
        }
        video.events.push(change);
    }

    /// The same, once every video has ended.
    pub async fn of_ended_videos(pool: &PgPool) -> Self {
        // However many there are: it is waited for as long as something happens.
        let mut open = open_videos(pool).await;
        while !open.is_empty() {
            let before = open.len();
            open = until_ok("one more video has ended", async || {
                let open = open_videos(pool).await;
                if open.len() < before { Ok(open) } else { Err(open) }
            })
            .await;
        }
        Self::of(pool).await
    }

    /// Holds the log against what the providers served: each of their calls was for a request of ours that stood in the
    /// log before the call came, and no end tells of fewer calls than there were. Returns the calls by request.
    pub fn reconcile(&self, calls: Vec<ServedCall>) -> BTreeMap<String, Vec<ServedCall>> {
        let mut by_request: BTreeMap<String, Vec<ServedCall>> = BTreeMap::new();
        for call in calls {
            let id = call.client_request_id.clone().expect("every call names its request");
            let request = self.requests.get(&id).unwrap_or_else(|| panic!("the log does not know {id}: {call:?}"));
            assert!(request.recorded_at <= call.arrived_at, "{id} was called for before it was in the log");
            by_request.entry(id).or_default().push(call);
        }
        for (id, calls) in &by_request {
            if let Some(outcome) = self.requests[id].end.as_ref().and_then(RequestEvent::outcome) {
                let told = outcome.attempts.iter().filter(|attempt| !attempt.skipped).count();
                assert!(calls.len() <= told, "{id}: {calls:?} and {outcome:?}");
            }
        }
        by_request
    }

    /// The requests that have not ended.
    pub fn open(&self) -> Vec<&str> {
        self.requests.iter().filter(|(_, request)| request.end.is_none()).map(|(id, _)| id.as_str()).collect()
    }

    /// The only request.
    pub fn request(&self) -> &AuditedRequest {
        assert_eq!(self.requests.len(), 1, "{:?}", self.requests.keys());
        self.requests.values().next().unwrap()
    }
}

/// Everything that is in the log by now, after its chain was verified from the first event on.
async fn events(pool: &PgPool) -> Vec<RecordedEvent> {
    let (mut events, mut head) = (Vec::new(), ChainHead::GENESIS);
    loop {
        let batch = reader::events_from(pool, head.position + 1, ReadLimit::default()).await.unwrap();
        if batch.is_empty() {
            return events;
        }
        head = chain::verify(head, &batch).unwrap();
        events.extend(batch);
    }
}

impl Balance {
    pub fn held(&self) -> i64 {
        self.holds.values().sum()
    }

    pub fn available(&self) -> i64 {
        self.granted - self.spent - self.held() - self.expired
    }

    fn apply(
        &mut self,
        event: &AccountEvent,
        reserved: &mut BTreeMap<String, i64>,
        ended: &mut BTreeMap<String, (i64, DateTime<Utc>)>,
    ) {
        let stated = match event {
            AccountEvent::AccountOpened { .. } | AccountEvent::UsageLimitsSet { .. } => return,
            AccountEvent::CreditsGranted { amount_microcredits, available_microcredits, .. } => {
                self.granted += amount_microcredits.0;
                available_microcredits
            }
            AccountEvent::GrantVoided { amount_microcredits, available_microcredits, .. } => {
                assert!(amount_microcredits.0 > 0);
                self.granted -= amount_microcredits.0;
                available_microcredits
            }
            AccountEvent::CreditsExpired { amount_microcredits, available_microcredits, .. } => {
                assert!(amount_microcredits.0 >= 0);
                self.expired += amount_microcredits.0;
                available_microcredits
            }
            AccountEvent::CreditsAdjusted { kind, amount_microcredits, available_microcredits, .. } => {
                assert!(amount_microcredits.0 > 0);
                match kind {
                    AdjustmentKind::CreditNote => self.spent -= amount_microcredits.0,
                    AdjustmentKind::DebitNote => self.spent += amount_microcredits.0,
                }
                assert!(self.spent >= 0, "more was given back than was spent: {event:?}");
                available_microcredits
            }
            AccountEvent::CreditsReserved { reservation_id, amount_microcredits, available_microcredits, .. } => {
                assert!(!self.settled.contains(reservation_id), "{reservation_id} is held again");
                assert!(self.holds.insert(reservation_id.clone(), amount_microcredits.0).is_none(), "{reservation_id}");
                reserved.insert(reservation_id.clone(), amount_microcredits.0);
                available_microcredits
            }
            AccountEvent::ReservationExtended {
                reservation_id,
                by_microcredits,
                reserved_microcredits,
                available_microcredits,
                ..
            } => {
                let hold = self.holds.get_mut(reservation_id).unwrap();
                *hold += by_microcredits.0;
                assert_eq!(*hold, reserved_microcredits.0);
                available_microcredits
            }
            AccountEvent::CreditsSettled {
                reservation_id,
                charged_microcredits: Microcredits(charged),
                released_microcredits: Microcredits(released),
                uncovered_microcredits,
                available_microcredits,
                settled_at,
                ..
            } => {
                assert_eq!(self.end(reservation_id), charged + released, "{reservation_id}");
                assert!(*charged >= 0 && *released >= 0);
                self.spent += charged;
                self.uncovered += uncovered_microcredits.0;
                ended.insert(reservation_id.clone(), (*charged, *settled_at));
                available_microcredits
            }
            AccountEvent::CreditsReleased {
                reservation_id,
                released_microcredits,
                available_microcredits,
                released_at,
            } => {
                assert_eq!(self.end(reservation_id), released_microcredits.0);
                ended.insert(reservation_id.clone(), (0, *released_at));
                available_microcredits
            }
        };
        assert_eq!(self.available(), stated.0, "{event:?}");
        assert!(self.available() >= 0, "overspent: {event:?}");
    }

    fn end(&mut self, reservation_id: &str) -> i64 {
        assert!(self.settled.insert(reservation_id.to_owned()), "{reservation_id} is settled twice");
        self.holds.remove(reservation_id).expect("held before it is settled")
    }
}

impl AuditedVideo {
    pub fn end(&self) -> Option<&VideoEvent> {
        self.events.iter().find(|event| event.ended().is_some())
    }

    /// Under which names providers have it, or had.
    pub fn provider_jobs(&self) -> Vec<&str> {
        let submitted = self.events.iter().filter_map(|event| match event {
            VideoEvent::VideoSubmitted { provider_job_id, .. } => Some(provider_job_id.as_str()),
            _ => None,
        });
        submitted.collect()
    }
}

impl AuditedRequest {
    pub fn outcome(&self) -> &Outcome {
        self.end.as_ref().and_then(RequestEvent::outcome).unwrap_or_else(|| panic!("{:?}", self.end))
    }

    /// The calls that were made for it, as far as its end tells.
    pub fn calls(&self) -> Vec<&Attempt> {
        self.outcome().attempts.iter().filter(|attempt| !attempt.skipped).collect()
    }
}

/// The videos that have not ended, with the last that happened to each.
async fn open_videos(pool: &PgPool) -> Vec<(String, String)> {
    let open = "SELECT * FROM (
            SELECT DISTINCT ON (aggregate_id) aggregate_id, event_type FROM events WHERE aggregate_type = $1
            ORDER BY aggregate_id, sequence DESC
        ) last
        WHERE event_type NOT IN ('VideoCompleted', 'VideoFailed', 'VideoCancelled', 'VideoExpired', 'MediaErased')";
    sqlx::query_as(open).bind(VideoJob::TYPE).fetch_all(pool).await.unwrap()
}
