//! `aihub projections`: how the handlers of the log stand, and a view filled anew beside the one that is read.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aihub_application::ports::clock::{Clock as _, SystemClock};
use aihub_infrastructure::{
    database::Database,
    database_clock::DatabaseClock,
    event_store::{
        reader,
        subscription::{Status, checkpoint},
        upcast::Upcasters,
    },
};
use aihub_projections::rebuild::{Progress, Rebuild, View, views, working_tables};
use anyhow::{Context, bail};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;

use super::{
    database::with_database,
    output::{out, out_line, remark},
};
use crate::config::Config;

const REPORT_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub enum Projections {
    /// Show each handler of the log: where it stands, how far behind and how old that is, and what it stopped at
    Status,
    /// Fill a view anew beside the one that is read, then put it in its place; begins where it was cut off
    Rebuild {
        /// The name of a view or of what keeps a table that the service works with, as `status` shows it; a version may be left out
        #[arg(required_unless_present = "all")]
        name: Option<String>,
        /// Every one of them, one after another
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Have a handler apply nothing until it is resumed
    Pause { name: String },
    /// Have a handler that is paused or has failed try again
    Resume { name: String },
}

impl Projections {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        with_database(config, async |database| self.run_on(database).await).await
    }

    async fn run_on(self, database: &Database) -> anyhow::Result<()> {
        match self {
            Self::Status => status(database).await,
            Self::Rebuild { name, .. } => {
                let chosen = match name {
                    Some(name) => vec![view_named(&name)?],
                    None => all().collect(),
                };
                for view in chosen {
                    rebuild(database, view).await?;
                }
                Ok(())
            }
            Self::Pause { name } => {
                let name = handler_named(database, &name).await?;
                checkpoint::pause(database.pool(), &name).await?;
                Ok(out_line(format_args!("{name} is paused"))?)
            }
            Self::Resume { name } => {
                let name = handler_named(database, &name).await?;
                checkpoint::resume(database.pool(), &name).await?;
                Ok(out_line(format_args!("{name} may go on"))?)
            }
        }
    }
}

async fn status(database: &Database) -> anyhow::Result<()> {
    let head = reader::head(database.pool()).await?.position;
    let now = DatabaseClock::read(database, SystemClock).await?.now();
    out_line(format_args!("{:<32} {:>12} {:>12} {:>8}  state", "name", "position", "behind", "age"))?;
    for status in checkpoint::statuses(database.pool()).await? {
        let waiting_since = reader::recorded_at(database.pool(), status.position + 1).await?;
        out_line(line(&status, head, now, waiting_since))?;
    }
    out(format_args!("the log ends at position {head}\n"))?;
    Ok(())
}

/// `waiting_since`: when the first event was recorded that it has not applied.
fn line(status: &Status, head: u64, now: DateTime<Utc>, waiting_since: Option<DateTime<Utc>>) -> String {
    let age = waiting_since.map_or_else(|| "-".to_owned(), |since| age(now - since));
    let state = match (&status.failure, status.paused_at) {
        (Some(failure), _) => format!("stopped at position {}: {}", failure.position, failure.error),
        (None, Some(_)) => "paused".to_owned(),
        (None, None) => "runs".to_owned(),
    };
    let behind = head.saturating_sub(status.position);
    format!("{:<32} {:>12} {behind:>12} {age:>8}  {state}", status.name, status.position)
}

/// `0.4 s`, `12 s`, `7 min`, `30 h`.
fn age(age: TimeDelta) -> String {
    let age_ms = age.num_milliseconds().max(0);
    match age_ms {
        0..10_000 => format!("{}.{} s", age_ms / 1_000, age_ms % 1_000 / 100),
        10_000..120_000 => format!("{} s", age_ms / 1_000),
        120_000..7_200_000 => format!("{} min", age_ms / 60_000),
        _ => format!("{} h", age_ms / 3_600_000),
    }
}

async fn rebuild(database: &Database, view: Arc<dyn View>) -> anyhow::Result<()> {
    let name = view.name();
    let rebuild = Rebuild::begin(database, Arc::new(Upcasters::default()), view).await?;
    let (began, mut reported) = (Instant::now(), Instant::now());
    let report = |progress: Progress| {
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            // Nobody may be reading.
            let _ = remark(describe(name, &progress));
        }
    };
    let position =
        rebuild.run(report).await.with_context(|| format!("{name} was not rebuilt; what was done is kept"))?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(out_line(format_args!("{name} is rebuilt up to position {position}, in {seconds:.1} s"))?)
}

fn describe(name: &str, progress: &Progress) -> String {
    if let Some(readers) = &progress.waits_for {
        return format!("{name}: filled; waits for who reads the old one: {}", readers.join(", "));
    }
    let Progress { position, head, .. } = progress;
    let left = progress.left().map_or_else(|| "?".to_owned(), |left| format!("{} s", left.as_secs()));
    format!("{name}: position {position} of {head}, {:.0}/s, {left} left", progress.per_second())
}

/// With or without the version.
fn is_called(name: &str, asked: &str) -> bool {
    name == asked || name.rsplit_once("_v").is_some_and(|(stem, _)| stem == asked)
}

fn view_named(asked: &str) -> anyhow::Result<Arc<dyn View>> {
    let names = all().map(|view| view.name()).collect::<Vec<_>>();
    let found = all().find(|view| is_called(view.name(), asked));
    found.with_context(|| format!("there is no view {asked}; there are {}", names.join(", ")))
}

/// What can be made from the log again: what is read, and what the service works with.
fn all() -> impl Iterator<Item = Arc<dyn View>> {
    views().into_iter().chain(working_tables())
}

async fn handler_named(database: &Database, asked: &str) -> anyhow::Result<String> {
    let names: Vec<String> =
        checkpoint::statuses(database.pool()).await?.into_iter().map(|status| status.name).collect();
    if let Some(name) = names.iter().find(|name| is_called(name, asked)) {
        return Ok(name.clone());
    }
    bail!("no handler {asked} ever ran on this log; there are {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use aihub_infrastructure::event_store::subscription::Failure;

    use super::*;

    #[test]
    fn a_line_says_how_far_behind_a_handler_is_how_old_that_is_and_what_it_stopped_at() {
        let now = "2026-11-22T12:00:00Z".parse().unwrap();
        let failure = Failure { position: 8, error: "no such thing".to_owned(), at: now };
        let status = Status {
            name: "usage_daily_v1".to_owned(),
            position: 7,
            updated_at: now,
            failure: Some(failure),
            paused_at: None,
        };
        let words = |line: String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            words(line(&status, 10, now, Some(now - TimeDelta::seconds(90)))),
            "usage_daily_v1 7 3 90 s stopped at position 8: no such thing"
        );
        let running = Status { failure: None, ..status };
        assert_eq!(words(line(&running, 7, now, None)), "usage_daily_v1 7 0 - runs");
    }

    #[test]
    fn a_view_is_found_with_and_without_its_version() {
        assert_eq!(view_named("usage_daily").unwrap().name(), "usage_daily_v1");
        assert_eq!(view_named("usage_daily_v1").unwrap().name(), "usage_daily_v1");
        assert!(view_named("usage").err().unwrap().to_string().contains("usage_daily_v1"));
    }
}
