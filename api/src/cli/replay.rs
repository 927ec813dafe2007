//! `aihub replay`: the log played again: up to a moment, into a file, or from a file into an empty database.

mod as_of;
mod file;

use std::path::PathBuf;

use clap::Args;

use super::{access::Who, database::with_database, secret_arg::secret};
use crate::{auth::secret::Secret, config::Config, point::Point};

#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false, args = ["as_of", "to", "from"])]
pub struct Replay {
    /// Show the state at a time (2026-11-22T18:00:00Z) or a position, and the events that led to it
    #[arg(long, value_name = "TIME|POSITION", requires = "whose")]
    as_of: Option<Point>,
    #[command(flatten)]
    whose: Whose,
    /// Show what has changed since
    #[arg(long, requires = "as_of")]
    diff: bool,
    /// Write the whole log into a file, in order
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Rebuild everything from a file that `--to` or `aihub audit export` wrote, in the empty database of `--database`
    #[arg(long, value_name = "FILE", requires = "database")]
    from: Option<PathBuf>,
    /// For `--from`: postgres://user:password@host:port/name, or @FILE where that stands
    #[arg(long, value_name = "URL|@FILE", env = "AIHUB_TARGET_DATABASE_URL", hide_env_values = true, value_parser = secret)]
    database: Option<Secret>,
    #[command(flatten)]
    who: Who,
}

#[derive(Debug, Args)]
#[group(id = "whose", multiple = false)]
struct Whose {
    #[arg(long, requires = "as_of")]
    account: Option<String>,
    #[arg(long, value_name = "ID", requires = "as_of")]
    request: Option<String>,
    #[arg(long, value_name = "ID", requires = "as_of")]
    video: Option<String>,
    #[arg(long, value_name = "ID", requires = "as_of")]
    workflow: Option<String>,
}

impl Replay {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self { from: Some(file), database: Some(url), .. } => file::restore_into(config, url.expose(), &file).await,
            Self { to: Some(file), who, .. } => {
                with_database(config, async |database| {
                    who.looks(database, "replay.to", []).await?;
                    file::write(database, &file).await
                })
                .await
            }
            Self { as_of: Some(point), whose, diff, who, .. } => {
                with_database(config, async |database| {
                    let Whose { account, request, video, workflow } = &whose;
                    let whose_names =
                        [("account", account), ("request", request), ("video", video), ("workflow", workflow)];
                    let asked = whose_names.map(|(name, id)| (name, id.clone()));
                    who.looks(database, "replay.as-of", asked.into_iter().chain([("asOf", Some(point.to_string()))]))
                        .await?;
                    as_of::show(database, point, whose, diff).await
                })
                .await
            }
            _ => anyhow::bail!("say what to replay: --as-of, --to or --from"),
        }
    }
}
