use aihub::{
    bootstrap::App,
    config::{Config, Sources},
};
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("info,aihub=debug").init();
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()?;
    let config =
        Config::load(&Sources { variables: aihub::config::layers::process_variables(), ..Sources::default() })?;
    let app = App::build(config, metrics).await?;
    tracing::info!("listening on {}", app.local_addr()?);
    let stop = tokio_util::sync::CancellationToken::new();
    let s = stop.clone();
    tokio::task::spawn(async move {
        tokio::signal::ctrl_c().await.ok();
        s.cancel();
    });
    app.run(stop).await
}
