//! What a report is asked for. Both doors, command line and HTTP, hand over the same texts; here they get their types,
//! and what is wrong with one is said by its name.

use aihub_domain::period::Month;
use chrono::{DateTime, Datelike, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;
use uuid::Uuid;

use crate::key_text::key_text;

/// The most rows of a page.
pub const MAX_PAGE_ROWS: u32 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// Requests, tokens and money, broken down as asked.
    Usage,
    /// What each account had, got, spent and has left, by accounting month.
    Statement,
    /// What is held for running requests, and since when.
    Holds,
    /// Whether the books balance.
    TrialBalance,
    /// Everything about the close of a month.
    Close,
    /// The providers' cost against what was charged.
    Margin,
}

/// As it was asked. Names are those of the HTTP parameters, in snake case.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    /// `2026-10`, instead of `from` and `to`.
    pub month: Option<String>,
    /// The first day.
    pub from: Option<String>,
    /// The last day, included.
    pub to: Option<String>,
    pub account: Option<String>,
    pub user: Option<String>,
    pub provider: Option<String>,
    pub model: Option<String>,
    /// Of [`Dimension`], separated by commas.
    pub group_by: Option<String>,
    /// A position, or an instant in RFC 3339.
    pub as_of: Option<String>,
    /// How many rows, at most [`MAX_PAGE_ROWS`].
    pub limit: Option<String>,
    /// Where the page before ended, as it said.
    pub cursor: Option<String>,
}

/// What usage is broken down by. What it is not is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dimension {
    Day,
    Month,
    Account,
    User,
    Provider,
    Model,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    Position(u64),
    Time(DateTime<Utc>),
}

/// A part of a report: some rows from one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub offset: u64,
    pub limit: u32,
}

/// What a report is about, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    pub name: Name,
    /// The first and the last day, both included.
    pub days: Option<(NaiveDate, NaiveDate)>,
    pub account: Option<String>,
    pub user: Option<String>,
    pub provider: Option<String>,
    pub model: Option<String>,
    /// In their order, none twice.
    pub group_by: Vec<Dimension>,
    pub as_of: Option<AsOf>,
    pub page: Option<Page>,
}

/// Something is wrong with one of the parameters.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {reason}")]
pub struct Fault {
    pub field: &'static str,
    pub reason: String,
}

impl Fault {
    pub fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }
}

impl Name {
    pub const ALL: [Self; 6] =
        [Self::Usage, Self::Statement, Self::Holds, Self::TrialBalance, Self::Close, Self::Margin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Statement => "statement",
            Self::Holds => "holds",
            Self::TrialBalance => "trial-balance",
            Self::Close => "close",
            Self::Margin => "margin",
        }
    }

    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }
}

impl Dimension {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Day, "day"),
        (Self::Month, "month"),
        (Self::Account, "account"),
        (Self::User, "user"),
        (Self::Provider, "provider"),
        (Self::Model, "model"),
    ];

    fn list(text: &str) -> Result<Vec<Self>, Fault> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let mut dimensions = Vec::new();
        for name in names {
            let Some((dimension, _)) = Self::ALL.into_iter().find(|(_, known)| *known == name) else {
                let known = Self::ALL.map(|(_, name)| name).join(", ");
                return Err(Fault::new("groupBy", format!("{name} is none of {known}")));
            };
            dimensions.push(dimension);
        }
        dimensions.sort_unstable();
        dimensions.dedup();
        Ok(dimensions)
    }
}

