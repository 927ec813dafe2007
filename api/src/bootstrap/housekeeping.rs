//! What is done now and then, without anybody asking.

use std::{sync::Arc, time::Duration};

use aihub_application::{
    erasure::expire_content,
    gateway::Gateway,
    policies::{expire_credits::expire_credits, expire_requests::expire_requests},
};
use aihub_infrastructure::{due_grants::PostgresDueGrants, orphaned_requests::PostgresOrphanedRequests};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::config::{Config, duration_ms};

const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often content is looked for that is too old.
const RETENTION_EVERY: Duration = Duration::from_hours(1);

/// What the log is told now and then without anybody asking.
pub fn keep_records(config: &Config, gateway: &Arc<Gateway>, workers: &TaskTracker, stop: &CancellationToken) {
    if let Some(retention_days) = config.content.retention_days {
        workers.spawn(keep_retention(gateway.clone(), retention_days, stop.clone()));
    }
    let every = duration_ms(config.audit.refusals_interval_ms);
    workers.spawn(keep_refusals(gateway.clone(), every));
}

/// Has content erased that is too old.
async fn keep_retention(gateway: Arc<Gateway>, retention_days: u32, stop: CancellationToken) {
    let mut tick = interval(RETENTION_EVERY);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let (now, node) = (gateway.clock.now(), &gateway.settings.node);
        match expire_content(&*gateway.log, retention_days, now, node).await {
            Ok(Some(before)) => tracing::info!(content.kept_from = %before, "content that is too old is to be erased"),
            Ok(None) => {}
            Err(error) => tracing::warn!(error.message = %error, "content that is too old was not looked for"),
        }
    }
}

/// Has refusals written down, until whoever stops the service does it for the last time. It is in nobody's way then, even where
/// it waits for the log: what it was at is appended again.
async fn keep_refusals(gateway: Arc<Gateway>, every: Duration) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let keep = async {
        loop {
            tick.tick().await;
            write_down_refusals(&gateway).await;
        }
    };
    gateway.stopping.run_until_cancelled(keep).await;
}

pub async fn write_down_refusals(gateway: &Gateway) {
    if let Err(error) = gateway.refusals.write_down(&*gateway.log, &gateway.settings.node).await {
        tracing::warn!(error.message = %error, "what was refused is not in the log yet");
    }
}

/// What has to be done now and then.
pub async fn keep_house(
    gateway: Arc<Gateway>,
    orphaned: PostgresOrphanedRequests,
    due: PostgresDueGrants,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) {
    let mut tick = interval(HOUSEKEEPING);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        gateway.limits.forget_idle();
        gateway.answers.forget_expired();
        metrics.run_upkeep();
        let now = gateway.clock.now();
        if let Err(error) =
            expire_requests(&gateway.accounts, &*gateway.log, &orphaned, now, &gateway.settings.node).await
        {
            tracing::warn!(error.message = %error, "orphaned requests could not be looked for");
        }
        if let Err(error) = expire_credits(&gateway.accounts, &due, now, &gateway.settings.node).await {
            tracing::warn!(error.message = %error, "expired grants could not be looked for");
        }
    }
}
