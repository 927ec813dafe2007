//! `aihub videos`: jobs of which it cannot be known whether a provider has them.

use std::sync::Arc;

use aihub_application::{
    ports::clock::SystemClock,
    videos::{
        jobs::{Jobs, Known},
        operator::Decision,
    },
};
use aihub_domain::video::VideoStatus;
use aihub_infrastructure::video_queue::PostgresVideoQueue;
use aihub_projections::video_status::list::{Filter, list};
use clap::Subcommand;

use super::{
    access::Who,
    account::{Ledger, NODE, actor},
    output::out_line,
};
use crate::config::Config;

const MAX_LISTED: u32 = 1_000;

#[derive(Debug, Subcommand)]
pub enum Videos {
    /// List the jobs that wait for a decision
    InDoubt(Who),
    /// The provider does not have it: submit it again
    Resubmit {
        video_id: String,
        /// Who decides; left out, it is you
        #[arg(long)]
        actor: Option<String>,
    },
    /// The provider has it under this name, and no other video of ours is that
    Adopt {
        video_id: String,
        #[arg(long)]
        provider_job: String,
        /// Who decides; left out, it is you
        #[arg(long)]
        actor: Option<String>,
    },
    /// Give it up and release its hold
    Fail {
        video_id: String,
        /// Who decides; left out, it is you
        #[arg(long)]
        actor: Option<String>,
    },
}

impl Videos {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let ledger = Ledger::open(config).await?;
        let done = self.decide(config, &ledger).await;
        let closed = ledger.close().await;
        done.and(closed)
    }

    async fn decide(self, config: &Config, ledger: &Ledger) -> anyhow::Result<()> {
        let (video_id, decision, by) = match self {
            Self::InDoubt(who) => return list_in_doubt(ledger, who).await,
            Self::Resubmit { video_id, actor } => (video_id, Decision::Resubmit, actor),
            Self::Adopt { video_id, provider_job, actor } => {
                (video_id, Decision::Adopt { provider_job_id: provider_job }, actor)
            }
            Self::Fail { video_id, actor } => (video_id, Decision::Fail, actor),
        };
        let jobs = Jobs {
            log: ledger.log.clone(),
            accounts: ledger.accounts.clone(),
            clock: Arc::new(SystemClock),
            rate: config.credits.per_usd.0,
            node: NODE.to_owned(),
        };
        let queue = PostgresVideoQueue::new(ledger.database.clone());
        // One decision at a time, until this ends: two videos must not adopt the same job. The ASCII text "decide" as a number.
        let mut turn = ledger.database.pool().begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(110386622325861)").execute(&mut *turn).await?;
        let Known { video_id, job, .. } = jobs.decide(&queue, &video_id, decision, &actor(by)).await?;
        Ok(out_line(format_args!("video {video_id} is {} now", job.status().as_str()))?)
    }
}

async fn list_in_doubt(ledger: &Ledger, who: Who) -> anyhow::Result<()> {
    who.looks(&ledger.database, "videos.in-doubt", []).await?;
    let filter = Filter { status: Some(VideoStatus::InDoubt), limit: MAX_LISTED, ..Filter::default() };
    let in_doubt = list(ledger.database.pool(), &filter).await?.value;
    for row in &in_doubt {
        let provider = row.provider.as_deref().unwrap_or("?");
        out_line(format_args!(
            "{}  account {}  provider {provider}  requested {}",
            row.video_id, row.account, row.requested_at
        ))?;
    }
    if in_doubt.is_empty() {
        out_line(format_args!("no video is in doubt"))?;
    }
    Ok(())
}
