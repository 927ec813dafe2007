//! Media: taken in from providers, kept in a folder or a bucket, and given out by URLs that end.
//!
//! | module | holds |
//! |---|---|
//! | [`location`] | folders and buckets |
//! | `mark` | what tells a folder from others |
//! | `spool` | a provider's file on its way here, on disk |
//! | `inspect` | what a file is, as it says itself |
//! | `upload` | what was taken in on its way to where it is kept |
//! | [`signature`] | URLs that end |
//! | [`serve`] | what is kept, for the route that serves it |

mod inspect;
pub mod location;
mod mark;
pub mod serve;
pub mod signature;
mod spool;
#[cfg(test)]
mod tests;
mod upload;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use aihub_application::ports::{
    clock::Clock,
    media_store::{MediaError, MediaKind, MediaStore},
    video_provider::Download,
};
use aihub_domain::video::event::StoredMedia;
use anyhow::Context;
use futures::{FutureExt, future::BoxFuture};
use object_store::{ObjectStore, ObjectStoreExt, path::Path, signer::Signer};
use tokio::{sync::Semaphore, task::spawn_blocking};
use url::Url;

use self::{inspect::Facts, location::Location, signature::UrlSecrets, spool::Spooled};

/// What is read at a time. Larger pieces are hardly faster, and a thread that makes a single one takes megabytes for it from the
/// allocator; there are as many threads as there are files that are read.
const READ_BYTES: usize = 64 << 10;
/// Files that are inspected and uploaded at the same time: what an upload holds in memory is then held so many times, and not as
/// often as there are jobs. Files that are still on their way from their providers are on disk.
const UPLOADS_AT_ONCE: usize = 4;
const MAX_KEY_BYTES: usize = 200;

pub struct MediaOptions {
    pub location: Location,
    /// What the location is reached with, as `object_store` names it.
    pub location_options: Vec<(String, String)>,
    /// Where incoming files are for as long as they come. It is made when the first one does.
    pub spool_folder: PathBuf,
    /// Of one file.
    pub max_bytes: u64,
    pub delivery: Delivery,
    /// For how long a URL is good; one that is signed here up to a quarter longer, so that whoever asks again soon gets the
    /// same one and finds it in a cache.
    pub url_ttl: Duration,
    pub url_secrets: UrlSecrets,
}

/// Where clients fetch media.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// From us, at `<public URL>/media/<key>`. Without one, [`KeptMedia::served_at`] says it.
    Signed { public_url: Option<String> },
    /// From the bucket.
    Presigned,
    /// From the edge, at `<base URL>/<key>`.
    Cdn { base_url: String },
}

/// The media that are kept, in one place.
pub struct KeptMedia {
    store: Arc<dyn ObjectStore>,
    signer: Option<Arc<dyn Signer>>,
    prefix: Path,
    /// Where they are files.
    folder: Option<PathBuf>,
    identity: String,
    endpoint: Option<Url>,
    trimmed: Vec<String>,
    options: MediaOptions,
    uploads: Semaphore,
    served_at: OnceLock<String>,
    clock: Arc<dyn Clock>,
}

impl KeptMedia {
    /// Makes the folder; does not look at a bucket.
    pub fn open(options: MediaOptions, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let opened = options.location.open(&options.location_options).context("the media store")?;
        let location::Opened { store, signer, prefix, folder, identity, endpoint, trimmed } = opened;
        if options.delivery == Delivery::Presigned && signer.is_none() {
            anyhow::bail!("a folder signs no URLs");
        }
        let uploads = Semaphore::new(UPLOADS_AT_ONCE);
        let served_at = OnceLock::new();
        Ok(Self { store, signer, prefix, folder, identity, endpoint, trimmed, options, uploads, served_at, clock })
    }

    /// Says where this service listens; where a public URL is configured, that stands. Who listens on all addresses is reached at
    /// this machine's own.
    pub fn served_at(&self, mut addr: SocketAddr) {
        match addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        // The first one stands.
        let _ = self.served_at.set(format!("http://{addr}"));
    }

    /// What tells this store from others, whatever it is called here: two nodes whose stores have the same one see the same files.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Where the bucket is reached, if it is one.
    pub fn endpoint(&self) -> Option<&Url> {
        self.endpoint.as_ref()
    }

    /// Variables of the environment that it is reached with and that ended in white space, which was left out.
    pub fn trimmed(&self) -> &[String] {
        &self.trimmed
    }

