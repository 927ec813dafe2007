//! What every door needs.

use std::{path::PathBuf, sync::Arc, time::Duration};

use aihub_application::{
    error::GatewayError,
    gateway::Gateway,
    lost_answers::LostAnswers,
    principal::{MissingCapability, Principal},
    videos::Videos,
    workflows::Workflows,
};
use aihub_infrastructure::{
    audit::note::VerifierKey, database::Database, event_store::subscription::Subscriptions,
    kafka::reachability::Reachability, media::KeptMedia, notices::Notices, webhooks::sender::WebhookOptions,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::Authenticator,
    doors::Doors,
    problem::Problem,
    ws::{changes::Changes, limits::SocketLimits},
};

pub struct Hub {
    pub gateway: Arc<Gateway>,
    pub videos: Arc<Videos>,
    pub workflows: Arc<Workflows>,
    pub authenticator: Authenticator,
    pub database: Database,
    /// A pool of its own for what is read over HTTP, so that slow reports do not keep requests from their commits.
    pub reads: Database,
    pub subscriptions: Arc<Subscriptions>,
    pub settings: HubSettings,
    pub doors: Doors,
    /// Sockets: they escape the server's graceful shutdown, so they are waited for here.
    pub sessions: TaskTracker,
    /// The service is about to end: nobody is to be sent here any more, whoever comes is still taken.
    pub leaving: CancellationToken,
}

#[derive(Clone)]
pub struct HubSettings {
    pub metrics: PrometheusHandle,
    pub limits: SocketLimits,
    pub ping_interval: Duration,
    /// What webhooks to clients are signed with, and where they may go.
    pub webhooks: WebhookOptions,
    /// Where reports are until they are read.
    pub reports_folder: PathBuf,
    /// The longest that the status of a video or workflow is waited for.
    pub max_long_poll: Duration,
    /// Where sockets hear of what they subscribed to.
    pub changes: Arc<Changes>,
    /// What the log's checkpoints are verified with.
    pub audit_key: VerifierKey,
    /// What operators are told, for `/health/ready`.
    pub notices: Notices,
    pub media: Arc<KeptMedia>,
    /// Who comes back for an answer that is not here is told what became of it.
    pub lost_answers: Arc<LostAnswers>,
    /// Where Kafka is configured.
    pub kafka: Option<Reachability>,
}

impl Hub {
    /// The workflows' videos and their gateway are the hub's.
    pub fn new(
        workflows: Arc<Workflows>,
        authenticator: Authenticator,
        database: Database,
        reads: Database,
        subscriptions: Arc<Subscriptions>,
        settings: HubSettings,
        doors: Doors,
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
            settings,
            doors,
            sessions: TaskTracker::new(),
            leaving: CancellationToken::new(),
        }
    }

    /// What a caller is told that may not do something. The only way to it, so that all of it comes into the log.
    pub fn forbidden(&self, caller: &Principal, missing: MissingCapability) -> Problem {
        let error = GatewayError::from(missing);
        self.gateway.note(caller, &error);
        error.into()
    }
}
