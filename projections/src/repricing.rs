//! What a month would have cost at other prices, request by request and video by video. Nothing changes by it; who wants it
//! to appends the corrections that come out as credit and debit notes.

use std::collections::{BTreeMap, BTreeSet};

use aihub_domain::{
    account::{event::Correction, repricing::Repricing},
    money::{Microcredits, MicrocreditsPerUsd},
    period::Month,
    price::{Price, TokenUsage},
    video::{format::Resolution, price::VideoPrice},
};
use chrono::{DateTime, Utc};
use futures::{Stream, TryStreamExt, future::ready};
use sqlx::PgPool;

use crate::{
    credit_ledger,
    report::{
        ReportError,
        column::{Column, Kind, Value},
        watermark::{Basis, Views, Watermark},
    },
    request_status,
    usage_ledger::{self, UsageEntry},
    video_status,
};

/// What a month is repriced from.
pub const VIEWS: [&str; 4] = [usage_ledger::NAME, credit_ledger::NAME, request_status::NAME, video_status::NAME];

/// By provider and model.
pub type OfModels<P> = BTreeMap<String, BTreeMap<String, Vec<P>>>;

/// The prices that models should have had. What is not in it keeps its price.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prices {
    pub tokens: OfModels<Price>,
    pub videos: OfModels<VideoPrice>,
}

/// What was charged for, with what its price goes by besides what was used.
#[derive(sqlx::FromRow)]
struct Charged {
    #[sqlx(flatten)]
    entry: UsageEntry,
    /// When it was asked for: it has the price of then.
    priced_at: DateTime<Utc>,
    /// Of a video.
    resolution: Option<String>,
}

/// A request or a video at both prices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repriced {
    pub entry: UsageEntry,
    /// What it would have been charged.
    pub charge: Microcredits,
    pub cost_picousd: i64,
    /// As far as other notes have given back already what is too much of it, or, below zero, taken what is too little.
    pub given_back: Microcredits,
    /// What it was charged is what was charged, with what notes took on top and less what they gave back.
    pub left: Microcredits,
    /// A note of this correction names it already.
    pub is_corrected: bool,
}

/// What an account's use of a model comes to at both prices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Line {
    requests: i64,
    charged: i128,
    repriced: i128,
    given_back: i128,
    correction: i128,
    cost_picousd: i128,
    repriced_cost_picousd: i128,
}

/// By account, provider and model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison(BTreeMap<(String, String, String), Line>);

/// A credit or debit note.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Note {
    pub account: String,
    pub reference: String,
    spent_change_microcredits: i64,
    corrects: sqlx::types::Json<Vec<Correction>>,
}

/// What notes have made of charges: what was given back, less what was taken on top. By account and charge.
#[derive(Debug)]
struct GivenBack {
    by_others: BTreeMap<(String, String), i64>,
    by_all: BTreeMap<(String, String), i64>,
    /// By notes of this very correction.
    corrected: BTreeSet<(String, String)>,
}

/// A month as it is booked, at one position.
pub struct BookedMonth {
    views: Views,
    pub month: Month,
    /// A closed month stands where it was closed: what it comes to does not change any more.
    pub is_closed: bool,
    pub basis: Basis,
    /// What may correct its charges: those that are booked in it or later, in the order of the log.
    pub notes: Vec<Note>,
    /// How many notes each account has altogether.
    pub notes_of: BTreeMap<String, usize>,
    /// How many videos keep their price, because the other one has none for their resolution. Known when the requests have
    /// been read.
    pub passed_over: u64,
}

impl BookedMonth {
    pub async fn of(pool: &PgPool, month: Month) -> Result<Self, ReportError> {
        let mut views = Views::open(pool, &[&VIEWS[..], &["month_close_v1"]].concat()).await?;
        let last = views.position(&VIEWS);
        let close = views.close_of(month, last).map(|close| close.watermark);
        let basis = views.basis(close.unwrap_or(last)).await?;
        // Also those that came after the close.
        let notes = sqlx::query_as(
            "SELECT account, reference, spent_change_microcredits, corrects FROM credit_ledger_v1
             WHERE movement = 'adjust' AND accounting_month >= $1 ORDER BY position",
        )
        .bind(month.first_day())
        .fetch_all(&mut *views.transaction)
        .await?;
        let counts: Vec<(String, i64)> =
            sqlx::query_as("SELECT account, count(*) FROM credit_ledger_v1 WHERE movement = 'adjust' GROUP BY account")
                .fetch_all(&mut *views.transaction)
                .await?;
        let notes_of = counts.into_iter().map(|(account, notes)| (account, usize::try_from(notes).unwrap_or_default()));
        let notes_of = notes_of.collect();
        Ok(Self { views, month, is_closed: close.is_some(), basis, notes, notes_of, passed_over: 0 })
    }

