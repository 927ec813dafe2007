//! What was taken in, on its way to where it is kept.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Seek},
};

use futures::StreamExt;
use object_store::{Attribute, AttributeValue, Attributes, buffered::BufWriter, path::Path};
use tokio::{io::AsyncWriteExt, task::spawn_blocking};
use tokio_util::io::ReaderStream;

use super::{KeptMedia, READ_BYTES, inspect::Facts, serve};

/// Of a part of an upload to a bucket, which wants 5 MiB or more, and no more than 10,000 of them.
const PART_BYTES: usize = 8 << 20;
/// A folder has no such wishes.
const FOLDER_PART_BYTES: usize = 1 << 20;
/// At once, beside the one that is being filled.
const PARTS_IN_FLIGHT: usize = 2;

impl KeptMedia {
    pub(super) async fn upload(&self, key: &str, path: Path, facts: &Facts, mut file: File) -> anyhow::Result<()> {
        file.rewind()?;
        let part_bytes = if self.folder.is_some() { FOLDER_PART_BYTES } else { PART_BYTES };
        let mut writer = BufWriter::with_capacity(self.store.clone(), path, part_bytes)
            .with_max_concurrency(PARTS_IN_FLIGHT)
            .with_attributes(self.attributes(key, facts));
        let mut chunks = ReaderStream::with_capacity(tokio::fs::File::from_std(file), READ_BYTES);
        let written = async {
            while let Some(chunk) = chunks.next().await {
                writer.put(chunk?).await?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = written.await {
            // The parts that are there already. What this leaves behind, the bucket's rules remove.
            let _ = writer.abort().await;
            return Err(error);
        }
        writer.shutdown().await?;
        Ok(())
    }

    /// What a bucket says along when it serves a file itself. A folder keeps none.
    fn attributes(&self, key: &str, facts: &Facts) -> Attributes {
        if self.folder.is_some() {
            return Attributes::new();
        }
        let disposition = AttributeValue::from(serve::disposition(key));
        let content_type = AttributeValue::from(facts.content_type);
        [(Attribute::ContentType, content_type), (Attribute::ContentDisposition, disposition)].into_iter().collect()
    }

    /// Removes what a crash left of earlier uploads under this key: [`object_store::local`] writes to `<file>#<number>`. An upload that
    /// still goes on elsewhere fails by it: of two, the later one is kept.
    pub(super) async fn sweep(&self, key: &str) -> io::Result<()> {
        let Some(file) = self.folder.as_ref().map(|folder| folder.join(key)) else { return Ok(()) };
        let swept = spawn_blocking(move || {
            let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else { return Ok(()) };
            let staged = [name.as_encoded_bytes(), b"#"].concat();
            let entries = match fs::read_dir(folder) {
                Err(error) => return unless_gone(error),
                Ok(entries) => entries,
            };
            for entry in entries {
                let entry = entry?;
                if entry.file_name().as_encoded_bytes().starts_with(&staged) {
                    fs::remove_file(entry.path()).or_else(unless_gone)?;
                }
            }
            Ok(())
        });
        swept.await.map_err(io::Error::other)?
    }
}

fn unless_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
