//! From the bytes of a message to what it says: no more of it is taken into memory than its user may have, which is known before it
//! is read.

use std::{sync::Arc, time::Duration};

use aihub_application::{
    error::{FaultyField, GatewayError},
    principal::Principal,
    shares::{Held, Holder},
    weight::bytes_once_read,
};
use futures::{FutureExt, future::BoxFuture};

use super::{
    client_frame::{ClientFrame, FaultyFrame, id_of},
    wire::reader::Message,
};
use crate::hub::Hub;

/// What is longer is read aside: it takes milliseconds.
const LARGE_BYTES: usize = 64 << 10;
/// How long at most nothing is read of whoever has sent more than allowed: a cancel and a pong wait as long.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// What a message says.
pub enum Understood {
    /// And what it takes.
    Frame(ClientFrame, Held),
    Faulty(FaultyFrame),
    /// It is not read, or only so far.
    Refused {
        id: Option<String>,
        error: GatewayError,
        /// Until then, if at all, nothing more is to be read: what its user may send is used up, and reading costs others time.
        rest: Option<Duration>,
    },
    /// A text, or else bytes that were to be one.
    NotUtf8 {
        is_text: bool,
    },
}

/// What the message says, at once or after a while.
pub fn understand(
    hub: &Arc<Hub>,
    principal: &Arc<Principal>,
    message: Message,
) -> Result<Understood, BoxFuture<'static, Understood>> {
    if let Err(error) = hub.gateway.limits.take_bytes(principal, message.bytes.len()) {
        let wait = error.retry_after().unwrap_or_default().min(hub.settings.ping_interval).min(LONGEST_REST);
        // Not all of them at the same time again.
        let rest = wait.mul_f64(rand::random_range(0.5..=1.0));
        return Ok(refused(hub, principal, &message, error, Some(rest)));
    }
    if message.bytes.len() <= LARGE_BYTES {
        return Ok(read(hub, principal, message));
    }
    let (hub, principal) = (hub.clone(), principal.clone());
    Err(async move {
        let of = hub.clone();
        let reading = hub.doors.large_frames.run(move || read(&of, &principal, message)).await;
        reading.unwrap_or_else(|| {
            let error = GatewayError::internal(&"a large frame could not be read");
            Understood::Refused { id: None, error, rest: None }
        })
    }
    .boxed())
}

fn refused(
    hub: &Hub,
    principal: &Principal,
    message: &Message,
    error: GatewayError,
    rest: Option<Duration>,
) -> Understood {
    hub.gateway.note(principal, &error);
    // Looked for where it customarily stands: the whole would take long.
    let beginning = &message.bytes[..message.bytes.len().min(LARGE_BYTES)];
    Understood::Refused { id: id_of(beginning), error, rest }
}

fn read(hub: &Hub, principal: &Principal, mut message: Message) -> Understood {
    let (is_text, bytes) = (message.is_text, &message.bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return Understood::NotUtf8 { is_text } };
    let asked = &hub.gateway.asked;
    let weight = bytes_once_read(bytes);
    let (needed, most) = (bytes.len() + weight, asked.portions().of_user);
    if needed > most {
        let reason =
            format!("takes {needed} bytes of memory to be read, of {most} for one user: fewer, longer parts take less");
        let faults = FaultyField::new("(frame)", reason).into();
        return Understood::Faulty(FaultyFrame { id: id_of(bytes), faults, malformed: false });
    }
    let memory = match message.held.take() {
        Some(mut held) => held.resize(needed).map(|()| held),
        None => asked.take(Holder::of(principal), needed),
    };
    let mut memory = match memory {
        Ok(memory) => memory,
        Err(used_up) => return refused(hub, principal, &message, used_up.into(), None),
    };
    match ClientFrame::parse(text) {
        Ok(frame) => {
            drop(message);
            // Only what it has become is left.
            memory.set(weight);
            Understood::Frame(frame, memory)
        }
        Err(faulty) => Understood::Faulty(faulty),
    }
}
