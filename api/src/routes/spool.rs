//! What is read from the database as fast as it comes, and given out as slowly as it is taken: on disk meanwhile, so that a slow
//! reader holds no connection of the database, and little memory.

use std::{io, path::Path};

use aihub_application::{error::GatewayError, shares::Held};
use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};
use tokio::{
    fs::File,
    io::{AsyncSeekExt, AsyncWriteExt},
    task::spawn_blocking,
};
use tokio_util::io::ReaderStream;

use crate::problem::Problem;

/// So much of it stays in memory; what is longer is a file without a name.
const MEMORY_BYTES: usize = 64 << 10;
const READ_BYTES: usize = 64 << 10;

/// Everything that `pieces` brings, and how long it is. Its bytes are added to what `held` holds until it has been given out.
pub async fn spool<E>(
    folder: &Path,
    mut held: Held,
    pieces: impl Stream<Item = Result<Bytes, E>>,
) -> Result<(Body, u64, Held), Problem>
where
    Problem: From<E>,
{
    tokio::pin!(pieces);
    let (mut memory, mut bytes, mut file) = (Vec::new(), 0, None);
    while let Some(piece) = pieces.try_next().await? {
        bytes += piece.len();
        if bytes <= MEMORY_BYTES {
            memory.push(piece);
            continue;
        }
        held.resize(bytes).map_err(GatewayError::from)?;
        let file = match &mut file {
            Some(file) => file,
            none => none.insert(nameless(folder).await.map_err(|error| Problem::internal(&error))?),
        };
        for piece in memory.drain(..).chain([piece]) {
            file.write_all(&piece).await.map_err(|error| Problem::internal(&error))?;
        }
    }
    let body = match file {
        None => Body::from_stream(stream::iter(memory.into_iter().map(Ok::<_, io::Error>))),
        Some(mut file) => {
            file.rewind().await.map_err(|error| Problem::internal(&error))?;
            Body::from_stream(ReaderStream::with_capacity(file, READ_BYTES))
        }
    };
    Ok((body, bytes as u64, held))
}

async fn nameless(folder: &Path) -> io::Result<File> {
    let folder = folder.to_owned();
    let make = move || {
        std::fs::create_dir_all(&folder)?;
        tempfile::tempfile_in(folder)
    };
    Ok(File::from_std(spawn_blocking(make).await.map_err(io::Error::other)??))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aihub_application::shares::{Holder, Portions, Share};
    use axum::body::to_bytes;

    use super::*;

    fn digit(nth: usize) -> u8 {
        b"0123456789"[nth % 10]
    }

    async fn spooled(share: &Arc<Share>, pieces: usize) -> Result<(usize, u64), Problem> {
        let dir = tempfile::tempdir().unwrap();
        let held = share.take(Holder::Address([127, 0, 0, 1].into()), 0).unwrap();
        let pieces = stream::iter((0..pieces).map(|nth| Ok::<_, Problem>(Bytes::from(vec![digit(nth); 1_000]))));
        let (body, bytes, _held) = spool(dir.path(), held, pieces).await?;
        let read = to_bytes(body, usize::MAX).await.unwrap();
        assert!(read.chunks(1_000).enumerate().all(|(nth, piece)| piece.iter().all(|byte| *byte == digit(nth))));
        Ok((read.len(), bytes))
    }

    #[tokio::test]
    async fn what_is_short_and_what_is_long_comes_out_as_it_went_in_and_no_more_than_may_be_on_disk() {
        let share = Share::new("bytes of reports", Portions::of(4 << 20));
        for pieces in [0, 1, 65, 66, 1_000] {
            assert_eq!(spooled(&share, pieces).await.unwrap(), (pieces * 1_000, pieces as u64 * 1_000));
        }
        assert_eq!(spooled(&share, 1_100).await.unwrap_err().code, "RATE_LIMIT_EXCEEDED");
        assert_eq!(share.taken(), 0);
    }
}
