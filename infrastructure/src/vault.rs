//! Content sealed per subject and month, and the keys for that.
//!
//! A subject (an account) has one 256-bit key for each month, made on first use and kept in `subject_keys`, wrapped by the
//! master key. Unwrapped keys are kept in memory for [`KEY_LIFE`], so that sealing asks the database once a minute and
//! subject. When keys are destroyed the database tells every node, which forgets all that it has; a node that is cut off
//! from the database may use a key for [`KEY_LIFE`].
//!
//! | module | holds |
//! |---|---|
//! | [`erasure`] | destroying keys, and nodes that hear of it |
//! | [`master_key`] | what the subjects' keys are wrapped with |
//! | [`rotation`] | another master key |

pub mod erasure;
pub mod master_key;
pub mod rotation;
mod sealed;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aes_gcm::{Aes256Gcm, KeyInit};
use aihub_application::ports::{
    clock::Clock,
    vault::{ContentVault, VaultError},
};
use aihub_domain::content::SealedContent;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Datelike, NaiveDate, Utc};
use futures::{FutureExt, future::BoxFuture};
use moka::future::Cache;
use sqlx::PgPool;
use thiserror::Error;
use tokio::time::timeout;
use uuid::Uuid;
use zeroize::Zeroizing;

use self::master_key::MasterKeys;

/// How long a key is used before the database is asked again whether it still exists.
pub const KEY_LIFE: Duration = Duration::from_mins(1);
/// The longest that the database may take to answer, a connection from the pool included.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// The most keys in memory, about 0.5 kB each; those that are used least go first.
const MAX_CACHED_KEYS: u64 = 10_000;

/// The vault with its keys in PostgreSQL.
pub struct PostgresVault {
    pool: PgPool,
    masters: MasterKeys,
    clock: Arc<dyn Clock>,
    keys: Cache<KeyName, Key>,
    /// How often keys were forgotten. A key that was asked for before the last time is not used any more, also where its
    /// answer came later.
    generation: AtomicU64,
}

/// Which key it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct KeyName {
    subject: String,
    month: NaiveDate,
}

#[derive(Clone)]
struct Key {
    cipher: Arc<Aes256Gcm>,
    generation: u64,
}

#[derive(Debug, Error)]
enum KeyError {
    #[error("there is no such key yet")]
    Missing,
    #[error("the key was destroyed")]
    Destroyed,
    #[error("the key does not unwrap")]
    Unreadable,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl PostgresVault {
    pub fn new(pool: PgPool, masters: impl Into<MasterKeys>, clock: Arc<dyn Clock>) -> Self {
        let keys = Cache::builder().max_capacity(MAX_CACHED_KEYS).time_to_live(KEY_LIFE).build();
        Self { pool, masters: masters.into(), clock, keys, generation: AtomicU64::new(0) }
    }

    /// Forgets the keys that are in memory: each is asked for again before it is used.
    pub fn forget_keys(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.keys.invalidate_all();
    }

    /// How many keys there are that none of the configured master keys unwraps: what they sealed cannot be opened, and
    /// their subjects cannot have anything sealed in those months. Looks through all keys, for no longer than a query may
    /// take.
    pub async fn unreadable_keys(&self) -> Result<u64, sqlx::Error> {
        let known: Vec<&str> = self.masters.ids().collect();
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM subject_keys
               WHERE wrapped_key IS NOT NULL AND master_key_id <> ALL($1)"#,
            &known as &[&str]
        );
        Ok(in_time(count.fetch_one(&self.pool)).await?.cast_unsigned())
    }

    /// From memory, or from the database.
    async fn key(&self, name: &KeyName) -> Result<Key, Arc<KeyError>> {
        match self.ask(name).await {
            // Of somebody's question from before it was made, perhaps, which this one has joined: the next is a new one.
            Err(error) if matches!(*error, KeyError::Missing) => self.ask(name).await,
            found => found,
        }
    }

    /// One question of the database at a time, however many ask for the same key at once.
    async fn ask(&self, name: &KeyName) -> Result<Key, Arc<KeyError>> {
        loop {
            let key = self.keys.entry_by_ref(name).or_try_insert_with(self.load(name)).await?.into_value();
            if key.generation == self.generation.load(Ordering::Acquire) {
                return Ok(key);
            }
            self.keys.invalidate(name).await;
        }
    }

