//! Bodies: read after whoever sends them was looked at, as fast as they come but not slower than stated, and counted in memory from
//! their first byte.

use std::time::Duration;

use aihub_application::{
    error::GatewayError,
    fields::{Object, words::not_an_object},
    principal::Principal,
    shares::{Held, Holder},
    weight::bytes_once_read,
};
use axum::body::{Body, HttpBody};
use http_body::Frame;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use crate::{
    hub::Hub,
    problem::Problem,
    server::turns::{PIECE_BYTES, SHORT_BYTES},
};

/// The longest body of a request. A prompt for a video has 8,000 characters at most.
pub const MAX_BODY_BYTES: usize = 2 << 20;
/// What a client may take longer than its body would take at [`LEAST_BYTES_PER_S`].
const GRACE: Duration = Duration::from_secs(10);
/// The least speed of a body, and of a frame.
pub const LEAST_BYTES_PER_S: usize = 16 << 10;

/// The JSON object that `caller` sends; and what it takes in memory.
pub async fn object(hub: &Hub, caller: &Principal, body: Body) -> Result<(Object, Held), Problem> {
    let (bytes, mut memory) = read(hub, Holder::of(caller), body, MAX_BODY_BYTES).await?;
    let refused = |error: GatewayError| {
        hub.gateway.note(caller, &error);
        Problem::from(error)
    };
    hub.gateway.limits.take_bytes(caller, bytes.len()).map_err(refused)?;
    memory.resize(bytes.len() + bytes_once_read(&bytes)).map_err(|used_up| refused(used_up.into()))?;
    let object = Object::parse(&bytes);
    Ok((object.map_err(|error| Problem::faulty("(body)", not_an_object(&error)))?, memory))
}

/// A whole body of at most `most` bytes, and what it takes.
pub async fn read(hub: &Hub, holder: Holder, mut body: Body, most: usize) -> Result<(Vec<u8>, Held), Problem> {
    let too_large = || {
        Problem::new("PAYLOAD_TOO_LARGE", format!("the body may have {most} bytes"))
            .with_details(json!({ "limit": most }))
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let mut memory = hub.gateway.asked.take(holder, 0).map_err(GatewayError::from)?;
    let (mut bytes, mut began, mut turn_at) = (Vec::new(), Instant::now(), SHORT_BYTES);
    loop {
        if bytes.len() >= turn_at {
            let turn = hub.doors.turns.take();
            turn.comes().await;
            // What we make it wait is not the client's time.
            (began, turn_at) = (began + turn.waited(), bytes.len() + PIECE_BYTES);
        }
        let until = began + GRACE + time_for(bytes.len());
        let next = std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context));
        let frame = timeout_at(until, next).await.map_err(|_| {
            Problem::new("REQUEST_TIMEOUT", format!("the body came at less than {LEAST_BYTES_PER_S} bytes a second"))
        })?;
        let Some(frame) = frame else { return Ok((bytes, memory)) };
        let frame = frame.map_err(|_| Problem::faulty("(body)", "broke off"))?;
        let Ok(data) = Frame::into_data(frame) else { continue };
        if bytes.len() + data.len() > most {
            return Err(too_large());
        }
        memory.resize(bytes.len() + data.len()).map_err(GatewayError::from)?;
        bytes.extend_from_slice(&data);
    }
}

/// How long so many bytes may take.
pub fn time_for(bytes: usize) -> Duration {
    Duration::from_secs((bytes / LEAST_BYTES_PER_S) as u64)
}
