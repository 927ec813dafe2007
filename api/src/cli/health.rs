//! `aihub health`: readiness for a container's health check, where there is no `curl`.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::output::out_line;
use crate::config::Config;

const DEADLINE: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub struct Health {
    /// Where the service is [default: the configured `server.listen`]
    #[arg(long, value_name = "ADDRESS")]
    address: Option<SocketAddr>,
}

impl Health {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let address = self.address.unwrap_or_else(|| reachable(config.server.listen));
        let asked = timeout(DEADLINE, ask(address)).await;
        let answer = asked.with_context(|| format!("{address} did not answer in {} s", DEADLINE.as_secs()))??;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        match answer.split(' ').nth(1) {
            Some("200") => Ok(out_line(body)?),
            Some(status) => bail!("{address} is not ready: {status} {body}"),
            None => bail!("{address} does not speak HTTP"),
        }
    }
}

async fn ask(address: SocketAddr) -> anyhow::Result<String> {
    let mut socket = TcpStream::connect(address).await.with_context(|| format!("nothing listens on {address}"))?;
    // HTTP/1.0, so that the answer ends with the connection and comes in one piece.
    let request = format!("GET /health/ready HTTP/1.0\r\nHost: {address}\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    socket.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A service that listens on all addresses is asked on this machine's own.
pub fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}
