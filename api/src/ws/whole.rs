//! The whole answer in one message, where it is not streamed. It may be too long to be made at once: its JSON comes piece by piece, as
//! fast as the pieces are taken. `data` is the text, or an embedding's vectors; `metadata.kind` says what was asked.

use std::{fmt::Write, sync::Arc};

use aihub_application::answer::{Answer, Done};
use aihub_domain::request::event::RequestKind;

use super::{
    frame::{AnswerMetadata, Usage, to_json},
    vectors::write_vector,
};

/// A piece has about so many bytes, or those of one chunk or one vector.
const PIECE_BYTES: usize = 16 << 10;

pub struct Whole {
    id: Arc<str>,
    answer: Arc<Answer>,
    next: Next,
}

/// What is said next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Head,
    /// The chunk of this index, or the vector.
    Data(usize),
    Nothing,
}

impl Whole {
    /// `answer` has ended as `done`.
    pub fn new(id: Arc<str>, answer: Arc<Answer>) -> Self {
        Self { id, answer, next: Next::Head }
    }

    pub fn is_at_its_beginning(&self) -> bool {
        self.next == Next::Head
    }

    pub fn is_done(&self) -> bool {
        self.next == Next::Nothing
    }

    /// The next piece of the answer that ended as `done`.
    pub fn piece(&mut self, done: &Done) -> String {
        let mut piece = String::with_capacity(PIECE_BYTES);
        while piece.len() < PIECE_BYTES && !self.is_done() {
            self.next = self.say(done, &mut piece);
        }
        piece
    }

    fn say(&self, done: &Done, piece: &mut String) -> Next {
        let is_embedding = done.kind == RequestKind::Embedding;
        match self.next {
            Next::Head => {
                let _ = write!(piece, r#"{{"id":{},"type":"completion","data":"#, to_json(&*self.id));
                piece.push(if is_embedding { '[' } else { '"' });
                Next::Data(0)
            }
            Next::Data(at) if is_embedding => {
                let Some(vector) = done.vectors.get(at) else {
                    piece.push(']');
                    return end(done, piece);
                };
                if at > 0 {
                    piece.push(',');
                }
                write_vector(vector, done.encoding, piece);
                Next::Data(at + 1)
            }
            Next::Data(at) => {
                let Some(chunk) = self.answer.chunk(at) else {
                    piece.push('"');
                    let tool_calls = self.answer.tool_calls();
                    if !tool_calls.is_empty() {
                        let _ = write!(piece, r#","toolCalls":{}"#, to_json(&tool_calls));
                    }
                    return end(done, piece);
                };
                // A chunk is whole characters, so what is escaped piece by piece is the escaped whole.
                let text = to_json(&chunk.text);
                piece.push_str(&text[1..text.len() - 1]);
                Next::Data(at + 1)
            }
            Next::Nothing => Next::Nothing,
        }
    }
}

fn end(done: &Done, piece: &mut String) -> Next {
    let (usage, metadata) = (to_json(&Usage::of(done)), to_json(&AnswerMetadata::of(done)));
    let _ = write!(piece, r#","usage":{usage},"metadata":{metadata}}}"#);
    Next::Nothing
}

#[cfg(test)]
mod tests {
    use aihub_application::{
        answer::{AnswerEnd, RUNNING_BYTES},
        error::GatewayError,
        ports::provider::ToolCallDelta,
        request::Encoding,
        shares::{Holder, Portions, Share},
    };
    use aihub_domain::{money::Microcredits, price::TokenUsage};
    use serde_json::{Value, json};

    use super::*;

    fn done(kind: RequestKind, vectors: Vec<Vec<f32>>) -> Done {
        Done {
            request_id: "r".to_owned(),
            kind,
            usage: TokenUsage::default(),
            charged: Microcredits(1_000),
            estimated: false,
            provider: None,
            requested_model: None,
            model: None,
            answered_model: None,
            simulated: false,
            latency_ms: 1,
            first_chunk_ms: None,
            attempts: 1,
            finish_reason: "stop".to_owned(),
            provider_finish_reason: None,
            vectors,
            encoding: Encoding::Float,
            in_parts: false,
        }
    }

    fn said(done: &Done, chunks: &[(&str, Vec<ToolCallDelta>)]) -> (Value, Vec<usize>) {
        let ann = Holder::Principal { user: "ann".into(), account: "ann".into() };
        let held = Share::new("bytes", Portions::of(64 << 20)).take(ann, RUNNING_BYTES).unwrap();
        let answer = Arc::new(Answer::new(held, usize::MAX));
        for (text, calls) in chunks {
            answer.push((*text).to_owned(), calls.clone()).unwrap();
        }
        answer.end(AnswerEnd::Failed(GatewayError::ShuttingDown.into()));
        let mut whole = Whole::new("\"a\"".into(), answer);
        let mut pieces = Vec::new();
        while !whole.is_done() {
            pieces.push(whole.piece(done));
        }
        (serde_json::from_str(&pieces.concat()).unwrap(), pieces.iter().map(String::len).collect())
    }

    #[test]
    fn an_answer_is_one_object_whatever_its_chunks_are() {
        let call = |arguments: &str| ToolCallDelta {
            index: 0,
            id: None,
            name: None,
            arguments: arguments.to_owned(),
            broken: None,
        };
        let chunks = [("\"über\n", vec![]), ("\u{1}🌌", vec![call("{\"a\"")]), ("", vec![call(":1}")])];
        let (said, pieces) = said(&done(RequestKind::Chat, vec![]), &chunks);
        assert_eq!(
            (&said["id"], &said["type"], &said["data"]),
            (&json!("\"a\""), &json!("completion"), &json!("\"über\n\u{1}🌌"))
        );
        assert_eq!(
            (&said["toolCalls"][0]["arguments"], &said["usage"]["credits"]),
            (&json!("{\"a\":1}"), &json!(0.001))
        );
        assert_eq!((&said["metadata"]["finishReason"], pieces.len()), (&json!("stop"), 1));
    }

    #[test]
    fn vectors_of_any_number_come_in_pieces_of_which_none_is_large() {
        let vectors = vec![vec![0.123_456_79_f32; 1_536]; 200];
        let (said, pieces) = said(&done(RequestKind::Embedding, vectors.clone()), &[]);
        assert_eq!(serde_json::from_value::<Vec<Vec<f32>>>(said["data"].clone()).unwrap(), vectors);
        assert!(pieces.len() > 100 && pieces.iter().all(|bytes| *bytes < 3 * PIECE_BYTES), "{pieces:?}");
        assert_eq!(self::said(&done(RequestKind::Embedding, vec![]), &[]).0["data"], json!([]));
        let short = Done { encoding: Encoding::Base64, ..done(RequestKind::Embedding, vec![vec![1.0, -0.5]]) };
        assert_eq!(self::said(&short, &[]).0["data"], json!(["AACAPwAAAL8="]));
    }
}
