//! `aihub simulate`: the simulated providers alone, for tests and benchmarks of other programs.

use std::net::SocketAddr;

use aihub_infrastructure::simulated_providers::SimulatedProviders;
use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{output::out_line, serve::Signals};

#[derive(Debug, Args)]
pub struct Simulate {
    /// Address and port; port 0 takes a free one and prints it
    #[arg(long, default_value = "127.0.0.1:4100")]
    listen: SocketAddr,
}

impl Simulate {
    pub async fn run(self) -> anyhow::Result<()> {
        let mut signals = Signals::listen()?;
        let server =
            SimulatedProviders::bind(self.listen).await.with_context(|| format!("cannot listen on {}", self.listen))?;
        let origin = format!("http://{}", server.local_addr()?);
        out_line(format_args!(
            "The simulated providers answer at {origin}, to any key. To use them from another aihub:\n\n  \
             export OPENAI_BASE_URL={origin}/v1 OPENAI_API_KEY=any AIHUB__PROVIDERS__OPENAI__SIMULATED=true\n  \
             export ANTHROPIC_BASE_URL={origin} ANTHROPIC_API_KEY=any AIHUB__PROVIDERS__CLAUDE__SIMULATED=true\n"
        ))?;
        let shutdown = CancellationToken::new();
        let running = server.run(shutdown.clone());
        Ok(signals.until_done(running, &shutdown).await??)
    }
}
