//! A provider's file on its way here: on disk and not in memory, counted and hashed as it comes.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aihub_application::ports::{
    media_store::MediaError,
    provider::{FailureKind, ProviderError},
    video_provider::Download,
};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, task::spawn_blocking};

use crate::audit::hex;

/// A whole file. It has no name, so that nothing of it is left behind, whatever happens to this process.
pub(super) struct Spooled {
    pub file: File,
    pub bytes: u64,
    /// In hexadecimal.
    pub sha256: String,
}

/// Reads `download` to its end, into the folder, which is made where it is missing.
pub(super) async fn spool(folder: &Path, max_bytes: u64, mut download: Download) -> Result<Spooled, MediaError> {
    let too_large = || MediaError::TooLarge { limit_bytes: max_bytes };
    let stated = download.content_length;
    if stated.is_some_and(|bytes| bytes > max_bytes) {
        return Err(too_large());
    }
    let folder = folder.to_owned();
    let file = spawn_blocking(move || nameless(folder)).await.map_err(io::Error::other).and_then(|file| file);
    let mut file = tokio::fs::File::from_std(file.map_err(unavailable)?);
    let (mut bytes, mut hash) = (0, Sha256::new());
    while let Some(chunk) = download.content.try_next().await? {
        bytes += chunk.len() as u64;
        if bytes > max_bytes {
            return Err(too_large());
        }
        if stated.is_some_and(|stated| bytes > stated) {
            break;
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(unavailable)?;
    }
    if let Some(stated) = stated.filter(|stated| *stated != bytes) {
        return Err(not_whole(bytes, stated).into());
    }
    file.flush().await.map_err(unavailable)?;
    let sha256 = hex(&hash.finalize());
    Ok(Spooled { file: file.into_std().await, bytes, sha256 })
}

fn nameless(folder: PathBuf) -> io::Result<File> {
    fs::create_dir_all(&folder)?;
    tempfile::tempfile_in(folder)
}

fn not_whole(bytes: u64, stated: u64) -> ProviderError {
    ProviderError {
        kind: FailureKind::Connection,
        status: None,
        message: format!("it did not come whole: {bytes} bytes where {stated} were announced"),
        retry_after: None,
        flaw: None,
    }
}

fn unavailable(error: io::Error) -> MediaError {
    MediaError::Unavailable(anyhow::Error::new(error).context("the spool of incoming media"))
}
