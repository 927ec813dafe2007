//! The service in the test's process: built by the composition root, on a free port, on a database of its own.

use std::{net::SocketAddr, sync::Arc};

use aihub::{
    auth::{
        AuthSettings,
        mint::{NewToken, mint},
        secret::Secret,
    },
    bootstrap::App,
    config::{Config, Sources},
    hub::Hub,
};
use aihub_application::ports::clock::{Clock, SystemClock};
use aihub_domain::{
    account::{UsageLimits, command::AccountCommand},
    money::Microcredits,
};
use chrono::{DateTime, TimeDelta, Utc};
use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use uuid::Uuid;

use crate::{
    PATIENCE, TestDatabase,
    audit::Audit,
    client::{Client, prompt_bytes},
    database,
    providers::Providers,
    until,
};

pub const SECRET: &str = "a secret of the tests, at least 32 bytes long";
const MASTER_KEY: &str = "dGhlIHRlc3RzJyBtYXN0ZXIga2V5LCAzMiBieXRlcyE=";
const SIGNING_KEY: &str = "dGhlIHRlc3RzJyBzaWduaW5nIGtleSwgMzIgYnl0ZXM=";

/// Ends when it is dropped, without a drain; [`stop`](Self::stop) is the orderly way.
pub struct TestApp {
    pub address: SocketAddr,
    pub hub: Arc<Hub>,
    pub providers: Arc<Providers>,
    pub database: Arc<TestDatabase>,
    pub http: reqwest::Client,
    auth: AuthSettings,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    _stop: DropGuard,
}

