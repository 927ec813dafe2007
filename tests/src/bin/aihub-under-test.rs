//! `aihub serve` as a process of its own that tests can kill. It tells its address in the first line of its output.

use std::io::Write;

use aihub::{
    bootstrap::App,
    config::{Config, Sources, layers},
};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("error").with_writer(std::io::stderr).init();
    let sources = Sources { variables: layers::process_variables(), ..Sources::default() };
    let mut terminate = signal(SignalKind::terminate())?;
    let app = App::build(Config::load(&sources)?, PrometheusBuilder::new().build_recorder().handle()).await?;
    writeln!(std::io::stdout(), "{}", app.local_addr()?)?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    TaskTracker::new().spawn(async move {
        terminate.recv().await;
        stop.cancel();
    });
    app.run(shutdown).await
}