    async fn key_or_new(&self, name: &KeyName) -> Result<Key, Arc<KeyError>> {
        match self.key(name).await {
            Err(error) if matches!(*error, KeyError::Missing) => {
                self.make(name).await?;
                self.key(name).await
            }
            found => found,
        }
    }

    async fn load(&self, name: &KeyName) -> Result<Key, KeyError> {
        let generation = self.generation.load(Ordering::Acquire);
        let find = sqlx::query!(
            r#"SELECT s.erased_at IS NOT NULL AS "is_erased!", k.master_key_id AS "master_key_id?", k.wrapped_key
               FROM subjects s LEFT JOIN subject_keys k ON k.subject = s.subject AND k.month = $2
               WHERE s.subject = $1"#,
            name.subject,
            name.month
        );
        let row = in_time(find.fetch_optional(&self.pool)).await?.ok_or(KeyError::Missing)?;
        if row.is_erased {
            return Err(KeyError::Destroyed);
        }
        let master_id = row.master_key_id.ok_or(KeyError::Missing)?;
        let wrapped = row.wrapped_key.ok_or(KeyError::Destroyed)?;
        let unwrapped = self.masters.find(&master_id).and_then(|master| master.unwrap(name, &wrapped));
        let key = unwrapped.ok_or_else(|| {
            tracing::error!(
                wrapped_with = master_id,
                configured = self.masters.current.id(),
                "the key of a subject does not unwrap with a configured master key"
            );
            KeyError::Unreadable
        })?;
        Ok(Key { cipher: Arc::new(Aes256Gcm::new((&*key).into())), generation })
    }

    /// Keeps a new key, unless somebody else was first: then theirs is the subject's key; or the subject was erased: then
    /// there is none.
    async fn make(&self, name: &KeyName) -> Result<(), KeyError> {
        let key = Zeroizing::new(rand::random());
        let wrapped = self.masters.current.wrap(name, &key).ok_or(KeyError::Unreadable)?;
        let subject = sqlx::query!(
            "INSERT INTO subjects (subject) VALUES ($1) ON CONFLICT ON CONSTRAINT subjects_subject DO NOTHING",
            name.subject
        );
        in_time(subject.execute(&self.pool)).await?;
        let keep = sqlx::query!(
            "INSERT INTO subject_keys (subject, month, key_id, wrapped_key, master_key_id)
                 SELECT subject, $2, $3, $4, $5 FROM subjects WHERE subject = $1 AND erased_at IS NULL FOR SHARE
             ON CONFLICT ON CONSTRAINT subject_keys_subject_month DO NOTHING",
            name.subject,
            name.month,
            Uuid::now_v7(),
            wrapped,
            self.masters.current.id(),
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
            let name = KeyName { subject: subject.to_owned(), month: month_of(self.clock.now()) };
            let key = self.key_or_new(&name).await.map_err(vault_error)?;
            let sealed =
                sealed::seal(&key.cipher, &associated(subject, context), plaintext).ok_or(VaultError::Unreadable)?;
            Ok(SealedContent { subject: name.subject, month: name.month, sealed: STANDARD.encode(sealed) })
        }
        .boxed()
    }

    fn open<'a>(&'a self, context: &'a str, sealed: &'a SealedContent) -> BoxFuture<'a, Result<Vec<u8>, VaultError>> {
        async move {
            let name = KeyName { subject: sealed.subject.clone(), month: sealed.month };
            let key = self.key(&name).await.map_err(vault_error)?;
            let bytes = STANDARD.decode(&sealed.sealed).map_err(|_| VaultError::Unreadable)?;
            sealed::open(&key.cipher, &associated(&sealed.subject, context), &bytes).ok_or(VaultError::Unreadable)
        }
        .boxed()
    }
}

impl KeyName {
    fn associated(&self) -> Vec<u8> {
        associated(&self.subject, &self.month.to_string())
    }
}

fn month_of(time: DateTime<Utc>) -> NaiveDate {
    let today = time.date_naive();
    today.with_day(1).unwrap_or(today)
}

async fn in_time<T>(query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(QUERY_TIMEOUT, query).await.unwrap_or_else(|late| Err(sqlx::Error::Io(late.into())))
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

impl std::fmt::Debug for PostgresVault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresVault").field("masters", &self.masters).finish_non_exhaustive()
    }
}
