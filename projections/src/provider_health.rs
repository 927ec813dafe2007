//! How the providers do, hour by hour: how many calls were answered, how the others failed, and how long they took. The
//! durations are a histogram of integers, which can be added up over hours, and is the same whenever it is made. Kinds of
//! work stand apart: an answer takes a second and a video minutes.

mod videos;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use aihub_domain::{request::Request, video::VideoJob};
use aihub_infrastructure::{
    event_store::{decode::LogEntry, subscription::EventHandler},
    json_rows::json_rows,
};
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use cqrs_es::Aggregate;
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use sqlx::{PgPool, PgTransaction};

use self::videos::OpenSubmissions;
use crate::{
    booking::State,
    key_text::{key_text, name},
    rebuild,
    watermark::{AsOf, Snapshot},
};

pub const NAME: &str = "provider_health_v1";
const STATE: &str = "provider_health_state_v1";
const ANSWERED: &str = "answered";
/// A request tells of its calls when it ends; a video goes through several events.
const EVENT_TYPES: &[&str] = &[
    "RequestCompleted",
    "RequestFailed",
    "RequestCancelled",
    "SubmissionStarted",
    "SubmissionRefused",
    "SubmissionDenied",
    "VideoCompleted",
    "VideoFailed",
    "VideoCancelled",
    "VideoExpired",
];

/// A provider's hour of one kind of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProviderHealth {
    /// Its beginning.
    pub hour: DateTime<Utc>,
    pub provider: String,
    /// `chat | completion | embedding | video`
    pub kind: String,
    pub called: i64,
    /// A video is, once it is completed.
    pub answered: i64,
    /// Calls that failed, by the kind of the failure.
    pub failed: BTreeMap<String, i64>,
    /// How often it was passed over, by the reason.
    pub passed_over: BTreeMap<String, i64>,
    /// Upper bounds of what half, 95 % and 99 % of the answered calls took at most; too high by a quarter at most.
    pub p50_ms: Option<i64>,
    pub p95_ms: Option<i64>,
    pub p99_ms: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    hour: DateTime<Utc>,
    provider: String,
    kind: String,
    called: bool,
    outcome: String,
    up_to_ms: i64,
}

/// So many answered calls by their bound.
type Durations = BTreeMap<i64, i64>;

/// The smallest bound that is not below: four to every doubling, exact up to 8.
fn bound_ms(duration_ms: u64) -> i64 {
    let mut bound: i64 = 1;
    while bound.cast_unsigned() < duration_ms && bound < i64::MAX / 4 {
        let step = if bound < 8 { 1 } else { (1_i64 << bound.ilog2()) / 4 };
        bound += step;
    }
    bound
}

/// The bound under which `percent` of the answered calls are.
fn quantile_ms(durations: &Durations, percent: i64) -> Option<i64> {
    let all: i64 = durations.values().sum();
    let mut below = 0;
    durations.iter().find_map(|(up_to_ms, calls)| {
        below += calls;
        (below * 100 >= all * percent).then_some(*up_to_ms)
    })
}

/// The hours that begin in `[from, to)`, by hour, provider and kind.
pub async fn report(
    pool: &PgPool,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<AsOf<Vec<ProviderHealth>>, sqlx::Error> {
    let mut snapshot = Snapshot::of(pool, NAME).await?;
    let rows = sqlx::query!(
        "SELECT hour, provider, kind, called, outcome, up_to_ms, attempts FROM provider_health_v1
         WHERE hour >= $1 AND hour < $2",
        from,
        to,
    )
    .fetch_all(snapshot.connection())
    .await?;
    let mut hours: BTreeMap<(DateTime<Utc>, String, String), (ProviderHealth, Durations)> = BTreeMap::new();
    for row in rows {
        let (health, durations) = match hours.entry((row.hour, row.provider, row.kind)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let (hour, provider, kind) = new.key().clone();
                new.insert((ProviderHealth::new(hour, provider, kind), Durations::new()))
            }
        };
        if !row.called {
            *health.passed_over.entry(row.outcome).or_default() += row.attempts;
            continue;
        }
        health.called += row.attempts;
        if row.outcome == ANSWERED {
            health.answered += row.attempts;
            *durations.entry(row.up_to_ms).or_default() += row.attempts;
        } else {
            *health.failed.entry(row.outcome).or_default() += row.attempts;
        }
    }
    let hours = hours.into_values().map(|(mut health, durations)| {
        health.p50_ms = quantile_ms(&durations, 50);
        health.p95_ms = quantile_ms(&durations, 95);
        health.p99_ms = quantile_ms(&durations, 99);
        health
    });
    let hours = hours.collect();
    snapshot.close(hours).await
}

