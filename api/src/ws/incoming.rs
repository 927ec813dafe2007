//! From the bytes of a message to what it says: no more of it is taken into memory than its user may have, which is known before it
//! is read.

use std::{borrow::Cow, convert::Infallible, sync::Arc, time::Duration};

use aihub_application::{
    error::{FaultyField, GatewayError},
    principal::Principal,
    shares::{Held, Holder},
    weight::bytes_once_read,
};
use futures::{FutureExt, future::BoxFuture};

use super::{
    client_frame::{ClientFrame, FaultyFrame, id_of},
    close::Code,
    wire::{
        deflate::{NotInflated, beginning, inflate},
        reader::Message,
    },
};
use crate::hub::Hub;

/// A compressed message that has more than this, or comes to more than [`LARGE_BYTES`], is made long again aside.
const BRIEF_BYTES: usize = 8 << 10;
/// What is longer is read aside: it takes milliseconds.
const LARGE_BYTES: usize = 64 << 10;
/// How long nothing is read of whoever has sent more than allowed, after each message that is refused: a cancel and a pong wait as long.
const LONGEST_REST: Duration = Duration::from_secs(5);
const SHORTEST_REST: Duration = Duration::from_secs(1);

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
    /// It cannot be read, and its socket ends so.
    Broken(Code, &'static str),
    /// A text, or else bytes that were to be one.
    NotUtf8 {
        is_text: bool,
    },
}

/// What the message says, at once or after a while.
pub fn understand(
    hub: &Arc<Hub>,
    principal: &Arc<Principal>,
    mut message: Message,
) -> Result<Understood, BoxFuture<'static, Understood>> {
    if let Some(refused) = beyond_its_bytes(hub, principal, &message, message.bytes.len()) {
        return Ok(refused);
    }
    if message.is_deflated && message.bytes.len() <= BRIEF_BYTES {
        let anything = |_| Ok::<_, Infallible>(());
        if let Ok(bytes) = inflate(&message.bytes, LARGE_BYTES, anything) {
            let more = bytes.len().saturating_sub(message.bytes.len());
            (message.bytes, message.is_deflated) = (bytes, false);
            if let Some(refused) = beyond_its_bytes(hub, principal, &message, more) {
                return Ok(refused);
            }
        }
    }
    if !message.is_deflated && message.bytes.len() <= LARGE_BYTES {
        return Ok(read(hub, principal, message));
    }
    let (hub, principal) = (hub.clone(), principal.clone());
    Err(async move {
        let of = hub.clone();
        let reading = move || {
            if message.is_deflated {
                let short = message.bytes.len();
                if let Some(understood) = make_long(&of, &principal, &mut message) {
                    return understood;
                }
                let more = message.bytes.len().saturating_sub(short);
                if let Some(refused) = beyond_its_bytes(&of, &principal, &message, more) {
                    return refused;
                }
            }
            read(&of, &principal, message)
        };
        hub.doors.large_frames.run(reading).await.unwrap_or_else(|| {
            let error = GatewayError::internal(&"a large frame could not be read");
            Understood::Refused { id: None, error, rest: None }
        })
    }
    .boxed())
}

/// Makes the message what it was before it was made shorter, or says why not.
fn make_long(hub: &Hub, principal: &Principal, message: &mut Message) -> Option<Understood> {
    let asked = &hub.gateway.asked;
    let mut held = message.held.take();
    let short = message.bytes.len();
    let take = |room: usize| match &mut held {
        Some(held) => held.resize(short + room),
        none => {
            *none = Some(asked.take(Holder::of(principal), short + room)?);
            Ok(())
        }
    };
    match inflate(&message.bytes, hub.settings.limits.max_frame_bytes, take) {
        Ok(bytes) => {
            if let Some(held) = &mut held {
                held.set(bytes.len());
            }
            (message.bytes, message.held, message.is_deflated) = (bytes, held, false);
            None
        }
        Err(NotInflated::Malformed) => Some(Understood::Broken(Code::Protocol, "a compressed message is malformed")),
        Err(NotInflated::TooLong) => Some(Understood::Broken(Code::TooBig, "the frame exceeds the limit")),
        Err(NotInflated::NoRoom(used_up)) => {
            Some(refused(hub, principal, &beginning_of(message), used_up.into(), None))
        }
    }
}

/// What its user hears who may not send so many bytes more now.
fn beyond_its_bytes(hub: &Hub, principal: &Principal, message: &Message, bytes: usize) -> Option<Understood> {
    let error = hub.gateway.limits.take_bytes(principal, bytes).err()?;
    let wait =
        error.retry_after().unwrap_or_default().clamp(SHORTEST_REST, LONGEST_REST).min(hub.settings.ping_interval);
    // Not all of them at the same time again.
    let rest = wait.mul_f64(rand::random_range(0.5..=1.0));
    Some(refused(hub, principal, &beginning_of(message), error, Some(rest)))
}

/// Where a frame's id is looked for that is not read: where it customarily stands, since the whole would take long.
pub fn beginning_of(message: &Message) -> Cow<'_, [u8]> {
    if message.is_deflated {
        return beginning(&message.bytes, BRIEF_BYTES).into();
    }
    message.bytes[..message.bytes.len().min(LARGE_BYTES)].into()
}

/// `looked_at` is where the frame's id is looked for.
fn refused(
    hub: &Hub,
    principal: &Principal,
    looked_at: &[u8],
    error: GatewayError,
    rest: Option<Duration>,
) -> Understood {
    hub.gateway.note(principal, &error);
    Understood::Refused { id: id_of(looked_at), error, rest }
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
        Err(used_up) => return refused(hub, principal, &message.bytes, used_up.into(), None),
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
