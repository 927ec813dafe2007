//! The adapters behind [`application::ports::provider::Provider`]: what goes over the wire to the AI providers.
//!
//! An answer's way: [`http`] sends and waits for a status, `errors` recognises a refusal, `sse` cuts the bytes
//! into events, a decoder (`openai::chunk`, `anthropic::event`) says what each event means, and `answer` drives
//! all of that as one stream of deltas.
//!
//! | module | what it speaks |
//! |---|---|
//! | [`openai`] | chat completions and embeddings of OpenAI and of every server that speaks its API |
//! | [`anthropic`] | messages of Anthropic and of servers that speak its API |
//!
//! [`application::ports::provider::Provider`]: aihub_application::ports::provider::Provider

pub mod anthropic;
pub mod http;
pub mod openai;

pub(crate) mod errors;

mod answer;
mod retry_after;
mod sse;

/// No call uses more tokens than this of any kind. A count above it is nonsense, and sums must not overflow for it.
const MAX_TOKEN_COUNT: u64 = 1 << 40;

#[cfg(test)]
pub(crate) mod tests;
