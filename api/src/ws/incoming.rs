//! From the bytes of a message to what it says: no more of it is taken into memory than its user may have, which is known before it
//! is read.

use std::sync::Arc;

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

/// What is longer is read beside the socket, and not many at once: it takes milliseconds.
const LARGE_BYTES: usize = 64 << 10;

/// What a message says.
pub enum Understood {
    /// And what it takes.
    Frame(ClientFrame, Held),
    Faulty(FaultyFrame),
    /// It is not read, or only so far.
    Refused {
        id: Option<String>,
        error: GatewayError,
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
    if message.bytes.len() <= LARGE_BYTES {
        return Ok(read(hub, principal, message));
    }
    let (hub, principal) = (hub.clone(), principal.clone());
    Err(async move {
        let _turn = hub.doors.large_frames.acquire().await;
        let reading = {
            let hub = hub.clone();
            hub.sessions.clone().spawn_blocking(move || read(&hub, &principal, message))
        };
        reading.await.unwrap_or_else(|error| Understood::Refused { id: None, error: GatewayError::internal(&error) })
    }
    .boxed())
}

fn read(hub: &Hub, principal: &Principal, Message { is_text, bytes, held }: Message) -> Understood {
    let Ok(text) = std::str::from_utf8(&bytes) else { return Understood::NotUtf8 { is_text } };
    let asked = &hub.gateway.asked;
    let refused = |error: GatewayError| {
        hub.gateway.note(principal, &error);
        Understood::Refused { id: id_of(&bytes), error }
    };
    if let Err(error) = hub.gateway.limits.take_bytes(principal, bytes.len()) {
        return refused(error);
    }
    let weight = bytes_once_read(&bytes);
    let (needed, most) = (bytes.len() + weight, asked.portions().of_user);
    if needed > most {
        let reason =
            format!("takes {needed} bytes of memory to be read, of {most} for one user: fewer, longer parts take less");
        let faults = FaultyField::new("(frame)", reason).into();
        return Understood::Faulty(FaultyFrame { id: id_of(&bytes), faults, malformed: false });
    }
    let memory = match held {
        Some(mut held) => held.resize(needed).map(|()| held),
        None => asked.take(Holder::of(principal), needed),
    };
    let mut memory = match memory {
        Ok(memory) => memory,
        Err(used_up) => return refused(used_up.into()),
    };
    match ClientFrame::parse(text) {
        Ok(frame) => {
            drop(bytes);
            // Only what it has become is left.
            memory.set(weight);
            Understood::Frame(frame, memory)
        }
        Err(faulty) => Understood::Faulty(faulty),
    }
}
