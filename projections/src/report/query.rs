//! A report as SQL: its columns, and where their rows come from.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{Postgres, postgres::PgArguments, query::Query};

use super::{
    column::Column,
    selection::{Page, Selection},
};

/// Columns, what stands behind the `SELECT` list, and the values that it names `$1`, `$2`, ….
#[derive(Debug, Clone, Default)]
pub struct ReportQuery {
    pub columns: Vec<Column>,
    /// From `FROM` on, without an order.
    pub source: String,
    /// Has to name so many columns that no two rows are alike in them.
    pub order_by: Vec<&'static str>,
    binds: Vec<Bind>,
}

#[derive(Debug, Clone)]
pub enum Bind {
    Text(String),
    Day(NaiveDate),
    Days(Vec<NaiveDate>),
    Position(u64),
    Instant(Option<DateTime<Utc>>),
}

impl ReportQuery {
    /// How the value is named in SQL.
    pub fn bind(&mut self, bind: Bind) -> String {
        self.binds.push(bind);
        let cast = match self.binds.last() {
            Some(Bind::Text(_)) => "text",
            Some(Bind::Day(_)) => "date",
            Some(Bind::Days(_)) => "date[]",
            Some(Bind::Instant(_)) => "timestamptz",
            _ => "bigint",
        };
        format!("${}::{cast}", self.binds.len())
    }

    /// `AND column = …` for each name that is asked for.
    pub fn names(&mut self, selection: &Selection) -> String {
        let Selection { account, user, provider, model, .. } = selection;
        let mut conditions = vec![String::new()];
        for (column, name) in [("account", account), ("user_id", user), ("provider", provider), ("model", model)] {
            if let Some(name) = name {
                let name = self.bind(Bind::Text(name.clone()));
                conditions.push(format!("{column} = {name}"));
            }
        }
        conditions.join(" AND ")
    }

    /// The statement. One row more than the page has, so that it shows whether there is another page.
    pub fn sql(&self, page: Option<Page>) -> String {
        let columns: Vec<_> =
            self.columns.iter().map(|column| format!("{} AS \"{}\"", column.select(), column.name)).collect();
        // These are names of columns of the result, and so of a type and a collation of ours.
        let names: Vec<_> = self.order_by.iter().map(|name| format!("\"{name}\"")).collect();
        let order = if names.is_empty() { String::new() } else { format!("ORDER BY {}", names.join(", ")) };
        let part = page.map(|Page { offset, limit }| format!("LIMIT {} OFFSET {offset}", u64::from(limit) + 1));
        format!("SELECT {} {} {order} {}", columns.join(", "), self.source, part.unwrap_or_default())
    }

    pub fn bound<'q>(&self, sql: &'q str) -> Query<'q, Postgres, PgArguments> {
        let mut query = sqlx::query(sql);
        for bind in &self.binds {
            query = match bind {
                Bind::Text(text) => query.bind(text.clone()),
                Bind::Day(day) => query.bind(*day),
                Bind::Days(days) => query.bind(days.clone()),
                Bind::Position(position) => query.bind(position.cast_signed()),
                Bind::Instant(at) => query.bind(*at),
            };
        }
        // Planned for these values, and not kept: hardly two reports have the same text.
        query.persistent(false)
    }
}
