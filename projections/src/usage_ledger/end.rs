//! What an end says was used.

use aihub_domain::{
    period::Month,
    price::Charge,
    request::{
        Request,
        event::{Billed, Part, RequestEvent},
    },
    video::{VideoJob, event::VideoEvent},
};
use aihub_infrastructure::event_store::decode::LogEntry;
use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;

use super::UsageEntry;
use crate::{
    booking::Booking,
    key_text::{key_text, name},
};

/// In reports, of what no provider was asked for.
const UNKNOWN: &str = "unknown";
/// What clients ask for who leave it open.
const AUTO: &str = "auto";

/// A provider, where it is one.
fn named(provider: &str) -> &str {
    if provider == AUTO { UNKNOWN } else { provider }
}

impl UsageEntry {
    /// None for what is not the end of a request or a video.
    pub fn of(entry: &LogEntry, closed: Option<Month>) -> anyhow::Result<Vec<Self>> {
        match entry.aggregate_type.as_str() {
            Request::TYPE => Self::of_request(entry, entry.event::<Request>()?, closed),
            VideoJob::TYPE => Ok(Self::of_video(entry, entry.event::<VideoJob>()?, closed).into_iter().collect()),
            _ => Ok(vec![]),
        }
    }

    fn of_request(entry: &LogEntry, end: &RequestEvent, closed: Option<Month>) -> anyhow::Result<Vec<Self>> {
        let Some((asked, ended_at)) = end.ended() else { return Ok(vec![]) };
        let (status, client_left) = match end {
            RequestEvent::RequestAccepted(_) => return Ok(vec![]),
            RequestEvent::RequestCompleted { client_left, .. } => ("completed", *client_left),
            RequestEvent::RequestFailed { .. } => ("failed", false),
            RequestEvent::RequestCancelled { .. } => ("cancelled", false),
            RequestEvent::RequestAbandoned { .. } => ("abandoned", false),
        };
        // Where nobody answered, who was asked last.
        let attempts = end.outcome().map_or(&[][..], |outcome| &outcome.attempts);
        let last = attempts.iter().rfind(|attempt| !attempt.skipped);
        let ended = Self {
            account: key_text(&asked.account),
            user_id: key_text(&asked.user),
            kind: name(asked.kind)?,
            provider: key_text(last.map_or(named(&asked.provider), |attempt| &attempt.provider)),
            model: key_text(last.map_or(&asked.model, |attempt| &attempt.model)),
            requested_model: key_text(&asked.model),
            client_left,
            ..Self::unused(entry, status, ended_at, closed)
        };
        let Some(outcome) = end.outcome() else { return Ok(vec![ended]) };
        let parts = outcome.parts();
        let last = parts.len().saturating_sub(1);
        let parts = parts.into_iter().enumerate().map(|(nth, Part { provider, model, billed })| {
            let Billed { usage, estimated, charge } = billed;
            let part = Self {
                part: nth.try_into()?,
                provider: provider.map_or_else(|| ended.provider.clone(), key_text),
                model: model.map_or_else(|| ended.model.clone(), key_text),
                answered_model: outcome.answered_model.as_deref().filter(|_| nth == last).map(key_text),
                estimated,
                input_tokens: usage.input.try_into()?,
                cached_input_tokens: usage.cached_input.try_into()?,
                cache_write_tokens: usage.cache_write.try_into()?,
                cache_write_1h_tokens: usage.cache_write_1h.try_into()?,
                output_tokens: usage.output.try_into()?,
                reasoning_tokens: usage.reasoning.try_into()?,
                requests: i32::from(nth == last),
                ..ended.clone()
            };
            Ok(part.charged(Some(&charge)))
        });
        parts.collect()
    }

    fn of_video(entry: &LogEntry, end: &VideoEvent, closed: Option<Month>) -> Option<Self> {
        let (asked, ended_at) = end.ended()?;
        let (status, outcome) = match end {
            VideoEvent::VideoCompleted { outcome, .. } => ("completed", Some(outcome)),
            VideoEvent::VideoFailed { .. } => ("failed", None),
            VideoEvent::VideoCancelled { .. } => ("cancelled", None),
            _ => ("expired", None),
        };
        let ended = Self {
            account: key_text(&asked.account),
            user_id: key_text(&asked.user),
            kind: "video".to_owned(),
            provider: key_text(outcome.map_or(named(&asked.provider), |outcome| &outcome.provider)),
            model: key_text(outcome.map_or(&asked.model, |outcome| &outcome.model)),
            requested_model: key_text(&asked.model),
            video_seconds: outcome.map_or(0, |outcome| outcome.seconds).into(),
            ..Self::unused(entry, status, ended_at, closed)
        };
        Some(ended.charged(outcome.map(|outcome| &outcome.charge)))
    }

    /// An end of nobody's, with nothing used.
    fn unused(entry: &LogEntry, status: &str, ended_at: DateTime<Utc>, closed: Option<Month>) -> Self {
        let booking = Booking::of(ended_at, closed);
        Self {
            position: entry.position.cast_signed(),
            part: 0,
            recorded_at: entry.recorded_at,
            ended_at,
            usage_day: booking.day,
            accounting_month: booking.month.first_day(),
            corrects_month: booking.corrects.map(Month::first_day),
            request_id: entry.aggregate_id.clone(),
            account: String::new(),
            user_id: String::new(),
            kind: String::new(),
            provider: String::new(),
            model: String::new(),
            requested_model: String::new(),
            answered_model: None,
            status: status.to_owned(),
            client_left: false,
            estimated: false,
            input_tokens: 0,
            cached_input_tokens: 0,
            cache_write_tokens: 0,
            cache_write_1h_tokens: 0,
            output_tokens: 0,
            reasoning_tokens: 0,
            video_seconds: 0,
            price_id: None,
            list_microcredits: 0,
            charged_microcredits: 0,
            cost_picousd: 0,
            requests: 1,
        }
    }

    fn charged(self, charge: Option<&Charge>) -> Self {
        let Some(charge) = charge else { return self };
        Self {
            price_id: charge.price_id.clone(),
            list_microcredits: charge.list.0,
            charged_microcredits: charge.amount.0,
            cost_picousd: charge.cost.0,
            ..self
        }
    }

    pub fn has_failed(&self) -> bool {
        matches!(self.status.as_str(), "failed" | "abandoned" | "expired")
    }
}
