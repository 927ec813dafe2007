//! What the nodes that share a database should have in common, in hashes: see `aihub_infrastructure::nodes::settings`.

use aihub_infrastructure::{nodes::settings::Settings, vault::master_key::MasterKeys};
use serde_json::{Value, json};

use super::Config;
use crate::auth::secret::{Secret, show_alike};

/// What is each node's own: where it listens and keeps things, how much it takes on, what it writes down of itself.
const OWN: [&[&str]; 4] = [&["server"], &["database"], &["log"], &["limits", "node"]];
/// What says when and why a price holds: the same price may end one day, and its source be told in other words.
const NOT_THE_PRICE: [&str; 3] = ["valid_from", "valid_until", "source"];

/// What is known of a node beside its configuration.
pub struct Known<'a> {
    pub master_keys: &'a MasterKeys,
    /// What checks the checkpoints that this node signs.
    pub audit_key: String,
    /// Which store the media are kept in, whatever it is called on this node.
    pub media_store: &'a str,
    /// What HS256 tokens are checked with.
    pub token_secret: Option<&'a Secret>,
}

impl Config {
    pub fn compared(&self, known: &Known<'_>) -> serde_json::Result<Settings> {
        let mut settings = Settings::default();
        settings.charge("credits.per_usd", &serde_json::to_value(self.credits.per_usd)?);
        for (id, price) in self.prices()? {
            settings.charge(format!("price {id}"), &price);
        }

        let mut rest = serde_json::to_value(self)?;
        show_alike(&mut rest);
        for path in OWN {
            remove(&mut rest, path);
        }
        for name in self.providers.keys() {
            remove(&mut rest, &["providers", name, "limits"]);
        }
        remove(&mut rest, &["credits", "per_usd"]);
        // Each has an identity that says more than the name does.
        for path in [["media", "store"], ["audit", "signing_key"], ["content", "master_key"]] {
            remove(&mut rest, &path);
        }
        settings.all("", &rest);
        settings.all("media.store", &json!(known.media_store));
        settings.all("audit.signing_key", &json!(known.audit_key));
        settings.all("content.master_key", &json!(known.master_keys.current.id()));

        let video_secrets = self.video_providers.iter().filter_map(|(name, provider)| {
            Some((format!("video_providers.{name}.webhook_secret"), provider.webhook_secret.as_ref()?))
        });
        let secrets = [
            ("auth.hs256_secret", known.token_secret),
            ("webhooks.secret", self.webhooks.secret.as_ref()),
            ("media.url_secret", self.media.url_secret.as_ref()),
        ];
        let secrets = secrets.into_iter().filter_map(|(name, secret)| Some((name.to_owned(), secret?)));
        for (name, secret) in secrets.chain(video_secrets) {
            for key in known.master_keys.all() {
                settings.secret(&name, key.id(), key.print(&name, secret.expose()));
            }
        }
        Ok(settings)
    }

    /// Every price that charges may name, without what does not change what it comes to.
    fn prices(&self) -> serde_json::Result<Vec<(String, Value)>> {
        let mut prices = Vec::new();
        let mut add = |id: &str, price: Value| {
            let mut price = price;
            for field in NOT_THE_PRICE.iter().chain(["id"].iter()) {
                remove(&mut price, &[field]);
            }
            prices.push((id.to_owned(), price));
        };
        for provider in self.providers_to_start() {
            let models = provider.settings.upstream_settings(provider.name).models;
            for model in models.listed.values().chain(&models.unlisted) {
                for price in &model.prices {
                    add(&price.id, serde_json::to_value(price)?);
                }
            }
        }
        for (_, provider, _) in self.video_providers_to_start() {
            for (_, model) in provider.models() {
                for price in &model.prices {
                    add(&price.id, serde_json::to_value(price)?);
                }
            }
        }
        Ok(prices)
    }
}

fn remove(value: &mut Value, path: &[&str]) {
    match path {
        [] => {}
        [last] => {
            if let Some(fields) = value.as_object_mut() {
                fields.remove(*last);
            }
        }
        [first, rest @ ..] => {
            if let Some(inner) = value.get_mut(*first) {
                remove(inner, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aihub_infrastructure::vault::master_key::MasterKey;

    use super::*;
    use crate::config::Sources;

    fn compared(variables: &[(&str, &str)], change: impl FnOnce(&mut Config)) -> Settings {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut config = Config::load(&Sources { variables, ..Sources::default() }).unwrap();
        change(&mut config);
        let key = MasterKey::from_base64("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        let token_secret = config.auth.hs256_secret.clone();
        let known = Known {
            master_keys: &key.into(),
            audit_key: "key".to_owned(),
            media_store: "store",
            token_secret: token_secret.as_ref(),
        };
        config.compared(&known).unwrap()
    }

    #[test]
    fn what_is_a_nodes_own_is_not_compared_and_what_decides_over_others_is_named() {
        let one = compared(&[("AIHUB__SERVER__DRAIN_MS", "1"), ("AIHUB__LIMITS__NODE__WAIT_MS", "1")], |_| {});
        assert!(one.differences(&compared(&[], |_| {})).is_empty());
        let other = compared(&[("AIHUB__GATEWAY__NODE_TIMEOUT_MS", "1000"), ("RUST_LOG", "debug")], |_| {});
        assert_eq!(one.differences(&other), ["gateway.node_timeout_ms"]);
        assert!(one.contradictions(&other).is_empty());
    }

    #[test]
    fn another_rate_or_another_price_under_the_same_id_contradicts_and_the_end_of_its_validity_does_not() {
        let one = compared(&[], |_| {});
        assert_eq!(one.contradictions(&compared(&[("AIHUB__CREDITS__PER_USD", "999")], |_| {})), ["credits.per_usd"]);
        let price = |change: fn(&mut crate::config::prices::PriceSettings)| {
            compared(&[], |config| {
                let model = config.providers.get_mut("openai").unwrap().models.get_mut("gpt-6-luna").unwrap();
                change(&mut model.prices[0]);
            })
        };
        let dearer = price(|price| price.input_usd_per_mtok = serde_json::from_value(json!("0.2")).unwrap());
        assert_eq!(one.contradictions(&dearer), ["price openai/gpt-6-luna@2026-11-22"]);
        let ending = price(|price| price.valid_until = Some("2026-12-01".parse().unwrap()));
        assert!(one.contradictions(&ending).is_empty());
        assert_eq!(one.differences(&ending), ["providers.openai.models.gpt-6-luna.prices"]);
    }

    #[test]
    fn another_secret_is_named_and_nothing_of_it_is_told() {
        let secret = "one secret of the tests, thirty-two bytes";
        let one = compared(&[("JWT_SECRET", secret)], |_| {});
        let other = compared(&[("JWT_SECRET", "another secret of the tests, thirty-two bytes")], |_| {});
        assert_eq!(one.differences(&other), ["auth.hs256_secret"]);
        assert!(!serde_json::to_string(&one).unwrap().contains("secret of the tests"));
    }
}
