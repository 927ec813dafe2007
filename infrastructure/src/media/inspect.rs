//! What a file is, as it says itself. Nobody's word is taken for it: neither the provider's nor a name's.

mod mp4;
#[cfg(test)]
pub(super) mod samples;
#[cfg(test)]
mod tests;

use std::io::{BufRead, Read, Seek};

use aihub_application::ports::media_store::{MediaError, MediaKind};
use imagesize::ImageType;

/// As much of a file as tells its type.
pub(super) const HEAD_BYTES: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub content_type: &'static str,
    /// In pixels.
    pub width: u32,
    pub height: u32,
    /// Of a video, as the next one.
    pub duration_ms: Option<u64>,
    pub codec: Option<String>,
}

/// Reads a file of `bytes` bytes from its beginning. Blocks.
pub(super) fn inspect(kind: MediaKind, file: &mut (impl BufRead + Seek), bytes: u64) -> Result<Facts, MediaError> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(unreadable)?;
    file.rewind().map_err(unreadable)?;
    let content_type = content_type(&head);
    match (kind, content_type) {
        (MediaKind::Video, Some(mp4::CONTENT_TYPE)) => mp4::read(file, bytes),
        (MediaKind::Image, Some(content_type)) if content_type != mp4::CONTENT_TYPE => {
            let size = imagesize::reader_size(file).map_err(|error| unusable(error.to_string()))?;
            let sides = [size.width, size.height].map(|side| u32::try_from(side).ok().filter(|side| *side > 0));
            let [Some(width), Some(height)] = sides else { return Err(unusable("its size is no size")) };
            Ok(Facts { content_type, width, height, duration_ms: None, codec: None })
        }
        (MediaKind::Video, _) => Err(unusable("it is not an MP4")),
        (MediaKind::Image, _) => Err(unusable("it is neither a JPEG, nor a PNG, nor a WebP")),
    }
}

/// By a file's first [`HEAD_BYTES`]; `None` where it is nothing that is kept here.
pub(super) fn content_type(head: &[u8]) -> Option<&'static str> {
    if mp4::begins(head) {
        return Some(mp4::CONTENT_TYPE);
    }
    match imagesize::image_type(head).ok()? {
        ImageType::Jpeg => Some("image/jpeg"),
        ImageType::Png => Some("image/png"),
        ImageType::Webp => Some("image/webp"),
        _ => None,
    }
}

fn unusable(reason: impl Into<String>) -> MediaError {
    MediaError::Unusable(reason.into())
}

fn unreadable(error: std::io::Error) -> MediaError {
    MediaError::Unavailable(anyhow::Error::new(error).context("the spool of incoming media"))
}
