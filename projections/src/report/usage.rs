//! Usage and margin: requests, tokens, seconds of video and money by whatever one likes to keep apart.

use chrono::NaiveDate;

use super::{
    column::{Column, Kind},
    query::{Bind, ReportQuery},
    selection::{Dimension, Name, Selection},
    watermark::Basis,
};
use crate::{usage_daily, usage_ledger, usage_monthly};

/// Which view has the figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Monthly,
    Daily,
    /// As of a position that the views have gone past: only the ledger tells what the days that have changed since were
    /// then.
    Past(Changed),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// These, with the position of the first event of each.
    Days(Vec<(NaiveDate, u64)>),
    /// It is not known which have not.
    All,
}

const NAMES: &str = "account, user_id, provider, model";
const AMOUNTS: &str =
    "input_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
    video_seconds, list_microcredits, charged_microcredits, cost_picousd";

impl Source {
    /// The smallest view that keeps apart what is asked for.
    pub fn smallest(selection: &Selection) -> Self {
        let is_whole = selection.days.is_some_and(|(from, to)| {
            let month = aihub_domain::period::Month::of_day;
            month(from).first_day() == from && super::selection::last_day(month(to)) == to
        });
        if is_whole && !selection.group_by.contains(&Dimension::Day) { Self::Monthly } else { Self::Daily }
    }

    /// Whose position says up to where it is true.
    pub fn view(&self) -> &'static str {
        match self {
            Self::Monthly => usage_monthly::NAME,
            Self::Daily => usage_daily::NAME,
            Self::Past(_) => usage_ledger::NAME,
        }
    }

    /// Rows with the columns of the daily view, or with `month` for `day`.
    fn rows(&self, query: &mut ReportQuery, (from, to): (NaiveDate, NaiveDate), basis: &Basis) -> String {
        let Self::Past(changed) = self else { return self.view().to_owned() };
        let up_to = query.bind(Bind::Position(basis.position));
        let ledger = format!(
            "SELECT usage_day AS day, {NAMES}, requests,
                    (status IN ('failed', 'abandoned', 'expired'))::int * requests AS failed, estimated::int AS estimated, {AMOUNTS}
             FROM usage_ledger_v1 WHERE position <= {up_to}"
        );
        match changed {
            Changed::All => {
                let (from, to) = (query.bind(Bind::Day(from)), query.bind(Bind::Day(to)));
                // The index is on months first.
                format!(
                    "({ledger} AND accounting_month BETWEEN date_trunc('month', {from})::date AND date_trunc('month', {to})::date
                         AND usage_day BETWEEN {from} AND {to}) past"
                )
            }
            Changed::Days(changed) => {
                // Few rows of the ledger are of these days and in front of the position.
                let first = changed.iter().map(|(_, first)| *first).min().unwrap_or(u64::MAX >> 1);
                let first = query.bind(Bind::Position(first));
                let changed = query.bind(Bind::Days(changed.iter().map(|(day, _)| *day).collect()));
                format!(
                    "(SELECT day, {NAMES}, requests, failed, estimated, {AMOUNTS} FROM usage_daily_v1
                      WHERE day <> ALL ({changed})
                      UNION ALL {ledger} AND position >= {first} AND usage_day = ANY ({changed})) past"
                )
            }
        }
    }
}

pub fn query(selection: &Selection, source: &Source, basis: &Basis) -> ReportQuery {
    let mut query = ReportQuery::default();
    let day = if *source == Source::Monthly { "month" } else { "day" };
    let dimensions = match selection.name {
        Name::Margin => &[Dimension::Provider, Dimension::Model],
        _ => selection.group_by.as_slice(),
    };
    let keys = dimensions.iter().map(|dimension| match dimension {
        Dimension::Day => Column::new("day", Kind::Day, day),
        Dimension::Month => Column::new("month", Kind::Text, format!("to_char({day}, 'YYYY-MM')")),
        Dimension::Account => Column::new("account", Kind::Text, "account"),
        Dimension::User => Column::new("user", Kind::Text, "user_id"),
        Dimension::Provider => Column::new("provider", Kind::Text, "provider"),
        Dimension::Model => Column::new("model", Kind::Text, "model"),
    });
    query.columns = keys.collect();
    let group_by: Vec<_> = query.columns.iter().map(|key| key.sql.clone()).collect();
    query.order_by = query.columns.iter().map(|key| key.name).collect();

    let usage = [
        ("requests", "sum(requests)".to_owned()),
        ("failed", "sum(failed)".to_owned()),
        ("estimated", "sum(estimated)".to_owned()),
    ];
    let tokens = ["input", "cached_input", "cache_write", "cache_write_1h", "output", "reasoning"];
    let tokens = tokens.map(|kind| (token_column(kind), format!("sum({kind}_tokens)")));
    query
        .columns
        .extend(usage.into_iter().chain(tokens).map(|(name, sql)| Column::new(name, Kind::Count, sql).totalled()));
    query.columns.push(Column::new("video_seconds", Kind::Count, "sum(video_seconds)").totalled());
    query.columns.push(Column::new("list_credits", Kind::Credits, "sum(list_microcredits)").totalled());
    query.columns.push(Column::new("charged_credits", Kind::Credits, "sum(charged_microcredits)").totalled());
    if selection.name == Name::Margin {
        let uncovered = "sum(list_microcredits) - sum(charged_microcredits)";
        query.columns.push(Column::new("uncovered_credits", Kind::Credits, uncovered).totalled());
    }
    query.columns.push(Column::new("provider_cost_usd", Kind::Usd, "sum(cost_picousd)").totalled());
    if selection.name == Name::Margin {
        // Independent of today's rate, and so the same whenever it is asked: what a dollar of cost has brought in.
        let ratio = "CASE WHEN sum(cost_picousd) > 0
            THEN round(sum(charged_microcredits)::numeric * 1000000000000 / sum(cost_picousd)) END";
        query.columns.push(Column::new("charged_credits_per_cost_usd", Kind::Credits, ratio));
    }

    let days = selection.days.unwrap_or_default();
    let rows = source.rows(&mut query, days, basis);
    let (from, to) = (query.bind(Bind::Day(days.0)), query.bind(Bind::Day(days.1)));
    let names = query.names(selection);
    let groups = if group_by.is_empty() { String::new() } else { format!("GROUP BY {}", group_by.join(", ")) };
    // Nothing used is no row, also where everything is added up to one.
    query.source = format!("FROM {rows} WHERE {day} BETWEEN {from} AND {to}{names} {groups} HAVING count(*) > 0");
    query
}

fn token_column(kind: &str) -> &'static str {
    match kind {
        "input" => "input_tokens",
        "cached_input" => "cached_input_tokens",
        "cache_write" => "cache_write_tokens",
        "cache_write_1h" => "cache_write_1h_tokens",
        "output" => "output_tokens",
        _ => "reasoning_tokens",
    }
}
