//! Content sealed per subject, kind and month, and the keys for that.
//!
//! A subject (an account) has one 256-bit key for each kind and month, made on first use and kept in `subject_keys`, wrapped
//! by the master key. Unwrapped keys are kept in memory for [`KEY_LIFE`], so that sealing asks the database once a minute and
//! subject. When the log says that keys are destroyed every node forgets all that it has; a node that is cut off from the
//! database, and every node where keys were destroyed by hand, may use a key for [`KEY_LIFE`].
//!
//! | module | holds |
//! |---|---|
//! | [`cipher`] | a piece of a text under a subject's key |
//! | [`erasure`] | destroying keys, and nodes that hear of it |
//! | [`master_key`] | what the subjects' keys are wrapped with |
//! | [`retention`] | keys whose content is too old |
//! | [`rotation`] | another master key |
//! | [`rules`] | what is kept of whose content, and for how long |
//! | [`sealed`] | authenticated encryption |
//!
//! What is sealed stands in [`contents`].

mod cipher;
pub mod erasure;
pub mod master_key;
pub mod retention;
pub mod rotation;
pub mod rules;
mod sealed;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aihub_application::ports::{
    clock::Clock,
    event_log::Piece,
    vault::{ContentVault, Sealed, VaultError},
};
use aihub_domain::content::{ContentKey, ContentKind, ContentRef, Keep};
use chrono::{DateTime, Datelike, NaiveDate, Utc};
use futures::{FutureExt, future::BoxFuture};
use moka::future::Cache;
use sqlx::PgPool;
use thiserror::Error;
use tokio::{task::yield_now, time::timeout};
use uuid::Uuid;
use zeroize::Zeroizing;

use self::{
    cipher::ContentCipher,
    master_key::MasterKeys,
    rules::{ContentRules, Keeping},
};
use crate::contents::{
    self, ContentError,
    known::KnownPieces,
    list::{self, Entry},
    pieces::{self, Cut},
};

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
    pub rules: ContentRules,
    /// What the log has kept already.
    known: Arc<KnownPieces>,
    keys: Cache<ContentKey, Key>,
    /// How often keys were forgotten. A key that was asked for before the last time is not used any more, also where its
    /// answer came later.
    generation: AtomicU64,
}

#[derive(Clone)]
struct Key {
    cipher: Arc<ContentCipher>,
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
        let (rules, known) = (ContentRules::default(), Arc::default());
        Self { pool, masters: masters.into(), clock, rules, known, keys, generation: AtomicU64::new(0) }
    }

    /// Other rules than to seal everything and keep it for ever, and what the log of this node has kept already.
    #[must_use]
    pub fn with(self, rules: ContentRules, known: Arc<KnownPieces>) -> Self {
        Self { rules, known, ..self }
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
    async fn key(&self, name: &ContentKey) -> Result<Key, Arc<KeyError>> {
        match self.ask(name).await {
            // Of somebody's question from before it was made, perhaps, which this one has joined: the next is a new one.
            Err(error) if matches!(*error, KeyError::Missing) => self.ask(name).await,
            found => found,
        }
    }

    /// One question of the database at a time, however many ask for the same key at once.
    async fn ask(&self, name: &ContentKey) -> Result<Key, Arc<KeyError>> {
        loop {
            let key = self.keys.entry_by_ref(name).or_try_insert_with(self.load(name)).await?.into_value();
            if key.generation == self.generation.load(Ordering::Acquire) {
                return Ok(key);
            }
            self.keys.invalidate(name).await;
        }
    }

    async fn key_or_new(&self, name: &ContentKey) -> Result<Key, Arc<KeyError>> {
        match self.key(name).await {
            Err(error) if matches!(*error, KeyError::Missing) => {
                self.make(name).await?;
                self.key(name).await
            }
            found => found,
        }
    }

    async fn load(&self, name: &ContentKey) -> Result<Key, KeyError> {
        let generation = self.generation.load(Ordering::Acquire);
        let find = sqlx::query!(
            r#"SELECT s.erased_at IS NOT NULL AS "is_erased!", k.master_key_id AS "master_key_id?", k.wrapped_key
               FROM subjects s
               LEFT JOIN subject_keys k ON k.subject = s.subject AND k.kind = $2 AND k.month = $3
               WHERE s.subject = $1"#,
            name.subject,
            name.kind.as_str(),
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
        Ok(Key { cipher: Arc::new(ContentCipher::new(&key)), generation })
    }

    /// Keeps a new key, unless somebody else was first: then theirs is the subject's key; or the subject was erased: then
    /// there is none.
    async fn make(&self, name: &ContentKey) -> Result<(), KeyError> {
        let key = Zeroizing::new(rand::random());
        let wrapped = self.masters.current.wrap(name, &key).ok_or(KeyError::Unreadable)?;
        let subject = sqlx::query!(
            "INSERT INTO subjects (subject) VALUES ($1) ON CONFLICT ON CONSTRAINT subjects_subject DO NOTHING",
            name.subject
        );
        in_time(subject.execute(&self.pool)).await?;
        let keep = sqlx::query!(
            "INSERT INTO subject_keys (subject, kind, month, key_id, wrapped_key, master_key_id)
                 SELECT subject, $2, $3, $4, $5, $6 FROM subjects WHERE subject = $1 AND erased_at IS NULL FOR SHARE
             ON CONFLICT ON CONSTRAINT subject_keys_subject_kind_month DO NOTHING",
            name.subject,
            name.kind.as_str(),
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
        kind: ContentKind,
        parts: &'a [&'a [u8]],
    ) -> BoxFuture<'a, Result<Option<Sealed>, VaultError>> {
        async move {
            let name = ContentKey { subject: subject.to_owned(), kind, month: month_of(self.clock.now()) };
            match self.rules.keeping(subject, kind) {
                Keeping::As(keep) => {
                    let key = self.key_or_new(&name).await.map_err(vault_error)?;
                    self.seal_as(keep, name, &key, parts).await.map(Some)
                }
                Keeping::Nothing => match self.key(&name).await.map_err(vault_error) {
                    // That it was erased is said all the same.
                    Err(error @ (VaultError::Erased | VaultError::Unavailable(_))) => Err(error),
                    _ => Ok(None),
                },
            }
        }
        .boxed()
    }

    fn open<'a>(&'a self, content: &'a ContentRef) -> BoxFuture<'a, Result<Vec<u8>, VaultError>> {
        async move {
            if content.keep == Keep::Hash {
                return Err(VaultError::NotKept);
            }
            let key = self.key(&content.key()).await.map_err(vault_error)?;
            let kept = timeout(QUERY_TIMEOUT, contents::load(&self.pool, content)).await;
            let kept = kept.map_err(|late| VaultError::Unavailable(late.into()))?;
            let mut pieces = Vec::with_capacity(content.pieces as usize);
            for (entry, sealed) in kept.map_err(content_error)? {
                let bytes = key.cipher.open(&sealed, entry.bytes).ok_or(VaultError::Unreadable)?;
                pieces.push((entry.is_base64, bytes));
                yield_now().await;
            }
            Ok(pieces::join(pieces))
        }
        .boxed()
    }
}

