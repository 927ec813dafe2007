//! `[media]`: where videos are kept, and how clients get at them.

use std::{collections::BTreeMap, path::Path};

use aihub_infrastructure::media::{
    Delivery, MediaOptions,
    location::Location,
    signature::{UrlSecrets, dev_url_secret},
};
use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::{checks::url_fault, duration_ms, error::Fault};
use crate::auth::secret::Secret;

/// Buckets sign nothing for longer, and a URL is a secret that is passed on.
const LONGEST_URL_TTL_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaSettings {
    /// `file:///folder`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`. Left out: `<data_dir>/media`.
    pub store: Option<String>,
    /// What a bucket is reached with, as `object_store` names it (`endpoint`, `access_key_id`, `allow_http`, …), beside its customary
    /// variables in the environment (`AWS_ACCESS_KEY_ID`, …).
    #[serde(default)]
    pub options: BTreeMap<String, Secret>,
    /// Of one file.
    pub max_bytes: u64,
    pub delivery: DeliveryKind,
    /// Under which clients reach this service, with `signed`. Left out: `http://` and where it listens.
    pub public_url: Option<String>,
    /// With `cdn`: what stands before a file's key. An edge in front of `/media` on this service has that in it.
    pub cdn_base_url: Option<String>,
    /// Signs URLs, except with `presigned`. Left out, development makes one in the data directory.
    pub url_secret: Option<Secret>,
    /// Those that URLs given out may still be signed with.
    pub former_url_secrets: Vec<Secret>,
    /// For how long a URL is good, at least.
    pub url_ttl_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryKind {
    /// `GET /media/…` on this service, signed.
    Signed,
    /// The bucket's own.
    Presigned,
    /// At the edge of a CDN, signed as with `signed`.
    Cdn,
}

impl MediaSettings {
    pub fn options(&self, data_dir: &Path, is_production: bool) -> anyhow::Result<MediaOptions> {
        let location = match &self.store {
            Some(store) => Location::parse(store).context("media.store")?,
            None => Location::Folder(data_dir.join("media")),
        };
        let secret = match &self.url_secret {
            Some(secret) => secret.expose().to_owned(),
            None if is_production && self.signs() => anyhow::bail!("`media.url_secret` is not set"),
            None => dev_url_secret(data_dir)?,
        };
        let former = self.former_url_secrets.iter().map(Secret::expose);
        Ok(MediaOptions {
            location,
            location_options: self
                .options
                .iter()
                .map(|(name, value)| (name.to_lowercase(), value.expose().to_owned()))
                .collect(),
            spool_folder: data_dir.join("incoming-media"),
            max_bytes: self.max_bytes,
            delivery: match self.delivery {
                DeliveryKind::Signed => Delivery::Signed { public_url: self.public_url.clone() },
                DeliveryKind::Presigned => Delivery::Presigned,
                DeliveryKind::Cdn => Delivery::Cdn { base_url: self.cdn_base_url.clone().unwrap_or_default() },
            },
            url_ttl: duration_ms(self.url_ttl_ms),
            url_secrets: UrlSecrets::new(&secret, former).context("media.url_secret")?,
        })
    }

    /// Whether URLs are signed here.
    pub fn signs(&self) -> bool {
        self.delivery != DeliveryKind::Presigned
    }

    pub(super) fn faults(&self, faults: &mut Vec<Fault>) {
        let mut fault = |key: &str, reason: &str| faults.push(Fault::new(format!("media.{key}"), reason));
        let location = self.store.as_deref().map(Location::parse).transpose();
        match &location {
            Err(error) => fault("store", &error.to_string()),
            Ok(location) => {
                let has =
                    |name: &str| location.as_ref().is_some_and(|location| location.has_option(&name.to_lowercase()));
                for name in self.options.keys().filter(|name| !has(name)) {
                    fault(&format!("options.{name}"), "is no option of this kind of store");
                }
                if !self.signs() && !matches!(location, Some(Location::Bucket(..))) {
                    fault("delivery", "can be `presigned` only where `media.store` is a bucket");
                }
            }
        }
        for (key, url) in [("public_url", &self.public_url), ("cdn_base_url", &self.cdn_base_url)] {
            if let Some(reason) = url.as_deref().and_then(url_fault) {
                fault(key, reason);
            }
        }
        if self.delivery == DeliveryKind::Cdn && self.cdn_base_url.is_none() {
            fault("cdn_base_url", "is missing: `cdn` wants it");
        }
        let own = self.url_secret.iter().map(|secret| ("url_secret", secret));
        for (key, secret) in own.chain(self.former_url_secrets.iter().map(|secret| ("former_url_secrets", secret))) {
            if let Err(error) = UrlSecrets::new(secret.expose(), []) {
                fault(key, &error.to_string());
            }
        }
        if self.max_bytes == 0 {
            fault("max_bytes", "must be at least 1");
        }
        if !(1_000..=LONGEST_URL_TTL_MS).contains(&self.url_ttl_ms) {
            fault("url_ttl_ms", "must be 1000 to 604800000, a week");
        }
    }
}
