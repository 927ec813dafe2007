//! `aihub webhooks`: what clients were told of their videos and workflows.

use aihub_infrastructure::webhooks::deliveries::{self, DeliveryFilter};
use anyhow::bail;
use clap::Subcommand;

use super::{access::Who, account::Ledger, output::out_line};
use crate::config::Config;

const MAX_LISTED: u32 = 1_000;

#[derive(Debug, Subcommand)]
pub enum Webhooks {
    /// List deliveries, the latest first
    List {
        #[arg(long)]
        account: Option<String>,
        /// A video or a workflow
        #[arg(long)]
        job: Option<String>,
        #[command(flatten)]
        who: Who,
    },
    /// Tell the end of a video or workflow once more
    Redeliver { job_id: String },
}

impl Webhooks {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let ledger = Ledger::open(config).await?;
        let done = self.act(&ledger).await;
        let closed = ledger.close().await;
        done.and(closed)
    }

    async fn act(self, ledger: &Ledger) -> anyhow::Result<()> {
        let pool = ledger.database.pool();
        match self {
            Self::List { account, job, who } => {
                let asked = [("account", account.clone()), ("job", job.clone())];
                who.looks(&ledger.database, "webhooks.list", asked).await?;
                let filter =
                    DeliveryFilter { job_id: job.as_deref(), account: account.as_deref(), ..DeliveryFilter::default() };
                for one in deliveries::list(pool, filter, MAX_LISTED).await? {
                    let last = one.last_status.map(|status| status.to_string()).or(one.last_error).unwrap_or_default();
                    out_line(format_args!(
                        "{}  {}  {}  {}  {} attempts  {last}",
                        one.delivery_id, one.job_id, one.event_type, one.state, one.attempts
                    ))?;
                }
                Ok(())
            }
            Self::Redeliver { job_id } => {
                if !deliveries::redeliver(pool, &job_id).await? {
                    bail!("{job_id} has no end that is to be told, or it was over a month ago");
                }
                Ok(out_line(format_args!("the end of {job_id} is told again, for up to a day"))?)
            }
        }
    }
}
