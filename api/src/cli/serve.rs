//! `aihub serve`: the service, from its start to the end of its drain.

mod banner;

use aihub_application::ports::clock::SystemClock;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Interrupted;
use crate::{
    bootstrap::App,
    config::{Config, Flag, production},
    telemetry,
};

#[derive(Debug, Default, Args)]
pub struct Serve {
    /// Address and port [default: 127.0.0.1:3003]; port 0 takes a free one and prints it
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Start although another node that lives charges otherwise: for a change of prices or of the rate, node by node
    #[arg(long)]
    pub allow_other_prices: bool,
}

impl Serve {
    /// What its flags say in the configuration.
    pub fn flags(&self) -> impl Iterator<Item = Flag> {
        let listen = self.listen.clone().map(|value| Flag { name: "--listen", key: "server.listen", value });
        let (name, key) = ("--allow-other-prices", "server.allow_other_prices");
        let allow = self.allow_other_prices.then(|| Flag { name, key, value: "true".to_owned() });
        listen.into_iter().chain(allow)
    }
}

/// Serves until SIGTERM, SIGINT or SIGHUP, then drains. A second signal ends it at once.
pub async fn run(config: Config) -> anyhow::Result<()> {
    production::check(&config)?;
    let mut signals = Signals::listen()?;
    let app = tokio::select! {
        app = App::build(config.clone(), telemetry::metrics()?, SystemClock) => app?,
        () = signals.next() => return Err(Interrupted.into()),
    };
    // The listener is bound: whoever connects from now on is served.
    banner::print(&config, &app)?;
    let shutdown = CancellationToken::new();
    let running = app.run(shutdown.clone());
    signals.until_done(running, &shutdown).await?
}

/// The signals to stop. They are asked for before anything is started: process 1 of a container has no default for
/// them.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Of a terminal that is closed, or by somebody who wants the configuration read again: what is to be changed takes a start.
    hang_up: Signal,
}

impl Signals {
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }

    /// What `running` gives. The first signal cancels `shutdown`, the second one gives it up.
    pub async fn until_done<T>(
        &mut self,
        running: impl Future<Output = T>,
        shutdown: &CancellationToken,
    ) -> Result<T, Interrupted> {
        tokio::pin!(running);
        tokio::select! {
            done = &mut running => return Ok(done),
            () = self.next() => shutdown.cancel(),
        }
        tokio::select! {
            done = running => Ok(done),
            () = self.next() => Err(Interrupted),
        }
    }
}
