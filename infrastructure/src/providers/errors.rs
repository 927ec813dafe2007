//! A provider's refusals, recognised as what they are.
//!
//! Status and words contradict each other at times: a spent budget comes as 429, 400 or 402, an unknown model as 404
//! or 400, and inside a stream the status is always 200. So the provider's own names for the error come first, then
//! the status. Sources: the SDKs' and the providers' error tables, and recorded answers (`fixtures/`).

use std::{borrow::Cow, error::Error, fmt::Write as _};

use aihub_application::ports::provider::{FailureKind, Flaw, ProviderError};
use http::{HeaderMap, StatusCode};

use super::{
    json::{Fields, Json, repaired},
    retry_after::retry_after,
};

pub(super) const MAX_MESSAGE_CHARS: usize = 500;

const QUOTA_NAMES: &[&str] = &[
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
    "billing_not_active",
    "billing_error",
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
];
/// Anthropic says both with a plain 400 `invalid_request_error`.
const QUOTA_PHRASES: &[&str] = &["credit balance is too low", "reached your specified api usage limits"];
const CONTEXT_NAMES: &[&str] = &["context_length_exceeded", "exceed_context_size_error"];
/// Anthropic (two), vLLM, Ollama, and llama.cpp for embeddings, which it refuses with a 500.
const CONTEXT_PHRASES: &[&str] = &[
    "prompt is too long",
    "exceed context limit",
    "maximum context length",
    "exceeds the context length",
    "is too large to process",
];
const MODEL_NAMES: &[&str] = &["model_not_found", "not_found_error", "NotFoundError"];
const OVERLOAD_NAMES: &[&str] =
    &["overloaded_error", "server_is_overloaded", "service_unavailable_error", "unavailable_error"];
/// Google, with a 400.
const KEY_NAMES: &[&str] = &["API_KEY_INVALID"];

/// An answer with another status than a success.
pub(super) fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ProviderError {
    let said = Said::from_body(body);
    let kind = said.named_kind().unwrap_or_else(|| kind_of_status(status.as_u16()));
    let mut error = said.into_error(kind, status.as_u16());
    if kind != FailureKind::QuotaExceeded {
        error.retry_after = retry_after(headers, &error.message);
    }
    error
}

/// An error inside an HTTP 200, in any of its forms: `{"error":{…}}`, `{"type":"error","code","message"}`,
/// `{"object":"error",…}`, `{"error":"…"}`.
pub(crate) fn in_answer(data: &[u8]) -> ProviderError {
    let said = Said::from_body(data);
    let kind = said.named_kind().unwrap_or_else(|| match said.number {
        Some(status @ 400..=599) => kind_of_status(status),
        _ => said.kind_of_type(),
    });
    let mut error = said.into_error(kind, 200);
    if kind != FailureKind::QuotaExceeded {
        error.retry_after = retry_after(&HeaderMap::new(), &error.message);
    }
    error
}

/// A request that cannot be said in the provider's language.
pub(crate) fn invalid_request(message: &str) -> ProviderError {
    failure(FailureKind::InvalidRequest, None, message)
}

pub(crate) fn malformed(what: &impl ToString) -> ProviderError {
    failure(FailureKind::Malformed, Some(200), &what.to_string())
}

/// An answer that breaks its own format, and where.
pub(crate) fn malformed_at(flaw: Flaw) -> ProviderError {
    let message = format!("the provider's answer is malformed: {flaw}");
    of_stream(FailureKind::Malformed, &message, flaw)
}

pub(super) fn of_stream(kind: FailureKind, message: &str, flaw: Flaw) -> ProviderError {
    ProviderError { flaw: Some(flaw), ..failure(kind, Some(200), message) }
}

/// An answer that is larger than we read. The limit is ours and not the provider's fault.
pub(super) fn too_large(what: &str, limit_bytes: usize) -> ProviderError {
    let flaw = Flaw { class: "over_our_limit".into(), field: None, offset: Some(limit_bytes as u64) };
    let message = format!("the provider's answer has {what} of more than {limit_bytes} bytes, our limit");
    of_stream(FailureKind::Malformed, &message, flaw)
}

