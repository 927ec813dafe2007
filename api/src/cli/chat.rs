//! `aihub chat`: one question over the WebSocket, as any client would ask it.

mod frames;

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use futures::{SinkExt, StreamExt};
use http::Uri;
use reqwest::Url;
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{ClientRequestBuilder, Error as SocketError, Message},
};

use self::frames::{Frame, Refusal};
use super::{
    Interrupted,
    health::reachable,
    output::{dim, is_terminal, out, out_line, remark},
    secret_arg::secret,
    token::developers_token,
};
use crate::{
    auth::{extract::WEBSOCKET_PROTOCOL, mint::MintError, secret::Secret},
    bootstrap::auth_settings,
    config::Config,
};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const REQUEST_ID: &str = "1";

#[derive(Debug, Args)]
pub struct Chat {
    /// The service [default: the configured `server.listen` on this machine]
    #[arg(long)]
    url: Option<Url>,
    /// A provider's name, or auto
    #[arg(long)]
    provider: Option<String>,
    /// A model's name [default: the provider's default]
    #[arg(long)]
    model: Option<String>,
    /// The token, or @FILE where it stands [default: one that is made with the secret of this machine's service]
    #[arg(long, value_name = "TOKEN|@FILE", env = "AIHUB_TOKEN", hide_env_values = true, value_parser = secret)]
    token: Option<Secret>,
    /// The question
    #[arg(required = true)]
    text: Vec<String>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Chat {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let uri = socket_uri(self.url.clone(), config)?;
        let token = match &self.token {
            Some(token) => token.expose().to_owned(),
            None => match developers_token(&auth_settings(config)?) {
                Ok(token) => token,
                Err(MintError::NoSecret) => bail!("no secret to make a token with: give one as --token or AIHUB_TOKEN"),
                Err(error) => return Err(error.into()),
            },
        };
        let mut socket = connect(&uri, &token).await?;
        let question = json!({
            "id": REQUEST_ID,
            "type": "chat",
            "provider": self.provider,
            "model": self.model,
            "messages": [{ "role": "user", "content": self.text.join(" ") }],
            "stream": true,
        });
        socket.send(Message::text(question.to_string())).await?;
        let answered = read_answer(&mut socket).await;
        // The peer may be gone by now, and what there was to say was said.
        let _ = socket.close(None).await;
        answered
    }
}

/// Prints the answer as it comes. Ctrl-C asks the service to stop; a second one does not wait for it.
async fn read_answer(socket: &mut Socket) -> anyhow::Result<()> {
    let mut cancelled = false;
    let mut at_line_start = true;
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                if std::mem::replace(&mut cancelled, true) {
                    return Err(Interrupted.into());
                }
                socket.send(Message::text(json!({ "id": REQUEST_ID, "type": "cancel" }).to_string())).await?;
                continue;
            }
        };
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(Some(close)))) => {
                bail!("the service closed the socket: {} {}", u16::from(close.code), close.reason)
            }
            Some(Ok(Message::Close(None))) | None => bail!("the connection was closed before the answer's end"),
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(error).context("the connection broke off"),
        };
        match serde_json::from_str(&text).context("the service sent a frame that is none of this protocol")? {
            Frame::Chunk { data } => {
                let data = if is_terminal() { printable(&data) } else { data };
                at_line_start = if data.is_empty() { at_line_start } else { data.ends_with('\n') };
                out(data)?;
            }
            Frame::Queued { position } => remark(format_args!("waiting for a place: number {position}"))?,
            Frame::Done { usage, metadata } => {
                let break_line = if at_line_start { "" } else { "\n" };
                out_line(format_args!("{break_line}{}", dim(frames::summary(&usage, &metadata))))?;
                return if cancelled { Err(Interrupted.into()) } else { Ok(()) };
            }
            Frame::Error { error } => {
                if !at_line_start {
                    out_line("")?;
                }
                return Err(error.into());
            }
            Frame::Ready | Frame::Other => {}
        }
    }
}

async fn connect(uri: &Uri, token: &str) -> anyhow::Result<Socket> {
    // For `wss`; where there is a provider already, that one does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let request = ClientRequestBuilder::new(uri.clone())
        .with_header("Authorization", format!("Bearer {token}"))
        .with_sub_protocol(WEBSOCKET_PROTOCOL);
    match timeout(CONNECT_DEADLINE, connect_async(request)).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(SocketError::Http(response))) => {
            let body = response.body().as_deref().unwrap_or_default();
            match serde_json::from_slice::<Refusal>(body) {
                Ok(refusal) => Err(refusal.into()),
                Err(_) => bail!("{uri} is not an aihub: it answered with {}", response.status()),
            }
        }
        Ok(Err(SocketError::Io(error))) => {
            Err(error).with_context(|| format!("{uri} cannot be reached; is `aihub serve` running?"))
        }
        Ok(Err(error)) => Err(error).with_context(|| format!("{uri} cannot be reached")),
        Err(_) => bail!("{uri} did not answer in {} s", CONNECT_DEADLINE.as_secs()),
    }
}

/// `http://host:3003`, `ws://host:3003` and `ws://host:3003/mcp` are the same place.
fn socket_uri(url: Option<Url>, config: &Config) -> anyhow::Result<Uri> {
    let Some(mut url) = url else {
        let address = reachable(config.server.listen);
        if address.port() == 0 {
            bail!("the service has a port of its own choice: give its address as --url");
        }
        return Ok(format!("ws://{address}/mcp").parse()?);
    };
    let scheme = match url.scheme() {
        "http" | "ws" => "ws",
        "https" | "wss" => "wss",
        other => bail!("--url must begin with ws, wss, http or https, not {other}"),
    };
    if url.set_scheme(scheme).is_err() || !url.has_host() {
        bail!("--url must name a host");
    }
    if url.path() == "/" {
        url.set_path("/mcp");
    }
    Ok(url.as_str().parse()?)
}

/// What a model says must not move a terminal's cursor or recolour it.
fn printable(data: &str) -> String {
    data.chars().filter(|char| !char.is_control() || matches!(char, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn each_way_to_name_the_service_is_the_same_place() {
        let config = Config::load(&Sources::default()).unwrap();
        let uri = |url: Option<&str>| socket_uri(url.map(|url| url.parse().unwrap()), &config).unwrap().to_string();
        assert_eq!(uri(None), "ws://127.0.0.1:3003/mcp");
        for url in ["http://h:1", "ws://h:1/", "ws://h:1/mcp"] {
            assert_eq!(uri(Some(url)), "ws://h:1/mcp");
        }
        assert_eq!(uri(Some("https://h/gateway/mcp")), "wss://h/gateway/mcp");
        assert!(socket_uri(Some("ftp://h".parse().unwrap()), &config).is_err());
    }

    #[test]
    fn control_characters_of_an_answer_do_not_reach_a_terminal() {
        assert_eq!(printable("a\u{1b}[2J\tb\r\n\u{7}é"), "a[2J\tb\né");
    }
}
