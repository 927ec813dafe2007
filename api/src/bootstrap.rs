//! The composition root: configuration in, a running service out. The only place that names adapters; `main` and the
//! tests use it alike.

mod housekeeping;
mod upstreams;
mod videos;
mod webhooks;
mod workflows;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aihub_application::{
    accounts::Accounts,
    catalog::Catalog,
    gateway::{Answers, Gateway, GatewaySettings},
    limits::Limits,
    ports::{
        clock::{Clock, SystemClock},
        event_log::EventLog,
    },
    refusals::Refusals,
};
use aihub_infrastructure::{
    audit::{
        checkpoint,
        note::{SigningKey, dev_signing_key},
    },
    database::{Database, DatabaseOptions},
    due_grants::{ExpiringGrants, PostgresDueGrants},
    embedded_postgres::{EmbeddedPostgres, EmbeddedPostgresOptions},
    event_store::{
        PostgresEventLog,
        subscription::{EventHandler, Subscriptions},
        upcast::Upcasters,
        writer::WriterOptions,
    },
    kafka::{cluster::Cluster, reachability::Reachability, relay::KafkaRelay},
    media::KeptMedia,
    nodes, open_files,
    open_workflows::OpenWorkflows,
    orphaned_requests::{OpenRequests, PostgresOrphanedRequests},
    simulated_providers::{SimulatedProviders, Simulator},
    vault::{
        PostgresVault,
        erasure::{self, Erasures},
        master_key::{MasterKey, MasterKeys, dev_master_key},
    },
    video_queue::OpenVideos,
    webhooks::deliveries::WebhookDeliveries,
};
use aihub_projections::rebuild::views;
use anyhow::{Context, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::housekeeping::{keep_house, keep_records, write_down_refusals};
use crate::{
    auth::{AuthSettings, Authenticator, dev_secret::dev_secret, roles::Roles},
    config::{Config, duration_ms, providers::Reach, videos::VideoReach},
    hub::{Hub, HubSettings},
    router::router,
    server::serve,
    ws::{changes::Changes, frame::SocketLimits},
};

/// How long the last commits may take after the drain's time is up.
const LAST_COMMITS: Duration = Duration::from_secs(15);
const LAST_FRAMES: Duration = Duration::from_secs(3);
const LAST_RESPONSES: Duration = Duration::from_secs(2);
/// A node that lives ends its requests at their deadline; this much later somebody else does.
const DEADLINE_GRACE: Duration = Duration::from_mins(1);
/// Connections for what is read over HTTP, beside the configured ones.
const READ_CONNECTIONS: u32 = 4;

/// A built service: everything is connected, nothing is served yet.
pub struct App {
    listener: TcpListener,
    hub: Arc<Hub>,
    log: Arc<PostgresEventLog>,
    /// Present when no database was configured.
    embedded: Option<EmbeddedPostgres>,
    simulated: Option<Simulated>,
    /// Subscriptions, policies, the log's writer.
    workers: TaskTracker,
    stop_workers: CancellationToken,
    config: Config,
}

struct Simulated {
    addr: SocketAddr,
    simulator: Simulator,
    stop: CancellationToken,
}

impl App {
    pub async fn build(config: Config, metrics: PrometheusHandle) -> anyhow::Result<Self> {
        let open_files = open_files::raise_limit().context("the limit of open files")?;
        // A socket may have a provider's connection behind it.
        if open_files < 2 * config.server.max_sockets as u64 {
            tracing::warn!(open_files.limit = open_files, "fewer open files than server.max_sockets may need");
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let workers = TaskTracker::new();
        let stop_workers = CancellationToken::new();
        let node = nodes::process_name(&config.server.node_name());

        let (reached, embedded) = reach_database(&config).await?;
        let database = Database::connect(&reached).await?;
        database.migrate().await?;
        let reads = connect_for_reads(reached).await?;

        let upcasters = Arc::new(Upcasters::default());
        let log = Arc::new(PostgresEventLog::start(database.clone(), writer_options(), upcasters.clone(), &workers));
        let vault = Arc::new(PostgresVault::new(database.pool().clone(), master_keys(&config)?, clock.clone()));
        let mut notices = notices(&config);
        notices.extend(unreadable_keys(&vault).await);
        let node_timeout = duration_ms(config.gateway.node_timeout_ms);
        nodes::start(database.clone(), node.clone(), node_timeout, &workers, stop_workers.clone()).await?;
        let subscriptions = Subscriptions::start(database.clone(), upcasters, workers.clone(), stop_workers.clone());
        let signing_key = Arc::new(signing_key(&config)?);
        workers.spawn(checkpoint::keep(
            database.clone(),
            signing_key.clone(),
            clock.clone(),
            duration_ms(config.audit.checkpoint_interval_ms),
            stop_workers.clone(),
        ));
        let handlers = handlers();
        for handler in &handlers {
            subscriptions.run(handler.clone());
        }
        let kafka = match config.kafka.cluster() {
            Some(cluster) => Some(publish(cluster, clock.clone(), &subscriptions, &workers, &stop_workers)?),
            None => None,
        };
        let orphaned =
            PostgresOrphanedRequests::new(database.pool().clone(), node.clone(), DEADLINE_GRACE, node_timeout);
        let due = PostgresDueGrants::new(database.pool().clone());

        let media_options = config.media.options(&config.server.data_dir, config.is_production())?;
        let media = Arc::new(KeptMedia::open(media_options, clock.clone())?);

        let simulate_some = config.providers_to_start().any(|provider| provider.reach == Reach::Simulator)
            || config.video_providers_to_start().any(|(_, _, reach)| reach == VideoReach::Simulator);
        let simulated = if simulate_some { Some(simulate(&workers).await?) } else { None };
        let upstreams = upstreams::upstreams(&config, simulated.as_ref().map(|simulated| simulated.addr))?;
        let roles = Roles::new(config.roles.clone());
        let authenticator =
            Authenticator::new(&auth_settings(&config)?, roles.clone(), clock.clone(), workers.clone())?;
        let event_log: Arc<dyn EventLog> = log.clone();
        let gateway = Arc::new(Gateway {
            settings: GatewaySettings { node, ..config.gateway_settings() },
            clock,
            accounts: Arc::new(Accounts::new(event_log.clone())),
            log: event_log,
            vault: vault.clone(),
            catalog: Catalog { upstreams, equivalents: config.routing.equivalents.clone() },
            limits: Limits::new(config.limits.per_user, config.limits.per_account, config.limits.node),
            answers: Answers::default(),
            refusals: Refusals::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
        });
        let catalog = videos::catalog(&config, simulated.as_ref().map(|simulated| simulated.addr))?;
        let videos =
            videos::Works { database: database.clone(), gateway: gateway.clone(), catalog, media: media.clone() };
        let videos = videos.start(&config, &workers, &stop_workers);
        let changes = Arc::new(Changes::default());
        workers.spawn(changes.clone().follow(subscriptions.live(), videos.clone(), stop_workers.clone()));
        let workflows = workflows::start(&config, videos, roles, &database, (&workers, &stop_workers));
        let webhooks = config.webhooks.options(&config.server.data_dir, config.is_production())?;
        workers.spawn(webhooks::sender(&database, &workflows, webhooks.clone())?.run(stop_workers.clone()));
        let answers = gateway.clone();
        let forget = move |subject: &str| answers.answers.forget_account(subject);
        workers.spawn(erasure::follow(database.clone(), vault, forget, stop_workers.clone()));
        keep_records(&config, &gateway, &workers, &stop_workers);
        workers.spawn(keep_house(gateway, orphaned, due, metrics.clone(), stop_workers.clone()));

        let listener = listen(config.server.listen).await?;
        media.served_at(listener.local_addr()?);
        let settings = HubSettings {
            limits: socket_limits(&config),
            max_sockets: config.server.max_sockets,
            ping_interval: duration_ms(config.server.ping_interval_ms),
            webhooks,
            changes,
            max_long_poll: duration_ms(config.videos.max_long_poll_ms),
            handlers: handlers.iter().map(|handler| handler.name()).collect(),
            audit_key: signing_key.verifier(),
            notices,
            kafka,
            media,
        };
        let hub = Arc::new(Hub::new(workflows, authenticator, database, reads, subscriptions, metrics, settings));
        Ok(Self { listener, hub, log, embedded, simulated, workers, stop_workers, config })
    }

    pub fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The PostgreSQL that came along: its version.
    pub fn embedded_postgres(&self) -> Option<&str> {
        self.embedded.as_ref().map(EmbeddedPostgres::version)
    }

    /// The simulated providers that run in this process.
    pub fn simulator(&self) -> Option<(SocketAddr, Simulator)> {
        self.simulated.as_ref().map(|simulated| (simulated.addr, simulated.simulator.clone()))
    }

    /// Serves until `shutdown`, then drains: no new work, running answers get their time, the rest end typed and
    /// billed, and everything that was accepted has its end in the log before this returns.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let gateway = self.hub.gateway.clone();
        let max_connections = self.config.server.max_connections;
        let server = serve(self.listener, router(self.hub.clone()), max_connections, gateway.draining.clone());
        let mut server = TaskTracker::new().spawn(server);
        let stop_embedded = CancellationToken::new();
        let embedded = self.embedded.map(|embedded| TaskTracker::new().spawn(embedded.keep(stop_embedded.clone())));

        shutdown.cancelled().await;
        let drain = duration_ms(self.config.server.drain_ms);
        tracing::info!(drain.limit_ms = self.config.server.drain_ms, "draining");
        gateway.draining.cancel();
        gateway.tasks.close();
        if timeout(drain, gateway.tasks.wait()).await.is_err() {
            tracing::warn!(requests.running = gateway.tasks.len(), "the drain's time is up: ending what still runs");
        }
        gateway.stopping.cancel();
        if timeout(LAST_COMMITS, gateway.tasks.wait()).await.is_err() {
            tracing::error!(requests.running = gateway.tasks.len(), "left to the expiry policy of another node");
        }
        self.hub.sessions.close();
        let last_frames = timeout(LAST_FRAMES, self.hub.sessions.wait()).await;
        tracing::debug!(in_time = last_frames.is_ok(), "sockets closed");
        // It ends by itself when what was asked over HTTP is answered.
        if timeout(LAST_RESPONSES, &mut server).await.is_err() {
            tracing::warn!("some HTTP calls were not answered in time");
            server.abort();
        }
        if let Some(simulated) = &self.simulated {
            simulated.stop.cancel();
        }
        // Whether it is done in time is seen by what is left.
        drop(timeout(LAST_COMMITS, write_down_refusals(&gateway)).await);
        let lost = gateway.refusals.give_up();
        if lost > 0 {
            tracing::warn!(refusals.count = lost, "what was refused last is not in the log");
        }
        self.stop_workers.cancel();
        self.log.close();
        self.workers.close();
        if timeout(LAST_COMMITS, self.workers.wait()).await.is_err() {
            tracing::warn!("some workers did not stop in time");
        }
        self.hub.reads.pool().close().await;
        self.hub.database.pool().close().await;
        stop_embedded.cancel();
        if let Some(embedded) = embedded {
            embedded.await?.stop().await?;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Everything that follows the log.
pub fn handlers() -> Vec<Arc<dyn EventHandler>> {
    let mut handlers: Vec<Arc<dyn EventHandler>> = vec![
        Arc::new(OpenRequests),
        Arc::new(OpenVideos),
        Arc::new(WebhookDeliveries),
        Arc::new(OpenWorkflows),
        Arc::new(ExpiringGrants),
        Arc::new(Erasures),
    ];
    handlers.extend(views().into_iter().map(|view| view as Arc<dyn EventHandler>));
    handlers
}

/// The configured database, or in development one of our own.
pub async fn open_database(config: &Config) -> anyhow::Result<(Database, Option<EmbeddedPostgres>)> {
    let (options, embedded) = reach_database(config).await?;
    Ok((Database::connect(&options).await?, embedded))
}

async fn reach_database(config: &Config) -> anyhow::Result<(DatabaseOptions, Option<EmbeddedPostgres>)> {
    let (url, embedded) = if let Some(url) = &config.database.url {
        (url.expose().to_owned(), None)
    } else {
        let dir = config.server.data_dir.join("postgres");
        let embedded = EmbeddedPostgres::start(&dir, &EmbeddedPostgresOptions::default()).await?;
        (embedded.url().to_owned(), Some(embedded))
    };
    let max_connections = config.database.max_connections;
    Ok((DatabaseOptions { max_connections, ..DatabaseOptions::new(url) }, embedded))
}

async fn connect_for_reads(reached: DatabaseOptions) -> anyhow::Result<Database> {
    let options = DatabaseOptions { application_name: "aihub-reads", max_connections: READ_CONNECTIONS, ..reached };
    Ok(Database::connect(&options).await?)
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let taken = || format!("cannot listen on {address}; is another aihub running?");
    TcpListener::bind(address).await.with_context(taken)
}

/// Has this node publish the log whenever no other one does.
fn publish(
    cluster: Cluster,
    clock: Arc<dyn Clock>,
    subscriptions: &Subscriptions,
    workers: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Reachability> {
    let reachability = Reachability::new(clock);
    let relay = KafkaRelay::new(cluster.clone(), reachability.clone(), stop.clone())?;
    subscriptions.run(Arc::new(relay));
    workers.spawn(reachability.clone().follow(cluster, stop.clone()));
    Ok(reachability)
}

/// The configured settings; in development with a secret of our own where none is configured.
pub fn auth_settings(config: &Config) -> anyhow::Result<AuthSettings> {
    let mut settings = config.auth.clone();
    if settings.hs256_secret.is_none() && settings.jwks_url.is_none() && !config.is_production() {
        settings.hs256_secret = Some(dev_secret(&config.server.data_dir)?.0);
    }
    Ok(settings)
}

/// What subjects' keys are wrapped with.
pub fn master_keys(config: &Config) -> anyhow::Result<MasterKeys> {
    let current = match &config.content.master_key {
        Some(key) => MasterKey::from_base64(key.expose()).context("content.master_key")?,
        None => dev_master_key(&config.server.data_dir)?.0,
    };
    let former = config.content.former_master_keys.iter().map(|key| MasterKey::from_base64(key.expose()));
    Ok(MasterKeys { current, former: former.collect::<Result<_, _>>().context("content.former_master_keys")? })
}

/// What the log's checkpoints are signed with.
pub fn signing_key(config: &Config) -> anyhow::Result<SigningKey> {
    let origin = &config.audit.origin;
    match &config.audit.signing_key {
        Some(key) => SigningKey::from_base64(origin, key.expose()).context("audit.signing_key"),
        None if config.is_production() => bail!("`audit.signing_key` is not set"),
        None => Ok(dev_signing_key(origin, &config.server.data_dir)?),
    }
}

fn socket_limits(config: &Config) -> SocketLimits {
    SocketLimits {
        max_frame_bytes: config.server.max_frame_bytes,
        max_requests_per_socket: config.server.max_requests_per_socket,
        resumable_for_ms: config.gateway.resumable_for_ms,
        malformed_frames_allowed: config.server.malformed_frames_allowed,
    }
}

/// Says so if another master key was configured before, as after development: all else works, and somebody may want it so.
async fn unreadable_keys(vault: &PostgresVault) -> Option<String> {
    let keys = match vault.unreadable_keys().await {
        Ok(0) => return None,
        Ok(keys) => keys,
        Err(error) => {
            tracing::warn!(error.message = %error, "whether a configured master key opens each subject's key is not known");
            return None;
        }
    };
    tracing::warn!(
        keys,
        "subjects' keys are wrapped with a master key that is not configured: what they sealed cannot be opened, and \
         accounts whose key of this month is among them get INTERNAL; configure it in content.former_master_keys"
    );
    Some(format!("keys of subjects, at the start, that no configured master key opens: {keys}"))
}

/// What is not configured, for whoever looks at `/health/ready`.
fn notices(config: &Config) -> Vec<String> {
    let mut notices: Vec<String> = config
        .providers_to_start()
        .filter(|provider| provider.simulated)
        .map(|provider| format!("provider {} is simulated", provider.name))
        .collect();
    let videos = config.video_providers_to_start().filter(|(_, settings, reach)| settings.is_simulated(*reach));
    notices.extend(videos.map(|(name, ..)| format!("video provider {name} is simulated")));
    notices.push(match config.kafka.cluster() {
        Some(cluster) => format!("Kafka: events are published to {}.*", cluster.topic_prefix),
        None => "Kafka is not configured: nothing is published".to_owned(),
    });
    notices
}

/// A unit holds a sealed prompt (a frame) or a sealed answer; both are bounded well below this.
fn writer_options() -> WriterOptions {
    WriterOptions { max_unit_bytes: 32 << 20, max_queued_bytes: 128 << 20, ..WriterOptions::default() }
}

async fn simulate(workers: &TaskTracker) -> anyhow::Result<Simulated> {
    let server = SimulatedProviders::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let (addr, simulator, stop) = (server.local_addr()?, server.simulator(), CancellationToken::new());
    workers.spawn(server.run(stop.clone()));
    Ok(Simulated { addr, simulator, stop })
}
