//! Signed checkpoints, made and kept. One is only made of what verifies: a log that was tampered with is not signed.

use std::{sync::Arc, time::Duration};

use aihub_application::ports::clock::Clock;
use metrics::{counter, gauge};
use sqlx::{Connection, PgConnection, PgExecutor};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{
    AuditError,
    merkle::MerkleTree,
    note::{self, Checkpoint, SigningKey},
    scan, signers,
};
use crate::{
    database::Database,
    event_store::{
        chain::{ChainHead, ChainVerifier},
        reader,
    },
    notices::Notices,
};

/// The last one that was kept, with its note.
pub async fn latest(executor: impl PgExecutor<'_>) -> Result<Option<(Checkpoint, String)>, AuditError> {
    let note = sqlx::query_scalar!("SELECT note FROM checkpoints ORDER BY position DESC LIMIT 1");
    note.fetch_optional(executor).await?.map(read).transpose()
}

/// The first one that covers the position, with its note.
pub async fn covering(
    executor: impl PgExecutor<'_>,
    position: u64,
) -> Result<Option<(Checkpoint, String)>, AuditError> {
    let note = sqlx::query_scalar!(
        "SELECT note FROM checkpoints WHERE position >= $1 ORDER BY position LIMIT 1",
        position.cast_signed()
    );
    note.fetch_optional(executor).await?.map(read).transpose()
}

fn read(text: String) -> Result<(Checkpoint, String), AuditError> {
    let checkpoint = note::unverified(&text).map_err(|error| AuditError::Malformed(error.to_string()))?;
    Ok((checkpoint, text))
}

/// Verifies what came since the last checkpoint, and signs and keeps a new one; the last one, where nothing came.
/// `None` for an empty log. The first key that signs a log introduces itself to it; another one than the log knows signs nothing.
pub async fn make(
    database: &Database,
    key: &SigningKey,
    clock: &dyn Clock,
) -> Result<Option<(Checkpoint, String)>, AuditError> {
    if !signers::require(database, key, clock).await? {
        return Ok(None);
    }
    let mut connection = scan::connect(database).await?;
    let mut transaction = connection.begin().await?;
    // One after another. What is seen from here on was committed by those before; the events up to the head that is seen then
    // are what they are at any later instant.
    sqlx::query!("SELECT FROM locks WHERE name = 'checkpoint' FOR UPDATE").execute(&mut *transaction).await?;
    let head = reader::head(&mut *transaction).await?;
    let Some((mut tree, after)) = resume(&mut transaction, key, head).await? else {
        return latest(&mut *transaction).await;
    };
    let mut chain = ChainVerifier::after(after);
    {
        let mut events = scan::events(&mut transaction, after.position + 1, Some(head.position)).await?;
        while let Some(event) = events.next().await? {
            chain.check(&event).map_err(|error| AuditError::Tampered(error.into()))?;
            tree.push(&event.chain_hash);
        }
    }
    let head = chain.head();
    if head.position == 0 {
        return Ok(None);
    }
    let signed = key.sign(head, tree.root(), clock.now());
    sqlx::query!(
        "INSERT INTO checkpoints (position, note, frontier) VALUES ($1, $2, $3)",
        head.position.cast_signed(),
        signed,
        tree.frontier()
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    read(signed).map(Some)
}

/// Where to go on: behind the last checkpoint that this key signed, or at the beginning. `None` if nothing came since.
async fn resume(
    connection: &mut PgConnection,
    key: &SigningKey,
    head: ChainHead,
) -> Result<Option<(MerkleTree, ChainHead)>, AuditError> {
    let last = sqlx::query!("SELECT position, note, frontier FROM checkpoints ORDER BY position DESC LIMIT 1")
        .fetch_optional(connection)
        .await?;
    let Some(last) = last else { return Ok(Some((MerkleTree::default(), ChainHead::GENESIS))) };
    let position = last.position.cast_unsigned();
    if position > head.position {
        return Err(AuditError::Incomplete(format!(
            "the log ends at position {}, and there is a checkpoint of position {position}",
            head.position
        )));
    }
    let ours = key.verifier().open(&last.note).ok().filter(|checkpoint| checkpoint.head.position == position);
    let tree = MerkleTree::resume(position, &last.frontier);
    Ok(match (ours, tree) {
        (Some(checkpoint), Some(tree)) if tree.root() == checkpoint.root_hash => {
            (position < head.position).then_some((tree, checkpoint.head))
        }
        // Another key's, or not what its signature says.
        _ if position == head.position => None,
        _ => Some((MerkleTree::default(), ChainHead::GENESIS)),
    })
}

/// Makes one at each interval in which the log moved, until shutdown.
pub async fn keep(
    database: Database,
    key: Arc<SigningKey>,
    clock: Arc<dyn Clock>,
    interval: Duration,
    notices: Notices,
    shutdown: CancellationToken,
) {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let work = async {
        loop {
            tick.tick().await;
            let made = make(&database, &key, &*clock).await;
            let is_foreign = matches!(made, Err(AuditError::ForeignKey { .. }));
            let notice =
                is_foreign.then(|| "this node's audit key is not the log's: it signs no checkpoints".to_owned());
            notices.set("audit", notice);
            match made {
                Ok(Some((checkpoint, _))) => record(&checkpoint),
                Ok(None) => {}
                Err(error) => {
                    counter!("audit_checkpoint_failures_total").increment(1);
                    tracing::error!(error.message = %error, "the log is not signed: no checkpoint was made");
                }
            }
        }
    };
    shutdown.run_until_cancelled(work).await;
}

#[expect(clippy::cast_precision_loss, reason = "a gauge")]
fn record(checkpoint: &Checkpoint) {
    gauge!("audit_checkpoint_position").set(checkpoint.head.position as f64);
}
