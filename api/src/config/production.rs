//! What a production node must not lack. All of it is told at once, so that one attempt is enough to know.

use std::fmt;

use super::{Config, error::ConfigError, media::DeliveryKind, providers::Reach};

/// Something that development makes up and production refuses to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub what: String,
    /// How to get over it.
    pub remedy: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// Everything that `config` lacks for production, whatever its environment is.
pub fn missing(config: &Config) -> Vec<Missing> {
    let mut missing = Vec::new();
    let mut lacks = |what: String, remedy: String| missing.push(Missing { what, remedy });
    if config.auth.hs256_secret.is_none() && config.auth.jwks_url.is_none() {
        let remedy = "set JWT_SECRET (32 bytes or more, `openssl rand -base64 32`) or JWT_JWKS_URL";
        lacks("no way to check tokens but a development secret".to_owned(), remedy.to_owned());
    }
    if config.auth.audience.is_none() {
        let remedy = "set AIHUB__AUTH__AUDIENCE to what the tokens for this service have as `aud`";
        lacks("tokens that were issued for other services would be accepted".to_owned(), remedy.to_owned());
    }
    if config.database.url.is_none() {
        lacks("no database but the embedded one".to_owned(), "set DATABASE_URL".to_owned());
    }
    if config.content.master_key.is_none() {
        let remedy = "set AIHUB__CONTENT__MASTER_KEY (`openssl rand -base64 32`) and keep it: what was sealed with a \
                      lost key is lost";
        lacks("no key for content but a development one".to_owned(), remedy.to_owned());
    }
    if config.audit.signing_key.is_none() {
        let remedy = "set AIHUB__AUDIT__SIGNING_KEY (`openssl rand -base64 32`) and keep it from whoever can write to \
                      the database";
        lacks("no key for the log's checkpoints but a development one".to_owned(), remedy.to_owned());
    }
    if config.media.url_secret.is_none() && config.media.signs() {
        let remedy =
            "set AIHUB__MEDIA__URL_SECRET (32 bytes or more, `openssl rand -base64 32`), the same for all nodes";
        lacks("no secret to sign the URLs of media with but a development one".to_owned(), remedy.to_owned());
    }
    if config.media.public_url.is_none() && config.media.delivery == DeliveryKind::Signed {
        let remedy = "set AIHUB__MEDIA__PUBLIC_URL, for example to https://aihub.example";
        lacks("no URL under which clients reach this service for their videos".to_owned(), remedy.to_owned());
    }
    if config.webhooks.secret.is_none() {
        let remedy = "set AIHUB__WEBHOOKS__SECRET (`openssl rand -base64 32`)";
        lacks("no secret for webhooks but a development one".to_owned(), remedy.to_owned());
    }
    for provider in config.providers_to_start() {
        let (name, kind) = (provider.name, provider.settings.kind);
        let off = format!("`providers.{name}.enabled = false` (AIHUB__PROVIDERS__{}__ENABLED)", name.to_uppercase());
        if provider.settings.simulated {
            lacks(format!("providers.{name} is simulated"), format!("remove `simulated`, or set {off}"));
        } else if provider.reach == Reach::Simulator {
            lacks(format!("providers.{name} has no key"), format!("set {}, or {off}", key_sources(name, kind)));
        } else if provider.settings.api_key.is_none() {
            let remedy = format!("set `providers.{name}.api_key`; an empty one says that its server needs none");
            lacks(format!("providers.{name} has no key"), remedy);
        }
    }
    let simulated = config.video_providers.iter().filter(|(_, provider)| provider.enabled && provider.simulated);
    for (name, _) in simulated {
        let off = format!("`video_providers.{name}.enabled = false`");
        lacks(format!("video_providers.{name} is simulated"), format!("remove `simulated`, or set {off}"));
    }
    if config.providers_to_start().next().is_none() {
        lacks("no provider is enabled".to_owned(), "configure one under `providers`".to_owned());
    }
    missing
}

/// The built-in providers have customary names for their keys.
fn key_sources(name: &str, kind: super::providers::ProviderKind) -> String {
    match name {
        "openai" | "claude" => kind.key_variable().to_owned(),
        _ => format!("`providers.{name}.api_key`"),
    }
}

/// Refuses a production configuration that lacks something; development lacks nothing.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    let missing = if config.is_production() { missing(config) } else { vec![] };
    if missing.is_empty() { Ok(()) } else { Err(ConfigError::Production(missing)) }
}
