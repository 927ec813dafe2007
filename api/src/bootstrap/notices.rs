//! What operators are told from the start on, at `/health/ready` and where it matters in the log.

use aihub_infrastructure::{
    database::Database, media::KeptMedia, notices::Notices, providers::proxy::proxy_to, roles, vault::PostgresVault,
};

use serde_json::Value;

use crate::{
    auth::secret::TRIMMED,
    config::{Config, providers::Reach, videos::VideoReach},
};

/// Says what is not configured, made up, or only good for one node.
pub async fn tell(notices: &Notices, config: &Config, database: &Database, vault: &PostgresVault, media: &KeptMedia) {
    notices.set("configuration", configured(config));
    notices.set("proxies", proxies(config, media));
    notices.set("secrets", trimmed(config, media));
    notices.set("keys", unreadable_keys(vault).await);
    if config.is_production() {
        notices.set("rights", needless_rights(database).await);
    }
    if config.is_production() && media.is_in_a_folder() {
        let line = "media are kept in a folder: another node has them only where it is given the same folder";
        tracing::warn!("{line}; a bucket in media.store is there for all");
        notices.set("media", [line.to_owned()]);
    }
}

fn configured(config: &Config) -> Vec<String> {
    let mut lines: Vec<String> = config
        .providers_to_start()
        .filter(|provider| provider.simulated)
        .map(|provider| format!("provider {} is simulated", provider.name))
        .collect();
    let videos = config.video_providers_to_start().filter(|(_, settings, reach)| settings.is_simulated(*reach));
    lines.extend(videos.map(|(name, ..)| format!("video provider {name} is simulated")));
    lines.push(match config.kafka.cluster() {
        Some(cluster) => format!("Kafka: events are published to {}.*", cluster.topic_prefix),
        None => "Kafka is not configured: nothing is published".to_owned(),
    });
    lines
}

/// Which proxy of the environment is on the way to whom: it may not be meant, or not be there.
fn proxies(config: &Config, media: &KeptMedia) -> Vec<String> {
    let providers = config.providers_to_start().filter_map(|provider| match provider.reach {
        Reach::At { base_url, .. } => Some((format!("provider {}", provider.name), base_url.to_owned())),
        Reach::Simulator => None,
    });
    let videos = config.video_providers_to_start().filter_map(|(name, _, reach)| match reach {
        VideoReach::At(base_url) => Some((format!("provider {name}"), base_url.to_owned())),
        VideoReach::Simulator => None,
    });
    let media = media.endpoint().map(|endpoint| ("the bucket of media".to_owned(), endpoint.to_string()));
    let keys = config.auth.jwks_url.clone().map(|url| ("the place of the tokens' keys".to_owned(), url));
    let on_the_way = providers.chain(videos).chain(media).chain(keys).filter_map(|(whom, url)| {
        let proxy = proxy_to(&url.parse().ok()?)?;
        tracing::info!("{whom} is asked through the proxy {proxy}, which the environment names");
        Some(format!("{whom} is asked through the proxy {proxy}"))
    });
    on_the_way.collect()
}

/// Secrets that came with white space at their end, by their keys.
fn trimmed(config: &Config, media: &KeptMedia) -> Vec<String> {
    fn find(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::String(text) if text == TRIMMED => found.push(path.to_owned()),
            Value::Object(fields) => {
                for (name, value) in fields {
                    find(value, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| find(item, path, found)),
            _ => {}
        }
    }
    let mut found = vec![];
    find(&serde_json::to_value(config).unwrap_or_default(), "", &mut found);
    found.extend_from_slice(media.trimmed());
    if config.database.url.as_ref().is_some_and(|url| url.is_trimmed) {
        found.push("database.url".to_owned());
    }
    for key in &found {
        tracing::warn!("{key} ends in white space, which is left out");
    }
    found.into_iter().map(|key| format!("{key} ended in white space, which was left out")).collect()
}

/// Says so if another master key was configured before, as after development: all else works, and somebody may want it so.
async fn unreadable_keys(vault: &PostgresVault) -> Option<String> {
    let keys = match vault.unreadable_keys().await {
        Ok(0) => return None,
        Ok(keys) => keys,
        Err(error) => {
            tracing::warn!(error.message = %error, "whether a configured master key opens each subject's key is not known");
            return None;
        }
    };
    tracing::warn!(
        keys,
        "subjects' keys are wrapped with a master key that is not configured: what they sealed cannot be opened, and \
         accounts whose key of this month is among them get INTERNAL; configure it in content.former_master_keys"
    );
    Some(format!("keys of subjects, at the start, that no configured master key opens: {keys}"))
}

/// Says so where the service has more rights in the database than it needs: whoever takes it over has them too.
async fn needless_rights(database: &Database) -> Option<String> {
    let found = roles::needless_rights(database).await.unwrap_or_else(|error| {
        tracing::warn!(error.message = %error, "what the login of the database may do is not known");
        None
    })?;
    tracing::warn!("{found}, which the service does not need: give it a login with the role of the service");
    Some(format!("{found}, which the service does not need"))
}
