//! How the outside is reached.
//!
//! | module | what |
//! |---|---|
//! | [`simulated_providers`] | a real HTTP server that speaks OpenAI's and Anthropic's formats, for tests, demos and benchmarks |

pub mod simulated_providers;
