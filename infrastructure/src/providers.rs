//! The adapters behind [`application::ports::provider::Provider`]: what goes over the wire to the AI providers.
//!
//! An answer's way: [`http`] sends and waits for a status, `errors` recognises a refusal, `form` cuts the bytes into events and
//! values whatever their label says, `json` looks into them, a decoder (`openai::chunk`, `anthropic::event`) knows where in its
//! dialect what stands, and `meaning` puts that together, the same for all dialects: texts (`text`), calls (`calls`), counts
//! (`usage`), the end (`finish`), and whether that is an answer. `answer` drives all of that as one stream of deltas.
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
pub mod proxy;

pub(crate) mod errors;
pub(crate) mod json;

mod answer;
mod calls;
mod finish;
mod form;
mod meaning;
mod outgoing;
mod retry_after;
mod text;
mod usage;

#[cfg(test)]
pub(crate) mod tests;
