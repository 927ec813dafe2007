//! Content (prompts, answers) is sealed per subject before it enters an event, so that destroying one key erases
//! it everywhere while the log stays verifiable.

use aihub_domain::content::SealedContent;
use futures::future::BoxFuture;
use thiserror::Error;

pub trait ContentVault: Send + Sync {
    /// Seals `plaintext` under `subject`'s key, which is made on first use. `context` (the request's id) is bound
    /// in as associated data: a sealed text moved to another event does not open.
    fn seal<'a>(
        &'a self,
        subject: &'a str,
        context: &'a str,
        plaintext: &'a [u8],
    ) -> BoxFuture<'a, Result<SealedContent, VaultError>>;

    fn open<'a>(&'a self, context: &'a str, sealed: &'a SealedContent) -> BoxFuture<'a, Result<Vec<u8>, VaultError>>;
}

#[derive(Debug, Error)]
pub enum VaultError {
    #[error("the key of this content was destroyed; the content is erased")]
    Erased,
    #[error("the content does not open with its key: it was changed, moved, or sealed under another master key")]
    Unreadable,
    #[error("the key store cannot be reached: {0}")]
    Unavailable(#[source] anyhow::Error),
}
