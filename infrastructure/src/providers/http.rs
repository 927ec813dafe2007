//! How a provider is reached: its settings, the one HTTP client builder, and calls that end in a status or an error.

use std::{cell::Cell, collections::BTreeMap, fmt, time::Duration};

use aihub_application::ports::provider::{Flaw, ProviderError, Reached};
use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, Url};
use serde::Serialize;
use thiserror::Error;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};
use tower::util::MapResponseLayer;

use super::{
    errors,
    form::MAX_PIECE_BYTES,
    outgoing::Outgoing,
    proxy::{is_here, proxy_to},
};

/// The most that a refusal's body is read for its reason.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// How long that body is waited for. The status alone says most of it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Idle connections kept to one provider, for the next crowd: of the time to the first pieces of a thousand streams that
/// begin at once, making connections was a third. More than this many streams at once is fine; theirs just close.
const MAX_IDLE_CONNECTIONS: usize = 1_024;
/// Each keeps the buffers that its largest answer needed. They are looked through this often, so that after a rush all of them are
/// gone within a minute.
const IDLE_TIMEOUT: Duration = Duration::from_secs(25);

/// Several retransmissions, and soon enough for another attempt.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(10);
/// By when it is known that a kept connection was dead.
const STALE_WITHIN: Duration = Duration::from_secs(20);

/// A whole body up to this size is read whenever it comes.
pub(super) const SMALL_BODY_BYTES: usize = 256 << 10;
/// What larger ones may take together while they are read; beyond it they wait, unread. The largest has all of it for itself.
const LARGE_BODIES_BYTES: usize = 32 << 20;
/// In bytes.
static LARGE_BODIES: Semaphore = Semaphore::const_new(LARGE_BODIES_BYTES);

/// Where a provider is and how long it may take.
#[derive(Debug, Clone)]
pub struct ProviderHttp {
    /// As the official SDKs want it: `https://api.openai.com/v1`, but `https://api.anthropic.com`.
    pub base_url: String,
    /// A local server may do without.
    pub api_key: Option<ApiKey>,
    /// DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// A call about a video: from sending the request (with connecting) to its status line. How long an answer is waited for,
    /// who asks for it knows.
    pub first_byte_timeout: Duration,
    /// A video's file: from one read to the next.
    pub idle_timeout: Duration,
    /// Sent with every call, after ours and instead of ours where the names are the same. May hold secrets.
    pub extra_headers: ExtraHeaders,
}

