//! Webhooks to clients.

use std::path::Path;

use aihub_infrastructure::{
    standard_webhooks::WebhookMasters,
    webhooks::{dev_master, sender::WebhookOptions},
};
use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::error::Fault;
use crate::auth::secret::Secret;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookKeys {
    /// Every account's own secret is made from it. Left out, development makes one in the data directory.
    pub secret: Option<Secret>,
    /// Those that accounts' secrets may still be made from; they sign beside the current one.
    pub former_secrets: Vec<Secret>,
    /// Receivers may have private addresses, and plain HTTP.
    pub allow_private: bool,
}

impl WebhookKeys {
    pub fn options(&self, data_dir: &Path, is_production: bool) -> anyhow::Result<WebhookOptions> {
        let secret = match &self.secret {
            Some(secret) => secret.expose().to_owned(),
            None if is_production => anyhow::bail!("`webhooks.secret` is not set"),
            None => dev_master(data_dir)?,
        };
        let former = self.former_secrets.iter().map(|secret| secret.expose().as_bytes());
        let masters = WebhookMasters::new(secret.as_bytes(), former).context("webhooks.secret")?;
        Ok(WebhookOptions { allow_private: self.allow_private, masters })
    }

    pub(super) fn faults(&self, faults: &mut Vec<Fault>) {
        for secret in self.secret.iter().chain(&self.former_secrets) {
            if let Err(error) = WebhookMasters::new(secret.expose().as_bytes(), []) {
                faults.push(Fault::new("webhooks.secret", error.to_string()));
            }
        }
    }
}
