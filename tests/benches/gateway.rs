//! What the gateway adds to a provider's answer, and what it costs: the service in a process of its own with everything
//! on, an embedded PostgreSQL with fsync, the simulated providers in a third process, real WebSocket clients in this
//! one.
//!
//! `cargo bench -p aihub-tests --bench gateway`, or with `-- added`, `-- hostile`, `-- sockets`, `-- throughput`, `-- prompts`, `-- videos` one section of it;
//! seconds a cell in `BENCH_SECONDS`, 5 by default.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a benchmark"
)]

#[path = "gateway/added.rs"]
mod added;
#[path = "gateway/client.rs"]
mod client;
#[path = "gateway/commit.rs"]
mod commit;
#[path = "gateway/direct.rs"]
mod direct;
#[path = "gateway/hostile.rs"]
mod hostile;
#[path = "gateway/load.rs"]
mod load;
#[path = "gateway/processes.rs"]
mod processes;
#[path = "gateway/prompts.rs"]
mod prompts;
#[path = "gateway/sockets.rs"]
mod sockets;
#[path = "gateway/throughput.rs"]
mod throughput;
#[path = "gateway/usage.rs"]
mod usage;
#[path = "gateway/videos.rs"]
mod videos;

use std::{process::ExitCode, time::Duration};

use aihub::cli::Cli;
use clap::Parser;

use self::processes::{Bench, Limits};

#[tokio::main]
async fn main() -> ExitCode {
    // The service and the providers are this program again, so that they are built from the same sources.
    if matches!(std::env::args().nth(1).as_deref(), Some("serve" | "simulate")) {
        return Cli::parse().run().await;
    }
    // For reqwest, which is built without one.
    rustls::crypto::ring::default_provider().install_default().unwrap();
    if let [_, "crowd", service, file] =
        std::env::args().collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        hostile::rage(service, file).await;
    }
    bench().await;
    ExitCode::SUCCESS
}

async fn bench() {
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(5.0);
    let time = Duration::from_secs_f64(seconds);
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |section: &str| wanted.is_empty() || wanted.iter().any(|name| name == section);

    if is_wanted("hostile") {
        let bench = Bench::start(Limits::Default).await;
        println!("{}", bench.describe().await);
        hostile::section(&bench, time).await;
        bench.stop().await;
    }
    if wanted == ["hostile"] {
        return;
    }
    let bench = Bench::start(Limits::Raised).await;
    println!("{}", bench.describe().await);
    if is_wanted("added") {
        added::section(&bench, time).await;
    }
    if is_wanted("sockets") {
        sockets::section(&bench).await;
    }
    if is_wanted("throughput") {
        throughput::section(&bench, time).await;
    }
    if is_wanted("prompts") {
        prompts::section(&bench, time).await;
    }
    if is_wanted("videos") {
        videos::section(&bench).await;
    }
    bench.stop().await;
}
