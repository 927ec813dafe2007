//! Simulated providers: a real HTTP server that speaks OpenAI's, Anthropic's and, of videos, Google's formats, so that the product's own
//! adapters, time-outs and meters run against sockets and not against stand-ins.
//!
//! Everything that it says is marked as simulated: the header `x-simulated: true` on every answer, `sim` in every id,
//! `system_fingerprint: "fp_simulated"`, and texts that begin with "Simulated".
//!
//! | route | what |
//! |---|---|
//! | `POST /v1/chat/completions`, `POST /v1/embeddings` | OpenAI |
//! | `POST`, `GET /v1/videos`, `GET`, `DELETE /v1/videos/{id}`, `GET /v1/videos/{id}/content` | OpenAI |
//! | `POST /v1beta/models/{model}:predictLongRunning`, `GET /v1beta/models/{model}/operations/{id}`, its files | Google's Veo |
//! | `POST /v1/messages`, `POST /v1/messages/count_tokens` | Anthropic, versions 2023-06-01 and 2026-10-21 |
//! | `GET /v1/models` | Anthropic's form where `anthropic-version` is sent, else OpenAI's |
//! | `PUT`, `GET`, `DELETE /admin/knobs` | see [`admin`] and [`knobs::rules::Rule`] |
//! | `GET /admin/served`, `GET /admin/served/summary` | what was really served, for audits, see [`served`] |
//! | `GET /admin/videos` | what was really created, see [`videos::CreatedVideo`] |
//! | `PUT`, `DELETE /admin/webhook` | where events of videos go, see [`webhooks`] |
//!
//! # Tokens
//!
//! The simulator has its own, simple count. An output token is one delta: a word with the space before it, of the text,
//! of the thinking or of a tool call's arguments (its JSON is cut at spaces as well). Input tokens are the
//! whitespace-separated words of all message texts, plus 3 a message; Anthropic's `system` counts as a message.
//! Embeddings count the words of the inputs only. Where Anthropic is told to keep something, all of the input is written into
//! its cache, each time anew.
//!
//! # Pace
//!
//! Unless a knob says otherwise: 150 ms until the status and the first token, then 60 tokens a second, about 60 tokens
//! an answer. The same prompt always gets the same answer. An answer that is not streamed takes as long as the stream
//! would have.
//!
//! # Videos
//!
//! A video is queued for 100 ms, in progress for 1 s, and then completed; its content is a real MP4 of the asked length
//! and size (any even one up to 3840x2160, lying or standing; 1 to 60 s), at 8 frames a second. The header
//! `Idempotency-Key` counts: its repeat gets the video that it created, another order under the same key a 400. Veo makes 4, 6
//! and 8 s in 720p and 8 s in 1080p and 4K, knows no such key, lists nothing and tells no progress.
//!
//! # Knobs
//!
//! A caller turns knobs through the model's name, an operator through `/admin/knobs`; where both set the same knob, the
//! name wins. The grammar of the name, strictly parsed (anything else is a 400):
//!
//! ```text
//! name     = model *( "+" knob )                     gpt-6-luna+ttft=500ms+rate=20+fail=after:3
//! knob     = "ttft=" duration                        time to the status and the first token
//!          | "rate=" number                          tokens a second, 0 = as fast as the socket takes them
//!          | "tokens=" count                         length of the answer
//!          | "hidden=" count                         tokens of reasoning that are counted and not shown
//!          | "thinking=" ( "asked" | "shown" )       thinking, also where it was not asked for
//!          | "cap=" ( "kept" | "ignored" )           ignored writes beyond the caller's limit
//!          | "usage=" ( "normal" | "missing" | "zero" | "repeated" | "corrected" )
//!          | "fail=" ( "before" [ ":" failure ]      the provider's error body, 500 unless said otherwise
//!                    | "after:" count )              an error event inside the stream, after that many tokens
//!          | "tear=after:" count                     the connection is cut, without an end of the chunked body
//!          | "hang=" ( "before" | "after:" count )   the status, or the next token, never comes
//!          | "retry_after=" duration                 with fail=before: the `retry-after` header, 0s = none
//!          | "fail=late"                             of videos: its status is failed once its time is over
//!          | "hang=late"                             of videos: its status stays in progress
//!          | "tear=created"                          of videos: it is created, and the connection cut before the status
//!          | "vtime=" duration                       of videos: from the creation to the end
//!          | "short=" count "s"                      of videos: the file is so much shorter than asked for, 1 s at least
//!          | "idempotency=" ( "on" | "off" )         of videos: off creates one with every call
//!          | "content=" ( "normal" | "garbage"       of videos: no MP4, half of one, or half of one and the connection
//!                       | "truncated" | "torn" )     is cut
//!          | "bandwidth=" count                      of videos: bytes a second of the content
//!          | "prompt=hidden"                         of videos: told of without their prompts
//!          | "webhook=" ( "once" | "twice" )         of videos: twice sends each event again, under the same id
//! failure  = "400" | "401" | "404" | "429" | "500" | "503" | "529" | "bad_request" | "context_length"
//!          | "unauthorized" | "not_found" | "rate_limit" | "insufficient_quota" | "server_error" | "overloaded"
//! duration = count ( "ms" | "s" )
//! ```
//!
//! Each knob at most once, and one of `fail`, `tear` and `hang`. What is cut "after n tokens" of an answer that has fewer
//! does not happen; after as many as it has, it happens before the end is said. The knobs of videos do nothing elsewhere,
//! and of the others `ttft`, `fail=before` and `hang=before` apply to videos.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue},
    middleware,
    response::Response,
    routing::{get, post, put},
    serve::ListenerExt as _,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::{
    films::Films,
    knobs::rules::{KnobError, Rule, Rules},
    served::ledger::Ledger,
    videos::{CreatedVideo, store::Videos},
    webhooks::{Webhook, WebhookError, Webhooks},
};

