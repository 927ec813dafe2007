//! The file of a video, as its knobs have it sent.

use std::{sync::Arc, time::Duration};

use axum::body::{Body, Bytes};
use futures::{StreamExt as _, stream};
use tokio::time::{Instant, sleep_until};

use super::{
    super::{Simulator, films::FilmError, knobs::video::Content, stream::Torn},
    Video,
};

/// Of a slow content, what is sent at a time.
const SLICES_PER_SECOND: usize = 10;
const GARBAGE: &[u8] = b"Simulated garbage, and no MP4 at all. ";

/// The file that is said to come, by its length, and what comes of it. Counts as a download.
pub(in super::super) async fn file(simulator: &Simulator, video: &Video) -> Result<(usize, Body), Arc<FilmError>> {
    let whole = simulator.films.mp4(video.film()).await?;
    let content = video.knobs.content.unwrap_or_default();
    let file = match content {
        Content::Garbage => GARBAGE.repeat(whole.len().div_ceil(GARBAGE.len())).into(),
        Content::Truncated => whole.slice(..whole.len() / 2),
        Content::Normal | Content::Torn => whole,
    };
    video.count_download();
    Ok((file.len(), body(file, content, video.knobs.content_bytes_per_second)))
}

fn body(file: Bytes, content: Content, bytes_per_second: Option<u32>) -> Body {
    let is_torn = content == Content::Torn;
    if bytes_per_second.is_none() && !is_torn {
        return file.into();
    }
    let half = file.len() / 2;
    let sent = if is_torn { file.slice(..half) } else { file };
    let slice = bytes_per_second.map_or(sent.len(), |rate| rate as usize / SLICES_PER_SECOND).max(1);
    let begin = Instant::now();
    let slices = stream::iter((0..sent.len()).step_by(slice)).then(move |at| {
        let end = (at + slice).min(sent.len());
        let slice = sent.slice(at..end);
        async move {
            if let Some(rate) = bytes_per_second {
                let due_ms = end as u64 * 1_000 / u64::from(rate.max(1));
                sleep_until(begin + Duration::from_millis(due_ms)).await;
            }
            Ok::<_, Torn>(slice)
        }
    });
    if !is_torn {
        return Body::from_stream(slices);
    }
    // hyper throws away what it has not yet written when the body fails, so the half gets its turn first.
    Body::from_stream(slices.chain(stream::once(async {
        tokio::task::yield_now().await;
        Err(Torn)
    })))
}
