//! How a provider is reached: its settings, the one HTTP client builder, and calls that end in a status or an error.

use std::{collections::BTreeMap, fmt, time::Duration};

use aihub_application::ports::provider::{FailureKind, ProviderError};
use bytes::Bytes;
use futures::{Stream, stream};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::Serialize;
use thiserror::Error;
use tokio::time::{Instant, timeout, timeout_at};

use super::errors;

/// The most that a refusal's body is read for its reason.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// How long that body is waited for. The status alone says most of it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Idle connections kept to one provider, for the next crowd: of the time to the first pieces of a thousand streams that
/// begin at once, making connections was a third. More than this many streams at once is fine; theirs just close.
const MAX_IDLE_CONNECTIONS: usize = 1_024;

/// Where a provider is and how long it may take.
#[derive(Debug, Clone)]
pub struct ProviderHttp {
    /// As the official SDKs want it: `https://api.openai.com/v1`, but `https://api.anthropic.com`.
    pub base_url: String,
    /// A local server may do without.
    pub api_key: Option<ApiKey>,
    /// DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// A stream: from sending the request (with connecting) to its status line.
    pub first_byte_timeout: Duration,
    /// A stream: from one read to the next. A provider's keep-alives count as a sign of life.
    pub idle_timeout: Duration,
    /// An answer that is not streamed: from sending the request to the last byte. Its status may come as late as that.
    pub answer_timeout: Duration,
    /// Sent with every call, after ours and instead of ours where the names are the same. May hold secrets.
    pub extra_headers: ExtraHeaders,
}

impl ProviderHttp {
    /// With time-outs that suit a remote provider: 5 s to connect, 60 s to a status, 120 s between two reads and
    /// 600 s (as in the official SDKs) for an answer in one piece.
    pub fn new(base_url: impl Into<String>, api_key: Option<ApiKey>) -> Self {
        Self {
            base_url: base_url.into(),
            api_key,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_mins(2),
            answer_timeout: Duration::from_mins(10),
            extra_headers: ExtraHeaders::default(),
        }
    }
}

/// A provider's key. Never printed.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// Headers by name. Prints the names only.
#[derive(Clone, Default)]
pub struct ExtraHeaders(pub BTreeMap<String, String>);

impl fmt::Debug for ExtraHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why an adapter cannot be built from its settings.
#[derive(Debug, Error)]
pub enum InvalidProviderSettings {
    #[error("the base URL {0:?} is not an http(s) URL")]
    BaseUrl(String),
    #[error("the value of header {0:?} cannot be sent: headers are printable ASCII on one line")]
    Header(String),
    #[error("the HTTP client could not be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// A provider's HTTP side. Cheap to call from many tasks; its connections are pooled.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client,
    base_url: Url,
    pub(crate) first_byte_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(super) answer_timeout: Duration,
}

/// A call that got no success.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) error: ProviderError,
    /// There was no connection, so the provider cannot know of the call.
    pub(crate) is_unsent: bool,
}

