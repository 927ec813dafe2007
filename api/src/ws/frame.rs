//! What the server says, in the protocol `aihub.v1`: text, one JSON object each.

use std::collections::BTreeSet;

use aihub_application::{
    answer::{AnswerEnd, Chunk, Done},
    ports::provider::ToolCallDelta,
    videos::queue::Places,
};
use aihub_domain::{money::Microcredits, request::event::RequestKind};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::limits::SocketLimits;
use crate::problem::Problem;

/// What a socket can subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// The present state and every change of the caller's own jobs.
    Videos,
    /// The same of the caller's workflows.
    Workflows,
    /// What the account has to spend.
    Credits,
}

/// What the server says.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum ServerFrame<'a> {
    /// Once, first.
    Ready {
        connection_id: &'a str,
        limits: SocketLimits,
        credits: f64,
    },
    /// The request waits for a place.
    Queued {
        id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        position: usize,
    },
    Chunk {
        id: &'a str,
        seq: u64,
        /// In the first one that a socket is told of a request.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        data: &'a str,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        tool_calls: &'a [ToolCallDelta],
    },
    Done {
        id: &'a str,
        usage: Usage,
        metadata: AnswerMetadata<'a>,
    },
    Error {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        error: Problem,
    },
    /// Everything that the socket is subscribed to now. After a subscription the present state follows.
    Subscribed {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        topics: BTreeSet<Topic>,
    },
    /// One of the caller's jobs, as it is now.
    Video {
        /// As it is told over HTTP.
        video: &'a Value,
    },
    /// Where all of the caller's videos that wait stand now, from 1.
    Queue {
        positions: &'a Places,
    },
    /// One of the caller's workflows, as it is now, with its videos as they are. What happens to those alone comes as `video`.
    Workflow {
        /// As it is told over HTTP.
        workflow: &'a Value,
    },
    /// What the account has to spend now.
    Credits {
        available: f64,
    },
    /// A fresh token was accepted.
    Auth {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        expires_at: DateTime<Utc>,
    },
    Pong,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    /// What was charged.
    credits: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AnswerMetadata<'a> {
    request_id: &'a str,
    /// What was asked for: chat, completion or embedding.
    kind: RequestKind,
    /// The other name that the client had for the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_model: Option<&'a str>,
    /// As clients call it.
    model: Option<&'a str>,
    /// As its provider calls it, where it said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    answered_model: Option<&'a str>,
    provider: Option<&'a str>,
    /// Milliseconds from the request's arrival to the durable end.
    latency: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_chunk_ms: Option<u64>,
    attempts: usize,
    finish_reason: &'a str,
    /// The provider's own word for it, where that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_finish_reason: Option<&'a str>,
    estimated: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    simulated: bool,
}

impl ServerFrame<'_> {
    pub fn to_json(&self) -> String {
        to_json(self)
    }

    pub fn chunk(id: &str, request_id: Option<&str>, chunk: &Chunk) -> String {
        let Chunk { seq, text, tool_calls } = chunk;
        ServerFrame::Chunk { id, seq: *seq, request_id, data: text, tool_calls }.to_json()
    }

    /// The end of a streamed answer.
    pub fn end(id: &str, end: &AnswerEnd) -> String {
        match end {
            AnswerEnd::Done(done) => {
                ServerFrame::Done { id, usage: Usage::of(done), metadata: AnswerMetadata::of(done) }.to_json()
            }
            AnswerEnd::Failed(failed) => ServerFrame::Error { id: Some(id), error: failed.into() }.to_json(),
        }
    }
}

impl Usage {
    pub fn of(done: &Done) -> Self {
        Self {
            prompt_tokens: done.usage.prompt_tokens(),
            completion_tokens: done.usage.output,
            total_tokens: done.usage.total_tokens(),
            credits: Microcredits::as_credits(done.charged),
        }
    }
}

impl<'a> AnswerMetadata<'a> {
    pub fn of(done: &'a Done) -> Self {
        Self {
            request_id: &done.request_id,
            kind: done.kind,
            requested_model: done.requested_model.as_deref(),
            model: done.model.as_deref(),
            answered_model: done.answered_model.as_deref(),
            provider: done.provider.as_deref(),
            latency: done.latency_ms,
            first_chunk_ms: done.first_chunk_ms,
            attempts: done.attempts,
            finish_reason: &done.finish_reason,
            provider_finish_reason: done.provider_finish_reason.as_deref(),
            estimated: done.estimated,
            simulated: done.simulated,
        }
    }
}

/// Nothing in a frame can fail to serialise: no maps with odd keys, no failing `Serialize`.
pub fn to_json(frame: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(frame).unwrap_or_else(|error| {
        let error = Problem::internal(&error);
        format!("{{\"type\":\"error\",\"error\":{{\"code\":\"{}\",\"message\":\"{}\"}}}}", error.code, error.message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_tool_calls_only_where_there_are_any() {
        let chunk = Chunk { seq: 1, text: "hi".into(), tool_calls: vec![] };
        assert_eq!(ServerFrame::chunk("a", None, &chunk), r#"{"type":"chunk","id":"a","seq":1,"data":"hi"}"#);
        let first = ServerFrame::chunk("a", Some("r"), &chunk);
        assert_eq!(first, r#"{"type":"chunk","id":"a","seq":1,"requestId":"r","data":"hi"}"#);
    }
}
