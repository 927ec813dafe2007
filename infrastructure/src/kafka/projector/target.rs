//! The database that the views are in: their checkpoints, the partitions' offsets, and one transaction for all of it.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc};

use anyhow::anyhow;
use futures::FutureExt;
use sqlx::{Connection, PgConnection};
use thiserror::Error;

use crate::{
    database::{Database, KEPT_PLANS, is_transient},
    event_store::{
        chain::{self, ChainError, ChainHead},
        decode::entries,
        reader::{self, RecordedEvent},
        subscription::{EventHandler, TryAgain, checkpoint},
        upcast::Upcasters,
    },
    leases::Lease,
};

/// Whoever has this lease in a database feeds its views.
const LEASE: &str = "project";

/// From where a partition is to be read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offset {
    pub topic: String,
    pub partition: i32,
    pub next: i64,
}

#[derive(Debug, Error)]
pub enum TargetError {
    /// Another session may succeed.
    #[error("{0:#}")]
    Lost(anyhow::Error),
    /// Whatever is done here, it will not go on.
    #[error("the views stopped at position {position}: {error:#}")]
    Stopped { position: u64, error: anyhow::Error },
}

impl From<sqlx::Error> for TargetError {
    fn from(error: sqlx::Error) -> Self {
        if is_transient(&error) { Self::Lost(error.into()) } else { Self::Stopped { position: 0, error: error.into() } }
    }
}

struct View {
    handler: Arc<dyn EventHandler>,
    applied: ChainHead,
}

pub struct Target {
    connection: PgConnection,
    lease: Lease,
    views: Vec<View>,
    upcasters: Arc<Upcasters>,
    group: String,
}

impl Target {
    pub async fn connect(
        database: &Database,
        handlers: &[Arc<dyn EventHandler>],
        upcasters: Arc<Upcasters>,
        group: &str,
    ) -> Result<Self, TargetError> {
        // As for the subscriptions of a log: what a crash takes back is applied again.
        let settings = [
            ("idle_in_transaction_session_timeout", "5s"),
            ("statement_timeout", "60s"),
            ("synchronous_commit", "off"),
        ];
        let settings = settings.into_iter().chain(KEPT_PLANS).map(|(name, value)| (name, value.to_owned()));
        let connection = database.dedicated("aihub-project", &settings.collect::<Vec<_>>()).await?;
        let views = handlers.iter().map(|handler| View { handler: handler.clone(), applied: ChainHead::GENESIS });
        Ok(Self { connection, lease: Lease::new(LEASE), views: views.collect(), upcasters, group: group.to_owned() })
    }

    /// Takes the turn, unless another process has it.
    pub async fn begin(&mut self) -> Result<bool, TargetError> {
        if !self.lease.take(&mut self.connection).await? {
            return Ok(false);
        }
        if reader::head(&mut self.connection).await?.position > 0 {
            let error = anyhow!("this database has a log of its own, and its views are fed from that");
            return Err(TargetError::Stopped { position: 0, error });
        }
        for view in &mut self.views {
            view.applied = checkpoint::load(&mut self.connection, view.handler.name()).await?;
        }
        Ok(true)
    }

    /// Keeps the turn. Where it is another one's by now, nothing was applied since that he does not know of: each move of a
    /// checkpoint says from where.
    pub async fn look(&mut self) -> Result<(), TargetError> {
        if self.lease.keep(&mut self.connection).await? {
            return Ok(());
        }
        Err(TargetError::Lost(anyhow!("another process feeds this database by now")))
    }

    /// Says where the views' state is read that they cannot go on without this position.
    pub async fn miss(&mut self, position: u64) -> Result<(), TargetError> {
        let error = "Kafka does not have this position: its topics may have been emptied, or the event was refused (see \
                     the dead letters). `aihub relay --from POSITION` on the hub publishes it again";
        tracing::warn!(position, error.message = error, "waits");
        self.tell(position, error).await
    }

    async fn tell(&mut self, position: u64, error: &str) -> Result<(), TargetError> {
        for view in &self.views {
            if view.applied.position < position {
                checkpoint::fail(&mut self.connection, view.handler.name(), position, error).await?;
            }
        }
        Ok(())
    }

    /// Up to where all views have come.
    pub fn head(&self) -> ChainHead {
        self.views.iter().map(|view| view.applied).min_by_key(|head| head.position).unwrap_or(ChainHead::GENESIS)
    }

    /// Where the group had come in that cluster. Nothing if a view was set back since: then what stands before the
    /// offsets is wanted again.
    pub async fn offsets(&mut self, cluster_id: &str) -> Result<HashMap<(String, i32), i64>, TargetError> {
        let rows = sqlx::query!(
            "SELECT topic, partition, next_offset FROM kafka_offsets
             WHERE consumer_group = $1 AND cluster_id = $2 AND position <= $3",
            self.group,
            cluster_id,
            self.head().position.cast_signed(),
        );
        let rows = rows.fetch_all(&mut self.connection).await?;
        Ok(rows.into_iter().map(|row| ((row.topic, row.partition), row.next_offset)).collect())
    }

