//! Which event goes where: a topic for each kind of aggregate, so that a reader of one needs not read the others.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    error::RDKafkaErrorCode,
    metadata::MetadataTopic,
};
use tokio::task::spawn_blocking;

use super::cluster::{Cluster, Context};

/// How long the cluster may take to say what it has, or to make a topic.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The names of our topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    pub requests: String,
    pub accounts: String,
    /// Workflows too.
    pub videos: String,
    /// Everything else: month closes, erasures, refusals, who looked at what.
    pub audit: String,
    /// What the cluster refused, by reference.
    pub dead_letters: String,
}

impl Topics {
    pub fn new(prefix: &str) -> Self {
        let named = |name: &str| format!("{prefix}.{name}");
        Self {
            requests: named("requests"),
            accounts: named("accounts"),
            videos: named("videos"),
            audit: named("audit"),
            dead_letters: named("dead-letters"),
        }
    }

    pub fn of(&self, aggregate_type: &str) -> &str {
        match aggregate_type {
            "request" => &self.requests,
            "account" => &self.accounts,
            // A workflow makes videos: who follows these follows it as well.
            "video" | "workflow" => &self.videos,
            _ => &self.audit,
        }
    }

    /// Those that hold the log.
    pub fn of_events(&self) -> [&str; 4] {
        [&self.requests, &self.accounts, &self.videos, &self.audit]
    }

    /// Makes those that are not there yet.
    ///
    /// They keep what they hold for ever: a database that is fed from them begins at position 1.
    pub async fn ensure(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let admin: Arc<AdminClient<Context>> = Arc::new(cluster.client().create_with_context(cluster.context())?);
        let known = {
            let admin = admin.clone();
            // Of all topics: asking for one by its name may make it, with settings that are not ours.
            spawn_blocking(move || admin.inner().fetch_metadata(None, ADMIN_TIMEOUT)).await?
        };
        let known = known.context("the topics cannot be listed")?;
        let known: Vec<&str> = known.topics().iter().map(MetadataTopic::name).collect();
        let max_message_bytes = cluster.max_message_bytes.to_string();
        let missing: Vec<NewTopic> = self
            .of_events()
            .into_iter()
            .chain([self.dead_letters.as_str()])
            .filter(|name| !known.contains(name))
            .map(|name| {
                NewTopic::new(name, cluster.partitions, TopicReplication::Fixed(cluster.replication))
                    .set("retention.ms", "-1")
                    .set("cleanup.policy", "delete")
                    .set("max.message.bytes", &max_message_bytes)
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let options = AdminOptions::new().operation_timeout(Some(ADMIN_TIMEOUT)).request_timeout(Some(ADMIN_TIMEOUT));
        for made in admin.create_topics(&missing, &options).await.context("the topics cannot be made")? {
            match made {
                Ok(topic) => tracing::info!(topic, partitions = cluster.partitions, "made a Kafka topic"),
                // Another node was first.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, error)) => bail!("topic {topic} cannot be made: {error}"),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_aggregate_has_a_topic_and_one_that_nobody_thought_of_has_that_of_the_rest() {
        let topics = Topics::new("hub");
        let aggregates = ["request", "account", "video", "workflow", "period", "Account"];
        let names = aggregates.map(|aggregate| topics.of(aggregate));
        let expected = ["requests", "accounts", "videos", "videos", "audit", "audit"].map(|name| format!("hub.{name}"));
        assert_eq!(names, expected);
        assert!(names.iter().all(|name| topics.of_events().contains(name)));
    }
}
