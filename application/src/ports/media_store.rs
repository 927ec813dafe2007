//! Where videos and their thumbnails are kept.

use aihub_domain::video::event::StoredMedia;
use futures::future::BoxFuture;
use thiserror::Error;

use super::{provider::ProviderError, video_provider::Download};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    /// An MP4.
    Video,
    /// A JPEG, PNG or WebP.
    Image,
}

#[derive(Debug, Error)]
pub enum MediaError {
    #[error("the file has more than {limit_bytes} bytes")]
    TooLarge { limit_bytes: u64 },
    /// The file is not what it should be. Fetching it again gives the same.
    #[error("the file is not what it should be: {0}")]
    Unusable(String),
    /// It did not come whole.
    #[error("the provider's file did not come: {0}")]
    Source(#[from] ProviderError),
    #[error("the media store is unavailable: {0}")]
    Unavailable(#[source] anyhow::Error),
}

pub trait MediaStore: Send + Sync {
    /// Takes a file in, piece by piece; under a key that is taken, it takes the place of what is there. Its size, its type and
    /// what it is are checked before anything stands under the key.
    fn store<'a>(
        &'a self,
        key: &'a str,
        kind: MediaKind,
        file: Download,
    ) -> BoxFuture<'a, Result<StoredMedia, MediaError>>;

    /// Also where there is nothing any more.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), MediaError>>;

    /// Where clients fetch it, from now on for as long as is configured.
    fn url<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<String, MediaError>>;
}