/// An answer that stopped before it said that it was whole.
pub(super) fn cut() -> ProviderError {
    failure(FailureKind::Connection, Some(200), "the provider's stream ended before the answer did")
}

/// An answer without anything in it.
pub(super) fn empty() -> ProviderError {
    failure(FailureKind::Empty, Some(200), "the provider's answer says nothing")
}

/// An answer without what was asked for: with its own words, where it has some.
pub(super) fn in_answer_or_empty(data: &[u8]) -> ProviderError {
    if Said::from_body(data).message.is_empty() { empty() } else { in_answer(data) }
}

/// An answer that says that it ended because something went wrong.
pub(super) fn reason_of_error(kind: FailureKind, word: &str) -> ProviderError {
    let message = format!("the provider ended its answer with the reason {word:?}");
    let flaw = Flaw { class: "reason_of_error".into(), field: Some("finish_reason".into()), offset: None };
    of_stream(kind, &message, flaw)
}

/// Whether an answer is one that says that something went wrong, whatever its status was.
pub(crate) fn is_error(answer: &Fields<'_>) -> bool {
    let is = |field: &str| answer.text(field).is_some_and(|text| text == "error");
    is("object") || is("type") || answer.get("error").is_some_and(says_something)
}

/// Not `""`, `{}` or `false`, with which servers say that there is no error.
pub(crate) fn says_something(error: Json<'_>) -> bool {
    error.text().is_some_and(|text| !text.trim().is_empty())
        || (error.is_object() && !error.fields().is_empty())
        || error.is_true()
        || error.number().is_some_and(|number| number != 0.0)
        || (error.is_list() && !error.items().is_empty())
}

/// An error in one of an answer's parts: `error`, or where that has no words, all of the part.
pub(super) fn in_choice(choice: Json<'_>, error: Json<'_>) -> ProviderError {
    in_answer(if error.is_object() { error } else { choice }.raw().as_bytes())
}

pub(super) fn timed_out(status: Option<u16>, message: &str) -> ProviderError {
    failure(FailureKind::Timeout, status, message)
}

/// A call that never got a status, or an answer (`status`) whose connection broke. With the chain of causes, of which
/// only the last says what happened ("connection refused").
pub(super) fn transport(error: reqwest::Error, status: Option<u16>) -> ProviderError {
    let kind = if error.is_timeout() && !error.is_connect() { FailureKind::Timeout } else { FailureKind::Connection };
    let error = error.without_url();
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(message, ": {error}");
        cause = error.source();
    }
    failure(kind, status, &message)
}

fn failure(kind: FailureKind, status: Option<u16>, message: &str) -> ProviderError {
    let message = message.chars().take(MAX_MESSAGE_CHARS).collect();
    ProviderError { kind, status, message, retry_after: None, flaw: None }
}

/// What an error's body says about it.
#[derive(Default)]
struct Said {
    /// `code`, `type`, Anthropic's `details.error_code` and Google's `details[].reason`, the ones that are there.
    names: Vec<String>,
    /// A `code` that is an HTTP status (llama.cpp, vLLM).
    number: Option<u16>,
    message: String,
}

impl Said {
    fn from_body(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        let put_right;
        let json = if let Ok(json) = Json::parse(text) {
            Some(json)
        } else {
            put_right = repaired(text);
            Json::parse(&put_right).ok()
        };
        match json {
            Some(json) if json.is_object() => Self::from_json(json),
            // Google has a list of one.
            Some(json) if json.is_list() && json.items().first().is_some_and(|first| first.is_object()) => {
                json.items().into_iter().next().map_or_else(Self::default, Self::from_json)
            }
            Some(json) if json.text().is_some() => {
                Self { message: json.text().unwrap_or_default().into_owned(), ..Self::default() }
            }
            _ => Self { message: text.to_owned(), ..Self::default() },
        }
    }