impl ProviderHealth {
    fn new(hour: DateTime<Utc>, provider: String, kind: String) -> Self {
        Self {
            hour,
            provider,
            kind,
            called: 0,
            answered: 0,
            failed: BTreeMap::new(),
            passed_over: BTreeMap::new(),
            p50_ms: None,
            p95_ms: None,
            p99_ms: None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct View;

impl rebuild::View for View {
    fn tables(&self) -> &'static [&'static str] {
        &[STATE, videos::NAME, NAME]
    }

    fn event_types(&self) -> &'static [&'static str] {
        EVENT_TYPES
    }
}

impl EventHandler for View {
    fn name(&self) -> &'static str {
        NAME
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        apply(transaction, events).boxed()
    }
}

async fn apply(transaction: &mut PgTransaction<'_>, events: &[Arc<LogEntry>]) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Row {
        hour: DateTime<Utc>,
        provider: String,
        kind: String,
        called: bool,
        outcome: String,
        up_to_ms: i64,
        attempts: i64,
    }
    let Some(mut state) = State::advance(transaction, STATE, EVENT_TYPES, events).await? else { return Ok(()) };
    let mut open = OpenSubmissions::of(transaction, events).await?;
    let mut additions: BTreeMap<Key, i64> = BTreeMap::new();
    for entry in events {
        if state.takes(entry)? {
            match entry.aggregate_type.as_str() {
                Request::TYPE => add_request(&mut additions, entry)?,
                VideoJob::TYPE => add_video(&mut additions, &mut open, entry)?,
                _ => {}
            }
        }
    }
    open.write(transaction).await?;
    if !additions.is_empty() {
        let rows = additions.into_iter().map(|(key, attempts)| {
            let Key { hour, provider, kind, called, outcome, up_to_ms } = key;
            Row { hour, provider, kind, called, outcome, up_to_ms, attempts }
        });
        sqlx::query!(
            "INSERT INTO provider_health_v1 AS h
                 SELECT * FROM json_populate_recordset(NULL::provider_health_v1, $1::text::json)
             ON CONFLICT (hour, provider, kind, called, outcome, up_to_ms) DO UPDATE SET
                 attempts = h.attempts + excluded.attempts",
            json_rows(&rows.collect::<Vec<_>>())?,
        )
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}

/// Counts every call to a provider that the end of a request tells of.
fn add_request(additions: &mut BTreeMap<Key, i64>, entry: &LogEntry) -> anyhow::Result<()> {
    let end = entry.event::<Request>()?;
    let (Some(outcome), Some((asked, _))) = (end.outcome(), end.ended()) else { return Ok(()) };
    let (hour, kind) = (outcome.ended_at.duration_trunc(TimeDelta::hours(1))?, name(asked.kind)?);
    for attempt in &outcome.attempts {
        let key = Key {
            hour,
            provider: key_text(&attempt.provider),
            kind: kind.clone(),
            called: !attempt.skipped,
            outcome: attempt.failure.as_deref().map_or_else(|| ANSWERED.to_owned(), key_text),
            up_to_ms: bound_ms(attempt.duration_ms),
        };
        *additions.entry(key).or_default() += 1;
    }
    Ok(())
}

/// Counts the submission that is over by this event.
fn add_video(additions: &mut BTreeMap<Key, i64>, open: &mut OpenSubmissions, entry: &LogEntry) -> anyhow::Result<()> {
    let Some(call) = open.advance(&entry.aggregate_id, entry.event::<VideoJob>()?) else { return Ok(()) };
    let key = Key {
        hour: call.ended_at.duration_trunc(TimeDelta::hours(1))?,
        provider: key_text(&call.provider),
        kind: VideoJob::TYPE.to_owned(),
        called: true,
        outcome: call.failure.as_deref().map_or_else(|| ANSWERED.to_owned(), key_text),
        up_to_ms: bound_ms(call.duration_ms),
    };
    *additions.entry(key).or_default() += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_never_below_the_duration_and_at_most_a_quarter_above() {
        assert_eq!([0, 1, 7, 8, 9, 10, 11, 16, 17, 1_000].map(bound_ms), [1, 1, 7, 8, 10, 10, 12, 16, 20, 1_024]);
        for duration_ms in 1..100_000_u64 {
            let bound = bound_ms(duration_ms).cast_unsigned();
            assert!(bound >= duration_ms && bound * 4 <= duration_ms * 5, "{duration_ms}: {bound}");
        }
        assert!(bound_ms(u64::MAX) > 0);
    }

    #[test]
    fn a_quantile_is_the_bound_that_holds_so_many() {
        let durations = BTreeMap::from([(10, 50), (20, 45), (40, 5)]);
        let quantiles = [50, 51, 95, 96, 99].map(|percent| quantile_ms(&durations, percent));
        assert_eq!(quantiles, [Some(10), Some(20), Some(20), Some(40), Some(40)]);
        assert_eq!(quantile_ms(&BTreeMap::new(), 50), None);
    }
}
