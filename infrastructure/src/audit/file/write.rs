//! From the database into a file. In memory is no more than what is being written, and a number for each piece of content.

use std::mem;

use futures::TryStreamExt;
use serde::Serialize;
use sqlx::PgConnection;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{ContentLine, EventLine, FORMAT, Header, Trailer};
use crate::{
    audit::{
        AuditError, Fault, checkpoint,
        contents::{Contents, Group, Tally},
        hex,
        merkle::MerkleTree,
        note::{Checkpoint, VerifierKey},
        scan,
    },
    database::Database,
    event_store::{
        chain::{ChainHead, ChainVerifier, Hash},
        reader,
    },
};

/// Lines are gathered up to here before they are written.
const BUFFER_BYTES: usize = 256 << 10;

/// Writes a stretch of the log with the content that it names, verified on the way; without an end, all that there is. The last
/// event, and what there was of the content. `progress` hears of positions.
pub async fn export(
    database: &Database,
    (from, to): (u64, Option<u64>),
    into: impl AsyncWrite + Unpin,
    progress: impl FnMut(u64),
) -> Result<(ChainHead, Tally), AuditError> {
    let (mut connection, mut beside) = (scan::connect(database).await?, scan::connect(database).await?);
    let mut snapshot = scan::snapshot(&mut connection).await?;
    let head = reader::head(&mut *snapshot).await?.position;
    let to = to.unwrap_or(head);
    let before = chain_head(&mut snapshot, from.max(1) - 1).await?;
    let mut lines = Lines::new(into);
    let previous_chain_hash = before.chain_hash;
    lines
        .add(&Header { format: FORMAT.to_owned(), from: before.position + 1, to, previous_chain_hash, key: None })
        .await?;
    let mut contents = Contents::default();
    let head = copy((&mut snapshot, &mut beside), (before, to), &mut contents, &mut lines, progress).await?;
    let (events, contents_written) = (head.position - before.position, lines.contents);
    let (checkpoint, path) = (None, None);
    lines.add(&Trailer { events, contents: contents_written, chain_hash: head.chain_hash, checkpoint, path }).await?;
    lines.finish().await?;
    Ok((head, contents.tally))
}

/// Writes a stretch of the log with the first checkpoint that covers it and the proof that it is in there. The events are
/// verified on the way, and so is the checkpoint's root, which takes a pass over the chain hashes up to it. What there was of
/// the content is told with it.
pub async fn write_bundle(
    database: &Database,
    (from, to): (u64, u64),
    key: Option<&VerifierKey>,
    into: impl AsyncWrite + Unpin,
) -> Result<(Checkpoint, Tally), AuditError> {
    let (mut connection, mut beside) = (scan::connect(database).await?, scan::connect(database).await?);
    let mut snapshot = scan::snapshot(&mut connection).await?;
    if from < 1 || from > to {
        return Err(AuditError::Malformed(format!("{from} to {to} is not a stretch of a log that begins at 1")));
    }
    let Some((checkpoint, note)) = checkpoint::covering(&mut *snapshot, to).await? else {
        let covered = checkpoint::latest(&mut *snapshot).await?.map_or(0, |(last, _)| last.head.position);
        return Err(AuditError::Incomplete(format!(
            "no checkpoint covers position {to} yet, the last one is of position {covered}: `aihub audit checkpoint` \
             makes one"
        )));
    };
    let path = prove(&mut snapshot, to, &checkpoint).await?;
    let before = chain_head(&mut snapshot, from - 1).await?;
    let mut lines = Lines::new(into);
    let key = key.map(ToString::to_string);
    lines.add(&Header { format: FORMAT.to_owned(), from, to, previous_chain_hash: before.chain_hash, key }).await?;
    let mut contents = Contents::default();
    let head = copy((&mut snapshot, &mut beside), (before, to), &mut contents, &mut lines, |_| ()).await?;
    let path = path.iter().map(|hash| hex(hash)).collect();
    let (events, contents_written, chain_hash) = (to - from + 1, lines.contents, head.chain_hash);
    let (checkpoint_note, path) = (Some(note), Some(path));
    lines.add(&Trailer { events, contents: contents_written, chain_hash, checkpoint: checkpoint_note, path }).await?;
    lines.finish().await?;
    Ok((checkpoint, contents.tally))
}

