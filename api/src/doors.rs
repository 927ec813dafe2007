//! What callers may hold at the doors of this node, and who they are as far as the door knows.
//!
//! Each of these is shared out, see [`Share`]: who has used up their portion is told so, with the limit, and nobody else is.

pub mod origins;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use aihub_application::{
    error::GatewayError,
    principal::Principal,
    shares::{Held, Holder, Portions, Share},
};
use axum::{
    body::Body,
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, request::Parts};
use ipnet::IpNet;
use tokio::sync::Semaphore;

use self::origins::Origins;
use crate::{
    config::sections::{LimitSettings, ServerSettings},
    hub::Hub,
    problem::Problem,
    server::{Peer, guarded::Guarded, turns::Turns},
    ws::aside::Aside,
};

/// Reports and audits that are waited for, made or read at the same time. Each has so much in memory, the rest on disk.
const REPORTS: usize = 256;
/// Reports that are read from the database at the same time: of the connections for reads, the others are for what is short.
pub const REPORT_TURNS: usize = 2;
/// What reports may take on disk until they are read.
const REPORT_BYTES: usize = 4 << 30;
/// Audits at the same time: each may read the log from end to end.
const AUDITS: Portions = Portions { all: 4, of_account: 2, of_user: 1, kept: 0, little: 0 };

/// Answers that are made shorter at the same time: some sixteen megabytes.
const DEFLATING: usize = 64;

#[derive(Debug)]
pub struct Doors {
    /// Open sockets.
    pub sockets: Arc<Share>,
    /// HTTP calls of those who are known, until their answers are taken.
    pub calls: Arc<Share>,
    /// The same of those who are not: webhooks of providers, and files by their URLs.
    pub strangers: Arc<Share>,
    pub long_polls: Arc<Share>,
    pub reports: Arc<Share>,
    pub report_bytes: Arc<Share>,
    pub report_turns: Semaphore,
    pub audits: Arc<Share>,
    /// Of sockets on which an answer is being made shorter; what finds no turn is said as it is.
    pub deflating: Arc<Semaphore>,
    /// When the next piece of a long message or body is read.
    pub turns: Arc<Turns>,
    /// Where large frames are turned into requests.
    pub large_frames: Aside,
    pub origins: Origins,
    max_connections: usize,
    trusted_proxies: Vec<IpNet>,
}

impl Doors {
    pub fn new(server: &ServerSettings, limits: &LimitSettings) -> std::io::Result<Self> {
        let (user, account) = (&limits.per_user, &limits.per_account);
        // The last quarter is for those who come.
        let calls = (server.max_connections / 4 * 3).max(1);
        let of = |all: usize| Portions::of(all.max(1));
        Ok(Self {
            sockets: Share::new("sockets", of(server.max_sockets).with(user.sockets, account.sockets)),
            calls: Share::new("HTTP calls at once", of(calls).with(user.concurrent_calls, account.concurrent_calls)),
            strangers: Share::new("HTTP calls at once without a token", of(calls / 4)),
            long_polls: Share::new("long polls", of(calls / 2).with(user.long_polls, account.long_polls)),
            reports: Share::new("reports at once", Portions::of(REPORTS).with(user.reports, account.reports)),
            report_bytes: Share::new("bytes of reports", Portions::of(REPORT_BYTES)),
            report_turns: Semaphore::new(REPORT_TURNS),
            audits: Share::new("audits at once", AUDITS),
            deflating: Arc::new(Semaphore::new(DEFLATING)),
            turns: Arc::default(),
            large_frames: Aside::new("large-frames")?,
            origins: Origins::new(&server.allowed_origins),
            max_connections: server.max_connections,
            trusted_proxies: server.trusted_proxies.clone(),
        })
    }

    /// Where the client is: the last address on the way that is no proxy of ours.
    fn address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let is_ours = |address: &IpAddr| self.trusted_proxies.iter().any(|network| network.contains(address));
        let named = headers.get_all("x-forwarded-for").into_iter().filter_map(|value| value.to_str().ok());
        let named: Vec<&str> = named.flat_map(|value| value.split(',')).map(str::trim).collect();
        let mut address = peer;
        for before in named.into_iter().rev() {
            if !is_ours(&address) {
                break;
            }
            let Ok(before) = before.parse() else { break };
            address = before;
        }
        address
    }
}

/// Who sends a request, and what it holds until its answer has been taken.
#[derive(Debug, Clone)]
pub struct Client {
    pub address: IpAddr,
    held: Arc<Mutex<Vec<Held>>>,
}

impl Client {
    pub fn hold(&self, held: Held) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(held);
    }

    /// A place among the calls of those who have not said who they are.
    pub fn hold_as_stranger(&self, hub: &Hub) -> Result<(), Problem> {
        let held = hub.doors.strangers.take(Holder::Address(self.address), 1).map_err(GatewayError::from)?;
        self.hold(held);
        Ok(())
    }
}

impl FromRequestParts<Arc<Hub>> for Client {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Hub>) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Problem::internal("a request came in by no door"))
    }
}

/// The way in for everybody but operators.
pub async fn enter(State(hub): State<Arc<Hub>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied().unwrap_or_default();
    if peer.is_beyond {
        return Problem::too_many_connections(hub.doors.max_connections).into_response();
    }
    let address = hub.doors.address(peer.address, request.headers());
    let client = Client { address, held: Arc::default() };
    request.extensions_mut().insert(client.clone());
    let response = next.run(request).await;
    response.map(|body| Body::new(Guarded::new(body, client)))
}

/// The way in to what takes no token.
pub async fn as_stranger(State(hub): State<Arc<Hub>>, client: Client, request: Request, next: Next) -> Response {
    match client.hold_as_stranger(&hub) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// What a caller may not hold more of is refused in the one way by which all refusals come into the log.
pub fn take(hub: &Hub, share: &Arc<Share>, caller: &Principal, amount: usize) -> Result<Held, Problem> {
    share.take(Holder::of(caller), amount).map_err(|used_up| {
        let error = GatewayError::from(used_up);
        hub.gateway.note(caller, &error);
        error.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources};

    #[test]
    fn a_proxy_is_believed_who_its_client_is_and_nobody_else_is() {
        let mut config = Config::load(&Sources::default()).unwrap();
        config.server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let doors = Doors::new(&config.server, &config.limits).unwrap();
        let seen = |peer: &str, forwarded: &[&str]| {
            let headers = forwarded
                .iter()
                .map(|value| (http::header::HeaderName::from_static("x-forwarded-for"), value.parse().unwrap()));
            doors.address(peer.parse().unwrap(), &headers.collect()).to_string()
        };
        assert_eq!(seen("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(seen("10.0.0.1", &["203.0.113.9, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["203.0.113.9", "198.51.100.7, 10.1.1.1"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["unknown"]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
    }
}
