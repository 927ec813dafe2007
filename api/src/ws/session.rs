//! One client on one socket. A single loop owns it: it reads frames, writes what the answers bring, keeps the peer
//! alive and watches the clock on its token. It reads while it writes, and makes what it writes only when there is room for it.
//! Requests run in tasks of their own and outlive the socket.

mod requests;

use std::{collections::HashMap, convert::Infallible, io, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use aihub_application::{
    answer::{Answer, AnswerEnd, AnswerItem},
    error::GatewayError,
    gateway::KeptAnswer,
    principal::Principal,
    shares::{Held, Holder},
};
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{BoxStream, SelectAll},
};
use tokio::{
    task::yield_now,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_stream::{StreamMap, wrappers::ReceiverStream};
use uuid::Uuid;

use super::{
    client_frame::{ClientFrame, FaultyFrame, id_of},
    close::Code,
    feed,
    frame::{ServerFrame, Topic},
    incoming::{Understood, beginning_of, understand},
    limits::SocketLimits,
    vectors,
    whole::Whole,
    wire::{
        Wire,
        reader::{Broken, Incoming, Memory},
        writer::Place,
    },
};
use crate::{auth::error::AuthError, hub::Hub, problem::Problem};

/// How long the other side may take for our last frame, and to say that it has it, and how much it may send meanwhile: who is
/// sending hears why only if that is read.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
const CLOSE_BYTES: usize = 64 << 20;
/// The same while the service ends.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Frames that are put together before they are written, when answers bring many at once.
const MAX_UNWRITTEN: usize = 64;

/// Replies that wait for the end of a long answer; with more, nothing is listened to that would want another one.
const MAX_SAID_AFTER: usize = 16;

type AnswerStream = BoxStream<'static, (Arc<str>, AnswerItem)>;

pub struct Session {
    hub: Arc<Hub>,
    connection_id: Uuid,
    principal: Arc<Principal>,
    holder: Holder,
    wire: Wire,
    running: HashMap<Arc<str>, Running>,
    answers: SelectAll<AnswerStream>,
    subscribed: StreamMap<Topic, ReceiverStream<String>>,
    /// What the last frame said that takes its time. Nothing is read meanwhile, and everything else goes on.
    pending: Option<BoxFuture<'static, Pending>>,
    /// The answer that is being written, piece by piece, and what is said after it: there is nothing between two pieces.
    whole: Option<(Whole, Arc<AnswerEnd>)>,
    said_after: Vec<String>,
    malformed: u32,
    /// Nothing is read until then.
    rests_until: Option<Instant>,
}

struct Running {
    answer: Arc<Answer>,
    /// `None` while it is not known whose answer it is.
    request_id: Option<Arc<str>>,
    /// A chunk of it has been told on this socket.
    is_told: bool,
    /// By this socket: of what is told in parts, no more of them are.
    is_cancelled: bool,
    stream: bool,
}

enum Pending {
    Understood(Understood),
    /// Whether the answer that is here is the only one of this name.
    Found {
        id: String,
        kept: KeptAnswer,
        after: u64,
        only: Result<(), GatewayError>,
    },
    /// Whose the fresh token is, and the id of the frame that brought it.
    Renewed(Option<String>, Result<Principal, AuthError>),
}

/// What ends the loop.
enum Ended {
    /// With this code and reason.
    Close(Code, &'static str),
    /// As the client closed it.
    Closed(Option<u16>),
    /// The peer is gone.
    Gone,
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<Broken> for Ended {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::TooLong => Self::Close(Code::TooBig, "the frame exceeds the limit"),
            Broken::TooSlow => Self::Close(Code::Policy, "a frame came too slowly"),
            Broken::Protocol(what) => Self::Close(Code::Protocol, what),
            Broken::Gone => Self::Gone,
        }
    }
}

/// Serves the socket until either side ends it.
pub async fn run(hub: Arc<Hub>, principal: Principal, wire: Wire) {
    let connection_id = Uuid::now_v7();
    metrics::gauge!("aihub_sockets").increment(1);
    tracing::debug!(connection.id = %connection_id, user.id = %principal.user, "socket opened");
    let mut session = Session {
        hub,
        connection_id,
        holder: Holder::of(&principal),
        principal: Arc::new(principal),
        wire,
        running: HashMap::new(),
        answers: SelectAll::new(),
        subscribed: StreamMap::new(),
        pending: None,
        whole: None,
        said_after: Vec::new(),
        malformed: 0,
        rests_until: None,
    };
    let ended = match AssertUnwindSafe(session.serve()).catch_unwind().await {
        Ok(Ok(never)) => match never {},
        Ok(Err(ended)) => ended,
        Err(_) => Ended::Close(Code::Internal, "an error of the service"),
    };
    let last = match ended {
        Ended::Close(code, reason) => Some((code as u16, reason)),
        Ended::Closed(code) => Some((code.unwrap_or(Code::Normal as u16), "")),
        Ended::Gone => None,
    };
    if let Some((code, reason)) = last {
        let Session { wire: Wire { reader, writer }, hub, .. } = &mut session;
        writer.close(code, reason);
        let closing = async {
            if writer.finish().await.is_ok() {
                reader.read_over(CLOSE_BYTES).await;
            }
        };
        let draining = async {
            hub.gateway.draining.cancelled().await;
            sleep(LAST_WORDS).await;
        };
        // The peer may be gone by now; there is nobody to tell.
        tokio::select! {
            () = closing => {}
            () = sleep(CLOSE_TIMEOUT) => {}
            () = draining => {}
        }
    }
    metrics::gauge!("aihub_sockets").decrement(1);
    tracing::debug!(connection.id = %connection_id, "socket closed");
}

impl Session {
    async fn serve(&mut self) -> Result<Infallible, Ended> {
        self.greet().await?;
        let hub = self.hub.clone();
        let mut ping = interval(hub.settings.ping_interval);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        let expiry = sleep_until(self.expires());
        tokio::pin!(expiry);
        loop {
            self.wire.writer.write_now()?;
            let idle = self.running.is_empty() && self.whole.is_none();
            let listens = self.rests_until.is_none()
                && self.pending.is_none()
                && !self.wire.writer.has_much()
                && self.said_after.len() < MAX_SAID_AFTER;
            let has_room = self.wire.writer.has_room();
            let says_more = has_room && self.whole.is_none();
            tokio::select! {
                incoming = self.wire.reader.next(Memory { share: &hub.gateway.asked, holder: &self.holder }), if listens => {
                    self.receive(incoming?)?;
                }
                Some(done) = conditional(&mut self.pending) => {
                    self.pending = None;
                    self.take_up(done)?;
                    // It may have brought a fresh token.
                    expiry.as_mut().reset(self.expires());
                }
                written = self.wire.writer.write(), if !self.wire.writer.is_empty() => written?,
                // Others of the node get their turn between two pieces.
                () = yield_now(), if self.whole.is_some() && has_room => self.say_piece(),
                Some((id, item)) = self.answers.next(), if says_more && !self.running.is_empty() => {
                    self.pass_on(&id, item).await;
                }
                Some((_, frame)) = self.subscribed.next(), if says_more && !self.subscribed.is_empty() => {
                    self.say(&frame);
                }
                () = rest(self.rests_until), if self.rests_until.is_some() => {
                    self.rests_until = None;
                    // What has come meanwhile is yet to be read.
                    self.wire.reader.heard = Instant::now();
                }
                _ = ping.tick() => {
                    // Whoever sends something lives, and so does who takes something.
                    let lived = self.wire.reader.heard.max(self.wire.writer.taken);
                    if lived.elapsed() > hub.settings.ping_interval * 2 {
                        return Err(Ended::Close(Code::Unheard, "nothing was heard for two pings, and nothing taken"));
                    }
                    self.wire.writer.ping();
                }
                () = &mut expiry => {
                    return Err(Ended::Close(Code::TokenExpired, "the token has expired"));
                }
                () = hub.gateway.draining.cancelled(), if idle => {
                    return Err(Ended::Close(Code::GoingAway, "the service is shutting down"));
                }
            }
        }
    }

    async fn greet(&mut self) -> Result<(), Ended> {
        let credits = self.hub.gateway.available(&self.principal).await;
        match credits {
            Ok(credits) => {
                let (limits, credits) = (self.limits(), credits.as_credits());
                let connection_id = self.connection_id.to_string();
                self.say(&ServerFrame::Ready { connection_id: &connection_id, limits, credits }.to_json());
                Ok(())
            }
            Err(error) => {
                self.refuse(None, &error);
                let is_away = error.retry_after().is_some();
                Err(Ended::Close(
                    if is_away { Code::TryAgainLater } else { Code::Internal },
                    "the service is not available",
                ))
            }
        }
    }

    fn receive(&mut self, incoming: Incoming) -> Result<(), Ended> {
        match incoming {
            Incoming::Message(message) => match understand(&self.hub, &self.principal, message) {
                Ok(understood) => self.act_on(understood),
                Err(later) => {
                    self.pending = Some(later.map(Pending::Understood).boxed());
                    Ok(())
                }
            },
            Incoming::NoMemory(used_up, came) => {
                let error = used_up.into();
                self.hub.gateway.note(&self.principal, &error);
                self.refuse(id_of(&beginning_of(&came)).as_deref(), &error);
                Ok(())
            }
            Incoming::Ping(payload) => {
                self.wire.writer.pong(&payload);
                Ok(())
            }
            Incoming::Pong => Ok(()),
            Incoming::Close(code) => Err(Ended::Closed(code)),
        }
    }

    fn take_up(&mut self, done: Pending) -> Result<(), Ended> {
        match done {
            Pending::Understood(understood) => self.act_on(understood),
            Pending::Found { id, kept, after, only } => {
                match only {
                    Ok(()) => self.go_on(id, kept, after),
                    Err(error) => self.refuse(Some(&id), &error),
                }
                Ok(())
            }
            Pending::Renewed(id, fresh) => {
                self.renew(id.as_deref(), fresh);
                Ok(())
            }
        }
    }

    fn act_on(&mut self, understood: Understood) -> Result<(), Ended> {
        match understood {
            Understood::Frame(frame, memory) => self.act(frame, memory),
            Understood::Broken(code, reason) => return Err(Ended::Close(code, reason)),
            Understood::Refused { id, error, rest } => {
                self.rests_until = rest.map(|rest| Instant::now() + rest);
                self.refuse(id.as_deref(), &error);
            }
            Understood::NotUtf8 { is_text: true } => {
                return Err(Ended::Close(Code::NotUtf8, "a text frame was not UTF-8"));
            }
            Understood::NotUtf8 { is_text: false } => {
                return Err(Ended::Close(Code::Unsupported, "a binary frame was not JSON in UTF-8"));
            }
            Understood::Faulty(FaultyFrame { id, faults, malformed }) => {
                self.refuse(id.as_deref(), &GatewayError::Validation(faults));
                self.malformed += u32::from(malformed);
                if self.malformed > self.limits().malformed_frames_allowed {
                    return Err(Ended::Close(Code::Policy, "too many malformed frames"));
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, frame: ClientFrame, memory: Held) {
        match frame {
            ClientFrame::Request { id, request } => self.start(id, request, memory),
            ClientFrame::Cancel { id, wanted } => self.cancel(id, wanted),
            ClientFrame::Resume { id, wanted, after } => self.resume(id, wanted, after),
            ClientFrame::Subscribe { id, topics } => {
                for topic in topics {
                    // In place of the one that may be there: the present state is told again.
                    self.subscribed.insert(topic, feed::follow(&self.hub, &self.principal, topic));
                }
                self.tell_subscribed(id.as_deref());
            }
            ClientFrame::Unsubscribe { id, topics } => {
                for topic in topics {
                    self.subscribed.remove(&topic);
                }
                self.tell_subscribed(id.as_deref());
            }
            ClientFrame::Auth { id, token } => {
                let hub = self.hub.clone();
                let looked_at = async move { Pending::Renewed(id, hub.authenticator.authenticate(&token).await) };
                self.pending = Some(looked_at.boxed());
            }
            ClientFrame::Ping => self.say(&ServerFrame::Pong.to_json()),
        }
    }

    fn tell_subscribed(&mut self, id: Option<&str>) {
        let topics = self.subscribed.keys().copied().collect();
        self.say(&ServerFrame::Subscribed { id, topics }.to_json());
    }

    fn renew(&mut self, id: Option<&str>, fresh: Result<Principal, AuthError>) {
        let error = match fresh {
            Ok(fresh) if fresh.account == self.principal.account && fresh.user == self.principal.user => {
                let expires_at = fresh.expires_at;
                self.principal = Arc::new(fresh);
                return self.say(&ServerFrame::Auth { id, expires_at }.to_json());
            }
            Ok(Principal { account, user, .. }) => {
                let error = GatewayError::OthersToken { account, user };
                self.hub.gateway.note(&self.principal, &error);
                Problem::from(&error)
            }
            Err(error) => error.into(),
        };
        self.say(&ServerFrame::Error { id, error }.to_json());
    }

    /// Says what an answer brought, and what else is there already, before it is written. Writing is most of what
    /// a chunk costs, so whoever is ready to bring more does so first: nothing is waited for.
    async fn pass_on(&mut self, id: &Arc<str>, item: AnswerItem) {
        self.pass_on_one(id, item);
        yield_now().await;
        for _ in 1..MAX_UNWRITTEN {
            if self.running.is_empty() || self.whole.is_some() || !self.wire.writer.has_room() {
                return;
            }
            let Some(Some((id, item))) = self.answers.next().now_or_never() else { return };
            self.pass_on_one(&id, item);
        }
    }

    fn pass_on_one(&mut self, id: &Arc<str>, item: AnswerItem) {
        let Some(running) = self.running.get_mut(id) else { return };
        let request_id = running.request_id.as_deref();
        let frame = match item {
            AnswerItem::Queued { position } => ServerFrame::Queued { id, request_id, position }.to_json(),
            AnswerItem::Chunk(chunk) if running.stream => {
                let is_first = !std::mem::replace(&mut running.is_told, true);
                ServerFrame::chunk(id, request_id.filter(|_| is_first), &chunk)
            }
            AnswerItem::Vectors(part) if !running.is_cancelled => {
                let is_first = !std::mem::replace(&mut running.is_told, true);
                vectors::chunk(id, running.request_id.as_ref().filter(|_| is_first), &part)
            }
            AnswerItem::Chunk(_) | AnswerItem::Vectors(_) => return,
            AnswerItem::End(end) => {
                let ended = self.running.remove(id);
                match (&*end, ended) {
                    (AnswerEnd::Done(done), Some(Running { answer, stream: false, .. })) if !done.in_parts => {
                        self.whole = Some((Whole::new(id.clone(), answer), end));
                        return self.say_piece();
                    }
                    (end, _) => ServerFrame::end(id, end),
                }
            }
        };
        self.say(&frame);
    }

    /// Says the next piece of the whole answer that is being told.
    fn say_piece(&mut self) {
        let Some((mut whole, end)) = self.whole.take() else { return };
        let AnswerEnd::Done(done) = &*end else { return };
        let is_first = whole.is_at_its_beginning();
        let piece = whole.piece(done);
        self.wire.writer.piece(&piece, Place { is_first, is_last: whole.is_done() });
        if whole.is_done() {
            for frame in std::mem::take(&mut self.said_after) {
                self.say(&frame);
            }
        } else {
            self.whole = Some((whole, end));
        }
    }

    fn refuse(&mut self, id: Option<&str>, error: &GatewayError) {
        self.say(&ServerFrame::Error { id, error: error.into() }.to_json());
    }

    fn say(&mut self, frame: &str) {
        if self.whole.is_some() {
            self.said_after.push(frame.to_owned());
        } else {
            self.wire.writer.text(frame);
        }
    }

    fn limits(&self) -> SocketLimits {
        self.hub.settings.limits
    }

    fn expires(&self) -> Instant {
        let left = self.principal.expires_at - self.hub.gateway.clock.now();
        Instant::now() + left.to_std().unwrap_or_default().min(Duration::from_hours(24))
    }
}

/// What is pending, if anything is.
async fn conditional<T>(pending: &mut Option<BoxFuture<'static, T>>) -> Option<T> {
    match pending {
        Some(pending) => Some(pending.await),
        None => None,
    }
}

async fn rest(until: Option<Instant>) {
    if let Some(until) = until {
        sleep_until(until).await;
    }
}
