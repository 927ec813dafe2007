//! The frames of the protocol `aihub.v1`: text, one JSON object each.

use std::collections::BTreeSet;

use aihub_application::{
    answer::{AnswerEnd, Chunk, Done},
    error::FaultyField,
    ports::provider::ToolCallDelta,
    request::AnswerRequest,
};
use aihub_domain::{money::Microcredits, request::event::RequestKind};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::problem::Problem;

/// The longest id that a client may give a request.
pub const MAX_ID_BYTES: usize = 128;
const KNOWN_TOPICS: &str = "videos, credits";

/// What a client says.
#[derive(Debug)]
pub enum ClientFrame {
    Request { id: String, request: AnswerRequest },
    Cancel { id: String },
    Resume { id: String, after: u64 },
    Subscribe { id: Option<String>, topics: BTreeSet<Topic> },
    Unsubscribe { id: Option<String>, topics: BTreeSet<Topic> },
    Auth { token: String },
    Ping,
}

/// What a socket can subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// The present state and every change of the caller's own jobs.
    Videos,
    /// What the account has to spend.
    Credits,
}

/// A frame that cannot be acted on. It is answered with an `error` frame, and the socket lives.
#[derive(Debug)]
pub struct FaultyFrame {
    /// Where the frame had one.
    pub id: Option<String>,
    pub faults: Vec<FaultyField>,
    /// It is not even a frame: too many of those close the socket.
    pub malformed: bool,
}

impl ClientFrame {
    pub fn parse(text: &str) -> Result<Self, FaultyFrame> {
        let malformed = |reason: String| FaultyFrame {
            id: None,
            faults: vec![FaultyField::new("(frame)", reason)],
            malformed: true,
        };
        let mut fields: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| malformed(format!("is not a JSON object: {error}")))?;
        let id = match fields.remove("id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if !id.is_empty() && id.len() <= MAX_ID_BYTES => Some(id),
            Some(_) => {
                let fault = FaultyField::new("id", format!("must be a string of 1 to {MAX_ID_BYTES} bytes"));
                return Err(FaultyFrame { id: None, faults: vec![fault], malformed: false });
            }
        };
        let Some(Value::String(kind)) = fields.remove("type") else {
            return Err(FaultyFrame { id, ..malformed("has no `type`".to_owned()) });
        };
        let faulty = |id: Option<String>, faults| FaultyFrame { id, faults, malformed: false };
        let required = |id: Option<String>| id.ok_or_else(|| faulty(None, vec![FaultyField::new("id", "is required")]));
        match kind.as_str() {
            "chat" => request(RequestKind::Chat, required(id)?, fields),
            "completion" => request(RequestKind::Completion, required(id)?, fields),
            "embedding" => request(RequestKind::Embedding, required(id)?, fields),
            "cancel" => Ok(Self::Cancel { id: required(id)? }),
            "resume" => match fields.remove("after").unwrap_or(Value::from(0)).as_u64() {
                Some(after) => Ok(Self::Resume { id: required(id)?, after }),
                None => {
                    Err(faulty(id, vec![FaultyField::new("after", "must be the number of the last chunk you have")]))
                }
            },
            "subscribe" => Ok(Self::Subscribe { topics: topics(&id, &mut fields)?, id }),
            "unsubscribe" => Ok(Self::Unsubscribe { topics: topics(&id, &mut fields)?, id }),
            "auth" => match fields.remove("token") {
                Some(Value::String(token)) => Ok(Self::Auth { token }),
                _ => Err(faulty(id, vec![FaultyField::new("token", "is required")])),
            },
            "ping" => Ok(Self::Ping),
            _ => {
                let known = "must be one of chat, completion, embedding, cancel, resume, subscribe, unsubscribe, auth, \
                             ping";
                Err(faulty(id, vec![FaultyField::new("type", known)]))
            }
        }
    }
}

fn request(kind: RequestKind, id: String, fields: Map<String, Value>) -> Result<ClientFrame, FaultyFrame> {
    match AnswerRequest::from_fields(kind, fields) {
        Ok(request) => Ok(ClientFrame::Request { id, request }),
        Err(faults) => Err(FaultyFrame { id: Some(id), faults, malformed: false }),
    }
}

fn topics(id: &Option<String>, fields: &mut Map<String, Value>) -> Result<BTreeSet<Topic>, FaultyFrame> {
    let faulty = |field: String, reason: &str| {
        let fault = FaultyField::new(field, format!("{reason} {KNOWN_TOPICS}"));
        FaultyFrame { id: id.clone(), faults: vec![fault], malformed: false }
    };
    let Some(Value::Array(named)) = fields.remove("topics") else {
        return Err(faulty("topics".to_owned(), "must be a list of"));
    };
    let topic = |(at, name)| {
        serde_json::from_value(name).map_err(|_| faulty(format!("topics[{at}]"), "is not a topic; there are"))
    };
    let topics = named.into_iter().enumerate().map(topic).collect::<Result<BTreeSet<_>, _>>()?;
    if topics.is_empty() { Err(faulty("topics".to_owned(), "must name one or more of")) } else { Ok(topics) }
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
        position: usize,
    },
    Chunk {
        id: &'a str,
        seq: u64,
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
    /// What the account has to spend now.
    Credits {
        available: f64,
    },
    /// A fresh token was accepted.
    Auth {
        expires_at: DateTime<Utc>,
    },
    Pong,
}

