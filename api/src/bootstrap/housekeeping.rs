//! What is done now and then, without anybody asking.

use std::{sync::Arc, time::Duration};

use aihub_application::{
    erasure::expire_content,
    gateway::Gateway,
    policies::{expire_credits::expire_credits, expire_requests::expire_requests},
};
use aihub_domain::retention::MAX_KEYS;
use aihub_infrastructure::{
    client_requests::PostgresClientRequests,
    contents::sweep::sweep,
    database::Database,
    database_clock::DatabaseClock,
    due_grants::PostgresDueGrants,
    orphaned_requests::PostgresOrphanedRequests,
    vault::{retention::due_keys, rules::ContentRules},
};
use futures::FutureExt;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    task::yield_now,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::config::{Config, duration_ms};

const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often is looked how long whoever is ready waits for a processor, and how often it is tried each time.
const FEEL_EVERY: Duration = Duration::from_millis(50);
const TURNS_FELT: u32 = 3;
/// How often is forgotten what clients asked for long ago.
const FORGET_EVERY: Duration = Duration::from_mins(1);
/// How much longer it is remembered than an answer can be resumed: its node may have died, which takes its time to be known.
const REMEMBERED_FOR: Duration = Duration::from_mins(10);
/// How often content is looked for that is too old.
const RETENTION_EVERY: Duration = Duration::from_hours(1);
/// How often what was erased is taken away.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// What the log is told now and then without anybody asking.
pub fn keep_records(
    config: &Config,
    gateway: &Arc<Gateway>,
    database: &Database,
    workers: &TaskTracker,
    stop: &CancellationToken,
) {
    let rules = config.content.rules();
    if rules.expire_something() {
        workers.spawn(keep_retention(gateway.clone(), database.clone(), rules, stop.clone()));
    }
    workers.spawn(sweep_contents(database.clone(), stop.clone()));
    let every = duration_ms(config.audit.refusals_interval_ms);
    workers.spawn(keep_refusals(gateway.clone(), every));
}

/// Feels how busy the processors are.
pub async fn feel_load(gateway: Arc<Gateway>, stop: CancellationToken) {
    let mut tick = interval(FEEL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let began = Instant::now();
        for _ in 0..TURNS_FELT {
            yield_now().await;
        }
        let lag = began.elapsed() / TURNS_FELT;
        metrics::gauge!("aihub_lag_seconds").set(lag.as_secs_f64());
        gateway.limits.feel(lag);
    }
}

/// Has content erased that is too old.
async fn keep_retention(gateway: Arc<Gateway>, database: Database, rules: ContentRules, stop: CancellationToken) {
    let mut tick = interval(RETENTION_EVERY);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        match stop.run_until_cancelled(expire_due_content(&gateway, &database, &rules)).await {
            Some(Ok(0)) | None => {}
            Some(Ok(keys)) => tracing::info!(keys, "content that is too old is to be erased"),
            Some(Err(error)) => {
                tracing::warn!(error.message = format!("{error:#}"), "not all content that is too old is erased");
            }
        }
    }
}

/// How many keys there were.
async fn expire_due_content(gateway: &Gateway, database: &Database, rules: &ContentRules) -> anyhow::Result<usize> {
    let (keys, now) = due_keys(database.pool(), rules).await?;
    for keys in keys.chunks(MAX_KEYS) {
        expire_content(&*gateway.log, keys.to_vec(), now, &gateway.settings.node).await?;
    }
    Ok(keys.len())
}

/// Takes away what nobody can open any more.
async fn sweep_contents(database: Database, stop: CancellationToken) {
    let mut tick = interval(SWEEP_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        loop {
            match stop.run_until_cancelled(sweep(database.pool())).await {
                Some(Ok(0)) | None => break,
                Some(Ok(keys)) => tracing::info!(keys, "the pieces of erased content are taken away"),
                Some(Err(error)) => {
                    tracing::warn!(error.message = %error, "erased content is still there, sealed");
                    break;
                }
            }
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

/// What has to be done now and then, and with what.
pub struct House {
    pub gateway: Arc<Gateway>,
    pub orphaned: PostgresOrphanedRequests,
    pub due: PostgresDueGrants,
    pub clock: Arc<DatabaseClock>,
    pub client_requests: Arc<PostgresClientRequests>,
    pub metrics: PrometheusHandle,
}

impl House {
    pub async fn keep(self, stop: CancellationToken) {
        let mut tick = interval(HOUSEKEEPING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut forget = interval(FORGET_EVERY);
        forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.gateway.limits.forget_idle();
            self.gateway.answers.forget_expired();
            self.metrics.run_upkeep();
            if !self.clock.is_far_off() {
                self.follow_policies().await;
            }
            if forget.tick().now_or_never().is_some() {
                self.forget_old_requests().await;
            }
        }
    }

    /// Of those that nobody comes back for: an answer ends by its deadline, and can be resumed for a while.
    async fn forget_old_requests(&self) {
        let settings = &self.gateway.settings;
        let older_than = settings.request_timeout + settings.resumable_for + REMEMBERED_FOR;
        if let Err(error) = self.client_requests.forget(older_than).await {
            tracing::warn!(error.message = %error, "what clients asked for long ago could not be forgotten");
        }
    }

    async fn follow_policies(&self) {
        let Gateway { accounts, log, settings, .. } = &*self.gateway;
        if let Err(error) = expire_requests(accounts, &**log, &self.orphaned, &settings.node).await {
            tracing::warn!(error.message = %error, "orphaned requests could not be looked for");
        }
        if let Err(error) = expire_credits(accounts, &self.due, &settings.node).await {
            tracing::warn!(error.message = %error, "expired grants could not be looked for");
        }
    }
}