impl Selection {
    /// `today` bounds the period of a report that is asked without one.
    pub fn of(name: Name, parameters: Parameters, today: NaiveDate) -> Result<Self, Fault> {
        let Parameters { month, from, to, account, user, provider, model, group_by, as_of, limit, cursor } = parameters;
        let is_usage = matches!(name, Name::Usage | Name::Margin);
        let has_days = is_usage || matches!(name, Name::Statement | Name::Close);
        for (field, given, is_known) in [
            ("month", month.is_some(), has_days),
            ("from", from.is_some(), is_usage || name == Name::Statement),
            ("to", to.is_some(), is_usage || name == Name::Statement),
            ("account", account.is_some(), name != Name::Close),
            ("user", user.is_some(), is_usage),
            ("provider", provider.is_some(), is_usage),
            ("model", model.is_some(), is_usage),
            ("groupBy", group_by.is_some(), name == Name::Usage),
        ] {
            if given && !is_known {
                return Err(Fault::new(field, format!("the report {} does not know it", name.as_str())));
            }
        }
        if name == Name::Close && month.is_none() {
            return Err(Fault::new("month", "which month's close is it to be about? It looks like 2026-10"));
        }
        let days = if has_days { Some(days(month, from, to, today)?) } else { None };
        if let (Name::Statement, Some((first, last))) = (name, days) {
            if Month::of_day(first).first_day() != first {
                return Err(Fault::new(
                    "from",
                    format!("statements begin with a month, {first} is in the midst of one"),
                ));
            }
            // The month that still runs ends today.
            if last_day(Month::of_day(last)) != last && last != today {
                return Err(Fault::new("to", format!("statements end with a month, {last} is in the midst of one")));
            }
        }
        let group_by = group_by.as_deref().map(Dimension::list).transpose()?.unwrap_or_default();
        let as_of = as_of.as_deref().map(AsOf::parse).transpose()?;
        let key = |name: Option<String>| name.as_deref().map(key_text);
        let (account, user, provider, model) = (key(account), key(user), key(provider), key(model));
        let mut selection = Self { name, days, account, user, provider, model, group_by, as_of, page: None };
        let limit = limit.as_deref().map(parse_limit).transpose()?;
        selection.page = match (limit, cursor) {
            (None, None) => None,
            (Some(limit), None) => Some(Page { offset: 0, limit }),
            (limit, Some(cursor)) => {
                let (position, offset) = selection.at_cursor(&cursor)?;
                selection.as_of = Some(AsOf::Position(position));
                Some(Page { offset, limit: limit.unwrap_or(MAX_PAGE_ROWS) })
            }
        };
        Ok(selection)
    }

    /// What is asked, without the position that it is asked at: for whoever reads the report, and what makes two
    /// reports the same one.
    pub fn json(&self) -> Value {
        let mut json = json!({
            "from": self.days.map(|days| days.0),
            "to": self.days.map(|days| days.1),
            "account": self.account,
            "user": self.user,
            "provider": self.provider,
            "model": self.model,
            "groupBy": (!self.group_by.is_empty()).then_some(&self.group_by),
        });
        if let Some(object) = json.as_object_mut() {
            object.retain(|_, value| !value.is_null());
        }
        json
    }

    /// Says where the next page begins.
    pub fn cursor(&self, position: u64, offset: u64) -> String {
        format!("{position}.{offset}.{}", self.digest().simple())
    }

    fn at_cursor(&self, cursor: &str) -> Result<(u64, u64), Fault> {
        let mut parts = cursor.split('.');
        let mut number = || parts.next().and_then(|part| part.parse().ok());
        let numbers = number().zip(number());
        let digest = parts.next().and_then(|part| Uuid::try_parse(part).ok());
        match (numbers, digest, parts.next()) {
            (Some(numbers), Some(digest), None) if digest == self.digest() => Ok(numbers),
            (Some(_), Some(_), None) => Err(Fault::new("cursor", "it belongs to a report with other parameters")),
            _ => Err(Fault::new("cursor", "it is none that a report has given")),
        }
    }

    fn digest(&self) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{} {}", self.name.as_str(), self.json()).as_bytes())
    }
}

impl AsOf {
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(position));
        }
        let time = DateTime::parse_from_rfc3339(text).map(|time| Self::Time(time.to_utc()));
        time.map_err(|_| {
            Fault::new("asOf", format!("{text} is neither a position nor a time like 2026-11-22T08:00:00Z"))
        })
    }
}

fn parse_limit(text: &str) -> Result<u32, Fault> {
    let limit = text.parse().ok().filter(|limit| (1..=MAX_PAGE_ROWS).contains(limit));
    limit.ok_or_else(|| Fault::new("limit", format!("{text} is not a number from 1 to {MAX_PAGE_ROWS}")))
}

fn days(
    month: Option<String>,
    from: Option<String>,
    to: Option<String>,
    today: NaiveDate,
) -> Result<(NaiveDate, NaiveDate), Fault> {
    if let Some(month) = month {
        if from.is_some() || to.is_some() {
            return Err(Fault::new("month", "a month is given, and days as well"));
        }
        let month: Month = month.parse().map_err(|error| Fault::new("month", format!("{error}")))?;
        return Ok((month.first_day(), last_day(month)));
    }
    let day = |field, text: Option<String>| {
        let parse = |text: String| {
            let day = text.parse().ok().filter(|day: &NaiveDate| (1970..10_000).contains(&day.year()));
            day.ok_or_else(|| Fault::new(field, format!("{text} is not a day like 2026-11-22")))
        };
        text.map(parse).transpose()
    };
    let to: NaiveDate = day("to", to)?.unwrap_or(today);
    let from = day("from", from)?.unwrap_or_else(|| Month::of_day(to).first_day());
    if from > to {
        return Err(Fault::new("from", format!("{from} is after {to}")));
    }
    Ok((from, to))
}

pub fn last_day(month: Month) -> NaiveDate {
    let next = month.next().first_day();
    next.pred_opt().unwrap_or(next)
}
