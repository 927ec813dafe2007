//! The simulated providers on a port of their own, in the test's process: what they count outlives the service.

use std::net::SocketAddr;

use aihub_infrastructure::simulated_providers::{
    SimulatedProviders, Simulator,
    knobs::rules::Rule,
    served::{Outcome, ServedCall},
};
use serde_json::{Value, json};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::until;

/// Stopped when it is dropped.
pub struct Providers {
    pub address: SocketAddr,
    pub simulator: Simulator,
    _stop: DropGuard,
}

impl Providers {
    /// They answer at once and as fast as the socket takes it, unless a rule says otherwise.
    pub async fn start() -> Self {
        let server = SimulatedProviders::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let (address, simulator, stop) = (server.local_addr().unwrap(), server.simulator(), CancellationToken::new());
        TaskTracker::new().spawn(server.run(stop.clone()));
        let providers = Self { address, simulator, _stop: stop.drop_guard() };
        providers.rule(json!({ "ttft_ms": 0, "tokens_per_second": 0 }));
        providers
    }

    /// Turns knobs, see `simulated_providers::knobs::rules::Rule`. It replaces the rule of the same provider and model.
    pub fn rule(&self, rule: Value) {
        let rule: Rule = serde_json::from_value(rule).unwrap();
        self.simulator.put_rule(rule).unwrap();
    }

    pub fn calls(&self) -> Vec<ServedCall> {
        self.simulator.ledger().calls_since(0)
    }

    /// The calls that were made for one of our requests, oldest first.
    pub fn calls_of(&self, request_id: &str) -> Vec<ServedCall> {
        self.calls().into_iter().filter(|call| call.client_request_id.as_deref() == Some(request_id)).collect()
    }

    /// The latest call, once it has ended like this.
    pub async fn ended(&self, outcome: Outcome) -> ServedCall {
        until(&format!("a call ends as {outcome:?}"), async || {
            self.calls().pop().filter(|call| call.outcome == outcome)
        })
        .await
    }

    /// What the environment tells the service about them.
    pub fn variables(&self) -> Vec<(String, String)> {
        [
            ("OPENAI_BASE_URL", format!("http://{}/v1", self.address)),
            ("OPENAI_API_KEY", "sk-simulated".to_owned()),
            ("ANTHROPIC_BASE_URL", format!("http://{}", self.address)),
            ("ANTHROPIC_API_KEY", "sk-simulated".to_owned()),
            ("AIHUB__VIDEO_PROVIDERS__SORA__BASE_URL", format!("http://{}/v1", self.address)),
            ("AIHUB__VIDEO_PROVIDERS__SORA__API_KEY", "sk-simulated".to_owned()),
            ("AIHUB__VIDEO_PROVIDERS__SORA__IDEMPOTENT", "true".to_owned()),
            // Where one provider is at a loss, the tests want to see it.
            ("AIHUB__VIDEO_PROVIDERS__VEO__ENABLED", "false".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}
