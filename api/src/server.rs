//! Connections: taken up to a limit, served as HTTP/1.1, and drained. A slow one loses its place in time.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    pin, select,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a client may take for the head of a request, and say nothing between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// What accepting fails with, too many open files above all, passes.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);
const REFUSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Said before any request is read, so it is not a `Problem`, but reads like one.
const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
    content-length: 139\r\nconnection: close\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"code\":\"QUEUE_FULL\",\
    \"detail\":\"the service is at its limit of connections\"}";

/// Serves until `draining`, and then until what was asked is answered. An upgraded connection is no longer counted:
/// sockets have a limit of their own.
pub async fn serve(listener: TcpListener, router: Router, max_connections: usize, draining: CancellationToken) {
    let places = Arc::new(Semaphore::new(max_connections));
    let connections = TaskTracker::new();
    let mut fails = false;
    while let Some(accepted) = draining.run_until_cancelled(listener.accept()).await {
        let socket = match accepted {
            Ok((socket, _)) => socket,
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
        // Without it a chunk waits up to 40 ms for the client's acknowledgement of the one before.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(error.message = %error, "TCP_NODELAY was not set");
        }
        match places.clone().try_acquire_owned() {
            Ok(place) => connections.spawn(serve_one(socket, router.clone(), place, draining.clone())),
            Err(_) => connections.spawn(refuse(socket)),
        };
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve_one(socket: TcpStream, router: Router, place: OwnedSemaphorePermit, draining: CancellationToken) {
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let connection =
        builder.serve_connection_with_upgrades(TokioIo::new(socket), TowerToHyperService::new(router)).into_owned();
    pin!(connection);
    let served = select! {
        served = connection.as_mut() => served,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(error.message = %error, "a connection broke off");
    }
    drop(place);
}

async fn refuse(mut socket: TcpStream) {
    metrics::counter!("aihub_connections_refused_total").increment(1);
    let told = async {
        socket.write_all(REFUSAL.as_bytes()).await?;
        socket.shutdown().await
    };
    // Who does not hear it finds the connection closed.
    let _ = timeout(REFUSE_TIMEOUT, told).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_a_response_of_the_length_that_it_states() {
        let (head, body) = REFUSAL.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