/// The whole answer in one frame, for `stream: false`. Its `type` is what was asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response<'a> {
    id: &'a str,
    r#type: RequestKind,
    data: ResponseData<'a>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tool_calls: &'a [ToolCallDelta],
    usage: Usage,
    metadata: AnswerMetadata<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum ResponseData<'a> {
    Text(&'a str),
    Vectors(&'a [Vec<f32>]),
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketLimits {
    pub max_frame_bytes: usize,
    pub max_requests_per_socket: usize,
    pub resumable_for_ms: u64,
    pub malformed_frames_allowed: u32,
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
    model: Option<&'a str>,
    provider: Option<&'a str>,
    /// Milliseconds from the request's arrival to the durable end.
    latency: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_chunk_ms: Option<u64>,
    attempts: usize,
    finish_reason: &'a str,
    estimated: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    simulated: bool,
}

impl ServerFrame<'_> {
    pub fn to_json(&self) -> String {
        to_json(self)
    }

    pub fn chunk(id: &str, chunk: &Chunk) -> String {
        ServerFrame::Chunk { id, seq: chunk.seq, data: &chunk.text, tool_calls: &chunk.tool_calls }.to_json()
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

impl<'a> Response<'a> {
    pub fn to_json(id: &'a str, done: &'a Done, text: &'a str, tool_calls: &'a [ToolCallDelta]) -> String {
        let data = match done.kind {
            RequestKind::Embedding => ResponseData::Vectors(&done.vectors),
            RequestKind::Chat | RequestKind::Completion => ResponseData::Text(text),
        };
        to_json(&Response {
            id,
            r#type: done.kind,
            data,
            tool_calls,
            usage: Usage::of(done),
            metadata: AnswerMetadata::of(done),
        })
    }
}

impl Usage {
    fn of(done: &Done) -> Self {
        Self {
            prompt_tokens: done.usage.prompt_tokens(),
            completion_tokens: done.usage.output,
            total_tokens: done.usage.total_tokens(),
            credits: Microcredits::as_credits(done.charged),
        }
    }
}

impl<'a> AnswerMetadata<'a> {
    fn of(done: &'a Done) -> Self {
        Self {
            request_id: &done.request_id,
            model: done.model.as_deref(),
            provider: done.provider.as_deref(),
            latency: done.latency_ms,
            first_chunk_ms: done.first_chunk_ms,
            attempts: done.attempts,
            finish_reason: &done.finish_reason,
            estimated: done.estimated,
            simulated: done.simulated,
        }
    }
}

/// Nothing in a frame can fail to serialise: no maps with odd keys, no failing `Serialize`.
fn to_json(frame: &impl Serialize) -> String {
    serde_json::to_string(frame).unwrap_or_else(|error| {
        let error = Problem::internal(&error);
        format!("{{\"type\":\"error\",\"error\":{{\"code\":\"{}\",\"message\":\"{}\"}}}}", error.code, error.message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> (Option<String>, Vec<String>, bool) {
        let faulty = ClientFrame::parse(text).unwrap_err();
        (faulty.id, faulty.faults.into_iter().map(|fault| fault.field).collect(), faulty.malformed)
    }

    #[test]
    fn what_is_not_a_frame_is_malformed_and_what_is_only_wrong_is_not() {
        for text in ["", "[]", "{", "\"chat\"", "null", "{\"id\":\"a\"}", &"[".repeat(100_000)] {
            assert!(ClientFrame::parse(text).unwrap_err().malformed, "{text:.20}");
        }
        assert_eq!(faults(r#"{"type":"dance","id":"a"}"#), (Some("a".into()), vec!["type".into()], false));
        assert_eq!(faults(r#"{"type":"chat"}"#), (None, vec!["id".into()], false));
        assert_eq!(faults(r#"{"type":"chat","id":7}"#), (None, vec!["id".into()], false));
        assert_eq!(faults(r#"{"type":"resume","id":"a","after":-1}"#).1, ["after"]);
    }

    #[test]
    fn a_subscription_names_topics_that_there_are() {
        let parsed = ClientFrame::parse(r#"{"type":"subscribe","topics":["videos","credits","videos"]}"#).unwrap();
        let ClientFrame::Subscribe { topics, .. } = parsed else { panic!("{parsed:?}") };
        assert_eq!(topics, BTreeSet::from([Topic::Videos, Topic::Credits]));
        let unknown = ClientFrame::parse(r#"{"type":"subscribe","id":"a","topics":["videos","news"]}"#).unwrap_err();
        assert_eq!((unknown.id.as_deref(), unknown.malformed), (Some("a"), false));
        assert_eq!(unknown.faults, [FaultyField::new("topics[1]", "is not a topic; there are videos, credits")]);
        for topics in ["7", "null", "[]", r#"{"videos":true}"#] {
            let frame = format!(r#"{{"type":"unsubscribe","topics":{topics}}}"#);
            assert_eq!(faults(&frame).1, ["topics"]);
        }
    }

    #[test]
    fn a_deeply_nested_frame_is_refused_and_not_descended_into() {
        let nested = format!(r#"{{"id":"a","type":"chat","messages":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
        assert!(ClientFrame::parse(&nested).unwrap_err().malformed);
    }

    #[test]
    fn a_chunk_has_tool_calls_only_where_there_are_any() {
        let chunk = Chunk { seq: 1, text: "hi".into(), tool_calls: vec![] };
        assert_eq!(ServerFrame::chunk("a", &chunk), r#"{"type":"chunk","id":"a","seq":1,"data":"hi"}"#);
    }
}
