//! Usage and margin: requests, tokens, seconds of video and money by whatever one likes to keep apart.

use super::{
    column::{Column, Kind},
    query::{Bind, ReportQuery},
    selection::{Dimension, Name, Selection},
    watermark::Basis,
};
use crate::{usage_daily, usage_ledger, usage_monthly};

/// Which view has the figures: the ledger has them as of any position, the others add up what is known now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Ledger,
    Daily,
    Monthly,
}

impl Source {
    /// The smallest view that keeps apart what is asked for.
    pub fn smallest(selection: &Selection) -> Self {
        let is_whole = selection.days.is_some_and(|(from, to)| {
            let month = aihub_domain::period::Month::of_day;
            month(from).first_day() == from && super::selection::last_day(month(to)) == to
        });
        if is_whole && !selection.group_by.contains(&Dimension::Day) { Self::Monthly } else { Self::Daily }
    }

    pub fn view(self) -> &'static str {
        match self {
            Self::Ledger => usage_ledger::NAME,
            Self::Daily => usage_daily::NAME,
            Self::Monthly => usage_monthly::NAME,
        }
    }

    /// A figure that the ledger has once a row and the others have added up already.
    fn sum(self, of_entry: &str, added_up: &str) -> String {
        match self {
            Self::Ledger => format!("sum({of_entry})"),
            Self::Daily | Self::Monthly => format!("sum({added_up})"),
        }
    }
}

pub fn query(selection: &Selection, source: Source, basis: &Basis) -> ReportQuery {
    let mut query = ReportQuery::default();
    let day = match source {
        Source::Ledger => "usage_day",
        Source::Daily => "day",
        Source::Monthly => "month",
    };
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
        ("requests", source.sum("1", "requests")),
        ("failed", source.sum("(status IN ('failed', 'abandoned', 'expired'))::int", "failed")),
        ("estimated", source.sum("estimated::int", "estimated")),
    ];
    let tokens = ["input", "cached_input", "cache_write", "output", "reasoning"];
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

    let (from, to) = selection.days.unwrap_or_default();
    let (from, to) = (query.bind(Bind::Day(from)), query.bind(Bind::Day(to)));
    let names = query.names(selection);
    let up_to = match source {
        Source::Ledger => format!(" AND position <= {}", query.bind(Bind::Position(basis.position))),
        _ => String::new(),
    };
    let months = match source {
        // The index is on months first.
        Source::Ledger => format!(
            " AND accounting_month BETWEEN date_trunc('month', {from})::date AND date_trunc('month', {to})::date"
        ),
        _ => String::new(),
    };
    let groups = if group_by.is_empty() { String::new() } else { format!("GROUP BY {}", group_by.join(", ")) };
    // Nothing used is no row, also where everything is added up to one.
    query.source = format!(
        "FROM {} WHERE {day} BETWEEN {from} AND {to}{months}{names}{up_to} {groups} HAVING count(*) > 0",
        source.view()
    );
    query
}

fn token_column(kind: &str) -> &'static str {
    match kind {
        "input" => "input_tokens",
        "cached_input" => "cached_input_tokens",
        "cache_write" => "cache_write_tokens",
        "output" => "output_tokens",
        _ => "reasoning_tokens",
    }
}
