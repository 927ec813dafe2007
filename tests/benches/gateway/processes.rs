//! The three processes beside this one: PostgreSQL, the simulated providers and the service.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use aihub::{
    auth::mint::{NewToken, mint},
    config::{Config, Sources},
};
use aihub_application::ports::clock::{Clock, SystemClock};
use aihub_infrastructure::{
    database::{Database, DatabaseOptions},
    embedded_postgres::{EmbeddedPostgres, EmbeddedPostgresOptions},
};
use chrono::TimeDelta;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

const SECRET: &str = "a secret of the benchmark, at least 32 bytes long";
/// Callers share the accounts, as the users of a company do.
const ACCOUNTS: usize = 8;

/// How the simulated provider answers, by the names that the service's clients use.
pub const MODELS: [(&str, &str); 4] = [
    // As fast as the sockets take it.
    ("bench-50", "gpt-6-luna+ttft=0s+rate=0+tokens=50"),
    // As a fast model: half a second an answer.
    ("bench-50-paced", "gpt-6-luna+ttft=0s+rate=100+tokens=50"),
    // The same, of one that thinks as long as one at a provider does before it begins.
    ("bench-50-thinks", "gpt-6-luna+ttft=200ms+rate=100+tokens=50"),
    // As a reader: five seconds.
    ("bench-50-slow", "gpt-6-luna+ttft=0s+rate=10+tokens=50"),
];

/// A video that is ready as soon as it was asked for: what is measured is what comes with it.
pub const VIDEO_MODEL: &str = "sora-2+vtime=1ms+ttft=0s";
/// What one user and one node may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    Default,
    Raised,
}

const RAISED: &str = r"
[limits.per_user]
requests_per_minute = 4_000_000_000
tokens_per_minute = 4_000_000_000
bytes_per_minute = 4_000_000_000
concurrent_requests = 10_000
sockets = 10_000
concurrent_calls = 1_000

[limits.per_account]
requests_per_minute = 4_000_000_000
tokens_per_minute = 4_000_000_000
bytes_per_minute = 4_000_000_000
concurrent_requests = 10_000
sockets = 10_000
concurrent_calls = 1_000

[limits.node]
running_requests = 4_000

[providers.openai.limits]
max_concurrency = 4_000
";
const HANGING: &str = r#"
[providers.openai.models."gpt-6-astra"]
upstream_name = "gpt-6-luna+hang=before"

[video_providers.sora.models."sora-2"]
upstream_name = "sora-2+hang=before"
"#;

/// That the provider has at once.
pub const VIDEOS_AT_ONCE: usize = 50;

/// This program as `aihub`. Killed when it is dropped.
pub struct Process {
    pub address: SocketAddr,
    pub id: u32,
    child: Child,
    /// Kept open, since more may be said.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Until it says where it listens.
    async fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = output.next_line().await.unwrap().expect("it starts");
            if let Some((_, rest)) = line.split_once("http://") {
                let end = rest.find(|c: char| !c.is_ascii_digit() && !".:".contains(c)).unwrap_or(rest.len());
                break rest[..end].trim_end_matches(['.', ':']).parse().unwrap();
            }
        };
        Self { address, id: child.id().unwrap(), child, _output: output }
    }

    async fn stop(mut self) {
        assert!(Command::new("kill").args(["-TERM", &self.id.to_string()]).status().await.unwrap().success());
        assert!(self.child.wait().await.unwrap().success());
    }
}

/// Everything that a section measures.
pub struct Bench {
    pub service: Process,
    pub providers: Process,
    /// PostgreSQL's first process; the others are its children.
    pub postmaster: u32,
    /// The service's database.
    pub pool: PgPool,
    /// Another one beside it, for a log of our own.
    pub beside: Database,
    /// The service's configuration.
    pub file: PathBuf,
    auth: aihub::auth::AuthSettings,
    postgres: EmbeddedPostgres,
    _directory: TempDir,
}

/// What the service of this configuration takes for a token.
pub fn auth(file: &Path) -> aihub::auth::AuthSettings {
    Config::load(&Sources { file: Some(file.to_owned()), ..Sources::default() }).unwrap().auth
}