    fn from_json<'a>(json: Json<'a>) -> Self {
        let whole = json.fields();
        let within = whole.get("error").filter(|error| error.is_object()).map(Json::fields);
        let error = within.as_ref().unwrap_or(&whole);
        let status = whole.get("base_resp").map(Json::fields);
        let details = error.get("details");
        let mut names: Vec<String> =
            ["code", "type", "status"].iter().filter_map(|name| error.text(name)).map(Cow::into_owned).collect();
        names.extend(details.and_then(|details| details.field("error_code")?.text()).map(Cow::into_owned));
        let reasons = details.map(Json::items).unwrap_or_default();
        names.extend(reasons.into_iter().filter_map(|detail| detail.field("reason")?.text()).map(Cow::into_owned));
        let said = |fields: &Fields<'a>, name| fields.text(name).filter(|text| !text.trim().is_empty());
        let message = ["message", "msg", "error_msg", "details"].iter().find_map(|name| said(error, name));
        let message = message.or_else(|| ["error", "detail", "message"].iter().find_map(|name| said(&whole, name)));
        let message = message.or_else(|| said(status.as_ref()?, "status_msg"));
        // FastAPI has a list of what was wrong where.
        let list = || whole.get("detail").filter(|detail| !detail.is_null()).map(|detail| detail.raw().into());
        let message = message.or_else(list);
        Self {
            names,
            number: error
                .get("code")
                .or_else(|| error.get("status"))
                .and_then(Json::count)
                .and_then(|code| u16::try_from(code).ok()),
            message: message.map(Cow::into_owned).unwrap_or_default(),
        }
    }

    fn is_named(&self, names: &[&str]) -> bool {
        self.names.iter().any(|name| names.contains(&name.as_str()))
    }

    /// The kinds that a name or a phrase gives away whatever the status.
    fn named_kind(&self) -> Option<FailureKind> {
        let message = self.message.to_lowercase();
        let says = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
        if self.is_named(QUOTA_NAMES) || says(QUOTA_PHRASES) {
            Some(FailureKind::QuotaExceeded)
        } else if self.is_named(CONTEXT_NAMES) || says(CONTEXT_PHRASES) {
            Some(FailureKind::ContextTooLong)
        } else if self.is_named(MODEL_NAMES) {
            Some(FailureKind::ModelUnavailable)
        } else if self.is_named(OVERLOAD_NAMES) {
            Some(FailureKind::Overloaded)
        } else if self.is_named(KEY_NAMES) {
            Some(FailureKind::Unauthorized)
        } else {
            None
        }
    }

    /// What is left to go by where the status is 200.
    fn kind_of_type(&self) -> FailureKind {
        let kinds: [(&[&str], _); 4] = [
            (&["rate_limit_error", "rate_limit_exceeded", "slow_down"], FailureKind::RateLimited),
            (&["authentication_error", "permission_error", "invalid_api_key"], FailureKind::Unauthorized),
            (&["timeout_error"], FailureKind::Timeout),
            (&["invalid_request_error", "request_too_large", "BadRequestError"], FailureKind::InvalidRequest),
        ];
        kinds.into_iter().find(|(names, _)| self.is_named(names)).map_or(FailureKind::ServerError, |(_, kind)| kind)
    }

    fn into_error(self, kind: FailureKind, status: u16) -> ProviderError {
        if kind == FailureKind::Unauthorized {
            // The provider's words quote our key, and are no business of the client's.
            return failure(kind, Some(status), "the provider refused our credentials");
        }
        if self.message.is_empty() {
            return failure(
                kind,
                Some(status),
                &format!("the provider answered HTTP {status} with an error and no message"),
            );
        }
        failure(kind, Some(status), &self.message)
    }
}

fn kind_of_status(status: u16) -> FailureKind {
    match status {
        401 | 403 => FailureKind::Unauthorized,
        402 => FailureKind::QuotaExceeded,
        // Nobody follows a redirect, so there is nothing there either.
        300..=399 | 404 | 410 => FailureKind::ModelUnavailable,
        408 | 504 => FailureKind::Timeout,
        // A conflict is the provider's own, and every official SDK retries it.
        409 => FailureKind::ServerError,
        429 => FailureKind::RateLimited,
        503 | 529 => FailureKind::Overloaded,
        400..=499 => FailureKind::InvalidRequest,
        _ => FailureKind::ServerError,
    }
}

#[cfg(test)]
mod tests;