    /// Applies events that follow the head without a gap, and keeps the offsets that are true then, both or neither.
    /// Every view gets what it does not have yet, so views that stand apart draw level.
    pub async fn apply(
        &mut self,
        events: &[RecordedEvent],
        cluster_id: &str,
        offsets: &[Offset],
    ) -> Result<(), TargetError> {
        if let Err(error) = chain::verify(self.head(), events) {
            return Err(self.stop_in_front_of(error, events, cluster_id).await);
        }
        match self.apply_at_once(events, cluster_id, offsets).await {
            Err(TargetError::Stopped { .. }) if events.len() > 1 => {
                // One by one, without the offsets, which are true of all of them only: so everything in front of the
                // one at fault is applied, and its position is known.
                for event in events {
                    self.apply_at_once(std::slice::from_ref(event), cluster_id, &[]).await?;
                }
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Applies what is in front of the one that the chain breaks at.
    async fn stop_in_front_of(
        &mut self,
        broken: ChainError,
        events: &[RecordedEvent],
        cluster_id: &str,
    ) -> TargetError {
        let good = (0..events.len()).take_while(|&last| chain::verify(self.head(), &events[..=last]).is_ok()).count();
        if let Err(error) = Box::pin(self.apply(&events[..good], cluster_id, &[])).await {
            return error;
        }
        let position = self.head().position + 1;
        let error = anyhow!(broken).context("what Kafka has does not follow what was applied");
        match self.tell(position, &format!("{error:#}")).await {
            Ok(()) => TargetError::Stopped { position, error },
            Err(lost) => lost,
        }
    }

    async fn apply_at_once(
        &mut self,
        events: &[RecordedEvent],
        cluster_id: &str,
        offsets: &[Offset],
    ) -> Result<(), TargetError> {
        let Some(last) = events.last() else { return Ok(()) };
        let to = ChainHead { position: last.position, chain_hash: last.chain_hash };
        let stopped = |position, error| TargetError::Stopped { position, error };
        let current = self.upcasters.apply(events.to_vec()).map_err(|error| stopped(to.position, error.into()))?;
        let current = entries(current);
        let mut failure = None;
        let mut transaction = self.connection.begin().await?;
        for View { handler, applied } in &self.views {
            if let Some(same) = events.iter().find(|event| event.position == applied.position)
                && same.chain_hash != applied.chain_hash
            {
                let error = anyhow!("{} has applied another event as position {}", handler.name(), applied.position);
                failure = Some((handler.name(), error));
                break;
            }
            if applied.position >= to.position {
                continue;
            }
            let new = &current[current.partition_point(|event| event.position <= applied.position)..];
            if !checkpoint::advance(&mut *transaction, handler.name(), *applied, to).await? {
                return Err(TargetError::Lost(anyhow!(
                    "the checkpoint of {} was moved or paused meanwhile",
                    handler.name()
                )));
            }
            let outcome = AssertUnwindSafe(handler.apply(&mut transaction, new)).catch_unwind().await;
            if let Err(error) = outcome.unwrap_or_else(|_| Err(anyhow!("the handler panicked"))) {
                if error.chain().any(may_pass) {
                    return Err(TargetError::Lost(error));
                }
                failure = Some((handler.name(), error));
                break;
            }
        }
        if let Some((name, error)) = failure {
            transaction.rollback().await?;
            if events.len() == 1 {
                checkpoint::fail(&mut self.connection, name, to.position, &format!("{error:#}")).await?;
            }
            return Err(stopped(to.position, error.context(name)));
        }
        keep(&mut transaction, &self.group, cluster_id, offsets, to.position).await?;
        transaction.commit().await?;
        for view in &mut self.views {
            if view.applied.position < to.position {
                view.applied = to;
            }
        }
        Ok(())
    }
}

fn may_pass(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<sqlx::Error>().is_some_and(is_transient) || cause.is::<TryAgain>()
}

async fn keep(
    connection: &mut PgConnection,
    group: &str,
    cluster_id: &str,
    offsets: &[Offset],
    position: u64,
) -> Result<(), sqlx::Error> {
    let topics: Vec<&str> = offsets.iter().map(|offset| offset.topic.as_str()).collect();
    let partitions: Vec<i32> = offsets.iter().map(|offset| offset.partition).collect();
    let next_offsets: Vec<i64> = offsets.iter().map(|offset| offset.next).collect();
    sqlx::query!(
        "INSERT INTO kafka_offsets (consumer_group, topic, partition, next_offset, cluster_id, position, updated_at)
             SELECT $1, o.topic, o.partition, o.next_offset, $2, $3, now()
             FROM unnest($4::text[], $5::integer[], $6::bigint[]) AS o (topic, partition, next_offset)
         ON CONFLICT ON CONSTRAINT kafka_offsets_partition DO UPDATE SET
             next_offset = excluded.next_offset, cluster_id = excluded.cluster_id, position = excluded.position,
             updated_at = excluded.updated_at",
        group,
        cluster_id,
        position.cast_signed(),
        &topics as &[&str],
        &partitions,
        &next_offsets,
    )
    .execute(connection)
    .await?;
    Ok(())
}
