//! A provider's own usage export beside what our ledger says, per UTC day and model. Exports are of tokens: videos, which
//! use none, are compared by nobody.

mod export;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::NaiveDate;
use futures::TryStreamExt;
use sqlx::{PgPool, Row};

pub use self::export::{Export, ExportError};
use crate::{
    report::{
        ReportError,
        watermark::{Basis, Views},
    },
    usage_ledger,
};

/// Whose export it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    OpenAi,
    Anthropic,
}

/// Added up over a day and a model. The kinds of input do not overlap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// `None` where the export does not say. For information: a call that we repeat or give up counts there, not here.
    pub requests: Option<u64>,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    pub cache_write_tokens: u64,
    pub output_tokens: u64,
}

pub type ByDayAndModel = BTreeMap<(NaiveDate, String), Figures>;

/// A figure that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub day: NaiveDate,
    pub model: String,
    pub figure: &'static str,
    pub ours: u64,
    pub theirs: u64,
    /// More than the tolerance allows. A number of requests never is.
    pub is_beyond: bool,
}

/// How far a figure may be from the provider's, in millionths of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tolerance {
    pub ppm: u32,
}

/// What we have, of the providers of these names, of the days between, both included. A request counts on the day of its
/// end, also where that was closed before the end came in: providers know no closes.
pub async fn ours(
    pool: &PgPool,
    providers: &[String],
    (from, to): (NaiveDate, NaiveDate),
) -> Result<(ByDayAndModel, Basis), ReportError> {
    let mut views = Views::open(pool, &[usage_ledger::NAME, "month_close_v1"]).await?;
    let basis = views.basis(views.position(&[usage_ledger::NAME])).await?;
    let mut figures = ByDayAndModel::new();
    {
        // What ended on these days is booked in their months or in later ones.
        let mut rows = sqlx::query(
            "SELECT (ended_at AT TIME ZONE 'UTC')::date, model, count(*), sum(input_tokens)::bigint,
                    sum(cached_input_tokens)::bigint, sum(cache_write_tokens + cache_write_1h_tokens)::bigint,
                    sum(output_tokens)::bigint
             FROM usage_ledger_v1
             WHERE accounting_month >= date_trunc('month', $1)::date AND provider = ANY ($3) AND price_id IS NOT NULL
                 AND kind <> 'video'
                 AND ended_at >= $1::timestamp AT TIME ZONE 'UTC' AND ended_at < ($2 + 1)::timestamp AT TIME ZONE 'UTC'
             GROUP BY 1, 2",
        )
        .bind(from)
        .bind(to)
        .bind(providers)
        .fetch(&mut *views.transaction);
        while let Some(row) = rows.try_next().await? {
            let count = |index: usize| row.try_get::<i64, _>(index).map(i64::cast_unsigned);
            let sums = Figures {
                requests: Some(count(2)?),
                input_tokens: count(3)?,
                cached_input_tokens: count(4)?,
                cache_write_tokens: count(5)?,
                output_tokens: count(6)?,
            };
            figures.insert((row.try_get(0)?, row.try_get(1)?), sums);
        }
    }
    views.transaction.commit().await?;
    Ok((figures, basis))
}

/// What differs, by day, model and figure. What one side does not name at all is nothing there.
pub fn differences(
    ours: &ByDayAndModel,
    theirs: &ByDayAndModel,
    vendor: Vendor,
    tolerance: Tolerance,
) -> Vec<Difference> {
    let mut found = Vec::new();
    let keys: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for key in keys {
        let [mine, other] = [ours, theirs].map(|side| side.get(key).copied().unwrap_or_default());
        let mut figures = vec![
            ("output_tokens", mine.output_tokens, other.output_tokens),
            ("cached_input_tokens", mine.cached_input_tokens, other.cached_input_tokens),
        ];
        match vendor {
            // It does not tell apart what is written into its cache.
            Vendor::OpenAi => {
                let input = |side: Figures| side.input_tokens + side.cache_write_tokens;
                figures.push(("input_tokens", input(mine), input(other)));
                let requests = |side: Figures| side.requests.unwrap_or(0);
                figures.push(("requests", requests(mine), requests(other)));
            }
            Vendor::Anthropic => {
                figures.push(("input_tokens", mine.input_tokens, other.input_tokens));
                figures.push(("cache_write_tokens", mine.cache_write_tokens, other.cache_write_tokens));
            }
        }
        figures.sort_unstable();
        found.extend(figures.into_iter().filter(|(_, ours, theirs)| ours != theirs).map(|(figure, ours, theirs)| {
            let is_beyond = figure != "requests" && tolerance.is_exceeded(ours, theirs);
            Difference { day: key.0, model: key.1.clone(), figure, ours, theirs, is_beyond }
        }));
    }
    found
}

impl Tolerance {
    fn is_exceeded(self, ours: u64, theirs: u64) -> bool {
        u128::from(ours.abs_diff(theirs)) * 1_000_000 > u128::from(theirs) * u128::from(self.ppm)
    }
}