impl ProviderHttp {
    /// With time-outs that suit a remote provider: 5 s to connect, 60 s to a status, and 120 s between two reads.
    pub fn new(base_url: impl Into<String>, api_key: Option<ApiKey>) -> Self {
        Self {
            base_url: base_url.into(),
            api_key,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_mins(2),
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
    /// Makes a new connection for each call.
    fresh: Client,
    base_url: Url,
    /// On the way to it.
    proxy: Option<String>,
    pub(crate) first_byte_timeout: Duration,
    pub(crate) idle_timeout: Duration,
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
        let place = Place { tls: base_url.scheme() == "https", is_here: is_here(&base_url) };
        let builder = || builder(settings.connect_timeout, headers.clone(), place);
        Ok(Self {
            client: builder().build()?,
            fresh: builder().pool_max_idle_per_host(0).build()?,
            proxy: proxy_to(&base_url),
            base_url,
            first_byte_timeout: settings.first_byte_timeout,
            idle_timeout: settings.idle_timeout,
        })
    }

    /// Posts `body` and waits for a status. Anything but a success is an error. `reached` is noted when the body leaves.
    ///
    /// A kept connection may be dead: closed by the server just now, or dropped by something between us without a word. That
    /// is no failure of the provider's, which never heard of the call: it is made once more on a new connection.
    pub(super) async fn post(
        &self,
        path: &str,
        request_id: &str,
        body: &impl Serialize,
        reached: &Reached,
    ) -> Result<Response, ProviderError> {
        let body = serde_json::to_vec(body).map_err(|error| errors::invalid_request(&error.to_string()))?;
        let body = Bytes::from(body);
        let send = |client: &Client| {
            let request = client.post(self.url(path.split('/').skip(1))).header("x-client-request-id", request_id);
            request.body(reqwest::Body::wrap(Outgoing::new(body.clone(), reached.clone()))).send()
        };
        let began = Instant::now();
        let response = match watched(send(&self.client)).await {
            // Later than that, it was working on it.
            (Err(error), Connection::Kept)
                if !error.is_connect() && !error.is_builder() && began.elapsed() < STALE_WITHIN =>
            {
                metrics::counter!("aihub_provider_stale_connections_total").increment(1);
                reached.forget();
                send(&self.fresh).await
            }
            (answered, _) => answered,
        };
        self.successful(response.map_err(|error| self.unreached(errors::transport(error, None)))?).await
    }

    /// With the proxy on the way, which may be what is not there.
    fn unreached(&self, error: ProviderError) -> ProviderError {
        let Some(proxy) = &self.proxy else { return error };
        let flaw = Flaw { class: "went_through_a_proxy".into(), field: Some(proxy.as_str().into()), offset: None };
        let message = format!("{} (through the proxy {proxy})", error.message);
        ProviderError { message, flaw: error.flaw.or(Some(flaw)), ..error }
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
        let response = status(request, deadline).await;
        let response =
            response.map_err(|unanswered| Unanswered { error: self.unreached(unanswered.error), ..unanswered })?;
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

/// What a call went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    /// One that was made for an earlier call.
    Kept,
    New,
}

tokio::task_local! {
    /// Set where a connection is made, by the task whose call wants it.
    static CONNECTION: Cell<Connection>;
}

/// What comes of a call, and what it went over.
async fn watched<T>(call: impl Future<Output = T>) -> (T, Connection) {
    let within = async {
        let came = call.await;
        (came, CONNECTION.with(Cell::get))
    };
    CONNECTION.scope(Cell::new(Connection::Kept), within).await
}

/// Where a client's servers are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub tls: bool,
    /// On this machine.
    pub is_here: bool,
}

/// The one place that says how HTTP clients to providers are.
pub(crate) fn builder(connect_timeout: Duration, headers: HeaderMap, place: Place) -> ClientBuilder {
    // reqwest is built without a TLS provider of its own, and takes the process's. Losing a race to install it
    // means that it is installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(concat!("aihub/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(15))
        .connector_layer(MapResponseLayer::new(|connection| {
            let _ = CONNECTION.try_with(|made| made.set(Connection::New));
            connection
        }))
        // A connection that died without a word is found while a stream is open on it.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        // A redirect would carry prompts and key to wherever it points.
        .redirect(reqwest::redirect::Policy::none());
    // What is sent and not acknowledged for so long goes to nobody: a connection that was dropped without a word.
    // On this machine nothing is dropped, and a server that is loading its model may take a large prompt late.
    #[cfg(target_os = "linux")]
    let builder = if place.is_here { builder } else { builder.tcp_user_timeout(UNACKNOWLEDGED_TIMEOUT) };
    let builder = if place.is_here { builder.no_proxy() } else { builder };
    // A local server over plain HTTP works on a machine without CA certificates.
    if place.tls { builder } else { builder.tls_certs_only([]) }
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

/// A response's bytes as they come.
pub(super) fn chunks(response: Response) -> impl Stream<Item = Result<Bytes, ProviderError>> {
    stream::try_unfold(response, |mut response| async move {
        let status = Some(response.status().as_u16());
        match response.chunk().await {
            Ok(chunk) => Ok(chunk.map(|chunk| (chunk, response))),
            Err(error) => Err(errors::transport(error, status)),
        }
    })
}

/// The same, each awaited no longer than `idle_timeout`. Time in which nobody asks for the next one does not count.
pub(crate) fn chunks_within(
    response: Response,
    idle_timeout: Duration,
) -> impl Stream<Item = Result<Bytes, ProviderError>> {
    let status = Some(response.status().as_u16());
    stream::try_unfold(Box::pin(chunks(response)), move |mut chunks| async move {
        match timeout(idle_timeout, chunks.try_next()).await {
            Ok(chunk) => Ok(chunk?.map(|chunk| (chunk, chunks))),
            Err(_) => Err(errors::timed_out(status, "the provider's stream stood still for longer than allowed")),
        }
    })
}

/// How long the next part of a large body is waited for: others wait for their turn meanwhile.
pub(super) const LARGE_BODY_SILENCE: Duration = Duration::from_secs(10);

/// Leave to gather one large piece of an answer.
pub(super) async fn turn_for_a_large_body() -> Option<SemaphorePermit<'static>> {
    let needed = u32::try_from(MAX_PIECE_BYTES.min(LARGE_BODIES_BYTES)).unwrap_or(u32::MAX);
    LARGE_BODIES.acquire_many(needed).await.ok()
}

/// A whole body. A large one keeps others waiting until it is dropped.
pub(crate) struct WholeBody {
    pub bytes: Vec<u8>,
    _turn: Option<SemaphorePermit<'static>>,
}

/// A whole body of at most `limit_bytes`, until `deadline`, if there is one.
pub(crate) async fn body(
    mut response: Response,
    limit_bytes: usize,
    deadline: Option<Instant>,
) -> Result<WholeBody, ProviderError> {
    let status = Some(response.status().as_u16());
    let stated = response.content_length().and_then(|bytes| usize::try_from(bytes).ok());
    let mut body = Vec::new();
    let mut turn = None;
    let read = async {
        loop {
            let next = response.chunk();
            let next = if turn.is_some() { timeout(LARGE_BODY_SILENCE, next).await } else { Ok(next.await) };
            let next = next.map_err(|_| errors::timed_out(status, "a large answer of the provider's stood still"))?;
            let Some(chunk) = next.map_err(|error| errors::transport(error, status))? else { return Ok(()) };
            if body.len() + chunk.len() > limit_bytes {
                return Err(errors::too_large("a body", limit_bytes));
            }
            if turn.is_none() && body.len() + chunk.len() > SMALL_BODY_BYTES {
                // All that it may need at once: who holds a part and waits for the rest would wait for others who do.
                let most = stated.unwrap_or(limit_bytes).min(limit_bytes);
                let needed = u32::try_from(most.min(LARGE_BODIES_BYTES)).unwrap_or(u32::MAX);
                turn = LARGE_BODIES.acquire_many(needed).await.ok();
                body.reserve(most.saturating_sub(body.len()));
            }
            body.extend_from_slice(&chunk);
        }
    };
    match deadline {
        Some(deadline) => timeout_at(deadline, read)
            .await
            .map_err(|_| errors::timed_out(status, "the provider's answer took longer than allowed"))??,
        None => read.await?,
    }
    Ok(WholeBody { bytes: body, _turn: turn })
}