impl Bench {
    /// Nothing is off. Where `limits` are raised, one user or one node may ask for more than a benchmark asks; otherwise they are the
    /// defaults, and there is something that hangs.
    pub async fn start(limits: Limits) -> Self {
        let options = EmbeddedPostgresOptions { durable: true, ..EmbeddedPostgresOptions::default() };
        let postgres = EmbeddedPostgres::start_temporary(&options).await.unwrap();
        let database = Database::connect(&DatabaseOptions::new(postgres.url())).await.unwrap();
        let pool = database.pool().clone();
        sqlx::query("CREATE DATABASE beside").execute(&pool).await.unwrap();
        let url = postgres.url().replace("/aihub?", "/beside?");
        let beside = Database::connect(&DatabaseOptions::new(url)).await.unwrap();
        beside.migrate().await.unwrap();

        let providers = Process::start(&["simulate", "--listen", "127.0.0.1:0"]).await;
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("aihub.toml");
        std::fs::write(&file, configuration(&directory, postgres.url(), providers.address, limits)).unwrap();
        let service = Process::start(&["serve", "--config", file.to_str().unwrap()]).await;
        let auth = auth(&file);
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&pool).await.unwrap();
        let postmaster = crate::usage::parent(u32::try_from(backend).unwrap());
        Self { service, providers, postmaster, pool, beside, file, auth, postgres, _directory: directory }
    }

    /// A token for the caller of this number.
    pub fn token(&self, caller: usize) -> String {
        let (user, account) = (format!("user-{caller}"), format!("account-{}", caller % ACCOUNTS));
        let roles = ["user".to_owned()];
        let (ttl, now) = (TimeDelta::hours(1), SystemClock.now());
        mint(&self.auth, &NewToken { sub: &user, account: Some(&account), roles: &roles, ttl, now }).unwrap()
    }

    /// What was measured on.
    pub async fn describe(&self) -> String {
        let settings = "SELECT string_agg(name || ' = ' || setting, ', ' ORDER BY name) FROM pg_settings
            WHERE name IN ('server_version', 'fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers')";
        let settings: String = sqlx::query_scalar(settings).fetch_one(&self.pool).await.unwrap();
        let cores = std::thread::available_parallelism().unwrap();
        format!("{cores} cores, load {}; PostgreSQL: {settings}", crate::usage::load_average())
    }

    /// How many events every subscription has still to apply.
    pub async fn behind(&self) -> i64 {
        let behind =
            "SELECT coalesce((SELECT max(position) FROM events), 0) - coalesce(min(position), 0) FROM subscriptions";
        sqlx::query_scalar(behind).fetch_one(&self.pool).await.unwrap()
    }

    pub async fn stop(self) {
        self.service.stop().await;
        self.providers.stop().await;
        self.pool.close().await;
        self.beside.pool().close().await;
        self.postgres.stop().await.unwrap();
    }
}

fn configuration(directory: &TempDir, database: &str, providers: SocketAddr, limits: Limits) -> String {
    let limits = match limits {
        Limits::Raised => {
            RAISED.to_owned()
                + &format!(
                    "[video_providers.sora.limits]\nmax_concurrency = {VIDEOS_AT_ONCE}\n\
             [video_providers.sora.models.\"sora-2\"]\nupstream_name = \"{VIDEO_MODEL}\"\n"
                )
        }
        Limits::Default => HANGING.to_owned(),
    };
    let mut text = format!(
        r#"
[server]
listen = "127.0.0.1:0"
data_dir = "{directory}"

[database]
url = "{database}"

[auth]
hs256_secret = "{SECRET}"

[credits]
welcome = 1_000_000_000

[providers.openai]
base_url = "http://{providers}/v1"
api_key = "sk-simulated"

[video_providers.sora]
base_url = "http://{providers}/v1"
api_key = "sk-simulated"
idempotent = true

[video_providers.veo]
enabled = false

{limits}
"#,
        directory = directory.path().display(),
    );
    for (name, upstream_name) in MODELS {
        let model = format!(
            r#"
[providers.openai.models.{name}]
upstream_name = "{upstream_name}"
context_tokens = 922_000
max_output_tokens = 128_000
prices = [{{ id = "{name}", input_usd_per_mtok = "0.1", output_usd_per_mtok = "0.5", source = "the benchmark" }}]
"#
        );
        text.push_str(&model);
    }
    text
}