    /// Whether the files are in a folder, which other nodes may not have.
    pub fn is_in_a_folder(&self) -> bool {
        self.folder.is_some()
    }

    async fn take_in(&self, key: &str, kind: MediaKind, file: Download) -> Result<StoredMedia, MediaError> {
        let path = self.path(key).ok_or_else(|| MediaError::Unusable("its key is no key".to_owned()))?;
        let Spooled { file, bytes, sha256 } =
            spool::spool(&self.options.spool_folder, self.options.max_bytes, file).await?;
        let _turn = self.uploads.acquire().await.map_err(unavailable)?;
        let read = spawn_blocking(move || {
            let mut file = io::BufReader::new(file);
            io::Seek::rewind(&mut file).context("the spool of incoming media").map_err(MediaError::Unavailable)?;
            let facts = inspect::inspect(kind, &mut file, bytes)?;
            Ok::<_, MediaError>((facts, file.into_inner()))
        });
        let (facts, file) = match read.await {
            Ok(read) => read?,
            // A parser that panics does so over what it is given.
            Err(error) if error.is_panic() => return Err(MediaError::Unusable("it cannot be read".to_owned())),
            Err(error) => return Err(unavailable(error)),
        };
        self.sweep(key).await.map_err(unavailable)?;
        self.upload(key, path, &facts, file).await.context("uploading").map_err(MediaError::Unavailable)?;
        let Facts { content_type, width, height, duration_ms, codec } = facts;
        let (key, content_type) = (key.to_owned(), content_type.to_owned());
        Ok(StoredMedia { key, content_type, bytes, sha256, width, height, duration_ms, codec })
    }

    async fn url_of(&self, key: &str) -> Result<String, MediaError> {
        let path = self.path(key).ok_or_else(|| MediaError::Unusable("its key is no key".to_owned()))?;
        match (&self.options.delivery, &self.signer) {
            (Delivery::Presigned, Some(signer)) => {
                let url = signer.signed_url(http::Method::GET, &path, self.options.url_ttl).await;
                Ok(url.map_err(unavailable)?.into())
            }
            (Delivery::Presigned, None) => Err(MediaError::Unavailable(anyhow::anyhow!("a folder signs no URLs"))),
            (Delivery::Cdn { base_url }, _) => Ok(self.signed(base_url, key)),
            (Delivery::Signed { public_url }, _) => {
                let url = public_url.as_ref().or_else(|| self.served_at.get());
                let url = url.ok_or_else(|| MediaError::Unavailable(anyhow::anyhow!("nothing is served yet")))?;
                Ok(self.signed(&format!("{}/media", url.trim_end_matches('/')), key))
            }
        }
    }

    fn signed(&self, base_url: &str, key: &str) -> String {
        let ttl = self.options.url_ttl.as_secs().max(1);
        let step = (ttl / 4).max(1);
        let expires = (self.now() + ttl).div_ceil(step) * step;
        format!("{}/{key}?{}", base_url.trim_end_matches('/'), self.options.url_secrets.query(key, expires))
    }

    /// In seconds of Unix time.
    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().timestamp()).unwrap_or_default()
    }

    /// Where a key's file is, if it is a key: names of ASCII letters, digits, `.`, `_` and `-` between slashes, none of which
    /// begins with a dot. Nothing in it needs to be escaped, in a URL or anywhere else.
    fn path(&self, key: &str) -> Option<Path> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_name = |name: &str| !name.is_empty() && !name.starts_with('.') && name.bytes().all(good);
        (key.len() <= MAX_KEY_BYTES && key.split('/').all(is_name))
            .then(|| self.prefix.parts().chain(Path::from(key).parts()).collect())
    }
}

impl MediaStore for KeptMedia {
    fn store<'a>(
        &'a self,
        key: &'a str,
        kind: MediaKind,
        file: Download,
    ) -> BoxFuture<'a, Result<StoredMedia, MediaError>> {
        self.take_in(key, kind, file).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), MediaError>> {
        async move {
            // Nothing was ever kept under what is no key.
            let Some(path) = self.path(key) else { return Ok(()) };
            self.sweep(key).await.map_err(unavailable)?;
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(unavailable(error)),
            }
        }
        .boxed()
    }

    fn url<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<String, MediaError>> {
        self.url_of(key).boxed()
    }
}

impl fmt::Debug for KeptMedia {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeptMedia").field("location", &self.options.location).finish_non_exhaustive()
    }
}

fn unavailable(error: impl Into<anyhow::Error>) -> MediaError {
    MediaError::Unavailable(error.into())
}
