//! The body of `POST /v1/videos`: fields, as multipart form data (as the SDKs send them) or as JSON.

use axum::{
    body::Bytes,
    extract::{FromRequest as _, Multipart, Request, multipart::MultipartError},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
};
use serde_json::{Map, Value};

use super::super::{
    super::{films::Size, knobs::video::MAX_VIDEO_SECONDS, models::Use, videos::Order},
    error::OpenAiError,
    find_model,
    request::parse,
};

/// OpenAI's own limit.
const MAX_PROMPT_CHARS: usize = 32_000;
const MAX_KEY_BYTES: usize = 255;
const DEFAULT_MODEL: &str = "sora-2";
const DEFAULT_SECONDS: u32 = 4;
const DEFAULT_SIZE: Size = Size { width: 720, height: 1_280 };

#[derive(Default)]
pub(super) struct Fields {
    prompt: Option<String>,
    pub model: Option<String>,
    seconds: Option<String>,
    size: Option<String>,
}

impl Fields {
    pub async fn read(request: Request) -> Result<Self, OpenAiError> {
        let content_type = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if content_type.starts_with("multipart/form-data") {
            return Self::read_form(request).await;
        }
        if !content_type.starts_with("application/json") {
            let message = "Unsupported content type. Expected multipart/form-data or application/json.";
            return Err(OpenAiError::invalid_request(message.to_owned()).with_code("unsupported_content_type"));
        }
        let mut fields = Self::default();
        let object: Map<String, Value> = parse(Bytes::from_request(request, &()).await)?;
        for (name, value) in object {
            match value {
                Value::Null => {}
                Value::String(value) => fields.set(&name, value)?,
                _ if name == "input_reference" => return Err(no_input_reference()),
                other => {
                    let message = format!("Invalid type for '{name}': expected a string, but got {other} instead.");
                    let error = OpenAiError::invalid_request(message).with_code("invalid_type");
                    return Err(match param(&name) {
                        Some(param) => error.with_param(param),
                        None => unknown(&name),
                    });
                }
            }
        }
        Ok(fields)
    }

    async fn read_form(request: Request) -> Result<Self, OpenAiError> {
        let unreadable = |error: &MultipartError| unreadable(error.status(), &error.body_text());
        let mut form = Multipart::from_request(request, &())
            .await
            .map_err(|rejection| self::unreadable(rejection.status(), &rejection.body_text()))?;
        let mut fields = Self::default();
        while let Some(field) = form.next_field().await.map_err(|error| unreadable(&error))? {
            let name = field.name().unwrap_or_default().to_owned();
            if name.starts_with("input_reference") {
                return Err(no_input_reference());
            }
            let value = field.text().await.map_err(|error| unreadable(&error))?;
            fields.set(&name, value)?;
        }
        Ok(fields)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), OpenAiError> {
        let field = match name {
            "prompt" => &mut self.prompt,
            "model" => &mut self.model,
            "seconds" => &mut self.seconds,
            "size" => &mut self.size,
            "input_reference" => return Err(no_input_reference()),
            _ => return Err(unknown(name)),
        };
        *field = Some(value);
        Ok(())
    }

    pub fn into_order(self) -> Result<Order, OpenAiError> {
        let invalid = |param: &'static str, message: String| {
            Err(OpenAiError::invalid_request(message).with_param(param).with_code("invalid_value"))
        };
        let (model, knobs) = find_model(Some(self.model.as_deref().unwrap_or(DEFAULT_MODEL)))?;
        if model.use_ != Use::Video {
            let message =
                format!("The model '{}' does not make videos. Supported are sora-2 and sora-2-pro.", model.name);
            return invalid("model", message);
        }
        let prompt = self.prompt.ok_or_else(|| OpenAiError::missing_parameter("prompt"))?;
        if prompt.is_empty() || prompt.chars().count() > MAX_PROMPT_CHARS {
            let message = format!("Invalid 'prompt': expected a text of 1 to {MAX_PROMPT_CHARS} characters.");
            return invalid("prompt", message);
        }
        let seconds = match &self.seconds {
            None => DEFAULT_SECONDS,
            Some(text) => match text.parse() {
                Ok(seconds @ 1..=MAX_VIDEO_SECONDS) if !text.starts_with('+') => seconds,
                _ => {
                    let message = format!(
                        "Invalid value: '{text}'. Supported are whole seconds from '1' to '{MAX_VIDEO_SECONDS}'."
                    );
                    return invalid("seconds", message);
                }
            },
        };
        let size = match &self.size {
            None => DEFAULT_SIZE,
            Some(text) => match Size::parse(text) {
                Some(size) => size,
                None => return invalid("size", format!("Invalid value: '{text}'. Supported is {}.", Size::ACCEPTED)),
            },
        };
        Ok(Order { prompt, model, knobs, seconds, size })
    }
}

/// The header `Idempotency-Key`.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<Box<str>>, OpenAiError> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len()));
    let key = key.ok_or_else(|| {
        let message = format!("The header 'Idempotency-Key' has 1 to {MAX_KEY_BYTES} printable ASCII characters.");
        OpenAiError::invalid_request(message).with_code("invalid_idempotency_key")
    })?;
    Ok(Some(key.into()))
}

fn param(name: &str) -> Option<&'static str> {
    ["prompt", "model", "seconds", "size"].into_iter().find(|known| *known == name)
}

fn no_input_reference() -> OpenAiError {
    let message = "The simulator takes no 'input_reference'.".to_owned();
    OpenAiError::invalid_request(message).with_param("input_reference").with_code("unsupported_parameter")
}

fn unknown(name: &str) -> OpenAiError {
    OpenAiError::invalid_request(format!("Unknown parameter: '{name}'.")).with_code("unknown_parameter")
}

fn unreadable(status: StatusCode, why: &str) -> OpenAiError {
    let error = OpenAiError::invalid_request(format!("Request body could not be read: {why}"));
    if status == StatusCode::PAYLOAD_TOO_LARGE { error.with_status(status) } else { error }
}
