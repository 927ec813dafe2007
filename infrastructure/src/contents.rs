//! What events name: prompts and answers in sealed pieces, beside the log, in the table `contents`.
//!
//! | module | holds |
//! |---|---|
//! | [`known`] | which pieces are kept already, as far as this node knows |
//! | [`list`] | the pieces of a text, by their hashes |
//! | [`named`] | the content that an event names |
//! | [`pieces`] | how a text is cut |
//! | [`sweep`] | pieces whose key was destroyed, taken away |
//!
//! Pieces are put there by `append_events`, in the commit of the events that name them. A piece is addressed by the hash of
//! its sealed bytes, which are the same whenever the same text is sealed under the same key: what an account sends again is
//! kept once for each kind and month, and nobody who has not the key can tell what it is, nor what another account has.

pub mod known;
pub mod list;
pub mod named;
pub mod pieces;
pub mod sweep;

use aihub_domain::content::{ContentHash, ContentKey, ContentRef};
use sha2::{Digest, Sha256};
use sqlx::PgExecutor;
use thiserror::Error;

use self::list::Entry;

/// The pieces of a text as they are kept, sealed, in the order of the text.
pub type Pieces = Vec<(Entry, Vec<u8>)>;

/// Why a text is not as it should be.
#[derive(Debug, Error)]
pub enum ContentError {
    /// A piece of it, or all of it, is not there.
    #[error("what {0} names is not kept")]
    Missing(ContentHash),
    #[error("what is kept as {0} has another hash, or is no list of pieces")]
    Changed(ContentHash),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What there is under one hash.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// It has that hash.
    Bytes(Vec<u8>),
    /// Its key was destroyed: what may still be there opens for nobody.
    Erased,
    Nothing,
}

pub fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash(Sha256::digest(bytes).into())
}

/// All that is kept of a text.
pub async fn load(executor: impl PgExecutor<'_> + Copy, content: &ContentRef) -> Result<Pieces, ContentError> {
    let key = content.key();
    let bytes = |found, hash| match found {
        Found::Bytes(bytes) => Ok(bytes),
        Found::Erased | Found::Nothing => Err(ContentError::Missing(hash)),
    };
    let first = look_up(executor, &[(&key, content.hash)]).await?.pop().unwrap_or(Found::Nothing);
    let first = bytes(first, content.hash)?;
    let entries = entries(content, &first)?;
    if content.pieces <= 1 {
        return Ok(entries.into_iter().zip([first]).collect());
    }
    let wanted: Vec<_> = entries.iter().map(|entry| (&key, entry.hash)).collect();
    let found = look_up(executor, &wanted).await?;
    entries.into_iter().zip(found).map(|(entry, found)| Ok((entry, bytes(found, entry.hash)?))).collect()
}

/// The pieces of a text, given what is kept under its own hash.
pub fn entries(content: &ContentRef, first: &[u8]) -> Result<Vec<Entry>, ContentError> {
    if content.pieces <= 1 {
        return Ok(vec![Entry { hash: content.hash, bytes: content.bytes, is_base64: false }]);
    }
    let entries = list::parse(first).filter(|entries| u32::try_from(entries.len()) == Ok(content.pieces));
    entries.ok_or(ContentError::Changed(content.hash))
}

/// What there is of each of these, in their order.
pub async fn look_up(
    executor: impl PgExecutor<'_>,
    wanted: &[(&ContentKey, ContentHash)],
) -> Result<Vec<Found>, ContentError> {
    let subjects: Vec<&str> = wanted.iter().map(|(key, _)| key.subject.as_str()).collect();
    let kinds: Vec<&str> = wanted.iter().map(|(key, _)| key.kind.as_str()).collect();
    let months: Vec<_> = wanted.iter().map(|(key, _)| key.month).collect();
    let hashes: Vec<&[u8]> = wanted.iter().map(|(_, hash)| hash.0.as_slice()).collect();
    let rows = sqlx::query!(
        r#"SELECT c.bytes AS "bytes?", k.destroyed_at IS NOT NULL AS "is_erased!"
           FROM unnest($1::text[], $2::text[], $3::date[], $4::bytea[]) WITH ORDINALITY
                AS w (subject, kind, month, hash, nth)
           LEFT JOIN contents c
                ON c.subject = w.subject AND c.kind = w.kind AND c.month = w.month AND c.hash = w.hash
           LEFT JOIN subject_keys k ON k.subject = w.subject AND k.kind = w.kind AND k.month = w.month
           ORDER BY w.nth"#,
        &subjects as &[&str],
        &kinds as &[&str],
        &months,
        &hashes as &[&[u8]],
    );
    let rows = rows.fetch_all(executor).await?;
    let found = rows.into_iter().zip(wanted).map(|(row, (_, hash))| match row.bytes {
        _ if row.is_erased => Ok(Found::Erased),
        Some(bytes) if hash_of(&bytes) == *hash => Ok(Found::Bytes(bytes)),
        Some(_) => Err(ContentError::Changed(*hash)),
        None => Ok(Found::Nothing),
    });
    found.collect()
}