impl PostgresVault {
    async fn seal_as(&self, keep: Keep, name: ContentKey, key: &Key, parts: &[&[u8]]) -> Result<Sealed, VaultError> {
        let cut = pieces::cut(parts);
        let name = Arc::new(name);
        let mut entries = Vec::with_capacity(cut.len());
        let mut new = Vec::new();
        let is_single = cut.len() == 1;
        for Cut { bytes: text, is_base64 } in cut {
            // What is alone is too short to be told again.
            let fingerprint = (!is_single && keep == Keep::Sealed).then(|| key.cipher.fingerprint(&text));
            let known = fingerprint.and_then(|fingerprint| self.known.find(&fingerprint));
            let hash = if let Some(hash) = known {
                hash
            } else {
                // A hash that is all that is kept is to be the same whatever the compressor's version.
                let sealed = key.cipher.seal(&text, keep == Keep::Sealed).ok_or(VaultError::Unreadable)?;
                let hash = contents::hash_of(&sealed);
                new.push(Piece { key: name.clone(), hash, bytes: sealed.into(), fingerprint });
                hash
            };
            entries.push(Entry { hash, bytes: text.len() as u64, is_base64 });
            yield_now().await;
        }
        let hash = match entries.as_slice() {
            [Entry { hash, .. }] if is_single => *hash,
            entries => {
                let list = list::encode(entries);
                let hash = contents::hash_of(&list);
                new.push(Piece { key: name.clone(), hash, bytes: list.into(), fingerprint: None });
                hash
            }
        };
        let ContentKey { subject, kind, month } = (*name).clone();
        let content = ContentRef {
            subject,
            kind,
            month,
            keep,
            hash,
            pieces: u32::try_from(entries.len()).unwrap_or(u32::MAX),
            bytes: parts.iter().map(|part| part.len() as u64).sum(),
        };
        Ok(Sealed { content, pieces: if keep == Keep::Sealed { new } else { vec![] } })
    }
}

fn month_of(time: DateTime<Utc>) -> NaiveDate {
    let today = time.date_naive();
    today.with_day(1).unwrap_or(today)
}

async fn in_time<T>(query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(QUERY_TIMEOUT, query).await.unwrap_or_else(|late| Err(sqlx::Error::Io(late.into())))
}

/// What a key is wrapped for: the subject's length in 8 bytes, big-endian, the subject, the kind, the month. No two names
/// give the same bytes.
fn associated(name: &ContentKey) -> Vec<u8> {
    let ContentKey { subject, kind, month } = name;
    let mut bytes = (subject.len() as u64).to_be_bytes().to_vec();
    bytes.extend_from_slice(format!("{subject}{kind}{month}").as_bytes());
    bytes
}

/// As a row has it.
fn content_key(subject: String, kind: &str, month: NaiveDate) -> Result<ContentKey, sqlx::Error> {
    let kind = ContentKind::parse(kind).ok_or_else(|| sqlx::Error::Decode(format!("no kind {kind}").into()))?;
    Ok(ContentKey { subject, kind, month })
}

fn vault_error(error: Arc<KeyError>) -> VaultError {
    match *error {
        KeyError::Destroyed => VaultError::Erased,
        KeyError::Missing | KeyError::Unreadable => VaultError::Unreadable,
        KeyError::Database(_) => VaultError::Unavailable(error.into()),
    }
}

fn content_error(error: ContentError) -> VaultError {
    match error {
        ContentError::Missing(_) => VaultError::Missing,
        ContentError::Changed(_) => VaultError::Unreadable,
        ContentError::Database(error) => VaultError::Unavailable(error.into()),
    }
}

impl std::fmt::Debug for PostgresVault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresVault").field("masters", &self.masters).finish_non_exhaustive()
    }
}