/// What the environment tells a service under test.
pub fn variables(database: &TestDatabase, providers: &Providers) -> Vec<(String, String)> {
    let mut variables = providers.variables();
    variables.extend(
        [
            ("DATABASE_URL", database.options.url.clone()),
            ("AIHUB__SERVER__LISTEN", "127.0.0.1:0".to_owned()),
            ("AIHUB__SERVER__DATA_DIR", database.folder.path().display().to_string()),
            // Some tests leave a call behind that hangs.
            ("AIHUB__SERVER__DRAIN_MS", "500".to_owned()),
            ("AIHUB__DATABASE__MAX_CONNECTIONS", "8".to_owned()),
            ("AIHUB__CONTENT__MASTER_KEY", MASTER_KEY.to_owned()),
            ("AIHUB__AUDIT__SIGNING_KEY", SIGNING_KEY.to_owned()),
            ("AIHUB__MEDIA__URL_SECRET", SECRET.to_owned()),
            // The simulated provider says when it wants to be asked; a test is in a hurry.
            ("AIHUB__VIDEOS__POLL_MS", "100".to_owned()),
            ("JWT_SECRET", SECRET.to_owned()),
            // Enough for all but films of ten seconds, and little enough to use up.
            ("AIHUB__CREDITS__WELCOME", "1000".to_owned()),
            // Tests keep the processors busy with each other.
            ("AIHUB__LIMITS__NODE__MAX_LAG_MS", "0".to_owned()),
            ("RUST_LOG", "error".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    if prompt_bytes().is_some() {
        // What is tested is not how much of it one may have.
        let much = [("SERVER__MEMORY_BYTES", 16_u64 << 30), ("LIMITS__PER_USER__BYTES_PER_MINUTE", 4_000_000_000)];
        variables.extend(much.map(|(name, value)| (format!("AIHUB__{name}"), value.to_string())));
    }
    variables
}

/// What the services under test take for a token.
pub fn auth() -> AuthSettings {
    AuthSettings { hs256_secret: Some(Secret::new(SECRET)), ..AuthSettings::default() }
}

/// The clock of a machine that is ahead by so much.
pub struct Ahead(pub TimeDelta);

impl Clock for Ahead {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() + self.0
    }
}

/// A token that the services under test accept.
pub fn token(auth: &AuthSettings, user: &str, account: &str, ttl: TimeDelta) -> String {
    let roles = ["user".to_owned()];
    let new = NewToken { sub: user, account: Some(account), roles: &roles, ttl, now: SystemClock.now() };
    mint(auth, &new).unwrap()
}

/// For calls on 127.0.0.1. Without certificates, of which there are many to read; each call has a connection of its own.
pub fn http_client() -> reqwest::Client {
    // Nobody else may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(PATIENCE);
    builder.pool_max_idle_per_host(0).build().unwrap()
}

impl TestApp {
    /// With a database and providers of its own. `change` has the last word on the configuration.
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let (database, providers) = (Arc::new(database().await), Arc::new(Providers::start().await));
        Self::start_on(&database, &providers, change).await
    }

    /// One more node on the same database.
    pub async fn start_on(
        database: &Arc<TestDatabase>,
        providers: &Arc<Providers>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        Self::try_start(database, providers, SystemClock, change).await.unwrap()
    }

    /// One more node, on a machine with this clock, unless it may not start.
    pub async fn try_start(
        database: &Arc<TestDatabase>,
        providers: &Arc<Providers>,
        own_clock: impl Clock + 'static,
        change: impl FnOnce(&mut Config),
    ) -> anyhow::Result<Self> {
        let sources = Sources { variables: variables(database, providers), ..Sources::default() };
        let mut config = Config::load(&sources).unwrap();
        change(&mut config);
        let auth = config.auth.clone();
        let app = App::build(config, PrometheusBuilder::new().build_recorder().handle(), own_clock).await?;
        let (address, hub, shutdown) = (app.local_addr().unwrap(), app.hub().clone(), CancellationToken::new());
        let running = TaskTracker::new().spawn(app.run(shutdown.clone()));
        Ok(Self {
            address,
            hub,
            providers: providers.clone(),
            database: database.clone(),
            http: http_client(),
            auth,
            _stop: shutdown.clone().drop_guard(),
            shutdown,
            running,
        })
    }

    /// A token for `user`, whose account has the same name.
    pub fn token(&self, user: &str) -> String {
        self.token_for(user, user, TimeDelta::hours(1))
    }

    pub fn token_for(&self, user: &str, account: &str, ttl: TimeDelta) -> String {
        token(&self.auth, user, account, ttl)
    }

    /// A socket of `user`, after its `ready`.
    pub async fn connect(&self, user: &str) -> Client {
        Client::connect(self.address, &self.token(user)).await
    }

    pub async fn grant(&self, account: &str, amount: Microcredits) {
        let command = AccountCommand::GrantCredits {
            grant_id: Uuid::now_v7().to_string(),
            amount,
            expires_at: None,
            reason: "a test".to_owned(),
            actor: "a test".to_owned(),
            granted_at: SystemClock.now(),
        };
        self.execute(account, command).await;
    }

    pub async fn set_usage_limits(&self, account: &str, limits: UsageLimits) {
        let (reason, actor, set_at) = ("a test".to_owned(), "a test".to_owned(), SystemClock.now());
        self.execute(account, AccountCommand::SetUsageLimits { limits, reason, actor, set_at }).await;
    }

    async fn execute(&self, account: &str, command: AccountCommand) {
        let accounts = &self.hub.gateway.accounts;
        accounts.execute(account, &command, &|_| Ok(vec![]), &Arc::default()).await.unwrap();
    }

    /// `GET path`, with a token if it is given: status, headers, and the body where it is JSON.
    pub async fn get(&self, path: &str, token: Option<&str>) -> (StatusCode, HeaderMap, Value) {
        let mut request = self.http.get(format!("http://{}{path}", self.address));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        (status, headers, response.json().await.unwrap_or_default())
    }

    /// The same, unless it is as `seen` says: then 304.
    pub async fn get_if(&self, path: &str, token: &str, seen: &str) -> (StatusCode, HeaderMap, Value) {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let request = client.get(format!("http://{}{path}", self.address)).bearer_auth(token);
        let response = request.header("if-none-match", seen).send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        (status, headers, response.json().await.unwrap_or_default())
    }

    /// Has a video made for this user.
    pub async fn film(&self, user: &str) {
        let video = json!({ "prompt": "a calm sea at sunset", "duration": 8, "resolution": "720p" });
        let (_, taken) = self.post("/api/mcp/sora2/generate", &self.token(user), &video).await;
        let path = format!("/api/mcp/sora2/status/{}?wait=30", taken["videoId"].as_str().unwrap());
        until("the video is made", async || {
            let (_, _, video) = self.get(&path, Some(&self.token(user))).await;
            (video["status"] == "completed").then_some(())
        })
        .await;
    }

    /// `POST path` with a JSON body: status and the JSON of the answer.
    pub async fn post(&self, path: &str, token: &str, body: &Value) -> (StatusCode, Value) {
        self.send(Method::POST, path, token, Some(body), &[]).await
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> (StatusCode, Value) {
        let mut request = self.http.request(method, format!("http://{}{path}", self.address)).bearer_auth(token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap_or_default())
    }

    /// The whole log, checked.
    pub async fn audit(&self) -> Audit {
        Audit::of(self.database.pool()).await
    }

    /// Tells the service to end, as SIGTERM does.
    pub fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Ends the service and waits until it has ended.
    /// Nothing that follows the log has stopped at an event.
    pub async fn stop(self) {
        let database = self.database.clone();
        self.stop_though_views_stand().await;
        let stopped = sqlx::query_as("SELECT name, error FROM subscriptions WHERE error IS NOT NULL");
        let stopped: Vec<(String, String)> = stopped.fetch_all(database.pool()).await.unwrap();
        assert!(stopped.is_empty(), "{stopped:#?}");
    }

    pub async fn stop_though_views_stand(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.running).await.expect("the service ends").unwrap().unwrap();
    }
}
