//! What the hub is told: one optional `aihub.toml`, environment variables, flags.
//!
//! | module | holds |
//! |---|---|
//! | `defaults.toml` | every default that is not a provider's, and the built-in providers |
//! | [`layers`] | which source has the last word on a key |
//! | [`error`] | refusals, each naming the key and where it was said |
//! | [`amount`] | credits and prices, read exactly |
//! | [`sections`] | the sections that say little: server, database, credits, gateway, … |
//! | [`providers`], [`models`], [`prices`] | the providers, what they offer and what they ask for it |
//! | [`videos`] | video jobs and the providers of video |
//! | [`workflows`] | what videos can be made through, and in which steps |
//! | [`media`] | where videos are kept, and how clients get at them |
//! | [`memory`] | how the memory that there is, is divided |
//! | [`webhooks`] | what clients are told on their own servers |
//! | [`checks`] | what has to fit together across keys |
//! | [`compared`] | what the nodes of one database should have in common |
//! | [`production`] | what a production node must not lack |
//!
//! The types are those of the file: what a key means to the application is said by the functions that convert it.

pub mod amount;
pub mod checks;
pub mod compared;
pub mod content;
pub mod error;
pub mod layers;
pub mod media;
pub mod memory;
pub mod models;
pub mod prices;
pub mod production;
pub mod providers;
pub mod sections;
#[cfg(test)]
mod tests;
pub mod videos;
pub mod webhooks;
pub mod workflows;

use std::{collections::BTreeMap, time::Duration};

use aihub_application::gateway::GatewaySettings;
use aihub_domain::money::Microcredits;
use serde::{Deserialize, Serialize};

use self::{
    content::ContentSettings,
    error::ConfigError,
    media::MediaSettings,
    providers::ProviderSettings,
    sections::{
        AuditSettings, CreditSettings, DatabaseSettings, Disconnect, GatewayKeys, KafkaSettings, LimitSettings,
        LogSettings, RoutingSettings, ServerSettings,
    },
    videos::{VideoKeys, VideoProviderSettings},
    webhooks::WebhookKeys,
    workflows::WorkflowKeys,
};
use crate::auth::{AuthSettings, roles::RoleSettings};

pub use self::layers::{Flag, Sources};

/// What an unknown account is granted in development, so that the first request works.
const DEVELOPMENT_WELCOME: Microcredits = Microcredits::from_credits(10_000);

/// Load balancers look every few seconds whether a node is ready.
const PRODUCTION_NOTICE_MS: u64 = 5_000;

/// The longest duration there is in practice: larger figures mean "never", and dates must not overflow for them.
const LONGEST: Duration = Duration::from_hours(24 * 366 * 10);

/// What a `*_ms` setting says, at most [`LONGEST`].
pub fn duration_ms(ms: u64) -> Duration {
    Duration::from_millis(ms).min(LONGEST)
}

/// Everything that the hub is told. Serialises with its secrets masked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Also `AIHUB_ENV`.
    pub environment: Environment,
    pub server: ServerSettings,
    pub database: DatabaseSettings,
    pub auth: AuthSettings,
    /// Roles beside the built-in ones, or in their place.
    #[serde(default)]
    pub roles: RoleSettings,
    pub content: ContentSettings,
    pub audit: AuditSettings,
    pub credits: CreditSettings,
    pub limits: LimitSettings,
    pub gateway: GatewayKeys,
    pub routing: RoutingSettings,
    pub kafka: KafkaSettings,
    pub media: MediaSettings,
    pub log: LogSettings,
    /// By the name under which clients ask for them.
    pub providers: BTreeMap<String, ProviderSettings>,
    pub videos: VideoKeys,
    pub webhooks: WebhookKeys,
    /// By the name under which clients ask for them.
    pub video_providers: BTreeMap<String, VideoProviderSettings>,
    pub workflows: WorkflowKeys,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// What is missing is made up: a private database, secrets in the data directory, simulated providers.
    Development,
    /// What is missing is refused, see [`production::missing`].
    Production,
}

impl Config {
    /// Puts the sources together and checks what has to fit together. Says what is wrong with each key by its name.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let config = layers::merge(sources)?;
        let faults = checks::faults(&config);
        if faults.is_empty() { Ok(config) } else { Err(ConfigError::Faults(faults)) }
    }

    /// How long a node that is to end still takes whoever comes.
    pub fn drain_notice(&self) -> Duration {
        let default = if self.is_production() { PRODUCTION_NOTICE_MS } else { 0 };
        duration_ms(self.server.drain_notice_ms.unwrap_or(default))
    }

    pub fn is_production(&self) -> bool {
        self.environment == Environment::Production
    }

    pub fn gateway_settings(&self) -> GatewaySettings {
        GatewaySettings {
            node: self.server.node_name(),
            rate: self.credits.per_usd.0,
            request_timeout: duration_ms(self.gateway.request_timeout_ms),
            output_hold_tokens: self.gateway.output_hold_tokens,
            hidden_output_hold_tokens: self.gateway.hidden_output_hold_tokens,
            charge_abandoned: self.gateway.charge_abandoned,
            hedge_after: self.gateway.hedge_after_ms.map(duration_ms),
            drain_after_leaving: match self.gateway.on_disconnect {
                Disconnect::Drain => duration_ms(self.gateway.drain_after_leaving_ms),
                Disconnect::Abort => Duration::ZERO,
            },
            max_answer_bytes: self.gateway.max_answer_bytes,
            resumable_for: duration_ms(self.gateway.resumable_for_ms),
            top_up: self.credits.top_up.as_deref().map(Into::into),
            welcome_credits: self.welcome_credits(),
        }
    }

    /// What an unknown account is granted; `None` refuses it.
    pub fn welcome_credits(&self) -> Option<Microcredits> {
        let default = if self.is_production() { Microcredits::ZERO } else { DEVELOPMENT_WELCOME };
        let welcome = self.credits.welcome.map_or(default, |welcome| welcome.0);
        (welcome > Microcredits::ZERO).then_some(welcome)
    }
}
