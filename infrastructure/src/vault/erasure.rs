//! Destroying keys. First the log says so, then it is done: [`Erasures`] follows the log, so that a process that died in
//! between leaves nothing behind that the next one does not finish, and a log that is read again does it again.
//!
//! Backups of `subject_keys` still have the wrapped keys, and the table's file and the write-ahead log do until they are
//! vacuumed and recycled.

use std::{sync::Arc, time::Duration};

use aihub_domain::{
    content::ContentKey,
    retention::{Retention, RetentionEvent},
    subject::{Subject, SubjectEvent},
};
use chrono::{DateTime, NaiveDate, Utc};
use cqrs_es::Aggregate;
use futures::{FutureExt, future::BoxFuture};
use sqlx::{PgConnection, PgExecutor, PgTransaction};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::PostgresVault;
use crate::{
    database::Database,
    event_store::{
        decode::{LogEntry, events_of},
        reader::RecordedEvent,
        subscription::{EventHandler, Waiter, live::Live},
    },
};

/// How long it is waited for the keys to be destroyed that the log says are.
const PATIENCE: Duration = Duration::from_secs(10);

/// The subject's keys that are not destroyed.
pub async fn keys_of(executor: impl PgExecutor<'_>, subject: &str) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT key_id FROM subject_keys WHERE subject = $1 AND destroyed_at IS NULL ORDER BY month, kind",
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

/// Destroys these keys.
async fn destroy_keys(connection: &mut PgConnection, keys: &[ContentKey]) -> Result<u64, sqlx::Error> {
    let subjects: Vec<&str> = keys.iter().map(|key| key.subject.as_str()).collect();
    let kinds: Vec<&str> = keys.iter().map(|key| key.kind.as_str()).collect();
    let months: Vec<NaiveDate> = keys.iter().map(|key| key.month).collect();
    let destroyed = sqlx::query!(
        "UPDATE subject_keys k SET wrapped_key = NULL, destroyed_at = now()
         FROM unnest($1::text[], $2::text[], $3::date[]) AS e (subject, kind, month)
         WHERE k.subject = e.subject AND k.kind = e.kind AND k.month = e.month AND k.destroyed_at IS NULL",
        &subjects as &[&str],
        &kinds as &[&str],
        &months
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
                let (event, RetentionEvent::ContentExpired { keys, .. }) = change?;
                let keys = destroy_keys(transaction, keys).await?;
                tracing::info!(event.position = event.position, keys, "content that was too old is erased");
            }
            Ok(())
        }
        .boxed()
    }
}

/// Has this node hear of erasures until shutdown, from the log: once the keys are destroyed the vault forgets those that it has in
/// memory, and `erased` is called with the subject where all that is the subject's was erased.
pub async fn follow(
    database: Database,
    (mut live, handlers): (Live, Waiter),
    vault: Arc<PostgresVault>,
    erased: impl Fn(&str) + Send + Sync,
    shutdown: CancellationToken,
) {
    let following = async {
        loop {
            let heard = match live.next().await {
                Some(events) => hear(&events, &handlers, &vault, &erased).await,
                None => catch_up(&database, &vault, &erased).await,
            };
            if let Err(error) = heard {
                tracing::warn!(
                    error.message = format!("{error:#}"),
                    "erasures may be missed; keys are asked for once a minute"
                );
                vault.forget_keys();
            }
        }
    };
    shutdown.run_until_cancelled(following).await;
}

async fn hear(
    events: &[Arc<LogEntry>],
    handlers: &Waiter,
    vault: &PostgresVault,
    erased: &(impl Fn(&str) + Send + Sync),
) -> anyhow::Result<()> {
    let concerns = |event: &&Arc<LogEntry>| Erasures.concerns(event);
    let Some(last) = events.iter().rfind(concerns) else { return Ok(()) };
    let done = handlers.wait_for(Erasures.name(), last.position, PATIENCE).await;
    vault.forget_keys();
    for event in events.iter().filter(|event| event.aggregate_type == Subject::TYPE) {
        erased(&event.aggregate_id);
    }
    Ok(done?)
}

/// Nobody knows what was missed: whose content was erased lately is told of again.
async fn catch_up(
    database: &Database,
    vault: &PostgresVault,
    erased: &(impl Fn(&str) + Send + Sync),
) -> anyhow::Result<()> {
    vault.forget_keys();
    let lately = sqlx::query_scalar!("SELECT subject FROM subjects WHERE erased_at > now() - interval '10 minutes'");
    lately.fetch_all(database.pool()).await?.iter().for_each(|subject| erased(subject));
    Ok(())
}
