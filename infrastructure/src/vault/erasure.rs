//! Destroying keys. First the log says so, then it is done: [`Erasures`] follows the log, so that a process that died in
//! between leaves nothing behind that the next one does not finish, and a log that is read again does it again.
//!
//! Backups of `subject_keys` still have the wrapped keys, and the table's file and the write-ahead log do until they are
//! vacuumed and recycled.

use std::{sync::Arc, time::Duration};

use aihub_domain::{
    retention::{Retention, RetentionEvent},
    subject::{Subject, SubjectEvent},
};
use chrono::{DateTime, NaiveDate, Utc};
use cqrs_es::Aggregate;
use futures::{FutureExt, future::BoxFuture};
use sqlx::{PgConnection, PgExecutor, PgTransaction};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::PostgresVault;
use crate::{
    database::Database,
    event_store::{
        decode::{LogEntry, events_of},
        reader::RecordedEvent,
        subscription::EventHandler,
    },
};

const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// The subject's keys that are not destroyed.
pub async fn keys_of(executor: impl PgExecutor<'_>, subject: &str) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT key_id FROM subject_keys WHERE subject = $1 AND destroyed_at IS NULL ORDER BY month",
        subject
    )
    .fetch_all(executor)
    .await
}

/// Destroys the subject's keys, in a transaction of the caller's: what they sealed is erased, everywhere and for good, and
/// nothing more can be sealed for the subject. How many there were.
pub async fn destroy_subject(
    connection: &mut PgConnection,
    subject: &str,
    erased_at: DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    // Waits for whoever is about to make a key; the next statement sees it.
    sqlx::query!(
        "INSERT INTO subjects (subject, erased_at) VALUES ($1, $2)
         ON CONFLICT ON CONSTRAINT subjects_subject
             DO UPDATE SET erased_at = coalesce(subjects.erased_at, excluded.erased_at)",
        subject,
        erased_at
    )
    .execute(&mut *connection)
    .await?;
    let destroyed = sqlx::query!(
        "UPDATE subject_keys SET wrapped_key = NULL, destroyed_at = now() WHERE subject = $1 AND destroyed_at IS NULL",
        subject
    );
    Ok(destroyed.execute(&mut *connection).await?.rows_affected())
}

/// Destroys everybody's keys of the months before this one.
async fn destroy_before(connection: &mut PgConnection, month: NaiveDate) -> Result<u64, sqlx::Error> {
    let destroyed = sqlx::query!(
        "UPDATE subject_keys SET wrapped_key = NULL, destroyed_at = now() WHERE month < $1 AND destroyed_at IS NULL",
        month
    );
    Ok(destroyed.execute(connection).await?.rows_affected())
}

/// Does what the log says was erased.
#[derive(Debug, Clone, Copy)]
pub struct Erasures;

impl EventHandler for Erasures {
    fn name(&self) -> &'static str {
        "erasures"
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        [Subject::TYPE, Retention::TYPE].contains(&event.aggregate_type.as_str())
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        async move {
            for change in events_of::<Subject>(events) {
                let (event, SubjectEvent::SubjectErased { erased_at, .. }) = change?;
                let keys = destroy_subject(transaction, &event.aggregate_id, *erased_at).await?;
                tracing::info!(event.position = event.position, keys, "the content of a subject is erased");
            }
            for change in events_of::<Retention>(events) {
                let (event, RetentionEvent::ContentExpired { before, .. }) = change?;
                let keys = destroy_before(transaction, *before).await?;
                tracing::info!(event.position = event.position, keys, "content that was too old is erased");
            }
            Ok(())
        }
        .boxed()
    }
}

/// Has this node hear of erasures until shutdown, whoever destroyed the keys: the vault forgets its keys, and `erased` is
/// called with the subject where all that is the subject's was erased.
pub async fn follow(
    database: Database,
    vault: Arc<PostgresVault>,
    erased: impl Fn(&str) + Send + Sync,
    shutdown: CancellationToken,
) {
    let listen_again = async {
        loop {
            if let Err(error) = listen(&database, &vault, &erased).await {
                tracing::warn!(error.message = %error, "erasures are not heard of; keys are asked for once a minute");
            }
            // What happened meanwhile was not heard.
            vault.forget_keys();
            sleep(RECONNECT_AFTER).await;
        }
    };
    shutdown.run_until_cancelled(listen_again).await;
}

async fn listen(
    database: &Database,
    vault: &PostgresVault,
    erased: &(impl Fn(&str) + Send + Sync),
) -> Result<(), sqlx::Error> {
    let mut listener = database.listener().await?;
    listener.listen("erasures").await?;
    vault.forget_keys();
    while let Some(notification) = listener.try_recv().await? {
        vault.forget_keys();
        if !notification.payload().is_empty() {
            erased(notification.payload());
        }
    }
    Ok(())
}
