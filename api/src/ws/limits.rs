//! What a client can run into on a socket.

use std::num::NonZeroU32;

use aihub_application::request::{MAX_INPUTS, MAX_MESSAGES, MAX_TOOLS};
use serde::Serialize;

use crate::config::{Config, sections::Disconnect};

/// Told in the first frame. A refusal has the same names.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketLimits {
    pub max_frame_bytes: usize,
    /// Of text, and of the arguments of calls.
    pub max_answer_bytes: usize,
    pub max_messages: usize,
    pub max_inputs: usize,
    pub max_tools: usize,
    pub max_requests_per_socket: usize,
    pub request_timeout_ms: u64,
    /// For a place, where the node is busy.
    pub wait_ms: u64,
    pub resumable_for_ms: u64,
    /// How long an answer goes on that nobody reads any more.
    pub drain_after_leaving_ms: u64,
    /// A peer that says and takes nothing for twice as long is taken for gone.
    pub ping_interval_ms: u64,
    pub malformed_frames_allowed: u32,
    /// Of all clients of this node; sockets are not counted among its connections.
    pub max_connections: usize,
    pub max_sockets: usize,
    /// The user's, over all sockets to this node.
    pub user: UserLimits,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserLimits {
    pub sockets: usize,
    pub concurrent_requests: u32,
    pub requests_per_minute: NonZeroU32,
    pub tokens_per_minute: NonZeroU32,
    pub bytes_per_minute: NonZeroU32,
    /// Of all answers that are kept.
    pub answer_bytes: usize,
}

impl SocketLimits {
    pub fn of(config: &Config) -> Self {
        let (server, gateway, user) = (&config.server, &config.gateway, &config.limits.per_user);
        Self {
            max_frame_bytes: server.max_frame_bytes,
            max_answer_bytes: gateway.max_answer_bytes,
            max_messages: MAX_MESSAGES,
            max_inputs: MAX_INPUTS,
            max_tools: MAX_TOOLS,
            max_requests_per_socket: server.max_requests_per_socket,
            request_timeout_ms: gateway.request_timeout_ms,
            wait_ms: config.limits.node.wait_ms,
            resumable_for_ms: gateway.resumable_for_ms,
            drain_after_leaving_ms: match gateway.on_disconnect {
                Disconnect::Drain => gateway.drain_after_leaving_ms,
                Disconnect::Abort => 0,
            },
            ping_interval_ms: server.ping_interval_ms,
            malformed_frames_allowed: server.malformed_frames_allowed,
            max_connections: server.max_connections,
            max_sockets: server.max_sockets,
            user: UserLimits {
                sockets: user.sockets,
                concurrent_requests: user.concurrent_requests,
                requests_per_minute: user.requests_per_minute,
                tokens_per_minute: user.tokens_per_minute,
                bytes_per_minute: user.bytes_per_minute,
                answer_bytes: server.answers().of_user.min(server.answers().all),
            },
        }
    }
}
