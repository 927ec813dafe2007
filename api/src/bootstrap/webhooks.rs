//! Clients are told of the ends of their videos and workflows, in the form in which they would be told if they asked.

use std::sync::Arc;

use aihub_application::{ports::jobs::JobKind, workflows::Workflows};
use aihub_infrastructure::{
    database::Database,
    webhooks::sender::{Describe, Described, WebhookOptions, WebhookSender},
};
use anyhow::anyhow;
use futures::FutureExt;

use crate::{problem::Problem, videos, workflows};

/// The workflows' videos are all videos.
pub fn sender(
    database: &Database,
    jobs: &Arc<Workflows>,
    options: WebhookOptions,
) -> anyhow::Result<Arc<WebhookSender>> {
    let gateway = &jobs.videos.gateway;
    let (vault, clock) = (gateway.vault.clone(), gateway.clock.clone());
    let described = jobs.clone();
    let describe: Describe = Arc::new(move |kind, id| {
        let jobs = described.clone();
        async move { describe(&jobs, kind, &id).await }.boxed()
    });
    Ok(Arc::new(WebhookSender::new(database.pool().clone(), vault, clock, describe, options)?))
}

async fn describe(jobs: &Workflows, kind: JobKind, id: &str) -> anyhow::Result<Option<Described>> {
    let failed = |problem: Problem| anyhow!("{}", problem.message);
    Ok(match kind {
        JobKind::Video => match jobs.videos.jobs.load(id).await? {
            Some(known) => {
                let content = known.request()?.content.clone();
                Some(Described { content, data: videos::tell(&jobs.videos, known).await.map_err(failed)? })
            }
            None => None,
        },
        JobKind::Workflow => match jobs.load(id).await? {
            Some(run) => {
                let content = run.request()?.content.clone();
                Some(Described { content, data: workflows::tell(jobs, &run).await.map_err(failed)? })
            }
            None => None,
        },
    })
}
