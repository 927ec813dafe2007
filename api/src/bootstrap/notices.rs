//! What operators are told from the start on, at `/health/ready` and where it matters in the log.

use aihub_infrastructure::{database::Database, media::KeptMedia, notices::Notices, roles, vault::PostgresVault};

use crate::config::Config;

/// Says what is not configured, made up, or only good for one node.
pub async fn tell(notices: &Notices, config: &Config, database: &Database, vault: &PostgresVault, media: &KeptMedia) {
    notices.set("configuration", configured(config));
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
