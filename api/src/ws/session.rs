//! One client on one socket. A single loop owns it: it reads frames, writes what the answers bring, keeps the peer
//! alive and watches the clock on its token. Requests run in tasks of their own and outlive the socket.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aihub_application::{
    answer::{Answer, AnswerEnd, AnswerItem, AnswerItems},
    error::GatewayError,
    gateway::Submitted,
    principal::Principal,
    request::AnswerRequest,
};
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use futures::{
    FutureExt, SinkExt, StreamExt,
    stream::{BoxStream, SelectAll},
};
use tokio::{
    task::yield_now,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_stream::{StreamMap, wrappers::ReceiverStream};
use uuid::Uuid;

use super::{
    client_frame::{ClientFrame, FaultyFrame},
    feed,
    frame::{Response, ServerFrame, SocketLimits, Topic},
};
use crate::{hub::Hub, problem::Problem};

/// A peer that takes nothing for so long is dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Frames that are written before the socket is flushed, when answers bring many at once.
const MAX_UNFLUSHED: usize = 64;

/// Why the server ends a socket (RFC 6455, section 7.4; 4000 and above are ours).
mod close_code {
    pub const GOING_AWAY: u16 = 1001;
    pub const NOT_UTF8: u16 = 1007;
    pub const POLICY: u16 = 1008;
    pub const TOO_BIG: u16 = 1009;
    pub const TOKEN_EXPIRED: u16 = 4401;
}

type AnswerStream = BoxStream<'static, (Arc<str>, AnswerItem)>;
type SocketError = axum::Error;

pub struct Session {
    hub: Arc<Hub>,
    principal: Arc<Principal>,
    socket: WebSocket,
    running: HashMap<Arc<str>, Running>,
    answers: SelectAll<AnswerStream>,
    subscribed: StreamMap<Topic, ReceiverStream<String>>,
    malformed: u32,
    unflushed: usize,
}

struct Running {
    answer: Arc<Answer>,
    stream: bool,
}

/// What ends the loop.
enum Ended {
    /// With this code and reason.
    Close(u16, &'static str),
    /// The peer closed, or is gone.
    Gone,
}

impl From<SocketError> for Ended {
    fn from(_: SocketError) -> Self {
        Self::Gone
    }
}

/// Serves `socket` until either side ends it.
pub async fn run(hub: Arc<Hub>, principal: Principal, socket: WebSocket) {
    let connection_id = Uuid::now_v7().to_string();
    metrics::gauge!("aihub_sockets").increment(1);
    tracing::debug!(connection.id = %connection_id, user.id = %principal.user, "socket opened");
    let mut session = Session {
        hub,
        principal: Arc::new(principal),
        socket,
        running: HashMap::new(),
        answers: SelectAll::new(),
        subscribed: StreamMap::new(),
        malformed: 0,
        unflushed: 0,
    };
    let ended = match session.serve(&connection_id).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    };
    let closing = async {
        if let Ended::Close(code, reason) = ended {
            let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
            session.socket.send(Message::Close(Some(frame))).await?;
        }
        // Also sends the answer to the peer's own close.
        session.socket.close().await
    };
    // The peer may be gone by now; there is nobody to tell.
    drop(timeout(CLOSE_TIMEOUT, closing).await);
    metrics::gauge!("aihub_sockets").decrement(1);
    tracing::debug!(connection.id = %connection_id, "socket closed");
}

impl Session {
    async fn serve(&mut self, connection_id: &str) -> Result<std::convert::Infallible, Ended> {
        self.greet(connection_id).await?;
        let hub = self.hub.clone();
        let mut ping = interval(hub.settings.ping_interval);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        let mut heard = Instant::now();
        let expiry = sleep_until(self.expires());
        tokio::pin!(expiry);
        loop {
            let idle = self.running.is_empty();
            tokio::select! {
                message = self.socket.next() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(message)) => {
                            self.receive(message).await?;
                            // It may have brought a fresh token.
                            expiry.as_mut().reset(self.expires());
                        }
                        Some(Err(error)) => return Err(ending_of(&error)),
                        None => return Err(Ended::Gone),
                    }
                }
                Some((id, item)) = self.answers.next(), if !idle => self.pass_on(&id, item).await?,
                Some((_, frame)) = self.subscribed.next(), if !self.subscribed.is_empty() => self.say(frame).await?,
                _ = ping.tick() => {
                    if heard.elapsed() > hub.settings.ping_interval * 2 {
                        return Err(Ended::Gone);
                    }
                    self.write(Message::Ping(bytes::Bytes::new())).await?;
                }
                () = &mut expiry => {
                    return Err(Ended::Close(close_code::TOKEN_EXPIRED, "the token has expired"));
                }
                () = hub.gateway.draining.cancelled(), if idle => {
                    return Err(Ended::Close(close_code::GOING_AWAY, "the service is shutting down"));
                }
            }
            self.flush().await?;
        }
    }

    async fn greet(&mut self, connection_id: &str) -> Result<(), Ended> {
        let credits = self.hub.gateway.available(&self.principal).await;
        let frame = match credits {
            Ok(credits) => ServerFrame::Ready { connection_id, limits: self.limits(), credits: credits.as_credits() },
            Err(error) => {
                let error = ServerFrame::Error { id: None, error: Problem::from(&error) }.to_json();
                self.say(error).await?;
                self.flush().await?;
                return Err(Ended::Close(close_code::GOING_AWAY, "the service is not available"));
            }
        };
        self.say(frame.to_json()).await?;
        self.flush().await
    }

    async fn receive(&mut self, message: Message) -> Result<(), Ended> {
        let faulty = match &message {
            Message::Text(text) => match ClientFrame::parse(text) {
                Ok(frame) => return self.act(frame).await,
                Err(faulty) => faulty,
            },
            Message::Binary(_) => FaultyFrame {
                id: None,
                faults: vec![aihub_application::error::FaultyField::new("(frame)", "must be text, not binary")],
                malformed: true,
            },
            // Pings are answered by the WebSocket library.
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Close(_) => return Err(Ended::Gone),
        };
        self.refuse(faulty.id.as_deref(), &GatewayError::Validation(faulty.faults)).await?;
        self.malformed += u32::from(faulty.malformed);
        if self.malformed > self.hub.settings.limits.malformed_frames_allowed {
            return Err(Ended::Close(close_code::POLICY, "too many malformed frames"));
        }
        Ok(())
    }

    async fn act(&mut self, frame: ClientFrame) -> Result<(), Ended> {
        match frame {
            ClientFrame::Request { id, request } => self.start(id, request).await,
            ClientFrame::Cancel { id } => match self.running.get(id.as_str()) {
                Some(running) => {
                    running.answer.cancelled.cancel();
                    Ok(())
                }
                None => self.refuse(Some(&id), &GatewayError::NothingToResume).await,
            },
            ClientFrame::Resume { id, after } => self.resume(id, after).await,
            ClientFrame::Subscribe { id, topics } => {
                for topic in topics {
                    // In place of the one that may be there: the present state is told again.
                    self.subscribed.insert(topic, feed::follow(&self.hub, &self.principal, topic));
                }
                self.tell_subscribed(id.as_deref()).await
            }
            ClientFrame::Unsubscribe { id, topics } => {
                for topic in topics {
                    self.subscribed.remove(&topic);
                }
                self.tell_subscribed(id.as_deref()).await
            }
            ClientFrame::Auth { token } => self.renew(&token).await,
            ClientFrame::Ping => self.say(ServerFrame::Pong.to_json()).await,
        }
    }

    async fn tell_subscribed(&mut self, id: Option<&str>) -> Result<(), Ended> {
        let topics = self.subscribed.keys().copied().collect();
        self.say(ServerFrame::Subscribed { id, topics }.to_json()).await
    }

    async fn start(&mut self, id: String, request: AnswerRequest) -> Result<(), Ended> {
        let stream = request.stream;
        let submitted = if self.running.contains_key(id.as_str()) {
            let reason = "a request with this id is running on this socket";
            Err(GatewayError::DuplicateRequest { request_id: None, reason })
        } else if let Some(error) = self.full() {
            Err(error)
        } else {
            self.hub.gateway.submit(&self.principal, &id, request)
        };
        match submitted {
            Ok(Submitted { answer, items }) => {
                self.follow(id, answer, items, stream);
                Ok(())
            }
            Err(error) => self.refuse(Some(&id), &error).await,
        }
    }

    async fn resume(&mut self, id: String, after: u64) -> Result<(), Ended> {
        if self.running.contains_key(id.as_str()) {
            let reason = "the request with this id is running on this very socket";
            let error = GatewayError::DuplicateRequest { request_id: None, reason };
            return self.refuse(Some(&id), &error).await;
        }
        if let Some(error) = self.full() {
            return self.refuse(Some(&id), &error).await;
        }
        match self.hub.gateway.answers.resume(&self.principal, &id) {
            Some(kept) => {
                let items = kept.answer.read(after);
                self.follow(id, kept.answer, items, kept.stream);
                Ok(())
            }
            None => self.refuse(Some(&id), &GatewayError::NothingToResume).await,
        }
    }

    /// Why this socket takes no further request now, if so.
    fn full(&self) -> Option<GatewayError> {
        let most = self.hub.settings.limits.max_requests_per_socket;
        (self.running.len() >= most).then(|| {
            let error = GatewayError::RateLimitExceeded {
                what: "running requests",
                scope: "socket",
                limit: u32::try_from(most).unwrap_or(u32::MAX),
                retry_after: Duration::from_secs(1),
            };
            self.hub.gateway.note(&self.principal, &error);
            error
        })
    }

    fn follow(&mut self, id: String, answer: Arc<Answer>, items: AnswerItems, stream: bool) {
        let id: Arc<str> = id.into();
        let name = id.clone();
        self.answers.push(items.map(move |item| (name.clone(), item)).boxed());
        self.running.insert(id, Running { answer, stream });
    }

    async fn renew(&mut self, token: &str) -> Result<(), Ended> {
        let error = match self.hub.authenticator.authenticate(token).await {
            Ok(fresh) if fresh.account == self.principal.account && fresh.user == self.principal.user => {
                let expires_at = fresh.expires_at;
                self.principal = Arc::new(fresh);
                return self.say(ServerFrame::Auth { expires_at }.to_json()).await;
            }
            Ok(Principal { account, user, .. }) => {
                let error = GatewayError::OthersToken { account, user };
                self.hub.gateway.note(&self.principal, &error);
                Problem::from(&error)
            }
            Err(error) => error.into(),
        };
        self.say(ServerFrame::Error { id: None, error }.to_json()).await
    }

    /// Writes what an answer brought, and what else is there already, before the next flush. Flushing is most of what
    /// a chunk costs, so whoever is ready to bring more does so first: nothing is waited for.
    async fn pass_on(&mut self, id: &Arc<str>, item: AnswerItem) -> Result<(), Ended> {
        self.pass_on_one(id, item).await?;
        yield_now().await;
        while self.unflushed < MAX_UNFLUSHED && !self.running.is_empty() {
            let Some(Some((id, item))) = self.answers.next().now_or_never() else { break };
            self.pass_on_one(&id, item).await?;
        }
        Ok(())
    }

    async fn pass_on_one(&mut self, id: &Arc<str>, item: AnswerItem) -> Result<(), Ended> {
        let Some(running) = self.running.get(id) else { return Ok(()) };
        let frame = match item {
            AnswerItem::Queued { position } => ServerFrame::Queued { id, position }.to_json(),
            AnswerItem::Chunk(chunk) if running.stream => ServerFrame::chunk(id, &chunk),
            AnswerItem::Chunk(_) => return Ok(()),
            AnswerItem::End(end) => {
                let frame = match &*end {
                    AnswerEnd::Done(done) if !running.stream => {
                        let (text, tool_calls) = running.answer.collect();
                        Response::to_json(id, done, &text, &tool_calls)
                    }
                    end => ServerFrame::end(id, end),
                };
                self.running.remove(id);
                frame
            }
        };
        self.say(frame).await
    }

    async fn refuse(&mut self, id: Option<&str>, error: &GatewayError) -> Result<(), Ended> {
        self.say(ServerFrame::Error { id, error: error.into() }.to_json()).await
    }

    async fn say(&mut self, frame: String) -> Result<(), Ended> {
        self.write(Message::Text(frame.into())).await
    }

    async fn write(&mut self, message: Message) -> Result<(), Ended> {
        self.unflushed += 1;
        timeout(WRITE_TIMEOUT, self.socket.feed(message)).await.map_err(|_| Ended::Gone)??;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if std::mem::take(&mut self.unflushed) > 0 {
            timeout(WRITE_TIMEOUT, self.socket.flush()).await.map_err(|_| Ended::Gone)??;
        }
        Ok(())
    }

    fn limits(&self) -> SocketLimits {
        self.hub.settings.limits
    }

    fn expires(&self) -> Instant {
        let left = self.principal.expires_at - self.hub.gateway.clock.now();
        Instant::now() + left.to_std().unwrap_or_default().min(Duration::from_hours(24))
    }
}

/// What the WebSocket library refused, in the terms of RFC 6455.
fn ending_of(error: &SocketError) -> Ended {
    use tokio_tungstenite::tungstenite::Error;
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>());
    match cause {
        Some(Error::Capacity(_)) => Ended::Close(close_code::TOO_BIG, "the frame exceeds the limit"),
        Some(Error::Utf8(_)) => Ended::Close(close_code::NOT_UTF8, "a text frame was not UTF-8"),
        _ => Ended::Gone,
    }
}
