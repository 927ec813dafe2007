//! News of jobs, from the log as this node reads it, to whoever waits for them here.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aihub_application::ports::jobs::{JobKind, News};
use aihub_domain::{
    video::{VideoJob, event::VideoEvent},
    workflow::{Workflow, event::WorkflowEvent},
};
use anyhow::Context;
use cqrs_es::Aggregate;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::Sender;
use tokio_util::sync::CancellationToken;

use crate::{
    database::Database,
    event_store::{
        decode::{LogEntry, events_of},
        subscription::{Waiter, live::Live},
    },
    open_workflows, video_queue,
};

/// News that are kept for a node's listeners; one that is further behind looks at everything anyway.
const KEPT_NEWS: usize = 1_024;
/// How long it is waited for those who list jobs to have read what happened. Whoever is told before that looks again by himself.
const PATIENCE: Duration = Duration::from_secs(1);
/// Jobs whose account is remembered. Of another one it is looked up.
const KNOWN_ACCOUNTS: usize = 10_000;

pub fn channel() -> Sender<News> {
    Sender::new(KEPT_NEWS)
}

/// What it takes to tell news.
pub struct JobNews {
    pub database: Database,
    pub live: Live,
    pub handlers: Waiter,
    pub news: Sender<News>,
}

/// By a job's id: whose it is.
type Accounts = HashMap<String, String>;

impl JobNews {
    /// Tells whoever has subscribed of what happens, until `stop`.
    pub async fn follow(mut self, stop: CancellationToken) {
        let following = async {
            let mut accounts = Accounts::new();
            loop {
                let told = if let Some(events) = self.live.next().await {
                    self.tell(&events, &mut accounts).await
                } else {
                    self.send(News::Missed);
                    Ok(())
                };
                if let Err(error) = told {
                    tracing::warn!(error.message = format!("{error:#}"), "news of jobs are missed");
                    self.send(News::Missed);
                }
                if accounts.len() > KNOWN_ACCOUNTS {
                    accounts.clear();
                }
            }
        };
        stop.run_until_cancelled(following).await;
    }

    async fn tell(&self, events: &[Arc<LogEntry>], accounts: &mut Accounts) -> anyhow::Result<()> {
        let videos = changed::<VideoJob>(events, account_of_video, accounts)?;
        let workflows = changed::<Workflow>(events, account_of_workflow, accounts)?;
        self.tell_of::<VideoJob, _>(JobKind::Video, video_queue::NAME, videos, account_of_video, accounts).await?;
        self.tell_of::<Workflow, _>(JobKind::Workflow, open_workflows::NAME, workflows, account_of_workflow, accounts)
            .await
    }

    /// Once the handler that lists them has read what happened.
    async fn tell_of<A: Aggregate<Event: DeserializeOwned>, F: Fn(&A::Event) -> Option<&str>>(
        &self,
        kind: JobKind,
        handler: &str,
        (ids, position): (Vec<String>, u64),
        account_of: F,
        accounts: &mut Accounts,
    ) -> anyhow::Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        // One that is stopped or paused keeps nobody from hearing.
        let _ = self.handlers.wait_for(handler, position, PATIENCE).await;
        let unknown: Vec<&str> = ids.iter().map(String::as_str).filter(|id| !accounts.contains_key(*id)).collect();
        if !unknown.is_empty() {
            let first = sqlx::query!(
                r#"SELECT aggregate_id, payload::text AS "payload!" FROM events
                   WHERE aggregate_type = $1 AND aggregate_id = ANY($2) AND sequence = 1"#,
                A::TYPE,
                &unknown as &[&str],
            );
            for first in first.fetch_all(self.database.pool()).await? {
                let event: A::Event = serde_json::from_str(&first.payload).context("the first event of a job")?;
                accounts.extend(account_of(&event).map(|account| (first.aggregate_id, account.to_owned())));
            }
        }
        for id in ids {
            if let Some(account) = accounts.get(&id).cloned() {
                self.send(News::Changed { kind, id, account });
            }
        }
        Ok(())
    }

    /// Nobody may be waiting.
    fn send(&self, news: News) {
        let _ = self.news.send(news);
    }
}

/// The jobs that something happened to, each once, and the position of the last of it. Whose they are is remembered where an event
/// says so.
fn changed<A: Aggregate<Event: 'static>>(
    events: &[Arc<LogEntry>],
    account_of: impl Fn(&A::Event) -> Option<&str>,
    accounts: &mut Accounts,
) -> anyhow::Result<(Vec<String>, u64)> {
    let (mut ids, mut position) = (Vec::<String>::new(), 0);
    for change in events_of::<A>(events) {
        let (event, change) = change?;
        accounts.extend(account_of(change).map(|account| (event.aggregate_id.clone(), account.to_owned())));
        if !ids.contains(&event.aggregate_id) {
            ids.push(event.aggregate_id.clone());
        }
        position = event.position;
    }
    Ok((ids, position))
}

fn account_of_video(event: &VideoEvent) -> Option<&str> {
    match event {
        VideoEvent::VideoRequested(request) => Some(&request.account),
        other => other.ended().map(|(asked, _)| asked.account.as_str()),
    }
}

fn account_of_workflow(event: &WorkflowEvent) -> Option<&str> {
    match event {
        WorkflowEvent::WorkflowStarted(request) => Some(&request.account),
        other => other.ended().map(|(asked, _)| asked.account.as_str()),
    }
}