impl Http {
    /// `own_headers` are the adapter's, its credentials among them.
    pub(crate) fn new(
        settings: &ProviderHttp,
        own_headers: &[(&'static str, String)],
    ) -> Result<Self, InvalidProviderSettings> {
        let configured = settings.base_url.trim_end_matches('/');
        let invalid = || InvalidProviderSettings::BaseUrl(configured.to_owned());
        let base_url = Url::parse(configured).map_err(|_| invalid())?;
        if !matches!(base_url.scheme(), "http" | "https") || !base_url.has_host() {
            return Err(invalid());
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let own = own_headers.iter().map(|(name, value)| (*name, value.as_str()));
        let extra = settings.extra_headers.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(extra) {
            let invalid = || InvalidProviderSettings::Header(name.to_owned());
            let header_name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
            let mut header_value = HeaderValue::from_str(value).map_err(|_| invalid())?;
            // Keeps it out of `Debug` output and of HTTP/2's header tables.
            header_value.set_sensitive(true);
            headers.insert(header_name, header_value);
        }
        let client = client(settings.connect_timeout, headers, base_url.scheme() == "https")?;
        Ok(Self {
            client,
            base_url,
            first_byte_timeout: settings.first_byte_timeout,
            idle_timeout: settings.idle_timeout,
            answer_timeout: settings.answer_timeout,
        })
    }

    /// Until when the status of a stream or of a whole answer may come, and for the latter its last byte.
    pub(super) fn deadlines(&self, is_stream: bool) -> (Instant, Option<Instant>) {
        let now = Instant::now();
        if is_stream {
            return (now + self.first_byte_timeout, None);
        }
        (now + self.answer_timeout, Some(now + self.answer_timeout))
    }

    /// Posts `body` and waits for a status until `deadline`. Anything but a success is an error.
    pub(super) async fn post(
        &self,
        path: &str,
        request_id: &str,
        body: &impl Serialize,
        deadline: Instant,
    ) -> Result<Response, ProviderError> {
        let body = serde_json::to_vec(body).map_err(|error| errors::invalid_request(&error.to_string()))?;
        let request = self.client.post(self.url(path.split('/').skip(1))).header("x-client-request-id", request_id);
        self.send(request.body(body), deadline).await.map_err(|unanswered| unanswered.error)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn base_url(&self) -> &Url {
        &self.base_url
    }

    /// `path`, behind the base URL. Each part of it is one segment, whatever stands in it; dots alone are left out.
    pub(crate) fn url<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.base_url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// Waits for a status until `deadline`. Anything but a success is an error.
    pub(crate) async fn send(&self, request: RequestBuilder, deadline: Instant) -> Result<Response, Unanswered> {
        let response = status(request, deadline).await?;
        self.successful(response).await.map_err(|error| Unanswered { error, is_unsent: false })
    }

    /// The response, if it is a success.
    pub(crate) async fn successful(&self, response: Response) -> Result<Response, ProviderError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let headers = response.headers().clone();
        let body = timeout(REFUSAL_TIMEOUT.min(self.idle_timeout), refusal(response)).await.unwrap_or_default();
        Err(errors::refused(status, &headers, &body))
    }
}

/// Waits for a status, whichever, until `deadline`.
pub(crate) async fn status(request: RequestBuilder, deadline: Instant) -> Result<Response, Unanswered> {
    match timeout_at(deadline, request.send()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => {
            let is_unsent = error.is_connect() || error.is_builder();
            Err(Unanswered { error: errors::transport(error, None), is_unsent })
        }
        Err(_) => {
            let error = errors::timed_out(None, "the provider sent no status in the time allowed");
            Err(Unanswered { error, is_unsent: false })
        }
    }
}

/// The one place that builds HTTP clients to providers.
pub(crate) fn client(connect_timeout: Duration, headers: HeaderMap, tls: bool) -> Result<Client, reqwest::Error> {
    // reqwest is built without a TLS provider of its own, and takes the process's. Losing a race to install it
    // means that it is installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(concat!("aihub/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(15))
        // A connection that died without a word is found while a stream is open on it.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .pool_idle_timeout(Duration::from_secs(55))
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        // A redirect would carry prompts and key to wherever it points.
        .redirect(reqwest::redirect::Policy::none());
    // A local server over plain HTTP works on a machine without CA certificates.
    if tls { builder } else { builder.tls_certs_only([]) }.build()
}

async fn refusal(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < MAX_ERROR_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(MAX_ERROR_BYTES);
    body
}

/// A stream's bytes as they come, each awaited no longer than `idle_timeout`. Time in which nobody asks for the next
/// one does not count.
pub(crate) fn chunks(response: Response, idle_timeout: Duration) -> impl Stream<Item = Result<Bytes, ProviderError>> {
    stream::try_unfold(response, move |mut response| async move {
        let status = Some(response.status().as_u16());
        match timeout(idle_timeout, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk.map(|chunk| (chunk, response))),
            Ok(Err(error)) => Err(errors::transport(error, status)),
            Err(_) => Err(errors::timed_out(status, "the provider's stream stood still for longer than allowed")),
        }
    })
}

/// A whole body of at most `limit_bytes`, until `deadline`.
pub(crate) async fn body(
    mut response: Response,
    limit_bytes: usize,
    deadline: Instant,
) -> Result<Vec<u8>, ProviderError> {
    let status = Some(response.status().as_u16());
    let mut body = Vec::new();
    let read = async {
        while let Some(chunk) = response.chunk().await.map_err(|error| errors::transport(error, status))? {
            if body.len() + chunk.len() > limit_bytes {
                let message = format!("the provider's answer has more than {limit_bytes} bytes");
                return Err(ProviderError { kind: FailureKind::Malformed, status, message, retry_after: None });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(())
    };
    timeout_at(deadline, read)
        .await
        .map_err(|_| errors::timed_out(status, "the provider's answer took longer than allowed"))??;
    Ok(body)
}
