//! From the database into a file, with constant memory.

use futures::TryStreamExt;
use serde::Serialize;
use sqlx::PgConnection;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{EventLine, FORMAT, Header, Trailer};
use crate::{
    audit::{
        AuditError, Fault, checkpoint, hex,
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

/// Writes a stretch of the log, verified on the way; without an end, all that there is. The last event. `progress` hears
/// of positions.
pub async fn export(
    database: &Database,
    (from, to): (u64, Option<u64>),
    into: impl AsyncWrite + Unpin,
    progress: impl FnMut(u64),
) -> Result<ChainHead, AuditError> {
    let mut connection = scan::connect(database).await?;
    let mut snapshot = scan::snapshot(&mut connection).await?;
    let head = reader::head(&mut *snapshot).await?.position;
    let to = to.unwrap_or(head);
    let before = chain_head(&mut snapshot, from.max(1) - 1).await?;
    let mut lines = Lines::new(into);
    let previous_chain_hash = before.chain_hash;
    lines
        .add(&Header { format: FORMAT.to_owned(), from: before.position + 1, to, previous_chain_hash, key: None })
        .await?;
    let head = events(&mut snapshot, before, to, &mut lines, progress).await?;
    let events = head.position - before.position;
    lines.add(&Trailer { events, chain_hash: head.chain_hash, checkpoint: None, path: None }).await?;
    lines.finish().await?;
    Ok(head)
}

/// Writes a stretch of the log with the first checkpoint that covers it and the proof that it is in there. The events are
/// verified on the way, and so is the checkpoint's root, which takes a pass over the chain hashes up to it.
pub async fn write_bundle(
    database: &Database,
    (from, to): (u64, u64),
    key: Option<&VerifierKey>,
    into: impl AsyncWrite + Unpin,
) -> Result<Checkpoint, AuditError> {
    let mut connection = scan::connect(database).await?;
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
    let head = events(&mut snapshot, before, to, &mut lines, |_| ()).await?;
    let path = path.iter().map(|hash| hex(hash)).collect();
    let (events, chain_hash) = (to - from + 1, head.chain_hash);
    lines.add(&Trailer { events, chain_hash, checkpoint: Some(note), path: Some(path) }).await?;
    lines.finish().await?;
    Ok(checkpoint)
}

async fn events(
    snapshot: &mut PgConnection,
    before: ChainHead,
    to: u64,
    lines: &mut Lines<impl AsyncWrite + Unpin>,
    mut progress: impl FnMut(u64),
) -> Result<ChainHead, AuditError> {
    let mut chain = ChainVerifier::after(before);
    let mut events = scan::events(snapshot, before.position + 1, Some(to)).await?;
    while let Some(event) = events.next().await? {
        chain.check(&event).map_err(|error| AuditError::Tampered(error.into()))?;
        progress(event.position);
        lines.add(&EventLine::from(event)).await?;
    }
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
}

impl<W: AsyncWrite + Unpin> Lines<W> {
    fn new(into: W) -> Self {
        Self { into, buffer: Vec::with_capacity(BUFFER_BYTES) }
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

    async fn finish(mut self) -> Result<(), AuditError> {
        self.into.write_all(&self.buffer).await?;
        Ok(self.into.flush().await?)
    }
}
