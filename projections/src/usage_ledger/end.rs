//! What an end says was used.

use aihub_domain::{
    period::Month,
    price::Charge,
    request::{Request, event::RequestEvent},
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

impl UsageEntry {
    /// `None` for what is not the end of a request or a video.
    pub fn of(entry: &LogEntry, closed: Option<Month>) -> anyhow::Result<Option<Self>> {
        match entry.aggregate_type.as_str() {
            Request::TYPE => Self::of_request(entry, entry.event::<Request>()?, closed),
            VideoJob::TYPE => Ok(Self::of_video(entry, entry.event::<VideoJob>()?, closed)),
            _ => Ok(None),
        }
    }

    fn of_request(entry: &LogEntry, end: &RequestEvent, closed: Option<Month>) -> anyhow::Result<Option<Self>> {
        let Some((asked, ended_at)) = end.ended() else { return Ok(None) };
        let (status, client_left) = match end {
            RequestEvent::RequestAccepted(_) => return Ok(None),
            RequestEvent::RequestCompleted { client_left, .. } => ("completed", *client_left),
            RequestEvent::RequestFailed { .. } => ("failed", false),
            RequestEvent::RequestCancelled { .. } => ("cancelled", false),
            RequestEvent::RequestAbandoned { .. } => ("abandoned", false),
        };
        let outcome = end.outcome();
        let usage = outcome.map(|outcome| outcome.usage).unwrap_or_default();
        let ended = Self {
            account: key_text(&asked.account),
            user_id: key_text(&asked.user),
            kind: name(asked.kind)?,
            provider: key_text(outcome.and_then(|outcome| outcome.provider.as_ref()).unwrap_or(&asked.provider)),
            model: key_text(outcome.and_then(|outcome| outcome.model.as_ref()).unwrap_or(&asked.model)),
            client_left,
            estimated: outcome.is_some_and(|outcome| outcome.estimated),
            input_tokens: usage.input.try_into()?,
            cached_input_tokens: usage.cached_input.try_into()?,
            cache_write_tokens: usage.cache_write.try_into()?,
            output_tokens: usage.output.try_into()?,
            reasoning_tokens: usage.reasoning.try_into()?,
            ..Self::unused(entry, status, ended_at, closed)
        };
        Ok(Some(ended.charged(outcome.map(|outcome| &outcome.charge))))
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
            provider: key_text(outcome.map_or(&asked.provider, |outcome| &outcome.provider)),
            model: key_text(outcome.map_or(&asked.model, |outcome| &outcome.model)),
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
            status: status.to_owned(),
            client_left: false,
            estimated: false,
            input_tokens: 0,
            cached_input_tokens: 0,
            cache_write_tokens: 0,
            output_tokens: 0,
            reasoning_tokens: 0,
            video_seconds: 0,
            price_id: None,
            list_microcredits: 0,
            charged_microcredits: 0,
            cost_picousd: 0,
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
