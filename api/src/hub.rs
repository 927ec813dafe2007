//! What every door needs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aihub_application::{
    error::GatewayError,
    gateway::Gateway,
    principal::{MissingCapability, Principal},
    videos::Videos,
    workflows::Workflows,
};
use aihub_infrastructure::{
    audit::note::VerifierKey, database::Database, event_store::subscription::Subscriptions,
    kafka::reachability::Reachability, media::KeptMedia, webhooks::sender::WebhookOptions,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::task::TaskTracker;

use crate::{
    auth::Authenticator,
    problem::Problem,
    ws::{changes::Changes, frame::SocketLimits},
};

pub struct Hub {
    pub gateway: Arc<Gateway>,
    pub videos: Arc<Videos>,
    pub workflows: Arc<Workflows>,
    pub authenticator: Authenticator,
    pub database: Database,
    /// A pool of its own for what is read over HTTP, so that slow reports do not keep requests from their commits.
    pub reads: Database,
    pub subscriptions: Subscriptions,
    pub metrics: PrometheusHandle,
    pub settings: HubSettings,
    /// Sockets: they escape axum's graceful shutdown, so they are waited for here.
    pub sessions: TaskTracker,
    sockets: Arc<AtomicUsize>,
}

#[derive(Debug, Clone)]
pub struct HubSettings {
    pub limits: SocketLimits,
    pub max_sockets: usize,
    pub ping_interval: Duration,
    /// What webhooks to clients are signed with, and where they may go.
    pub webhooks: WebhookOptions,
    /// The longest that the status of a video or workflow is waited for.
    pub max_long_poll: Duration,
    /// The handlers of events that this node runs, which it is not ready without.
    pub handlers: Vec<&'static str>,
    /// Where sockets hear of what they subscribed to.
    pub changes: Arc<Changes>,
    /// What the log's checkpoints are verified with.
    pub audit_key: VerifierKey,
    /// What is not configured, for `/health/ready`.
    pub notices: Vec<String>,
    pub media: Arc<KeptMedia>,
    /// Where Kafka is configured.
    pub kafka: Option<Reachability>,
}

/// One socket of the allowed number.
pub struct SocketPlace(Arc<AtomicUsize>);

impl Hub {
    /// The workflows' videos and their gateway are the hub's.
    pub fn new(
        workflows: Arc<Workflows>,
        authenticator: Authenticator,
        database: Database,
        reads: Database,
        subscriptions: Subscriptions,
        metrics: PrometheusHandle,
        settings: HubSettings,
    ) -> Self {
        let videos = workflows.videos.clone();
        Self {
            gateway: videos.gateway.clone(),
            videos,
            workflows,
            authenticator,
            database,
            reads,
            subscriptions,
            metrics,
            settings,
            sessions: TaskTracker::new(),
            sockets: Arc::default(),
        }
    }

    pub fn socket_place(&self) -> Option<SocketPlace> {
        let place = SocketPlace(self.sockets.clone());
        let before = self.sockets.fetch_add(1, Ordering::AcqRel);
        (before < self.settings.max_sockets).then_some(place)
    }

    /// What a caller is told that may not do something. The only way to it, so that all of it comes into the log.
    pub fn forbidden(&self, caller: &Principal, missing: MissingCapability) -> Problem {
        let error = GatewayError::from(missing);
        self.gateway.note(caller, &error);
        error.into()
    }
}

impl Drop for SocketPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