    /// The requests and videos that another price is given for, by account and in the order of the log. What `own` notes have
    /// given back does not count: they are the same correction.
    pub fn requests<'a>(
        &'a mut self,
        prices: &'a Prices,
        rate: MicrocreditsPerUsd,
        own: &Repricing,
    ) -> impl Stream<Item = Result<Repriced, sqlx::Error>> + 'a {
        let is_own = |note: &&Note| Repricing::of_note(&note.reference).as_ref() == Some(own);
        let corrected = self
            .notes
            .iter()
            .filter(is_own)
            .flat_map(|note| note.corrects.0.iter().map(|part| (note.account.clone(), part.charge.clone())));
        let mut given_back = GivenBack {
            by_others: GivenBack::by(self.notes.iter().filter(|note| !is_own(note))),
            by_all: GivenBack::by(self.notes.iter()),
            corrected: corrected.collect(),
        };
        let Self { views, month, basis, passed_over, .. } = self;
        let entries = sqlx::query_as(
            "SELECT u.*, coalesce(v.requested_at, r.accepted_at) AS priced_at, v.resolution
             FROM usage_ledger_v1 u LEFT JOIN video_status_v1 v ON u.kind = 'video' AND v.video_id = u.request_id
                                    LEFT JOIN request_status_v1 r ON u.kind <> 'video' AND r.request_id = u.request_id
             WHERE u.accounting_month = $1 AND u.position <= $2 AND u.price_id IS NOT NULL
             ORDER BY u.account, u.position, u.part",
        )
        .bind(month.first_day())
        .bind(basis.position.cast_signed())
        .fetch(&mut *views.transaction);
        entries.try_filter_map(move |charged| {
            ready(Ok(match Repriced::of(charged, prices, rate) {
                Other::Price(mut repriced) => {
                    given_back.count_with(&mut repriced);
                    Some(*repriced)
                }
                Other::None => None,
                Other::NotOfItsResolution => {
                    *passed_over += 1;
                    None
                }
            }))
        })
    }
}

impl GivenBack {
    fn by<'a>(notes: impl Iterator<Item = &'a Note>) -> BTreeMap<(String, String), i64> {
        let mut given_back = BTreeMap::new();
        for note in notes {
            for Correction { charge, amount_microcredits } in &note.corrects.0 {
                let amount = amount_microcredits.0;
                let given = if note.spent_change_microcredits < 0 { amount } else { amount.saturating_neg() };
                let known: &mut i64 = given_back.entry((note.account.clone(), charge.clone())).or_default();
                *known = known.saturating_add(given);
            }
        }
        given_back
    }

    /// Of a charge that has several parts, the first ones first. What was given back counts for what is too much, and what was
    /// taken on top for what is too little.
    fn count_with(&mut self, part: &mut Repriced) {
        let charge = (part.entry.account.clone(), part.entry.request_id.clone());
        part.is_corrected = self.corrected.contains(&charge);
        let by_all = self.by_all.get(&charge).copied().unwrap_or_default();
        part.left = Microcredits(part.entry.charged_microcredits.saturating_sub(by_all));
        let Some(known) = self.by_others.get_mut(&charge) else { return };
        let correction = part.correction();
        let given_back = if correction < 0 {
            correction.saturating_neg().min(*known).max(0)
        } else {
            correction.saturating_neg().max(*known).min(0)
        };
        *known = known.saturating_sub(given_back);
        part.given_back = Microcredits(given_back);
    }
}

/// What other prices say of a request or a video.
enum Other {
    Price(Box<Repriced>),
    /// No other price was valid then.
    None,
    NotOfItsResolution,
}

