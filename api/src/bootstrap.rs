//! The composition root: configuration in, a running service out. The only place that names adapters; `main` and the
//! tests use it alike.

pub mod drain;
mod housekeeping;
mod notices;
mod upstreams;
pub mod videos;
mod webhooks;
mod workflows;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aihub_application::{
    accounts::Accounts,
    catalog::Catalog,
    gateway::{Answers, Gateway, GatewaySettings, SEALED_AT_ONCE},
    limits::Limits,
    lost_answers::LostAnswers,
    ports::{clock::Clock, event_log::EventLog},
    refusals::Refusals,
    shares::Share,
    upstream::Upstream,
};
use aihub_infrastructure::{
    audit::{
        checkpoint,
        note::{SigningKey, dev_signing_key},
    },
    client_requests::PostgresClientRequests,
    database::{Database, DatabaseOptions},
    database_clock::DatabaseClock,
    due_grants::{ExpiringGrants, PostgresDueGrants},
    embedded_postgres::{EmbeddedPostgres, EmbeddedPostgresOptions},
    event_store::{
        PostgresEventLog,
        batch::MAX_EVENT_BYTES,
        subscription::{EventHandler, Subscriptions},
        upcast::Upcasters,
        writer::WriterOptions,
    },
    kafka::{reachability::Reachability, relay::KafkaRelay},
    media::KeptMedia,
    nodes::{self, NodeOptions},
    notices::Notices,
    open_files,
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
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::housekeeping::{House, feel_load, keep_records};
use crate::{
    auth::{AuthSettings, Authenticator, dev_secret::dev_secret, roles::Roles},
    config::{Config, compared::Known, duration_ms, providers::Reach, videos::VideoReach},
    doors::Doors,
    hub::{Hub, HubSettings},
    ws::{changes::Changes, limits::SocketLimits},
};

/// Of a token that names none, in development.
const DEVELOPERS_ROLE: &str = "user";
/// A node that lives ends its requests at their deadline; this much later somebody else does.
const DEADLINE_GRACE: Duration = Duration::from_mins(1);
/// By how much a frame may grow when it is written again as JSON: `1e9` becomes `1000000000.0`.
const FRAME_EXPANSION: usize = 4;
/// By how much a text does: a control character is written as `\u0001`.
const ESCAPED: usize = 6;
/// A request's acceptance or end, and what it does to its account.
const EVENTS_OF_A_UNIT: usize = 4;
/// Of the largest units so many may wait for the writer at once; of others accordingly more.
const QUEUED_UNITS: usize = 6;
/// Whoever asks whether this node is ready is to know within five seconds that nothing can be appended, also where nothing is.
const PROBE_AFTER: Duration = Duration::from_millis(500);
/// Connections that wait in the kernel to be accepted, as far as it lets them.
const QUEUED_CONNECTIONS: u32 = 4_096;
/// Connections for what is read over HTTP, beside the configured ones.
const READ_CONNECTIONS: u32 = 4;

/// A built service: everything is connected, nothing is served yet.
pub struct App {
    listener: TcpListener,
    hub: Arc<Hub>,
    log: Arc<PostgresEventLog>,
    /// The nodes that live beside this one.
    /// Present when no database was configured.
    embedded: Option<EmbeddedPostgres>,
    simulated: Option<Simulated>,
    /// Subscriptions, policies, the log's writer.
    workers: TaskTracker,
    /// Workers that append to the log, which is closed behind them.
    drivers: TaskTracker,
    stop_workers: CancellationToken,
    /// What one node at a time does ends with this; cancelled before the others where another node can take it over.
    hand_over: CancellationToken,
    config: Config,
}

struct Simulated {
    addr: SocketAddr,
    simulator: Simulator,
    stop: CancellationToken,
}

impl App {
    /// `own_clock` is this machine's: it is compared with the database's, which is the one that counts.
    pub async fn build(
        config: Config,
        metrics: PrometheusHandle,
        own_clock: impl Clock + 'static,
    ) -> anyhow::Result<Self> {
        let open_files = open_files::raise_limit().context("the limit of open files")?;
        // A socket may have a provider's connection behind it.
        if open_files < 2 * config.server.max_sockets as u64 {
            tracing::warn!(open_files.limit = open_files, "fewer open files than server.max_sockets may need");
        }
        let (workers, drivers) = (TaskTracker::new(), TaskTracker::new());
        let stop_workers = CancellationToken::new();
        let hand_over = stop_workers.child_token();
        let node = nodes::process_name(&config.server.node_name());

        let (reached, embedded) = reach_database(&config).await?;
        let database = Database::connect(&reached).await?;
        if database.migrate().await? {
            config.database.roles().make(&database).await?;
        }
        let reads = connect_for_reads(reached).await?;
        let database_clock = Arc::new(DatabaseClock::read(&database, own_clock).await?);
        let clock: Arc<dyn Clock> = database_clock.clone();
        let media_options = config.media.options(&config.server.data_dir, config.is_production())?;
        let media = Arc::new(KeptMedia::open(media_options, clock.clone())?);
        let signing_key = Arc::new(signing_key(&config)?);
        let auth = auth_settings(&config)?;
        let masters = master_keys(&config)?;
        let notices = Notices::default();
        let known = Known {
            master_keys: &masters,
            audit_key: signing_key.verifier().to_string(),
            media_store: media.identity(),
            token_secret: auth.hs256_secret.as_ref(),
        };
        let beside = node_options(&config, &node, &known)?;
        let (heard, said) = (database_clock.clone(), notices.clone());
        nodes::join(database.clone(), heard, beside, said, &workers, stop_workers.clone()).await?;

        let upcasters = Arc::new(Upcasters::default());
        let options = writer_options(config.server.max_frame_bytes, config.gateway.max_answer_bytes);
        let log = PostgresEventLog::connect(database.clone(), options, upcasters.clone(), &workers).await?;
        let log = Arc::new(log);
        let vault = PostgresVault::new(database.pool().clone(), masters, clock.clone());
        let vault = Arc::new(vault.with(config.content.rules(), log.known_pieces()));
        notices::tell(&notices, &config, &database, &vault, &media).await;
        let subscriptions = Subscriptions::start(database.clone(), upcasters, workers.clone(), stop_workers.clone());
        let subscriptions = Arc::new(subscriptions);
        subscriptions.hear(log.appended());
        let kafka = follow_log(&config, &subscriptions, &clock, &workers, &stop_workers)?;
        workers.spawn(checkpoint::keep(
            database.clone(),
            signing_key.clone(),
            clock.clone(),
            duration_ms(config.audit.checkpoint_interval_ms),
            notices.clone(),
            stop_workers.clone(),
        ));
        let orphaned = PostgresOrphanedRequests::new(database.pool().clone(), node.clone(), DEADLINE_GRACE);
        let due = PostgresDueGrants::new(database.pool().clone());

        let simulated = if is_simulated(&config) { Some(simulate(&workers).await?) } else { None };
        let upstreams = upstreams::upstreams(&config, simulated.as_ref().map(|simulated| simulated.addr))?;
        let roles = Roles::new(config.roles.clone());
        let authenticator = Authenticator::new(&auth, roles.clone(), clock.clone(), workers.clone())?;
        let event_log: Arc<dyn EventLog> = log.clone();
        let gateway = Arc::new(gateway(&config, node, clock, event_log, vault.clone(), upstreams));
        let catalog = videos::catalog(&config, simulated.as_ref().map(|simulated| simulated.addr))?;
        let videos =
            videos::Works { database: database.clone(), gateway: gateway.clone(), catalog, media: media.clone() };
        let videos = videos.start(&config, &subscriptions, &drivers, (&stop_workers, &hand_over));
        let changes = Arc::new(Changes::default());
        workers.spawn(changes.clone().follow(subscriptions.live(), videos.clone(), stop_workers.clone()));
        let workflows = workflows::start(&config, videos, roles, &database, (&drivers, &hand_over));
        let webhooks = config.webhooks.options(&config.server.data_dir, config.is_production())?;
        workers.spawn(webhooks::sender(&database, &workflows, webhooks.clone())?.run(hand_over.clone()));
        let answers = gateway.clone();
        let forget = move |subject: &str| answers.answers.forget_account(subject);
        let told = (subscriptions.live(), subscriptions.waiter());
        workers.spawn(erasure::follow(database.clone(), told, vault, forget, stop_workers.clone()));
        workers.spawn(feel_load(gateway.clone(), stop_workers.clone()));
        keep_records(&config, &gateway, &database, &workers, &stop_workers);
        let client_requests = Arc::new(PostgresClientRequests::new(database.pool().clone()));
        let lost_answers = lost_answers(&gateway, &reads);
        let clock = database_clock;
        let house = House { gateway, orphaned, due, clock, client_requests, metrics: metrics.clone() };
        workers.spawn(house.keep(stop_workers.clone()));

        let listener = listen(config.server.listen)?;
        media.served_at(listener.local_addr()?);
        let settings = HubSettings {
            metrics,
            limits: SocketLimits::of(&config),
            ping_interval: duration_ms(config.server.ping_interval_ms),
            webhooks,
            changes,
            reports_folder: config.server.data_dir.join("reports"),
            max_long_poll: duration_ms(config.videos.max_long_poll_ms),
            audit_key: signing_key.verifier(),
            notices,
            kafka,
            media,
            lost_answers,
        };
        let doors = Doors::new(&config.server, &config.limits)?;
        let hub = Hub::new(workflows, authenticator, database, reads, subscriptions, settings, doors);
        let hub = Arc::new(hub);
        Ok(Self { listener, hub, log, embedded, simulated, workers, drivers, stop_workers, hand_over, config })
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
}

fn gateway(
    config: &Config,
    node: String,
    clock: Arc<dyn Clock>,
    log: Arc<dyn EventLog>,
    vault: Arc<PostgresVault>,
    upstreams: Vec<Arc<Upstream>>,
) -> Gateway {
    Gateway {
        settings: GatewaySettings { node, ..config.gateway_settings() },
        clock,
        accounts: Arc::new(Accounts::new(log.clone())),
        log,
        vault,
        catalog: Catalog {
            upstreams,
            equivalents: config.routing.equivalents.clone(),
            aliases: config.routing.aliases.clone(),
        },
        limits: Limits::new(config.limits.per_user, config.limits.per_account, config.limits.node),
        asked: Share::new("bytes of requests at work", config.server.asked()),
        answers: Answers::new(Share::new("bytes of answers that are kept", config.server.answers())),
        sealing: Semaphore::new(SEALED_AT_ONCE),
        refusals: Refusals::default(),
        tasks: TaskTracker::new(),
        draining: CancellationToken::new(),
        stopping: CancellationToken::new(),
    }
}

fn lost_answers(gateway: &Gateway, reads: &Database) -> Arc<LostAnswers> {
    let requests = Arc::new(PostgresClientRequests::new(reads.pool().clone()));
    Arc::new(LostAnswers::new(gateway.log.clone(), requests, gateway.tasks.clone()))
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

/// What this node says of itself to the others.
fn node_options(config: &Config, node: &str, known: &Known<'_>) -> anyhow::Result<NodeOptions> {
    Ok(NodeOptions {
        node: node.to_owned(),
        name: config.server.node.clone(),
        timeout: duration_ms(config.gateway.node_timeout_ms),
        settings: config.compared(known)?,
        allow_other_prices: config.server.allow_other_prices,
    })
}

async fn connect_for_reads(reached: DatabaseOptions) -> anyhow::Result<Database> {
    let options = DatabaseOptions { application_name: "aihub-reads", max_connections: READ_CONNECTIONS, ..reached };
    Ok(Database::connect(&options).await?)
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let taken = || format!("cannot listen on {address}; is another aihub running?");
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As `TcpListener::bind` does, but for the queue: where that is full, who is in it already is heard of after those who come later.
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(taken)?;
    socket.listen(QUEUED_CONNECTIONS).with_context(taken)
}

/// Has this node run every handler whenever no other one does, and see to it that none stands still. What is known of Kafka, where
/// the log is published.
fn follow_log(
    config: &Config,
    subscriptions: &Arc<Subscriptions>,
    clock: &Arc<dyn Clock>,
    workers: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Reachability>> {
    subscriptions.watch(duration_ms(config.server.standstill_ms))?;
    for handler in handlers() {
        subscriptions.run(handler);
    }
    let Some(cluster) = config.kafka.cluster() else { return Ok(None) };
    let reachability = Reachability::new(clock.clone());
    let relay = KafkaRelay::new(cluster.clone(), reachability.clone(), stop.clone())?;
    subscriptions.run(Arc::new(relay));
    workers.spawn(reachability.clone().follow(cluster, stop.clone()));
    Ok(Some(reachability))
}

/// The configured settings; in development with a secret of our own where none is configured, and a role for tokens without one.
pub fn auth_settings(config: &Config) -> anyhow::Result<AuthSettings> {
    let mut settings = config.auth.clone();
    settings.default_role = (!config.is_production()).then_some(DEVELOPERS_ROLE);
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

/// What the log takes at once is what the doors let in: a prompt of a frame, or an answer, sealed, with the events that name
/// it.
fn writer_options(max_frame_bytes: usize, max_answer_bytes: usize) -> WriterOptions {
    let longest = (FRAME_EXPANSION * max_frame_bytes).max(ESCAPED * max_answer_bytes);
    // Each piece and its place in the list take some 70 bytes more, and a piece has 512 at least.
    let max_unit_bytes = longest + longest / 7 + EVENTS_OF_A_UNIT * MAX_EVENT_BYTES;
    WriterOptions {
        max_unit_bytes,
        max_queued_bytes: QUEUED_UNITS * max_unit_bytes,
        probe_after: Some(PROBE_AFTER),
        ..WriterOptions::default()
    }
}

/// Whether anybody's answers come from inside this process.
fn is_simulated(config: &Config) -> bool {
    config.providers_to_start().any(|provider| provider.reach == Reach::Simulator)
        || config.video_providers_to_start().any(|(_, _, reach)| reach == VideoReach::Simulator)
}

async fn simulate(workers: &TaskTracker) -> anyhow::Result<Simulated> {
    let server = SimulatedProviders::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let (addr, simulator, stop) = (server.local_addr()?, server.simulator(), CancellationToken::new());
    workers.spawn(server.run(stop.clone()));
    Ok(Simulated { addr, simulator, stop })
}
