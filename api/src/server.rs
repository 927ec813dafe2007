//! Connections: taken up to a limit, served as HTTP/1.1, and drained. Who is slow loses their connection in time; and where there are
//! too many, who asks for nothing loses theirs to whoever comes.
//!
//! | module | holds |
//! |---|---|
//! | [`connections`] | how many there are, and which one has to go when another comes |
//! | [`moving`] | a connection that has to take what it is sent |
//! | [`guarded`] | a body that keeps something until it has been sent |
//! | [`turns`] | when the next piece of a long message is read |
//! | [`worded`] | a connection on which what hyper refuses is said in our words |

pub mod connections;
pub mod guarded;
pub mod moving;
pub mod turns;
pub mod worded;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{self, Body},
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use http::{HeaderValue, Request, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    pin, select,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    connections::{Connection, Connections},
    guarded::Guarded,
    moving::Moving,
    worded::Worded,
};
use crate::problem::Problem;

/// How often, and how long after, it is looked for room for one more, which waits in the kernel's queue meanwhile.
const ROOM_TRIES: u32 = 20;
const ROOM_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// The longest head, and the most that a connection reads or writes at once.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// What is read, and how much at once, of a connection for which there is no room.
const MOST_READ_OVER: usize = 64 << 10;
const READ_OVER_BYTES: usize = 4 << 10;
/// What accepting fails with, too many open files above all, passes.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// What may wait in the kernel, unsent, for a client that reads slowly. The less there is, the sooner it hears what was said last.
const UNSENT_BYTES: u32 = 64 << 10;

/// Who sent a request, as far as the connection tells.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub address: IpAddr,
    /// The connection is one more than there are to be: it is for operators, and others are told so.
    pub is_beyond: bool,
}

impl Default for Peer {
    fn default() -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), is_beyond: false }
    }
}

/// What one may have of it.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub max_connections: usize,
    /// How long a client may take for the head of a request, from the connection's first moment on, and say nothing between two.
    pub head_timeout: Duration,
}

/// Serves until `draining`, and then until what was asked is answered. An upgraded connection is no longer counted:
/// sockets have a limit of their own.
pub async fn serve(listener: TcpListener, router: Router, bounds: Bounds, draining: CancellationToken) {
    let connections = Connections::new(bounds.max_connections);
    let no_room = in_bytes(Problem::too_many_connections(bounds.max_connections));
    let tasks = TaskTracker::new();
    let mut fails = false;
    while let Some(accepted) = draining.run_until_cancelled(listener.accept()).await {
        let (socket, address) = match accepted {
            Ok((socket, address)) => (socket, address.ip()),
            Err(error) => {
                // Said once, for as long as it lasts.
                if !fails {
                    tracing::error!(error.message = %error, "connections are not accepted; trying on");
                }
                fails = true;
                sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        fails = false;
        let Some(connection) = room(&connections, address).await else {
            tell(socket, &no_room);
            continue;
        };
        if let Err(error) = tune(&socket) {
            tracing::debug!(error.message = %error, "a connection was not tuned");
        }
        tasks.spawn(serve_one(socket, connection, router.clone(), bounds.head_timeout, draining.clone()));
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// A refusal for connections that are not served.
fn in_bytes(refusal: Problem) -> Vec<u8> {
    let (head, body) = refusal.into_response().into_parts();
    // It is there.
    let body = body::to_bytes(body, usize::MAX).now_or_never().and_then(Result::ok).unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {}\r\nconnection: close\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).into_bytes());
    bytes.extend(body);
    bytes
}

/// Says so and closes, waiting for nothing: as much is said as the kernel takes at once, which of a new connection is all.
fn tell(socket: TcpStream, refusal: &[u8]) {
    let told = socket.into_std().and_then(|mut socket| {
        socket.write_all(refusal)?;
        socket.shutdown(Shutdown::Write)?;
        // Closed with a request unread, it would take back what it said.
        for _ in 0..MOST_READ_OVER / READ_OVER_BYTES {
            if !matches!(socket.read(&mut [0; READ_OVER_BYTES]), Ok(1..)) {
                break;
            }
        }
        Ok(())
    });
    if let Err(error) = told {
        tracing::debug!(error.message = %error, "a connection was closed without a word");
    }
}

/// Room for a connection, which others make soon where all of them ask for something: those that are too many are only told so.
async fn room(connections: &Arc<Connections>, address: IpAddr) -> Option<Arc<Connection>> {
    for _ in 0..ROOM_TRIES {
        if let Some(connection) = connections.accept(address) {
            return Some(connection);
        }
        sleep(ROOM_AGAIN_AFTER).await;
    }
    None
}

fn tune(socket: &TcpStream) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    // Without it a chunk waits up to 40 ms for the client's acknowledgement of the one before.
    socket.set_nodelay(true)
}

async fn serve_one(
    socket: TcpStream,
    connection: Arc<Connection>,
    router: Router,
    head_timeout: Duration,
    draining: CancellationToken,
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head_timeout).max_buf_size(MAX_HEAD_BYTES);
    let router = TowerToHyperService::new(router);
    let served = connection.clone();
    let service = service_fn(move |request| answer(router.clone(), served.clone(), request));
    let serving = builder.serve_connection(TokioIo::new(Moving::new(Worded::new(socket))), service).with_upgrades();
    pin!(serving);
    let served = select! {
        served = serving.as_mut() => served,
        () = connection.has_to_go.cancelled() => return,
        () = draining.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(error.message = %error, "a connection broke off");
    }
}

async fn answer(
    router: TowerToHyperService<Router>,
    connection: Arc<Connection>,
    mut request: Request<Incoming>,
) -> Result<Response, std::convert::Infallible> {
    let busy = connection.busy();
    let is_beyond = connection.is_beyond();
    request.extensions_mut().insert(Peer { address: connection.address, is_beyond });
    let mut response = hyper::service::Service::call(&router, request).await?.into_response();
    if is_beyond {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Body::new(Guarded::new(body, busy))))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn beyond_those_that_are_told_so_everybody_is_still_told_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = Bounds { max_connections: 1, head_timeout: Duration::from_mins(1) };
        let (sender, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let router = Router::new().fallback(async move || {
            sender.send(()).unwrap();
            pending::<()>().await;
        });
        let (tasks, draining) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(draining.clone().run_until_cancelled_owned(serve(listener, router, bounds, draining.clone())));
        let ask = async || {
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            connection
        };
        let mut asking = Vec::new();
        for _ in 0..65 {
            asking.push(ask().await);
            asked.recv().await.unwrap();
        }
        let mut told = String::new();
        ask().await.read_to_string(&mut told).await.unwrap();
        assert!(told.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{told}");
        assert!(told.contains("retry-after: 1\r\n") && told.contains(r#""what":"connections""#), "{told}");
        draining.cancel();
    }
}