pub mod admin;
mod answer;
mod anthropic;
pub mod cases;
mod films;
mod gemini;
pub mod knobs;
mod models;
mod openai;
mod respond;
pub mod served;
mod stream;
#[cfg(test)]
mod tests;
mod text;
pub mod videos;
pub mod webhooks;

/// The largest request body, 32 MiB, which is Anthropic's own limit; above it the answer is a 413.
pub const MAX_BODY_BYTES: usize = 32 << 20;

/// How long [`SimulatedProviders::run`] waits for the calls in flight once it is told to end. What hangs by order of a
/// knob would hold it for ever.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Who is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SimulatedProvider {
    OpenAi,
    #[serde(alias = "anthropic")]
    Claude,
    /// Google's Veo: films only.
    Gemini,
}

/// The server, bound and not yet running.
pub struct SimulatedProviders {
    listener: TcpListener,
    simulator: Simulator,
}

impl SimulatedProviders {
    /// Binds to `addr`; port 0 takes a free one, see [`Self::local_addr`].
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(addr).await?, simulator: Simulator::default() })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The handle to the knobs and to the served ledger, for callers in the same process.
    pub fn simulator(&self) -> Simulator {
        self.simulator.clone()
    }

    /// Serves until `shutdown` is cancelled and the calls in flight have ended, which it awaits for [`DRAIN_LIMIT`].
    pub async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        self.run_with_drain(shutdown, DRAIN_LIMIT).await
    }

    async fn run_with_drain(self, shutdown: CancellationToken, limit: Duration) -> io::Result<()> {
        // A word is a small write: with Nagle's algorithm it would wait for the client's delayed acknowledgement.
        let listener = self.listener.tap_io(|socket| {
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY was refused");
            }
        });
        let webhooks = Arc::clone(&self.simulator.webhooks);
        let _stop = webhooks.stop_on_drop();
        let serve = axum::serve(listener, router(self.simulator))
            .with_graceful_shutdown(shutdown.clone().cancelled_owned())
            .into_future();
        let served = tokio::select! {
            served = serve => served,
            () = async { shutdown.cancelled().await; tokio::time::sleep(limit).await } => {
                tracing::info!(limit_s = limit.as_secs(), "simulated calls were still open at the end of the drain");
                Ok(())
            }
        };
        webhooks.stop().await;
        served
    }
}

/// The simulator's state: its knobs and its count of what it served. Clones share it.
#[derive(Clone, Default)]
pub struct Simulator {
    rules: Arc<Rules>,
    ledger: Arc<Ledger>,
    videos: Arc<Videos>,
    films: Arc<Films>,
    webhooks: Arc<Webhooks>,
}

impl Simulator {
    /// Turns knobs, as `PUT /admin/knobs` does: replaces the rule of the same provider and model.
    pub fn put_rule(&self, rule: Rule) -> Result<(), KnobError> {
        self.rules.put(rule)
    }

    /// Back to the defaults, as `DELETE /admin/knobs` does.
    pub fn clear_rules(&self) {
        self.rules.clear();
    }

    /// What was served, as `GET /admin/served` tells it.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The videos that were created, oldest first, the deleted ones as well, as `GET /admin/videos` tells of them.
    pub fn videos(&self) -> Vec<CreatedVideo> {
        self.videos.created_since(0).collect()
    }

    /// Sends the events of the videos that are created from now on there, as `PUT /admin/webhook` does.
    pub fn put_webhook(&self, webhook: &Webhook) -> Result<(), WebhookError> {
        self.webhooks.put(webhook)
    }

    /// Sends no events of the videos that are created from now on, as `DELETE /admin/webhook` does.
    pub fn remove_webhook(&self) {
        self.webhooks.remove();
    }
}

fn router(simulator: Simulator) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(openai::chat::complete))
        .route("/v1/embeddings", post(openai::embeddings::embed))
        .route("/v1/videos", get(openai::videos::list).post(openai::videos::create))
        .route("/v1/videos/{id}", get(openai::videos::retrieve).delete(openai::videos::delete))
        .route("/v1/videos/{id}/content", get(openai::videos::content::content))
        .route("/v1beta/models/{action}", post(gemini::predict))
        .route("/v1beta/models/{model}/operations/{id}", get(gemini::operation))
        .route("/v1beta/files/{file}", get(gemini::file))
        .route("/download/v1beta/files/{file}", get(gemini::download))
        .route("/v1/messages", post(anthropic::messages::create))
        .route("/v1/messages/count_tokens", post(anthropic::messages::count_tokens))
        .route("/v1/models", get(models::list))
        .route("/admin/knobs", get(admin::list_rules).put(admin::put_rule).delete(admin::clear_rules))
        .route("/admin/videos", get(admin::list_videos))
        .route("/admin/webhook", put(admin::put_webhook).delete(admin::remove_webhook))
        .route("/admin/served", get(admin::list_served))
        .route("/admin/served/summary", get(admin::summarize_served))
        .fallback(models::unknown_route)
        .method_not_allowed_fallback(models::unknown_route)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::map_response(mark_as_simulated))
        .with_state(simulator)
}

async fn mark_as_simulated(mut response: Response) -> Response {
    response.headers_mut().insert(HeaderName::from_static("x-simulated"), HeaderValue::from_static("true"));
    response
}
