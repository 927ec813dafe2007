//! What clients say, in the protocol `aihub.v1`: text, one JSON object each.

use std::collections::BTreeSet;

use aihub_application::{
    answer::name::Wanted,
    error::{Faults, FaultyField},
    fields::{Object, words::not_an_object},
    request::AnswerRequest,
};
use aihub_domain::request::event::RequestKind;
use serde_json::Value;
use uuid::Uuid;

use super::frame::Topic;

/// The longest id that a client may give a request.
pub const MAX_ID_BYTES: usize = 128;
const KNOWN_TOPICS: &str = "videos, workflows, credits";

/// What a client says.
#[derive(Debug)]
pub enum ClientFrame {
    Request {
        id: String,
        request: AnswerRequest,
    },
    /// `id` is what is said of it from now on, as for the next.
    Cancel {
        id: String,
        wanted: Wanted,
    },
    Resume {
        id: String,
        wanted: Wanted,
        after: u64,
    },
    Subscribe {
        id: Option<String>,
        topics: BTreeSet<Topic>,
    },
    Unsubscribe {
        id: Option<String>,
        topics: BTreeSet<Topic>,
    },
    Auth {
        id: Option<String>,
        token: String,
    },
    Ping,
}

/// A frame that cannot be acted on. It is answered with an `error` frame, and the socket lives.
#[derive(Debug)]
pub struct FaultyFrame {
    /// Where the frame had one.
    pub id: Option<String>,
    pub faults: Faults,
    /// It is not even a frame: too many of those close the socket.
    pub malformed: bool,
}

impl ClientFrame {
    pub fn parse(text: &str) -> Result<Self, FaultyFrame> {
        let malformed = |reason: String| FaultyFrame {
            id: id_of(text.as_bytes()),
            faults: FaultyField::new("(frame)", reason).into(),
            malformed: true,
        };
        let mut fields = Object::parse(text.as_bytes()).map_err(|error| malformed(not_an_object(&error)))?;
        let id = match fields.remove("id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if !id.is_empty() && id.len() <= MAX_ID_BYTES => Some(id),
            Some(_) => {
                let fault = FaultyField::new("id", format!("must be a string of 1 to {MAX_ID_BYTES} bytes"));
                return Err(FaultyFrame { id: None, faults: fault.into(), malformed: false });
            }
        };
        let Some(Value::String(kind)) = fields.remove("type") else {
            return Err(malformed("has no `type`".to_owned()));
        };
        let faulty =
            |id: Option<String>, fault: FaultyField| FaultyFrame { id, faults: fault.into(), malformed: false };
        let required = |id: Option<String>| id.ok_or_else(|| faulty(None, FaultyField::new("id", "is required")));
        let named = id.clone();
        let frame = match kind.as_str() {
            "chat" => return request(RequestKind::Chat, required(id)?, fields),
            "completion" => return request(RequestKind::Completion, required(id)?, fields),
            "embedding" => return request(RequestKind::Embedding, required(id)?, fields),
            "cancel" => {
                let (id, wanted) = wanted(id, &mut fields).map_err(|fault| faulty(named.clone(), fault))?;
                Self::Cancel { id, wanted }
            }
            "resume" => {
                let after = fields.remove("after").unwrap_or(Value::from(0)).as_u64().ok_or_else(|| {
                    faulty(named.clone(), FaultyField::new("after", "must be the number of the last chunk you have"))
                })?;
                let (id, wanted) = wanted(id, &mut fields).map_err(|fault| faulty(named.clone(), fault))?;
                Self::Resume { id, wanted, after }
            }
            "subscribe" => {
                let topics = topics(&mut fields).map_err(|fault| faulty(named.clone(), fault))?;
                Self::Subscribe { id, topics }
            }
            "unsubscribe" => {
                let topics = topics(&mut fields).map_err(|fault| faulty(named.clone(), fault))?;
                Self::Unsubscribe { id, topics }
            }
            "auth" => match fields.remove("token") {
                Some(Value::String(token)) => Self::Auth { id, token },
                _ => return Err(faulty(id, FaultyField::new("token", "is required"))),
            },
            "ping" => Self::Ping,
            _ => {
                let known = "must be one of chat, completion, embedding, cancel, resume, subscribe, unsubscribe, auth, \
                             ping";
                return Err(faulty(id, FaultyField::new("type", known)));
            }
        };
        let finished = fields.finish().map_err(|faults| FaultyFrame { id: named, faults, malformed: false });
        finished.map(|()| frame)
    }
}

/// Which answer is wanted, and by what it is called from now on.
fn wanted(id: Option<String>, fields: &mut Object) -> Result<(String, Wanted), FaultyField> {
    let mut named = |field: &str| match fields.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(name) => match name.as_str().and_then(|name| Uuid::parse_str(name).ok()) {
            Some(name) => Ok(Some(name)),
            None => Err(FaultyField::new(field, "must be one that this service has told")),
        },
    };
    match (id, named("requestId")?, named("connectionId")?) {
        (_, Some(_), Some(_)) => Err(FaultyField::new("connectionId", "says nothing more beside requestId")),
        (id, Some(request_id), None) => {
            let request_id = request_id.to_string();
            Ok((id.unwrap_or_else(|| request_id.clone()), Wanted::Request(request_id)))
        }
        (Some(id), None, connection) => Ok((id.clone(), Wanted::Called { id, connection })),
        (None, None, _) => Err(FaultyField::new("id", "is required, or requestId in its place")),
    }
}

/// The id of a frame that is not read otherwise, or only in part, where it has one.
pub fn id_of(frame: &[u8]) -> Option<String> {
    Object::text_of(frame, "id").filter(|id| (1..=MAX_ID_BYTES).contains(&id.len()))
}

fn request(kind: RequestKind, id: String, fields: Object) -> Result<ClientFrame, FaultyFrame> {
    match AnswerRequest::from_fields(kind, fields) {
        Ok(request) => Ok(ClientFrame::Request { id, request }),
        Err(faults) => Err(FaultyFrame { id: Some(id), faults, malformed: false }),
    }
}

fn topics(fields: &mut Object) -> Result<BTreeSet<Topic>, FaultyField> {
    let faulty = |field: String, reason: &str| FaultyField::new(field, format!("{reason} {KNOWN_TOPICS}"));
    let Some(Value::Array(named)) = fields.remove("topics") else {
        return Err(faulty("topics".to_owned(), "must be a list of"));
    };
    let topic = |(at, name)| {
        serde_json::from_value(name).map_err(|_| faulty(format!("topics[{at}]"), "is not a topic; there are"))
    };
    let topics = named.into_iter().enumerate().map(topic).collect::<Result<BTreeSet<_>, _>>()?;
    if topics.is_empty() { Err(faulty("topics".to_owned(), "must name one or more of")) } else { Ok(topics) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> (Option<String>, Vec<String>, bool) {
        let faulty = ClientFrame::parse(text).unwrap_err();
        (faulty.id, faulty.faults.told().iter().map(|fault| fault.field.clone()).collect(), faulty.malformed)
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
        assert_eq!(
            unknown.faults.told(),
            [FaultyField::new("topics[1]", "is not a topic; there are videos, workflows, credits")]
        );
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
}
