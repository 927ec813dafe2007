//! Logs and metrics. Neither ever holds content, tokens, secrets or query strings: those are kept out where the lines
//! are written, not filtered here.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
};

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, util::SubscriberInitExt};

use crate::config::sections::LogFormat;

/// From a commit (below a millisecond) to an answer at its deadline (five minutes).
const SECONDS: [f64; 18] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// For counts: events of a batch, waiting units.
const COUNTS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Sends the log to stderr, so that stdout is the command's own. `filter` is as in `RUST_LOG`.
pub fn log(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).context("log.filter (RUST_LOG) cannot be read")?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            subscriber.with_target(false).with_ansi(colours).finish().try_init()?;
        }
        LogFormat::Json => subscriber.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

/// The process's one recorder, installed by the first call. Whoever serves calls `run_upkeep` on it now and then.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets(&COUNTS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()?;
    Ok(installed.insert(handle).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_counts_have_buckets_of_their_own_and_every_caller_the_same_recorder() {
        let (first, second) = (metrics().unwrap(), metrics().unwrap());
        metrics::histogram!("telemetry_test_seconds").record(0.02);
        metrics::histogram!("telemetry_test_events").record(3.0);
        let shown = first.render();
        assert!(shown.contains("telemetry_test_seconds_bucket{le=\"0.025\"} 1"), "{shown}");
        assert!(shown.contains("telemetry_test_events_bucket{le=\"4\"} 1"), "{shown}");
        assert!(second.render().contains("telemetry_test_events_count 1"));
    }
}
