//! A server that answers with a case, cut where a test wants it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use axum::{Router, body::Body, extract::Request, response::Response, serve::ListenerExt};
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::net::TcpListener;

use super::{Case, End};

/// Answers `/NAME/…` with the case of that name in two pieces, the first of `at` bytes.
pub(crate) async fn serve(listener: TcpListener, cases: &'static [Case], at: Arc<AtomicUsize>) {
    let answer = async move |request: Request| {
        let name = request.uri().path().split('/').nth(1).unwrap();
        let case = cases.iter().find(|case| case.name == name).unwrap();
        let (first, rest) = case.body.as_bytes().split_at(at.load(Relaxed));
        let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
        let pieces: Vec<_> =
            [first, rest].into_iter().filter(|piece| !piece.is_empty()).map(Bytes::from_static).collect();
        let pieces = stream::iter(pieces).then(async |piece: Bytes| {
            // Each in a write of its own.
            tokio::task::yield_now().await;
            Ok(piece)
        });
        let torn = (case.end == End::Reset).then(|| Err(std::io::Error::other("torn")));
        let body = Body::from_stream(pieces.chain(stream::iter(torn)));
        Response::builder().status(case.status).header("content-type", &case.label).body(body).unwrap()
    };
    axum::serve(listener.tap_io(|io| io.set_nodelay(true).unwrap()), Router::new().fallback(answer)).await.unwrap();
}
