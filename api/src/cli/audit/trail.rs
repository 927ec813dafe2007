use aihub_infrastructure::{
    audit::{
        AuditError, scan,
        trail::{BATCH, TrailOf, entries, positions},
    },
    database::Database,
    event_store::reader,
};
use clap::Args;

use super::Finding;
use crate::{
    cli::{access::Who, output::out_line},
    point::Point,
};

#[derive(Debug, Args)]
pub struct Trail {
    #[command(flatten)]
    of: Of,
    /// A time (2026-11-22T18:00:00Z) or a position to begin at
    #[arg(long)]
    from: Option<Point>,
    /// A time or a position to end at
    #[arg(long)]
    to: Option<Point>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    who: Who,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Of {
    /// Or a video
    #[arg(long, visible_alias = "video", value_name = "ID")]
    request: Option<String>,
    #[arg(long)]
    account: Option<String>,
    #[arg(long)]
    user: Option<String>,
}

impl Trail {
    pub async fn run(self, database: &Database) -> anyhow::Result<()> {
        let Of { request, account, user } = self.of;
        let asked = [
            ("request", request.clone()),
            ("account", account.clone()),
            ("user", user.clone()),
            ("from", self.from.map(|from| from.to_string())),
            ("to", self.to.map(|to| to.to_string())),
        ];
        let of = request.map(TrailOf::Request).or(account.map(TrailOf::Account)).or(user.map(TrailOf::User));
        let Some(of) = of else { anyhow::bail!("say whose trail") };
        self.who.looks(database, "audit.trail", asked).await?;
        let unreadable = |error: sqlx::Error| Finding::from(AuditError::from(error));
        let mut connection = scan::connect(database).await.map_err(unreadable)?;
        let mut snapshot = scan::snapshot(&mut connection).await.map_err(unreadable)?;
        let from = match self.from {
            None => 1,
            Some(point) => point.first(&mut snapshot).await.map_err(unreadable)?,
        };
        let to = match self.to {
            None => reader::head(&mut *snapshot).await.map_err(unreadable)?.position,
            Some(point) => point.last(&mut snapshot).await.map_err(unreadable)?,
        };
        let found = positions(&mut snapshot, &of, from, to).await.map_err(unreadable)?;
        for batch in found.chunks(BATCH) {
            for entry in entries(&mut snapshot, batch).await.map_err(unreadable)? {
                out_line(if self.json { serde_json::to_string(&entry)? } else { entry.to_string() })?;
            }
        }
        if found.is_empty() {
            return Err(Finding::Incomplete("there is nothing of that in the log".to_owned()).into());
        }
        Ok(())
    }
}
