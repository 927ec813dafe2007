//! Content (prompts, answers) is sealed per subject and stands beside the events that name it, so that destroying one key
//! erases it everywhere while the log stays verifiable.

use aihub_domain::content::{ContentKind, ContentRef};
use futures::future::BoxFuture;
use thiserror::Error;

use super::event_log::Piece;

/// A text on its way into the log.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// What the event says.
    pub content: ContentRef,
    /// What is to be kept beside it, in the same commit; without what is kept already.
    pub pieces: Vec<Piece>,
}

pub trait ContentVault: Send + Sync {
    /// Seals a text under `subject`'s key for the kind, which is made on first use. `None` where nothing of it is to be kept.
    ///
    /// `parts` together are the text: cut where it is likely to be the same the next time, as between messages.
    fn seal<'a>(
        &'a self,
        subject: &'a str,
        kind: ContentKind,
        parts: &'a [&'a [u8]],
    ) -> BoxFuture<'a, Result<Option<Sealed>, VaultError>>;

    fn open<'a>(&'a self, content: &'a ContentRef) -> BoxFuture<'a, Result<Vec<u8>, VaultError>>;
}

/// Seals a text of a kind that is always kept, because it is read again.
pub async fn seal_needed(
    vault: &dyn ContentVault,
    subject: &str,
    kind: ContentKind,
    text: &[u8],
) -> Result<Sealed, VaultError> {
    vault.seal(subject, kind, &[text]).await?.ok_or(VaultError::NotKept)
}

#[derive(Debug, Error)]
pub enum VaultError {
    #[error("the key of this content was destroyed; the content is erased")]
    Erased,
    /// The account's content is not kept.
    #[error("only a hash of this content was kept")]
    NotKept,
    #[error("the content is not where the log says that it is")]
    Missing,
    #[error("the content does not open with its key: it was changed, or sealed under another master key")]
    Unreadable,
    #[error("the key store cannot be reached: {0}")]
    Unavailable(#[source] anyhow::Error),
}
