//! `POST /v1/embeddings`: unit vectors out of a hash, as floats or as base64 of little-endian f32.

use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        SimulatedProvider, Simulator,
        knobs::{Knobs, UsageReport},
        models::{Model, Use},
        respond::{before, to_json, whole},
        served::{Operation, ledger::Arrival},
        text,
    },
    authenticate,
    chat::Chat,
    error::OpenAiError,
    find_model,
    request::parse,
};

/// OpenAI takes at most so many inputs a request.
const MAX_INPUTS: usize = 2_048;

#[derive(Deserialize)]
struct EmbeddingsRequest {
    model: Option<String>,
    input: Option<Input>,
    dimensions: Option<u32>,
    encoding_format: Option<Encoding>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

#[derive(Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Float,
    Base64,
}

struct Embeddings {
    model: &'static Model,
    knobs: Knobs,
    texts: Vec<String>,
    tokens: u32,
    dimensions: u32,
    encoding: Encoding,
}

#[derive(Serialize)]
struct EmbeddingsBody {
    object: &'static str,
    data: Vec<EmbeddingBody>,
    model: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct EmbeddingBody {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Floats(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
}

pub(in super::super) async fn embed(
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let mut arrival = Arrival::new(SimulatedProvider::OpenAi, Operation::Embeddings, &headers);
    let accepted = accept(&headers, body, &mut arrival);
    let serving = simulator.ledger.open(arrival);
    match accepted {
        Ok(embeddings) => {
            let settings = simulator.settings(embeddings.model, embeddings.knobs.clone());
            if let Some(failed) = before::<Chat>(&settings, &serving).await {
                return failed;
            }
            if let Some(case) = settings.case {
                return case.respond(&serving);
            }
            let body = to_json(&embeddings.body(settings.usage));
            whole::<Chat>(&settings, serving, (embeddings.tokens, 0), body).await
        }
        Err(error) => {
            serving.fail_with_status(error.status().as_u16());
            error.into_response_of(serving.call())
        }
    }
}

fn accept(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    arrival: &mut Arrival,
) -> Result<Embeddings, OpenAiError> {
    authenticate(headers)?;
    let request: EmbeddingsRequest = parse(body)?;
    let (model, knobs) = find_model(request.model.as_deref())?;
    arrival.model = Some(model);
    let Use::Embedding { dimensions: most } = model.use_ else {
        let message = "You are not allowed to generate embeddings from this model".to_owned();
        return Err(OpenAiError::invalid_request(message).with_status(StatusCode::FORBIDDEN));
    };
    let dimensions = request.dimensions.unwrap_or(most);
    if !(1..=most).contains(&dimensions) {
        let message = format!("Invalid 'dimensions': expected a value from 1 to {most}, but got {dimensions} instead.");
        return Err(OpenAiError::invalid_request(message).with_param("dimensions"));
    }
    let (texts, tokens) = request.input.ok_or_else(|| OpenAiError::missing_parameter("input"))?.read();
    if texts.is_empty() || texts.len() > MAX_INPUTS || texts.iter().any(String::is_empty) {
        let message = format!("'$.input' is invalid: from 1 to {MAX_INPUTS} inputs, none of them empty.");
        return Err(OpenAiError::invalid_request(message).with_param("input"));
    }
    if let Some(longest) = texts.iter().map(|text| text::count_words(text)).max()
        && longest > model.max_input_tokens
    {
        return Err(OpenAiError::context_length(model.max_input_tokens, longest));
    }
    Ok(Embeddings { model, knobs, texts, tokens, dimensions, encoding: request.encoding_format.unwrap_or_default() })
}

impl Input {
    /// The inputs as texts (lists of tokens as the words that they are counted as), and the tokens of all.
    fn read(self) -> (Vec<String>, u32) {
        let words = |tokens: Vec<u32>| tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let texts = match self {
            Self::Text(text) => vec![text],
            Self::Texts(texts) => texts,
            Self::Tokens(tokens) => vec![words(tokens)],
            Self::TokenLists(lists) => lists.into_iter().map(words).collect(),
        };
        let tokens = texts.iter().map(|text| text::count_words(text)).fold(0, u32::saturating_add);
        (texts, tokens)
    }
}

impl Embeddings {
    fn body(&self, report: UsageReport) -> EmbeddingsBody {
        let tokens = if report == UsageReport::Zero { 0 } else { self.tokens };
        let embed = |(index, text): (usize, &String)| {
            let embedding = self.encode(text::embedding(text, self.dimensions));
            EmbeddingBody { object: "embedding", index, embedding }
        };
        EmbeddingsBody {
            object: "list",
            data: self.texts.iter().enumerate().map(embed).collect(),
            model: self.model.name,
            usage: (report != UsageReport::Missing).then_some(Usage { prompt_tokens: tokens, total_tokens: tokens }),
        }
    }

    fn encode(&self, vector: Vec<f32>) -> Vector {
        match self.encoding {
            Encoding::Float => Vector::Floats(vector),
            Encoding::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Vector::Base64(BASE64_STANDARD.encode(bytes))
            }
        }
    }
}
