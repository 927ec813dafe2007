//! Content sealed per subject, and the subjects' keys.
//!
//! A subject (an account) has one 256-bit key, made on first use and kept in `subject_keys`, wrapped by the master key.
//! Unwrapped keys are kept in memory for [`KEY_LIFE`], so that sealing asks the database once a minute and subject.
//! That is also how long, after a key was destroyed on one node, another one that had it may still use it.

pub mod master_key;
mod sealed;

use std::{sync::Arc, time::Duration};

use aes_gcm::{Aes256Gcm, KeyInit};
use aihub_application::ports::vault::{ContentVault, VaultError};
use aihub_domain::content::SealedContent;
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::{FutureExt, future::BoxFuture};
use moka::future::Cache;
use sqlx::PgPool;
use thiserror::Error;
use tokio::time::timeout;
use uuid::Uuid;
use zeroize::Zeroizing;

use self::master_key::MasterKey;

/// How long a key is used before the database is asked again whether it still exists.
pub const KEY_LIFE: Duration = Duration::from_mins(1);
/// The longest that the database may take to answer, a connection from the pool included.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// The most keys in memory, about 0.5 kB each; those that are used least go first.
const MAX_CACHED_KEYS: u64 = 10_000;

/// The vault with its keys in PostgreSQL.
#[derive(Debug)]
pub struct PostgresVault {
    pool: PgPool,
    master: MasterKey,
    keys: Cache<String, Key>,
}

#[derive(Clone)]
struct Key(Arc<Aes256Gcm>);

#[derive(Debug, Error)]
enum KeyError {
    #[error("the subject has no key yet")]
    Missing,
    #[error("the subject's key was destroyed")]
    Destroyed,
    #[error("the subject's key does not unwrap")]
    Unreadable,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl PostgresVault {
    pub fn new(pool: PgPool, master: MasterKey) -> Self {
        let keys = Cache::builder().max_capacity(MAX_CACHED_KEYS).time_to_live(KEY_LIFE).build();
        Self { pool, master, keys }
    }

    /// Destroys the subject's key: what it sealed is erased, everywhere and for good, and nothing more can be sealed
    /// for the subject. On other nodes that takes up to [`KEY_LIFE`]. False if there is no key to destroy.
    ///
    /// Backups of `subject_keys` still have the wrapped key, and the table's file and the write-ahead log do until
    /// they are vacuumed and recycled.
    pub async fn destroy(&self, subject: &str) -> Result<bool, sqlx::Error> {
        let destroyed = sqlx::query!(
            "UPDATE subject_keys SET wrapped_key = NULL, destroyed_at = now()
             WHERE subject = $1 AND destroyed_at IS NULL",
            subject
        )
        .execute(&self.pool)
        .await?;
        self.keys.invalidate(subject).await;
        Ok(destroyed.rows_affected() == 1)
    }

    /// From memory, or from the database: one question, however many ask for the subject at once.
    async fn key(&self, subject: &str) -> Result<Key, Arc<KeyError>> {
        self.keys.entry_by_ref(subject).or_try_insert_with(self.load(subject)).await.map(moka::Entry::into_value)
    }

    async fn key_or_new(&self, subject: &str) -> Result<Key, Arc<KeyError>> {
        match self.key(subject).await {
            Err(error) if matches!(*error, KeyError::Missing) => {
                self.make(subject).await?;
                self.key(subject).await
            }
            found => found,
        }
    }

    async fn load(&self, subject: &str) -> Result<Key, KeyError> {
        let find = sqlx::query!("SELECT wrapped_key, master_key_id FROM subject_keys WHERE subject = $1", subject);
        let row = in_time(find.fetch_optional(&self.pool)).await?.ok_or(KeyError::Missing)?;
        let wrapped = row.wrapped_key.ok_or(KeyError::Destroyed)?;
        let key = self.master.unwrap(subject, &wrapped).ok_or_else(|| {
            tracing::error!(
                wrapped_with = row.master_key_id,
                configured = self.master.id(),
                "the key of a subject does not unwrap with the configured master key"
            );
            KeyError::Unreadable
        })?;
        Ok(Key(Arc::new(Aes256Gcm::new((&*key).into()))))
    }

    /// Keeps a new key, unless somebody else was first: then theirs is the subject's key.
    async fn make(&self, subject: &str) -> Result<(), KeyError> {
        let key = Zeroizing::new(rand::random());
        let wrapped = self.master.wrap(subject, &key).ok_or(KeyError::Unreadable)?;
        let keep = sqlx::query!(
            "INSERT INTO subject_keys (subject, key_id, wrapped_key, master_key_id) VALUES ($1, $2, $3, $4)
             ON CONFLICT ON CONSTRAINT subject_keys_subject DO NOTHING",
            subject,
            Uuid::now_v7(),
            wrapped,
            self.master.id(),
        );
        in_time(keep.execute(&self.pool)).await?;
        Ok(())
    }
}

impl ContentVault for PostgresVault {
    fn seal<'a>(
        &'a self,
        subject: &'a str,
        context: &'a str,
        plaintext: &'a [u8],
    ) -> BoxFuture<'a, Result<SealedContent, VaultError>> {
        async move {
            let Key(key) = self.key_or_new(subject).await.map_err(vault_error)?;
            let sealed = sealed::seal(&key, &associated(subject, context), plaintext).ok_or(VaultError::Unreadable)?;
            Ok(SealedContent { subject: subject.to_owned(), sealed: STANDARD.encode(sealed) })
        }
        .boxed()
    }

    fn open<'a>(&'a self, context: &'a str, sealed: &'a SealedContent) -> BoxFuture<'a, Result<Vec<u8>, VaultError>> {
        async move {
            let Key(key) = self.key(&sealed.subject).await.map_err(vault_error)?;
            let bytes = STANDARD.decode(&sealed.sealed).map_err(|_| VaultError::Unreadable)?;
            sealed::open(&key, &associated(&sealed.subject, context), &bytes).ok_or(VaultError::Unreadable)
        }
        .boxed()
    }
}

async fn in_time<T>(query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, KeyError> {
    Ok(timeout(QUERY_TIMEOUT, query).await.unwrap_or_else(|late| Err(sqlx::Error::Io(late.into())))?)
}

/// The subject's length in 8 bytes, big-endian, the subject, the context: no two pairs give the same bytes.
fn associated(subject: &str, context: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + subject.len() + context.len());
    bytes.extend_from_slice(&(subject.len() as u64).to_be_bytes());
    bytes.extend_from_slice(subject.as_bytes());
    bytes.extend_from_slice(context.as_bytes());
    bytes
}

fn vault_error(error: Arc<KeyError>) -> VaultError {
    match *error {
        KeyError::Destroyed => VaultError::Erased,
        KeyError::Missing | KeyError::Unreadable => VaultError::Unreadable,
        KeyError::Database(_) => VaultError::Unavailable(error.into()),
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}
