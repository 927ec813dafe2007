//! How `server.memory_bytes` is divided. What callers can make the service keep is bounded by a share of it, and what has a bound in
//! numbers is multiplied out at the start. The process itself, its caches and the log's readers and writer have the rest.

use aihub_application::{
    answer::{RUNNING_BYTES, VECTOR_BYTES},
    request::MAX_INPUTS,
    shares::Portions,
};

use super::{error::Fault, sections::ServerSettings};

/// What is asked, from the first byte of a frame or body to the end of the request that it is: an eighth.
const ASKED: usize = 8;
/// Answers, from a request's beginning to when its answer can be resumed no more: a quarter.
const ANSWERS: usize = 4;
/// Connections and sockets: a quarter.
const CONNECTIONS: usize = 4;
/// What one of them takes while nothing happens on it: its task and its buffers.
const CONNECTION_BYTES: usize = 10 << 10;
/// A frame is there three times while it is read: as it came, as values, and as what the request is made of.
const FRAME_COPIES: usize = 3;
/// An answer is there twice when it is sealed.
const ANSWER_COPIES: usize = 2;

impl ServerSettings {
    /// Of what is asked.
    pub fn asked(&self) -> Portions {
        Portions::of(self.memory_bytes / ASKED)
    }

    pub fn answers(&self) -> Portions {
        Portions::of(self.memory_bytes / ANSWERS)
    }

    /// That the largest frame, the longest answer and the largest embedding fit into what one user may have, and all connections
    /// into theirs.
    pub(super) fn check_memory(&self, max_answer_bytes: usize, faults: &mut Vec<Fault>) {
        let frame = self.max_frame_bytes.saturating_mul(FRAME_COPIES);
        let answer = max_answer_bytes.saturating_mul(ANSWER_COPIES).saturating_add(RUNNING_BYTES);
        let embedding = RUNNING_BYTES + MAX_INPUTS * VECTOR_BYTES;
        let connections = self.max_connections.saturating_add(self.max_sockets).saturating_mul(CONNECTION_BYTES);
        let most = |portions: Portions| portions.of_user.min(portions.all);
        for (takes, there, what) in [
            (frame, most(self.asked()), "a frame of server.max_frame_bytes, read, takes"),
            (answer, most(self.answers()), "an answer of gateway.max_answer_bytes takes"),
            (embedding, most(self.answers()), "an embedding of as many texts as one may have takes"),
            (connections, self.memory_bytes / CONNECTIONS, "server.max_connections and server.max_sockets take"),
        ] {
            if takes > there {
                let reason = format!("is too little: {what} {takes} bytes, and {there} of it are for that");
                faults.push(Fault::new("server.memory_bytes", reason));
            }
        }
    }
}