/// Writes the events up to a position, each with what there is of the content that it names. The log is copied out of one
/// connection, content is looked up on the other.
async fn copy(
    (snapshot, beside): (&mut PgConnection, &mut PgConnection),
    (before, to): (ChainHead, u64),
    contents: &mut Contents,
    lines: &mut Lines<impl AsyncWrite + Unpin>,
    mut progress: impl FnMut(u64),
) -> Result<ChainHead, AuditError> {
    let mut chain = ChainVerifier::after(before);
    let mut events = scan::events(snapshot, before.position + 1, Some(to)).await?;
    let mut group = Group::default();
    while let Some(event) = events.next().await? {
        chain.check(&event).map_err(|error| AuditError::Tampered(error.into()))?;
        progress(event.position);
        if group.push(event) {
            lines.add_group(beside, mem::take(&mut group), contents).await?;
        }
    }
    lines.add_group(beside, group, contents).await?;
    let reached = chain.head().position;
    if reached < to {
        return Err(AuditError::Incomplete(format!("the log ends at position {reached}, and {to} was asked for")));
    }
    Ok(chain.head())
}

/// The path from the event at `position` to the root of the checkpoint.
async fn prove(snapshot: &mut PgConnection, position: u64, checkpoint: &Checkpoint) -> Result<Vec<Hash>, AuditError> {
    let size = checkpoint.head.position;
    let mut tree = MerkleTree::proving(position - 1);
    {
        let mut hashes = sqlx::query_scalar!(
            r#"SELECT chain_hash AS "chain_hash: Hash" FROM events WHERE position <= $1 ORDER BY position"#,
            size.cast_signed()
        )
        .fetch(snapshot);
        while let Some(hash) = hashes.try_next().await? {
            tree.push(&hash);
        }
    }
    let (root, path) = tree.into_proof();
    if root == checkpoint.root_hash {
        return Ok(path);
    }
    Err(AuditError::Tampered(Fault {
        position: size,
        what: "the log does not have the root that was signed; `aihub audit verify` finds where".to_owned(),
        expected: hex(&checkpoint.root_hash),
        found: hex(&root),
    }))
}

/// As the event there has it, or the beginning.
async fn chain_head(snapshot: &mut PgConnection, position: u64) -> Result<ChainHead, AuditError> {
    if position == 0 {
        return Ok(ChainHead::GENESIS);
    }
    let chain_hash = sqlx::query_scalar!(
        r#"SELECT chain_hash AS "chain_hash: Hash" FROM events WHERE position = $1"#,
        position.cast_signed()
    );
    let found = chain_hash.fetch_optional(snapshot).await?;
    let missing = || AuditError::Incomplete(format!("there is no event at position {position}"));
    Ok(ChainHead { position, chain_hash: found.ok_or_else(missing)? })
}

struct Lines<W> {
    into: W,
    buffer: Vec<u8>,
    /// Those of content so far.
    contents: u64,
}

impl<W: AsyncWrite + Unpin> Lines<W> {
    fn new(into: W) -> Self {
        Self { into, buffer: Vec::with_capacity(BUFFER_BYTES), contents: 0 }
    }

    async fn add(&mut self, line: &impl Serialize) -> Result<(), AuditError> {
        serde_json::to_writer(&mut self.buffer, line).map_err(std::io::Error::from)?;
        self.buffer.push(b'\n');
        if self.buffer.len() >= BUFFER_BYTES {
            self.into.write_all(&self.buffer).await?;
            self.buffer.clear();
        }
        Ok(())
    }

    async fn add_group(
        &mut self,
        beside: &mut PgConnection,
        group: Group,
        contents: &mut Contents,
    ) -> Result<(), AuditError> {
        let kept = contents.of(beside, &group).await?;
        for (event, pieces) in group.events.into_iter().zip(kept) {
            self.add(&EventLine::from(event)).await?;
            for piece in pieces {
                self.add(&ContentLine::from(piece)).await?;
                self.contents += 1;
            }
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(), AuditError> {
        self.into.write_all(&self.buffer).await?;
        Ok(self.into.flush().await?)
    }
}
