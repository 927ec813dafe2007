//! What is kept, for the route that serves it.

use std::{
    io::{Seek, SeekFrom},
    ops::Range,
};

use aihub_application::ports::media_store::MediaError;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    Attribute, Error, GetOptions, GetResult, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path,
};
use tokio::{io::AsyncReadExt, task::spawn_blocking};
use tokio_util::io::ReaderStream;

use super::{
    Delivery, KeptMedia, READ_BYTES,
    inspect::{HEAD_BYTES, content_type},
    signature::UrlFault,
    unavailable,
};

/// Of what is kept, but is nothing that was taken in here.
const UNKNOWN: &str = "application/octet-stream";

/// A file that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFile {
    path: Path,
    pub content_type: String,
    pub bytes: u64,
    /// Strong, and in its quotes: a folder's is made of the file's number, time and size, a bucket has its own.
    pub e_tag: Option<String>,
    pub modified: DateTime<Utc>,
    /// For `Content-Disposition`.
    pub disposition: String,
}

/// What a signed URL allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    pub seconds_left: u64,
    /// Whether caches that more than one client uses may keep it.
    pub shared: bool,
}

impl KeptMedia {
    /// Whether the query of a URL opens this key.
    pub fn allowed(&self, key: &str, expires: u64, signature: &str) -> Result<Allowed, UrlFault> {
        self.options.url_secrets.verify(key, expires, signature)?;
        let seconds_left = expires.checked_sub(self.now()).filter(|left| *left > 0).ok_or(UrlFault::Expired)?;
        Ok(Allowed { seconds_left, shared: matches!(self.options.delivery, Delivery::Cdn { .. }) })
    }

    /// What is under the key; `None` where nothing is, or no more.
    pub async fn find(&self, key: &str) -> Result<Option<KeptFile>, MediaError> {
        let Some(path) = self.path(key) else { return Ok(None) };
        let options = GetOptions { head: true, ..GetOptions::default() };
        let found = match self.store.get_opts(&path, options).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(unavailable)?,
        };
        let GetResult { meta: ObjectMeta { last_modified, size, e_tag, .. }, attributes, .. } = found;
        let content_type = match attributes.get(&Attribute::ContentType) {
            Some(content_type) => content_type.as_ref().to_owned(),
            None => self.content_type(&path, size).await?.to_owned(),
        };
        Ok(Some(KeptFile {
            path,
            content_type,
            bytes: size,
            e_tag: e_tag.filter(|tag| !tag.starts_with("W/")),
            modified: last_modified,
            disposition: disposition(key),
        }))
    }

    /// A stretch of a file, in pieces, as fast as they are taken. `None` where it is gone, or is another one by now.
    pub async fn read(
        &self,
        file: &KeptFile,
        stretch: Range<u64>,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, Error>>>, MediaError> {
        if stretch.is_empty() {
            return Ok(Some(futures::stream::empty().boxed()));
        }
        let options = GetOptions { range: Some(stretch.into()), ..GetOptions::default() };
        let found = match self.store.get_opts(&file.path, options).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(unavailable)?,
        };
        // Not left to `If-Match`, which not every server that speaks S3 heeds.
        if file.e_tag.is_some() && found.meta.e_tag != file.e_tag {
            return Ok(None);
        }
        let stretch = found.range;
        Ok(Some(match found.payload {
            GetResultPayload::Stream(stream) => stream,
            // As `object_store` would do it, in pieces of more than 8 KiB.
            GetResultPayload::File(mut file, _) => {
                let seek = move || file.seek(SeekFrom::Start(stretch.start)).map(|_| file);
                let file = spawn_blocking(seek).await.map_err(unavailable)?.map_err(unavailable)?;
                let file = tokio::fs::File::from_std(file).take(stretch.end - stretch.start);
                let failed = |error| Error::Generic { store: "folder", source: Box::new(error) };
                ReaderStream::with_capacity(file, READ_BYTES).map_err(failed).boxed()
            }
        }))
    }

    /// As the file itself says.
    async fn content_type(&self, path: &Path, bytes: u64) -> Result<&'static str, MediaError> {
        let head = 0..bytes.min(HEAD_BYTES as u64);
        if head.is_empty() {
            return Ok(UNKNOWN);
        }
        let head = self.store.get_range(path, head).await.map_err(unavailable)?;
        Ok(content_type(&head).unwrap_or(UNKNOWN))
    }
}

/// To be shown rather than saved; saved, `0198/video.mp4` is `0198-video.mp4`.
pub(super) fn disposition(key: &str) -> String {
    format!("inline; filename=\"{}\"", key.replace('/', "-"))
}