impl Repriced {
    fn of(charged: Charged, prices: &Prices, rate: MicrocreditsPerUsd) -> Other {
        let Charged { entry, priced_at, resolution } = charged;
        let cost = if entry.kind == "video" {
            let valid = |prices: &&VideoPrice| prices.is_valid_at(priced_at);
            let Some(price) = of_model(&prices.videos, &entry).and_then(|prices| prices.iter().find(valid)) else {
                return Other::None;
            };
            let resolution = resolution.and_then(|resolution| resolution.parse::<Resolution>().ok());
            let seconds = entry.video_seconds.try_into().ok();
            let Some(cost) = resolution.zip(seconds).and_then(|(resolution, seconds)| price.cost(resolution, seconds))
            else {
                return Other::NotOfItsResolution;
            };
            cost
        } else {
            let valid = |prices: &&Price| prices.is_valid_at(priced_at);
            let Some(price) = of_model(&prices.tokens, &entry).and_then(|prices| prices.iter().find(valid)) else {
                return Other::None;
            };
            price.cost(&TokenUsage {
                input: entry.input_tokens.cast_unsigned(),
                cached_input: entry.cached_input_tokens.cast_unsigned(),
                cache_write: entry.cache_write_tokens.cast_unsigned(),
                cache_write_1h: entry.cache_write_1h_tokens.cast_unsigned(),
                output: entry.output_tokens.cast_unsigned(),
                reasoning: entry.reasoning_tokens.cast_unsigned(),
                // What is no part of a price.
                ..TokenUsage::default()
            })
        };
        Other::Price(Box::new(Self {
            charge: rate.charge(cost),
            cost_picousd: cost.0,
            given_back: Microcredits::ZERO,
            left: Microcredits::ZERO,
            is_corrected: false,
            entry,
        }))
    }

    /// What the account is to pay on top, or, below zero, to get back, beside what it paid or got back already. Where it was
    /// charged less than the list said, because it had no more, only what goes beyond the list is asked for.
    pub fn correction(&self) -> i64 {
        let (charged, list) = (self.entry.charged_microcredits, self.entry.list_microcredits);
        let paid = if self.charge.0 < charged { charged } else { list.max(charged).min(self.charge.0) };
        self.charge.0.saturating_sub(paid).saturating_add(self.given_back.0)
    }
}

fn of_model<'a, P>(prices: &'a OfModels<P>, entry: &UsageEntry) -> Option<&'a Vec<P>> {
    prices.get(&entry.provider)?.get(&entry.model)
}

impl Comparison {
    /// Of the models that other prices are given for, those of which nothing was charged: they may be misspelt.
    pub fn unknown<'a>(&self, prices: &'a Prices) -> Vec<(&'a str, &'a str)> {
        fn models<P>(prices: &OfModels<P>) -> impl Iterator<Item = (&str, &str)> {
            prices.iter().flat_map(|(provider, models)| models.keys().map(|model| (provider.as_str(), model.as_str())))
        }
        let is_there = |(provider, model): &(&str, &str)| {
            self.0.keys().any(|(_, of, charged)| (of.as_str(), charged.as_str()) == (*provider, *model))
        };
        models(&prices.tokens).chain(models(&prices.videos)).filter(|named| !is_there(named)).collect()
    }

    pub fn add(&mut self, request: &Repriced) {
        let UsageEntry { account, provider, model, .. } = &request.entry;
        let line = self.0.entry((account.clone(), provider.clone(), model.clone())).or_default();
        line.requests += i64::from(request.entry.requests);
        line.charged += i128::from(request.entry.charged_microcredits);
        line.repriced += i128::from(request.charge.0);
        line.given_back += i128::from(request.given_back.0);
        line.correction += i128::from(request.correction());
        line.cost_picousd += i128::from(request.entry.cost_picousd);
        line.repriced_cost_picousd += i128::from(request.cost_picousd);
    }

    pub fn columns() -> Vec<Column> {
        let text = ["account", "provider", "model"].map(|name| Column::new(name, Kind::Text, name));
        let sums = [
            ("requests", Kind::Count),
            ("charged_credits", Kind::Credits),
            ("repriced_credits", Kind::Credits),
            ("given_back_credits", Kind::Credits),
            ("correction_credits", Kind::Credits),
            ("provider_cost_usd", Kind::Usd),
            ("repriced_cost_usd", Kind::Usd),
        ];
        text.into_iter().chain(sums.map(|(name, kind)| Column::new(name, kind, name).totalled())).collect()
    }

    pub fn rows(&self) -> impl Iterator<Item = Vec<Value>> {
        self.0.iter().map(|((account, provider, model), line)| {
            let names = [account, provider, model].map(|name| Value::Text(name.clone()));
            let sums = [
                Value::Count(line.requests),
                Value::Credits(line.charged),
                Value::Credits(line.repriced),
                Value::Credits(line.given_back),
                Value::Credits(line.correction),
                Value::Usd(line.cost_picousd),
                Value::Usd(line.repriced_cost_picousd),
            ];
            names.into_iter().chain(sums).collect()
        })
    }

    pub fn watermark(&self, basis: Basis) -> Watermark {
        let rows: Vec<_> = self.rows().collect();
        Watermark::of(basis, &Self::columns(), &rows)
    }
}
