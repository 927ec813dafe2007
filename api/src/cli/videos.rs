//! `aihub videos`: jobs of which it cannot be known whether a provider has them.

use aihub_application::{
    ports::{event_log::EventLog, video_provider::JobState},
    videos::{
        jobs::{Jobs, Known},
        operator::Decision,
    },
};
use aihub_domain::video::{VideoJob, VideoStatus, event::VideoEvent};
use aihub_infrastructure::video_queue::PostgresVideoQueue;
use aihub_projections::video_status::list::{Filter, list};
use anyhow::{Context, ensure};
use clap::Subcommand;
use cqrs_es::Aggregate;

use super::{
    access::Who,
    account::{Ledger, NODE, actor},
    output::out_line,
};
use crate::{bootstrap::videos::catalog, config::Config};

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
        /// Do not ask the provider whether it has it
        #[arg(long)]
        unseen: bool,
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
            Self::Adopt { video_id, provider_job, unseen, actor } => {
                if !unseen {
                    look_at(config, ledger, &video_id, &provider_job).await?;
                }
                (video_id, Decision::Adopt { provider_job_id: provider_job }, actor)
            }
            Self::Fail { video_id, actor } => (video_id, Decision::Fail, actor),
        };
        let jobs = Jobs {
            log: ledger.log.clone(),
            accounts: ledger.accounts.clone(),
            clock: ledger.clock.clone(),
            rate: config.credits.per_usd.0,
            node: NODE.to_owned(),
        };
        let queue = PostgresVideoQueue::new(ledger.database.clone());
        // One decision at a time, until this ends: two videos must not adopt the same job.
        let mut turn = ledger.database.pool().begin().await?;
        sqlx::query("SELECT FROM locks WHERE name = 'video decision' FOR UPDATE").execute(&mut *turn).await?;
        let Known { video_id, job, .. } = jobs.decide(&queue, &video_id, decision, &actor(by)).await?;
        Ok(out_line(format_args!("video {video_id} is {} now", job.status().as_str()))?)
    }
}

/// A job that the provider does not know would fail for good.
async fn look_at(config: &Config, ledger: &Ledger, video_id: &str, provider_job: &str) -> anyhow::Result<()> {
    let mut job = VideoJob::default();
    for event in ledger.log.load(VideoJob::TYPE, video_id, 0).await? {
        job.evolve(&event.decode::<VideoEvent>(VideoJob::TYPE, video_id)?);
    }
    let Some(provider) = job.submission().map(|last| last.provider.clone()) else { return Ok(()) };
    let catalog = catalog(config, None).context("the providers cannot be asked from here; `--unseen` does without")?;
    let backend = catalog.backends.get(&provider);
    let backend = backend.with_context(|| format!("{provider} is not configured; `--unseen` does without"))?;
    let status = backend.provider.status(provider_job).await;
    let status = status.with_context(|| format!("{provider} cannot be asked now; `--unseen` does without"))?;
    ensure!(status.state != JobState::Gone, "{provider} knows no job of the name {provider_job:?}");
    Ok(())
}

async fn list_in_doubt(ledger: &Ledger, who: Who) -> anyhow::Result<()> {
    who.looks(&ledger.database, "videos.in-doubt", []).await?;
    let filter = Filter { statuses: Some(vec![VideoStatus::InDoubt]), limit: MAX_LISTED, ..Filter::default() };
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
